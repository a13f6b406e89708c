"""An axis: numbers to places, linearly or by their logarithm, and the round numbers that are written along it.

place = start + (stop - start) (f(value) - f(low))/(f(high) - f(low)),        f = log or the identity
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Axis", "axis_for", "linear_ticks", "log_ticks"]

ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)
SAME = 1e-9  # of their size: what two numbers on an axis may be apart and still be one
LARGEST = 1e100  # number that is drawn; those beyond it stand there, and what is smaller than its inverse at zero
SPREAD = 8.0  # largest over smallest from which on an axis of positive numbers is logarithmic


@dataclass(frozen=True, slots=True)
class Axis:
    """Numbers from `low` to `high` at places from `start` to `stop`."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def at(self, value: float) -> float:
        """The place of a number; those outside stop at the end of the axis."""
        low, high, here = (math.log(v) if self.log else v for v in (self.low, self.high, self._within(value)))
        return self.start + (self.stop - self.start) * (here - low) / (high - low)

    def _within(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    def ticks(self, most: int = 5) -> tuple[float, ...]:
        """Round numbers along the axis, about `most` of them."""
        return log_ticks(self.low, self.high, most) if self.log else linear_ticks(self.low, self.high, most)


def axis_for(
    values: Iterable[float], start: float, stop: float, *, log: bool | None = None, room: float = 0.04
) -> Axis:
    """An axis that holds all finite values with a little room; logarithmic where `log` is None and they spread far."""
    finite = [_drawable(value) for value in values if math.isfinite(value)]
    if not finite:
        return Axis(0.0, 1.0, start, stop)
    low, high = min(finite), max(finite)
    by_log = low > 0 and (high / low > SPREAD if log is None else log)
    if by_log:
        extra = max((high / low) ** room, 1.02)
        return Axis(low / extra, high * extra, start, stop, log=True)
    apart = high - low > SAME * max(abs(low), abs(high))
    span = high - low if apart else max(abs(high), 1e-12)
    room = room if apart else 0.5
    return Axis(low - room * span, high + room * span, start, stop)


def _drawable(value: float) -> float:
    return 0.0 if abs(value) < 1 / LARGEST else min(max(value, -LARGEST), LARGEST)


def linear_ticks(low: float, high: float, most: int = 5) -> tuple[float, ...]:
    """Multiples of a round number between `low` and `high`, at most `most` + 1."""
    rough = (high - low) / most
    exponent = math.floor(math.log10(rough))
    power = 10.0**exponent
    step = next(factor * power for factor in ROUND if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(k * step, 1 - exponent) + 0.0 for k in range(first, last + 1))


def log_ticks(low: float, high: float, most: int = 5) -> tuple[float, ...]:
    """Powers of ten between `low` and `high`, with 2 and 5 between them, or linear ones, where that leaves too few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [f * 10.0**k for k in range(first, last + 1) for f in factors if low <= f * 10.0**k <= high]
        if len(found) >= 3:
            skip = math.ceil(len(found) / (most + 2))
            return tuple(found[::skip])
    return linear_ticks(low, high, most)
