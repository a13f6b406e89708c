"""What makes likelihoods comparable: levels or a continuum, the decoder, and what is added to a density.

A density p(z) of prepared data z = (x - mean)/scale is p(z)/Π scale of x. For 8-bit pictures a *probability* of levels
is wanted: a decoder gives it directly (Ho et al. 2020, eq. 13), a density through uniform dequantisation and the offset
-log(level width) per value (Theis et al. 2016).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core import Decoder, DiscretizedGaussian, GaussianDecoder, NoiseSource
from sfumato.data import Normalization
from sfumato.errors import DataError
from sfumato.experiment.build import DataRecord
from sfumato.likelihood import Levels
from sfumato.likelihood.divergence import PROBE_DRAW

__all__ = ["Measure", "clean_end_note", "convention_of", "raw_values"]

DEQUANTIZE = PROBE_DRAW - 2  # a draw that no step of a chain, no probe and no start of a flow uses


@dataclass(frozen=True, slots=True)
class Measure:
    """What data must be, and what is added to a density of theirs, to make a number of nats.

    levels: of 8-bit pictures; None for continuous data.
    decoder: of the last step of the chain.
    on_levels: whether the decoder gives probabilities of levels, so that nothing is dequantised for the bound.
    log_scale: Σ log scale over an example, nats: from model space to the units of the data. 0 on levels.
    """

    levels: Levels | None
    decoder: Decoder
    on_levels: bool
    log_scale: float

    def prepared(self, x0: Tensor, noise: NoiseSource, *, on_levels: bool) -> Tensor:
        """x0 (B, *) as the density wants it: dequantised where it is a density of levels."""
        if self.levels is None or on_levels:
            return x0
        return self.levels.dequantized(x0, noise, draw=DEQUANTIZE)

    def from_density(self, dim: int) -> float:
        """What to add to -log p(prepared), nats per example: the offset of levels, or log scale of continuous data."""
        return self.log_scale if self.levels is None else self.levels.offset * math.log(2) * dim


def convention_of(normalization: Normalization, log_scale: float) -> Measure:
    """How likelihoods of such data are measured. Raises DataError for padded pictures: their border is no data."""
    if not normalization.is_image:
        return Measure(None, GaussianDecoder(), False, log_scale)
    if normalization.pad is not None and normalization.pad != normalization.size:
        raise DataError(
            f"pictures are padded from {normalization.size} to {normalization.pad}: bits/dim would count the border",
            expected="unpadded 8-bit pictures",
            fix="train without data.pad to measure bits/dim; the loss is measured all the same (--metrics loss)",
        )
    levels = Levels(
        tuple(-m / s for m, s in zip(normalization.mean, normalization.scale, strict=True)),
        tuple(1 / s for s in normalization.scale),
    )
    alike = len(set(levels.low)) == 1 and len(set(levels.width)) == 1
    if not alike:
        return Measure(levels, GaussianDecoder(), False, 0.0)
    decoder = DiscretizedGaussian(256, levels.low[0], levels.low[0] + 255 * levels.width[0])
    return Measure(levels, decoder, True, 0.0)


def clean_end_note(left: float, measure: Measure) -> str | None:
    """What noise of standard deviation `left`, in model units, at the clean end of a schedule costs; None for little.

    A density blurred by it is nowhere above its peak, (2 pi left²)^(-1/2) per dimension: on levels that are `width`
    apart, -log2 p is at least log2(sqrt(2 pi) left/width) bits/dim, however good the model.
    """
    kept = f"the schedule keeps noise of {left:.2g} model units at its clean end"
    if measure.levels is None:
        return (
            f"{kept}: the flow's density is that of data blurred by it, the last step of the bound one Gaussian, and a "
            "schedule that starts cleaner reads lower"
            if left > 0.05
            else None
        )
    least = math.log2(math.sqrt(2 * math.pi) * left) + measure.levels.offset
    return (
        f"{kept}: the flow's density is that of data blurred by it, which alone is {least:.2f} bits/dim or more; the "
        "last step of the bound undoes it"
        if least > 0
        else None
    )


def raw_values(record: DataRecord, x: NDArray[Any]) -> Tensor:
    """x as the data are stored: uint8 (n, H, W, C), or float32 (n, *). Raises DataError for anything else.

    Float pictures within [-1, 1] are taken where every value is one of the 256 levels v/127.5 - 1.
    """
    values = torch.as_tensor(x)
    if values.numel() == 0:
        raise DataError("no example was given", expected="one example or more", fix="give an array of them")
    if record.normalization.size is None:
        good = values.shape[1:] == record.shape and values.is_floating_point() and bool(values.isfinite().all())
        if not good:
            shape = tuple(values.shape)
            raise DataError(
                f"{values.dtype} values of shape {shape} were given, or some that are not finite",
                expected=f"finite floats of shape (n, {', '.join(map(str, record.shape))}), in the units of the data",
                fix="give the points as they are, before normalisation",
            )
        return values.float()
    if values.is_floating_point():
        levels = (values.double() + 1) * 127.5
        if not bool(((levels - levels.round()).abs() < 1e-2).all()) or levels.min() < -0.5 or levels.max() > 255.5:
            raise DataError(
                f"float pictures from {float(values.min()):.4g} to {float(values.max()):.4g} are not 8-bit: "
                "bits/dim is undefined for them",
                expected="uint8 pictures, or floats in [-1, 1] on the 256 levels v/127.5 - 1",
                fix="give the pictures as uint8",
            )
        values = levels.round().to(torch.uint8)
    expected = (*record.normalization.size, record.shape[0])
    if values.dtype != torch.uint8 or tuple(values.shape[1:]) != expected:
        raise DataError(
            f"{values.dtype} pictures of shape {tuple(values.shape)} were given",
            expected=f"uint8 of shape (n, {', '.join(map(str, expected))})",
            fix="give the pictures as the data hold them, 8-bit, channels last",
        )
    return values
