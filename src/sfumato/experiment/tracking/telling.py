"""What a line of `metrics.jsonl` is to a tracker: numbers under the names that they have there, and histograms.

    loss, grad_norm, held_out_loss, …       a number each
    held_out_by_level                       held_out_by_level/1 … K, from the cleanest level to the noisiest, and one
                                            histogram of the loss over log-SNR (`histogram.loss_by_log_snr`)
    copies_interval and other short lists   NAME/1, NAME/2, …
    log_snr_knots and other long lists      a histogram of the values: for knots, which are even in t, that is the
                                            density of the noise levels that training looks at

What is not a finite number is left out, as `null` is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from sfumato.experiment.tracking.histogram import Histogram, histogram_of, loss_by_log_snr

__all__ = ["BY_LEVEL", "Told", "told_by"]

BY_LEVEL = "held_out_by_level"
SHORT = 4  # numbers that are told one by one


@dataclass(frozen=True, slots=True)
class Told:
    """What one line says: numbers and histograms by name."""

    scalars: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)


def told_by(line: Mapping[str, Any]) -> Told:
    """What a tracker is told of a line; nothing of its step, which goes with everything."""
    told = Told()
    for name, value in line.items():
        if name == BY_LEVEL and isinstance(value, Mapping):
            _levels(told, value)
        elif name != "step":
            _add(told, name, value)
    return told


def _add(told: Told, name: str, value: object) -> None:
    """One figure of a line, whatever it is made of; texts and yes or no are nothing to draw."""
    if isinstance(value, Mapping):
        for part, item in value.items():
            _add(told, f"{name}/{part}", item)
    elif isinstance(value, list | tuple):
        if len(value) <= SHORT:
            for number, item in enumerate(value, start=1):
                _add(told, f"{name}/{number}", item)
        elif (bars := histogram_of([item for item in value if is_finite(item)])) is not None:
            told.histograms[name] = bars
    elif is_finite(value):
        told.scalars[name] = float(value)


def _levels(told: Told, by_level: Mapping[str, Any]) -> None:
    """The held-out loss at each noise level."""
    losses = _numbers(by_level.get("loss"))
    for number, loss in enumerate(losses, start=1):
        if loss is not None:
            told.scalars[f"{BY_LEVEL}/{number}"] = loss
    bars = loss_by_log_snr(_numbers(by_level.get("log_snr")), losses)
    if bars is not None:
        told.histograms[f"{BY_LEVEL}/over log-SNR"] = bars


def _numbers(found: object) -> list[float | None]:
    """The items of a list as numbers, None for those that are none."""
    return [float(item) if is_finite(item) else None for item in found] if isinstance(found, list) else []


def is_finite(value: object) -> TypeGuard[int | float]:
    """Whether something is a number that can be drawn."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits
        return False
