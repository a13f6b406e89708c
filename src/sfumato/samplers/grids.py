"""Grids of sampling times: S intervals from noise to data, S + 1 strictly decreasing times, the last of them 0.

A grid is a rule for the S times at which the denoiser is asked. `times` adds the 0 that stands for data;
`times_to_t_min` ends at t_min instead, S intervals on which the probability-flow ODE is regular: for encoding, for
likelihoods and for orders of convergence.

Rules in time: on a table of T steps every time is a k/T, and S may not exceed T; the names are diffusers' spacings,
whose zero-based index is k - 1. On a continuous schedule the same rules apply to t itself, on [t_min, 1].

Rules in noise (`UniformLogSnr`, `Karras`) place noise levels and ask the schedule for their times. On a table those lie
between grid points, where log_snr is linear in t: rounded times would lose the order of the methods they are for. A
network that knows the steps of its table alone rounds what it is given.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core import Schedule
from sfumato.errors import UsageError

__all__ = ["Karras", "Leading", "Linspace", "Quadratic", "TimeGrid", "Trailing", "UniformLogSnr"]


class TimeGrid(ABC):
    """A rule for where to evaluate the denoiser."""

    __slots__ = ()

    @abstractmethod
    def visits(self, schedule: Schedule, count: int) -> list[float]:
        """`count` strictly decreasing times in [t_min, 1], none of them data; UsageError where that cannot be."""

    def times(self, schedule: Schedule, steps: int) -> list[float]:
        """S + 1 strictly decreasing times, the last 0. Raises UsageError for S below 1, or above T in rules in time."""
        return [*self.visits(schedule, steps), 0.0]

    def times_to_t_min(self, schedule: Schedule, steps: int) -> list[float]:
        """S + 1 strictly decreasing times, the last t_min: the same rule without the step to data.

        Raises UsageError for S below 1, or above T - 1 in rules in time, which have T times to give.
        """
        visits = self.visits(schedule, steps)
        return [*visits, schedule.t_min] if visits[-1] > schedule.t_min else self.visits(schedule, steps + 1)


class SpacedInTime(TimeGrid):
    """A rule in time: for tables in whole steps, for continuous schedules in shares of the span."""

    __slots__ = ()

    @abstractmethod
    def table_steps(self, num_steps: int, steps: int) -> list[int]:
        """S decreasing numbers k of a table of T = num_steps steps."""

    @abstractmethod
    def span_shares(self, steps: int) -> list[float]:
        """S decreasing positions within a continuous span: 1 is t = 1, 0 is t_min."""

    def visits(self, schedule: Schedule, count: int) -> list[float]:
        num_steps = schedule.num_steps
        check_steps(count, num_steps)
        if num_steps is None:
            return [schedule.t_min + (1 - schedule.t_min) * share for share in self.span_shares(count)]
        return [k / num_steps for k in distinct(self.table_steps(num_steps, count), num_steps)]


class SpacedInNoise(TimeGrid):
    """A rule in noise: log_snr from that of t = 1 to that of t_min, both included; one step starts at t = 1."""

    __slots__ = ()

    @abstractmethod
    def log_snrs(self, shares: Tensor, noisy: float, clean: float) -> Tensor:
        """log_snr at positions from 0, which is t = 1 and `noisy`, to 1, which is t_min and `clean`; shaped as shares.

        float64, strictly increasing.
        """

    def visits(self, schedule: Schedule, count: int) -> list[float]:
        check_steps(count, None)
        ends = schedule.log_snr(torch.tensor([1.0, schedule.t_min], dtype=torch.float64)).tolist()
        if count == 1 or ends[0] == ends[1]:  # a table of one step has one level
            return [1.0]
        shares = torch.linspace(0, 1, count, dtype=torch.float64)[1:-1]
        return [1.0, *schedule.time(self.log_snrs(shares, *ends)).tolist(), schedule.t_min]


def check_steps(steps: int, most: int | None) -> None:
    """Refuse a number of steps below 1 or above `most`."""
    if steps < 1 or (most is not None and steps > most):
        at_most = "" if most is None else f" to {most}, the steps of the schedule"
        raise UsageError(
            f"sampling in {steps} steps with a schedule of {most or 'arbitrarily many'} steps",
            expected=f"a number of steps from 1{at_most}",
            fix=f"set sampling.steps: {50 if most is None else min(50, most)}",
        )


def distinct(table_steps: list[int], num_steps: int) -> list[int]:
    """The same number of strictly decreasing steps within 1 … T: rounding may have made neighbours coincide."""
    rising: list[int] = []
    for k in reversed(table_steps):  # push up what coincides …
        rising.append(max(k, 1, rising[-1] + 1 if rising else 1))
    # … and back down what left the table
    return [min(k, num_steps - index) for index, k in enumerate(reversed(rising))]


@dataclass(frozen=True, slots=True)
class Trailing(SpacedInTime):
    """t = 1, 1 - 1/S, …: starts at the noisiest time and never at data (Lin et al. 2024). The default."""

    def table_steps(self, num_steps: int, steps: int) -> list[int]:
        return [round(num_steps - k * num_steps / steps) for k in range(steps)]

    def span_shares(self, steps: int) -> list[float]:
        return [1 - k / steps for k in range(steps)]


@dataclass(frozen=True, slots=True)
class Leading(SpacedInTime):
    """Multiples of T//S from the clean end (DDPM's code): never visits t = 1, where samples start; for comparison."""

    def table_steps(self, num_steps: int, steps: int) -> list[int]:
        return [k * (num_steps // steps) + 1 for k in range(steps)][::-1]

    def span_shares(self, steps: int) -> list[float]:
        return [k / steps for k in range(steps)][::-1]


@dataclass(frozen=True, slots=True)
class Linspace(SpacedInTime):
    """S equally spaced times that include both ends of the span (Nichol & Dhariwal 2021)."""

    def table_steps(self, num_steps: int, steps: int) -> list[int]:
        if steps == 1:
            return [num_steps]
        return [round(k * (num_steps - 1) / (steps - 1)) + 1 for k in range(steps)][::-1]

    def span_shares(self, steps: int) -> list[float]:
        return [1.0] if steps == 1 else [1 - k / (steps - 1) for k in range(steps)]


@dataclass(frozen=True, slots=True)
class Quadratic(SpacedInTime):
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


@dataclass(frozen=True, slots=True)
class UniformLogSnr(SpacedInNoise):
    """Equal steps of log_snr, from t = 1 to t_min (Lu et al. 2022a): the grid on which their solvers have their order.

    On a table the times lie between its steps.
    """

    def log_snrs(self, shares: Tensor, noisy: float, clean: float) -> Tensor:
        return noisy + shares * (clean - noisy)


@dataclass(frozen=True, slots=True)
class Karras(SpacedInNoise):
    """Equal steps of noise_level^(1/rho), from t = 1 to t_min (Karras et al. 2022, eq. 5).

    On a table the times lie between its steps.

    rho: 1 takes equal steps of the noise level; more of them are spent near data as it grows; 7 is the paper's.
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        if not 1 <= self.rho <= 1000:
            raise UsageError(
                f"sampling.grid.rho is {self.rho}",
                expected="a number from 1 to 1000",
                fix="set sampling.grid.rho: 7",
            )

    def log_snrs(self, shares: Tensor, noisy: float, clean: float) -> Tensor:
        first, last = (math.exp(-log_snr / (2 * self.rho)) for log_snr in (noisy, clean))
        return -2 * self.rho * (first + shares * (last - first)).log()
