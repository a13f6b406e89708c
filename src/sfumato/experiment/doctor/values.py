"""The values that the network sees, and what the schedule makes of them.

Pictures are counted level by level, points value by value, both over the whole training part and in model space, where
the data are normalised; nothing is sampled. The schedule's ends are those of `reach`: alpha² var/sigma² at t = 1, per
value (Lin et al. 2024) and along the direction in which the examples vary most, and the last noise before t = 0.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.core import OneLevel
from sfumato.data import Normalization, Packed
from sfumato.data.normalization import level_shares
from sfumato.errors import SfumatoError
from sfumato.experiment.config import Experiment
from sfumato.experiment.doctor.remarks import Level, Remark
from sfumato.experiment.findings import of_schedule
from sfumato.experiment.reach import Reach

__all__ = ["Channel", "channels_of", "of_reach", "of_values"]

NARROW = 0.25  # share of the range that 99.8 of 100 values must fill
TAIL = 0.001
FAR = 10.0  # standard deviations: a value so far out is seldom meant
LEVELS = 256
CHUNK = 65_536  # examples of points per piece
SIGNS: dict[str, Level] = {"problem": "broken", "warning": "warning", "note": "note"}


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel of pictures, or one coordinate of points, in model space.

    low, high: least and largest value. inner_low, inner_high: of pictures, what a thousandth lies below and above; of
    points the same as low and high. bound_low, bound_high: what black and white become; None for points.
    """

    mean: float
    std: float
    low: float
    high: float
    inner_low: float
    inner_high: float
    bound_low: float | None = None
    bound_high: float | None = None

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


def channels_of(packed: Packed, normalization: Normalization, train: Tensor) -> tuple[Channel, ...]:
    """The channels (or coordinates, at most those of the first axis) of the training part; padding left out."""
    if not packed.is_image:
        return _coordinates(packed, normalization, train)
    levels = torch.arange(LEVELS, dtype=torch.float64)
    found = []
    for share, centre, scale in zip(
        level_shares(packed, train, None), normalization.mean, normalization.scale, strict=True
    ):
        values = (levels - centre) / scale
        mean = float(share @ values)
        there = values[share > 0]
        below = share.cumsum(0)
        inner_low = values[int((below > TAIL).nonzero()[0])]
        inner_high = values[int((below >= 1 - TAIL - 1e-12).nonzero()[0])]
        found.append(
            Channel(
                mean=mean,
                std=math.sqrt(float(share @ (values - mean) ** 2)),
                low=float(there[0]),
                high=float(there[-1]),
                inner_low=float(inner_low),
                inner_high=float(inner_high),
                bound_low=float(values[0]),
                bound_high=float(values[-1]),
            )
        )
    return tuple(found)


def _coordinates(packed: Packed, normalization: Normalization, train: Tensor) -> tuple[Channel, ...]:
    """Mean and variance by pieces, float64."""
    count, total, low, high = 0, None, None, None
    for piece in train.split(CHUNK):
        rows = normalization.to_model(packed.values[piece]).double()
        rows = rows.reshape(len(rows), rows.shape[1], -1)
        sums = torch.stack([rows.sum((0, 2)), rows.square().sum((0, 2))])
        least, most = rows.amin((0, 2)), rows.amax((0, 2))
        total = sums if total is None else total + sums
        low = least if low is None else torch.minimum(low, least)
        high = most if high is None else torch.maximum(high, most)
        count += rows.shape[0] * rows.shape[2]
    assert total is not None
    assert low is not None
    assert high is not None
    mean = total[0] / count
    std = (total[1] / count - mean.square()).clamp(min=0).sqrt()
    rows_of = zip(mean.tolist(), std.tolist(), low.tolist(), high.tolist(), strict=True)
    return tuple(Channel(m, s, least, most, least, most) for m, s, least, most in rows_of)


def of_values(channels: tuple[Channel, ...], normalization: Normalization) -> Iterator[Remark]:
    """What the values give reason to say; the gravest of each kind once, with its channel."""
    flat = [index for index, channel in enumerate(channels) if channel.std == 0]
    name = "channel" if normalization.is_image else "coordinate"
    said = False
    if flat:
        what = f"{name} {_listed(flat)} {'is' if len(flat) == 1 else 'are'} the same in every training example"
        fix = "--data.channels 1" if normalization.is_image and len(flat) < len(channels) else "look at the data"
        yield Remark("values", "warning" if len(flat) < len(channels) else "broken", what, fix)
        said = True
    if not all(math.isfinite(value) for channel in channels for value in (channel.mean, channel.low, channel.high)):
        yield Remark("values", "broken", "there are values that are not finite", "remove them from the data")
        return
    squeezed = None if normalization.kind == "standardize" else _squeezed(channels)
    if squeezed is not None:
        yield squeezed
        said = True
    far = max((max(c.high - c.mean, c.mean - c.low) / c.std for c in channels if c.std > 0), default=0.0)
    if far > FAR and not normalization.is_image:
        what = f"the farthest value is {far:.3g} standard deviations from the mean: it alone sets the scale of the rest"
        yield Remark("values", "warning", what, "look at the farthest examples, and remove what is not meant")
        said = True
    if not said:
        low, high = min(c.low for c in channels), max(c.high for c in channels)
        what = f"values from {low:.3g} to {high:.3g} in the model's units ({normalization.kind})"
        yield Remark("values", "fine", what)


def _squeezed(channels: tuple[Channel, ...]) -> Remark | None:
    """Whether all channels of pictures huddle in a part of the range that black and white span."""
    spans = [
        (c.inner_high - c.inner_low) / (c.bound_high - c.bound_low)
        for c in channels
        if c.bound_low is not None and c.bound_high is not None
    ]
    if not spans or max(spans) >= NARROW or max(spans) == 0:
        return None
    levels = round(255 * max(spans))
    what = (
        f"all but two in a thousand values lie within {levels} of 255 levels: the pictures were scaled otherwise than "
        "they are read, or are nearly without contrast"
    )
    return Remark(
        "values", "warning", what, "--data.value_range for how they were scaled; --data.normalize standardize"
    )


def _listed(numbers: list[int]) -> str:
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return ", ".join(map(str, numbers[:5])) + more


def of_reach(fit: Reach | SfumatoError, experiment: Experiment) -> Iterator[Remark]:
    """What the ends of the schedule give reason to say. `allow_terminal_signal` makes a warning of what is refused."""
    if isinstance(experiment.schedule, OneLevel) and experiment.allow_terminal_signal:
        what = "one noise level, which has no noisy end: samples come by Langevin dynamics from anywhere"
        yield Remark("schedule", "note", what)
        return
    found = list(of_schedule(fit, experiment.schedule))
    for finding in found:
        level = SIGNS[finding.level]
        if level == "broken" and experiment.allow_terminal_signal and isinstance(fit, Reach):
            level = "warning"
        yield Remark("schedule", level, finding.what, finding.fix)
    if not isinstance(fit, Reach):
        return
    if fit.halfway is None and fit.noise_low > fit.data_std:
        what = (
            f"the least noise, {fit.noise_low:.3g}, is larger than the standard deviation of the "
            f"data, {fit.data_std:.3g}"
        )
        yield Remark("schedule", "broken", what, "--data.normalize standardize, or another --schedule")
    if not found and fit.halfway is not None:
        what = (
            f"{fit.terminal:.2g} of the power of the noise is left of the data at t = 1, and noise of their size is "
            f"at t = {fit.halfway:.2f}"
        )
        yield Remark("schedule", "fine", what)
