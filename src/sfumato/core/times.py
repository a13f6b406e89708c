"""Which times training looks at: t as the quantile function of a density, applied to uniform numbers.

Objectives are integrals over t uniform in [t_min, 1]; drawing t from a density q instead, each loss is multiplied by
`inv_density = 1/q(t)` (q relative to the uniform), so that another sampler changes the variance and not the objective.

The uniform numbers are independent, stratified (one per B-th of the interval, Kingma et al. 2021, app. I.1) or
antithetic (u and 1 - u in pairs). A density may also follow the losses of the run itself: its memory of them is then
part of the state of training.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sfumato.core.loss_memory import LossMemory
from sfumato.core.schedules import Schedule
from sfumato.errors import ConfigError

__all__ = ["GridTimes", "LogNormalTimes", "LossAwareTimes", "Spread", "TimeDraw", "Times", "UniformTimes"]

Spread = Literal["independent", "stratified", "antithetic"]


@dataclass(frozen=True, slots=True)
class TimeDraw:
    """t in [t_min, 1] and inv_density = 1/q(t), both (B,) float64 on the CPU."""

    t: Tensor
    inv_density: Tensor


def _independent(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator, dtype=torch.float64)


def _stratified(count: int, generator: torch.Generator) -> Tensor:
    """One number in each of `count` equal cells, in random order, so that slices of a batch are fair too."""
    cells = torch.randperm(count, generator=generator)
    return (cells + torch.rand(count, generator=generator, dtype=torch.float64)) / count


def _antithetic(count: int, generator: torch.Generator) -> Tensor:
    """u and 1 - u side by side; an odd batch ends with a number that has no partner."""
    half = torch.rand((count + 1) // 2, generator=generator, dtype=torch.float64)
    return torch.stack([half, 1 - half], dim=1).flatten()[:count]


UNIFORMS = {"independent": _independent, "stratified": _stratified, "antithetic": _antithetic}


class Times(ABC):
    """A density of training times."""

    __slots__ = ()

    @abstractmethod
    def draw(
        self, schedule: Schedule, count: int, generator: torch.Generator, memory: LossMemory | None = None
    ) -> TimeDraw:
        """`count` times for one global batch; `memory` is what `memory(schedule)` made, where the density has one."""

    def memory(self, schedule: Schedule) -> LossMemory | None:
        """An empty memory of losses, where the density follows them; None where it does not."""
        return None


def uniforms(spread: Spread, count: int, generator: torch.Generator) -> Tensor:
    return UNIFORMS[spread](count, generator)


@dataclass(frozen=True, slots=True)
class UniformTimes(Times):
    """t uniform in [t_min, 1]: inv_density = 1.

    spread: stratified (one time per cell of the batch), antithetic (in pairs), or independent.
    """

    spread: Spread = "stratified"

    def draw(
        self, schedule: Schedule, count: int, generator: torch.Generator, memory: LossMemory | None = None
    ) -> TimeDraw:
        u = uniforms(self.spread, count, generator)
        return TimeDraw(schedule.t_min + (1 - schedule.t_min) * u, torch.ones_like(u))


@dataclass(frozen=True, slots=True)
class GridTimes(Times):
    """t = k/T, k uniform in 1 … T: the chain of T steps (Ho et al. 2020, alg. 1); antithetic: k and T + 1 - k.

    steps: T, the same number as the schedule's.
    spread: stratified (one time per cell of the batch), antithetic (in pairs), or independent.
    """

    steps: int = 1000
    spread: Spread = "stratified"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(
                f"times.steps is {self.steps}",
                expected="1 or more",
                fix="set times.steps: 1000",
            )

    def draw(
        self, schedule: Schedule, count: int, generator: torch.Generator, memory: LossMemory | None = None
    ) -> TimeDraw:
        u = uniforms(self.spread, count, generator)
        step = (u * self.steps).floor().clamp(max=self.steps - 1) + 1
        return TimeDraw(step / self.steps, torch.ones_like(u))


@dataclass(frozen=True, slots=True)
class LogNormalTimes(Times):
    """ln(noise_level) ~ N(mean, std²), truncated to the schedule's span (Karras et al. 2022, table 1: -1.2 and 1.2).

    mean: of the logarithm of the noise level.
    std: of the logarithm of the noise level.
    spread: stratified (one time per cell of the batch), antithetic (in pairs), or independent.
    """

    mean: float = -1.2
    std: float = 1.2
    spread: Spread = "stratified"

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ConfigError(f"times.std is {self.std}", expected="a number above 0", fix="set times.std: 1.2")

    def quantiles(self, schedule: Schedule) -> Tensor:
        """The normal CDF at the ends of the schedule's span: quantiles of t_min and of 1; shape (2,).

        Raises ConfigError when the span holds less than a thousandth of the distribution.
        """
        ends = schedule.rates(torch.tensor([schedule.t_min, 1.0], dtype=torch.float64)).noise_level.log()
        quantiles = torch.special.ndtr((ends - self.mean) / self.std)
        inside = float(quantiles[1] - quantiles[0])
        if inside < 1e-3:
            raise ConfigError(
                f"times: N({self.mean}, {self.std}²) has {inside:.2g} of its mass on the schedule's ln(noise level)",
                expected=f"most of the mass between {float(ends[0]):.3g} and {float(ends[1]):.3g}",
                fix="move times.mean into that span, or use UniformTimes",
            )
        return quantiles

    def density(self, schedule: Schedule, t: Tensor) -> Tensor:
        """q(t) relative to the uniform on [t_min, 1]: p(log_snr) |dlog_snr/dt| (1 - t_min); (B,) float64."""
        z = (-schedule.log_snr(t) / 2 - self.mean) / self.std
        low, high = self.quantiles(schedule)
        log_normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).exp() / (2 * self.std)  # with respect to log_snr
        return log_normal / (high - low) * -schedule.slope(t) * (1 - schedule.t_min)

    def draw(
        self, schedule: Schedule, count: int, generator: torch.Generator, memory: LossMemory | None = None
    ) -> TimeDraw:
        low, high = self.quantiles(schedule)
        z = torch.special.ndtri(low + (high - low) * uniforms(self.spread, count, generator))
        t = schedule.time(-2 * (self.mean + self.std * z))
        return TimeDraw(t, 1 / self.density(schedule, t))


@dataclass(frozen=True, slots=True)
class LossAwareTimes(Times):
    """t where the losses are large: p(t) ~ sqrt(E[L_t²]) by the last losses (Nichol & Dhariwal 2021, sec. 3.4).

    A table has one part per step, and t stays on its grid; for a continuous schedule the span falls into `bins` equal
    parts, with t uniform within each. Until every part has its history the times are uniform. `inv_density` undoes the
    density: another variance, the same objective. What is remembered is `L = loss / inv_density` of every example, so
    each step waits for the losses of the one before, on a GPU too.

    bins: equal parts of the time span of a continuous schedule; a table has its steps.
    history: how many losses of each part are remembered.
    uniform: share of the density that stays uniform, so that no part is forgotten.
    spread: stratified (one time per cell of the batch), antithetic (in pairs), or independent.
    """

    bins: int = 100
    history: int = 10
    uniform: float = 0.001
    spread: Spread = "stratified"

    def __post_init__(self) -> None:
        for name, value, usual in (("bins", self.bins, 100), ("history", self.history, 10)):
            if not 1 <= value <= 1_000_000:
                raise ConfigError(
                    f"times.{name} is {value}", expected="from 1 to 1,000,000", fix=f"set times.{name}: {usual}"
                )
        if not 0 < self.uniform <= 1:
            raise ConfigError(
                f"times.uniform is {self.uniform}",
                expected="a share above 0, at most 1: a part that is never drawn is never corrected",
                fix="set times.uniform: 0.001",
            )

    def memory(self, schedule: Schedule) -> LossMemory:
        steps = schedule.num_steps
        if steps is None:
            return LossMemory(bins=self.bins, history=self.history, start=schedule.t_min)
        return LossMemory(bins=steps, history=self.history, start=0.0)

    def draw(
        self, schedule: Schedule, count: int, generator: torch.Generator, memory: LossMemory | None = None
    ) -> TimeDraw:
        memory = self.memory(schedule) if memory is None else memory
        shares = memory.shares(self.uniform)
        u = uniforms(self.spread, count, generator)
        part = torch.searchsorted(shares.cumsum(0), u, right=True).clamp(max=memory.bins - 1)
        inside = ((u - (shares.cumsum(0) - shares)[part]) / shares[part]).clamp(0, 1)
        if schedule.num_steps is not None:
            inside = torch.ones_like(u)
        t = memory.start + (1 - memory.start) * (part + inside) / memory.bins
        return TimeDraw(t.clamp(max=1.0), 1 / (memory.bins * shares[part]))
