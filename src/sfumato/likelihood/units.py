"""Units: nats and bits/dim, with the convention written down as numbers.

A *density* of prepared data says nothing in bits until one knows how wide a level is. For x = level number · width + …
and uniform noise over one level's width (dequantisation; Theis, van den Oord & Bethge 2016),

    -E log2 P(level)/D <= -log2 p(x)/D + offset,        offset = -log2(width), the mean over channels.

A *probability* of levels (a bound with the decoder `DiscretizedGaussian`) needs neither noise nor offset.

| prepared data | width | offset, bits |
|---|---|---|
| 256 levels, (v + u)/256 scaled to [-1, 1] (Song et al. 2021) | 2/256 | 7 |
| the same on [0, 1] | 1/256 | 8 |
| 256 levels v/127.5 - 1, the outer ones at -1 and 1 exactly, as here | 2/255 | 6.9944 |
| either, divided by a std per channel | width/std | offset + mean log2(std) |

Song's code writes 7 - inverse_scaler(-1) for the first two. Continuous data have no levels: nats per dimension, and no
offset.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core import Decoder, DiscretizedGaussian, Gaussian, NoiseSource
from sfumato.errors import ConfigError, DataError

__all__ = ["LevelDecoder", "Levels", "bits_per_dim", "nats_per_dim", "to_bits", "to_nats"]

SLACK = 1e-2  # of a level: float32 data lie within 1e-5 of theirs


def to_bits(nats: Tensor) -> Tensor:
    """nats / ln 2."""
    return nats / math.log(2)


def to_nats(bits: Tensor) -> Tensor:
    """bits · ln 2."""
    return bits * math.log(2)


def nats_per_dim(log_prob: Tensor, *, dim: int) -> Tensor:
    """-log p/D for log_prob (B,) in nats: the negative log-density of continuous data per dimension."""
    return -log_prob / dim


def bits_per_dim(log_prob: Tensor, *, dim: int, offset: float = 0.0) -> Tensor:
    """-log2 p/D + offset for log_prob (B,) in nats; the offset, in bits, is 0 for a probability of levels."""
    return to_bits(-log_prob / dim) + offset


@dataclass(frozen=True, slots=True)
class Levels:
    """The levels that prepared data may take, channel by channel: `low`, `low + width`, … `num_levels` of them.

    low: the lowest level of each channel, in prepared units.
    width: the distance of two levels of each channel.
    num_levels: how many there are, 256 for 8-bit data.
    """

    low: tuple[float, ...]
    width: tuple[float, ...]
    num_levels: int = 256

    def __post_init__(self) -> None:
        if len(self.low) != len(self.width) or not self.low or min(self.width) <= 0 or self.num_levels < 2:
            raise ConfigError(
                f"{self.num_levels} levels from {self.low}, {self.width} apart",
                expected="one lowest level and one positive width per channel, two or more levels",
                fix="leave bits/dim to data that have levels; continuous data are measured in nats",
            )

    @property
    def offset(self) -> float:
        """-log2(width), the mean over channels, bits/dim: from a density of dequantised data to a bound on levels."""
        return -sum(math.log2(width) for width in self.width) / len(self.width)

    def describe(self) -> str:
        """The convention in words, for reports."""
        return (
            f"{self.num_levels} levels, uniform dequantisation over one level, offset {self.offset:+.4f} bits/dim "
            "(-log2 of a level's width in prepared units)"
        )

    def numbers(self, x: Tensor) -> Tensor:
        """(x - low)/width: the number of the level that each value of x (B, C, *) is, 0 … num_levels - 1, float64."""
        low, width = (self.per_channel(values, x) for values in (self.low, self.width))
        return (x.to(torch.float64) - low) / width

    def require(self, x: Tensor) -> None:
        """Refuse data (B, C, *) that are not on the levels: bits/dim is undefined for them. Raises DataError."""
        steps = self.numbers(x)
        off = ~((steps - steps.round()).abs() < SLACK) | (steps < -0.5) | (steps > self.num_levels - 0.5)
        if bool(off.any()):
            raise DataError(
                f"{int(off.sum())} of {off.numel()} values are none of the {self.num_levels} levels of 8-bit data "
                f"(the first is {float(x[off].flatten()[0]):g})",
                expected="levels alone: bits/dim is undefined for padded, resized or continuous data",
                fix="measure unpadded 8-bit data, or read nats per dimension",
            )

    def dequantized(self, x: Tensor, noise: NoiseSource, *, draw: int) -> Tensor:
        """x + width (U - ½), U uniform per value of x (B, C, *): spread over the level that each value is."""
        normal = noise.normal(torch.empty(x.shape, dtype=torch.float64), draw=draw)
        offsets = torch.special.ndtr(normal).to(x) - 0.5
        return x + self.per_channel(self.width, x).to(x.dtype) * offsets

    def per_channel(self, values: tuple[float, ...], x: Tensor) -> Tensor:
        """One number per channel as (C, 1, …), or (1,) for a single one; float64, on the device of x (B, C, *)."""
        numbers = torch.tensor(values, dtype=torch.float64, device=x.device)
        return numbers if len(values) == 1 else numbers.reshape(-1, *[1] * (x.ndim - 2))


class LevelDecoder(Decoder):
    """Mass of the bin around each level, where every channel has levels of its own (standardised data).

    `DiscretizedGaussian` in units of a level: x and the mean become (x - low)/width, the variance var/width².
    """

    def __init__(self, levels: Levels) -> None:
        self.levels = levels

    def log_prob(self, x0: Tensor, kernel: Gaussian) -> Tensor:
        numbers, width = self.levels.numbers, self.levels.per_channel(self.levels.width, x0)
        in_levels = DiscretizedGaussian(self.levels.num_levels, 0.0, self.levels.num_levels - 1.0)
        return in_levels.log_prob(numbers(x0), Gaussian(numbers(kernel.mean), kernel.log_var - 2 * width.log()))

    def require(self, x0: Tensor) -> None:
        self.levels.require(x0)
