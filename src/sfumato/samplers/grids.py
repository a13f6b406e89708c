"""Grids of sampling times: S intervals from noise to data, S + 1 strictly decreasing times, the last of them 0.

On a table of T steps every time but the last is a k/T, and S may not exceed T; the names are diffusers' spacings, whose
zero-based index is k - 1. On a continuous schedule the same rules apply to t itself, on [t_min, 1].
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from sfumato.core import Schedule
from sfumato.errors import UsageError

__all__ = ["Leading", "Linspace", "Quadratic", "TimeGrid", "Trailing"]


class TimeGrid(ABC):
    """A rule for where to evaluate the denoiser."""

    __slots__ = ()

    @abstractmethod
    def table_steps(self, num_steps: int, steps: int) -> list[int]:
        """S decreasing numbers k of a table of T = num_steps steps."""

    @abstractmethod
    def span_shares(self, steps: int) -> list[float]:
        """S decreasing positions within a continuous span: 1 is t = 1, 0 is t_min."""

    def times(self, schedule: Schedule, steps: int) -> list[float]:
        """S + 1 strictly decreasing times, the last 0. Raises UsageError for S below 1 or above T."""
        num_steps = schedule.num_steps
        if steps < 1 or (num_steps is not None and steps > num_steps):
            at_most = "" if num_steps is None else f" to {num_steps}, the steps of the schedule"
            raise UsageError(
                f"sampling in {steps} steps with a schedule of {num_steps or 'arbitrarily many'} steps",
                expected=f"a number of steps from 1{at_most}",
                fix=f"set sampling.steps: {50 if num_steps is None else min(50, num_steps)}",
            )
        if num_steps is None:
            times = [schedule.t_min + (1 - schedule.t_min) * share for share in self.span_shares(steps)]
        else:
            times = [k / num_steps for k in distinct(self.table_steps(num_steps, steps), num_steps)]
        return [*times, 0.0]


def distinct(table_steps: list[int], num_steps: int) -> list[int]:
    """The same number of strictly decreasing steps within 1 … T: rounding may have made neighbours coincide."""
    rising: list[int] = []
    for k in reversed(table_steps):  # push up what coincides …
        rising.append(max(k, 1, rising[-1] + 1 if rising else 1))
    # … and back down what left the table
    return [min(k, num_steps - index) for index, k in enumerate(reversed(rising))]


@dataclass(frozen=True, slots=True)
class Trailing(TimeGrid):
    """t = 1, 1 - 1/S, …: starts at the noisiest time and never at data (Lin et al. 2024). The default."""

    def table_steps(self, num_steps: int, steps: int) -> list[int]:
        return [round(num_steps - k * num_steps / steps) for k in range(steps)]

    def span_shares(self, steps: int) -> list[float]:
        return [1 - k / steps for k in range(steps)]


@dataclass(frozen=True, slots=True)
class Leading(TimeGrid):
    """Multiples of T//S from the clean end (DDPM's code): never visits t = 1, where samples start; for comparison."""

    def table_steps(self, num_steps: int, steps: int) -> list[int]:
        return [k * (num_steps // steps) + 1 for k in range(steps)][::-1]

    def span_shares(self, steps: int) -> list[float]:
        return [k / steps for k in range(steps)][::-1]


@dataclass(frozen=True, slots=True)
class Linspace(TimeGrid):
    """S equally spaced times that include both ends of the span (Nichol & Dhariwal 2021)."""

    def table_steps(self, num_steps: int, steps: int) -> list[int]:
        if steps == 1:
            return [num_steps]
        return [round(k * (num_steps - 1) / (steps - 1)) + 1 for k in range(steps)][::-1]

    def span_shares(self, steps: int) -> list[float]:
        return [1.0] if steps == 1 else [1 - k / (steps - 1) for k in range(steps)]


@dataclass(frozen=True, slots=True)
class Quadratic(TimeGrid):
    """Squares of equally spaced numbers: denser near data (Song, Meng & Ermon 2021).

    Their code ends at 0.8 T while sampling starts from pure noise; `end` is that fraction, 1 here so that both agree.

    end: the noisiest time, as a fraction of the span.
    """

    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.end <= 1:
            raise UsageError(
                f"sampling.grid.end is {self.end}",
                expected="a fraction above 0, at most 1",
                fix="set sampling.grid.end: 1",
            )

    def table_steps(self, num_steps: int, steps: int) -> list[int]:
        if steps == 1:
            return [max(1, int(self.end * num_steps))]
        # their sqrt(0.8 T) would lie one beyond the table at end 1
        last = num_steps - 1 if self.end == 1 else self.end * num_steps
        return [math.floor(last * (k / (steps - 1)) ** 2 + 1e-9) + 1 for k in range(steps)][::-1]

    def span_shares(self, steps: int) -> list[float]:
        return [self.end] if steps == 1 else [self.end * (1 - k / (steps - 1)) ** 2 for k in range(steps)]
