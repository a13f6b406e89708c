"""Schedules: how a noise level becomes a function of time.

A schedule maps t in [t_min, 1] to (alpha, sigma) with log_snr strictly decreasing, and back. t = 1 is the noisy end,
where the marginal is close to the schedule's `prior` N(0, prior_std² I); t_min is the clean end. The destination t = 0
stands for data itself and is never asked of a schedule.

A schedule is a family and a clock. The family says which pair (alpha, sigma) stands for a log_snr: variance preserving
(alpha² + sigma² = 1), exploding (alpha = 1) or straight (alpha + sigma = 1). The clock is log_snr as a function of t.

Continuous schedules keep log_snr within [-20, 20]: where a formula would leave that range, t runs linearly over the
part of its own time that stays inside, so that alpha = 0 and sigma = 0 never reach a network. Their t_min is 1e-5, or
the time of log_snr = 20 if that is later. A table keeps its own grid: t = k/T means "after k steps", t_min = 1/T,
and between grid points log_snr is linear in t.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sfumato.core.gaussian import Gaussian
from sfumato.core.rates import Rates
from sfumato.core.tables import Betas, LinearBetas
from sfumato.errors import ConfigError

if TYPE_CHECKING:
    from sfumato.core.learned import LearnedClock

__all__ = [
    "FIRST_TIME",
    "MAX_LOG_SNR",
    "CosineAngle",
    "LogSnrLinear",
    "RectifiedFlow",
    "Schedule",
    "Straight",
    "Tabulated",
    "VarianceExploding",
    "VariancePreserving",
    "Ve",
    "VpSde",
]

MAX_LOG_SNR = 20.0
FIRST_TIME = 1e-5
MAX_STEPS = 1_000_000


class Schedule(ABC):
    """t -> (alpha, sigma), its inverse, the clean end of the span and the prior at the noisy end."""

    __slots__ = ()

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha²/sigma²) at t in [t_min, 1], strictly decreasing; float64, shape of t, differentiable in t."""

    @abstractmethod
    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse: the t in [t_min, 1] whose log_snr is the given one (values outside the span go to its ends)."""

    @abstractmethod
    def at(self, t: Tensor, log_snr: Tensor) -> Rates:
        """The pair (alpha, sigma) of this schedule's family for a log_snr, labelled with the time t."""

    @property
    @abstractmethod
    def prior_std(self) -> float:
        """Standard deviation of the prior: 1 for variance-preserving schedules, sigma(1) otherwise."""

    @property
    def t_min(self) -> float:
        """The clean end of the span, above 0."""
        return FIRST_TIME

    @property
    def num_steps(self) -> int | None:
        """T for a table of T steps; None for a continuous schedule."""
        return None

    def rates(self, t: Tensor | float) -> Rates:
        """(alpha, sigma) at t in [t_min, 1]; t is () or (B,) and is taken in float64 on the CPU."""
        moment = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        return self.at(moment, self.log_snr(moment))

    @property
    def prior(self) -> Gaussian:
        """N(0, prior_std² I): where sampling starts and what prior terms compare with; scalars, broadcast over x."""
        log_var = torch.tensor(2 * math.log(self.prior_std), dtype=torch.float64)
        return Gaussian(torch.zeros((), dtype=torch.float64), log_var)

    def slope(self, t: Tensor) -> Tensor:
        """dlog_snr/dt at t, negative, in nats per unit of time; shape of t.

        At a grid point of a table it is that of the noisier interval next to it. Raises ConfigError for a table of one
        step.
        """
        if self.num_steps == 1:
            raise ConfigError(
                f"schedule {type(self).__name__} has one step, and so no slope of log-SNR",
                expected="two steps or more for a weight or a density of times that is given in log-SNR",
                fix="raise schedule.steps, or use GridTimes with the weighting StepElbo, NoiseError or OutputError",
            )
        with torch.enable_grad():
            moment = t.detach().to(device="cpu", dtype=torch.float64).requires_grad_(True)
            (slope,) = torch.autograd.grad(self.log_snr(moment).sum(), moment)
        return slope

    def clock(self) -> "LearnedClock | None":
        """What of it is trained with the network: a fresh module, which a denoiser adds to it; None for most."""
        return None

    def remedy(self, log_snr: float, key: str = "schedule") -> str:
        """What to set so that log_snr(1) falls to the given value; `key` names the place of this schedule in settings.

        For messages alone. A schedule that has no setting for its noisy end says so.
        """
        return f"choose another {key}, one that ends in noise"

    def terminal_signal(self, data_std: float) -> float:
        """alpha_1² data_var / sigma_1²: the power of the data left at t = 1, where sampling assumes there is none."""
        end = self.rates(1.0)
        return float((end.alpha * data_std / end.sigma) ** 2)


class VariancePreserving(Schedule):
    """alpha² = sigmoid(log_snr), sigma² = sigmoid(-log_snr): neither is found by a subtraction from 1."""

    __slots__ = ()

    def at(self, t: Tensor, log_snr: Tensor) -> Rates:
        return Rates(t, log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt())

    @property
    def prior_std(self) -> float:
        return 1.0


class VarianceExploding(Schedule):
    """alpha = 1, sigma = exp(-log_snr/2)."""

    __slots__ = ()

    def at(self, t: Tensor, log_snr: Tensor) -> Rates:
        return Rates(t, torch.ones_like(log_snr), (-log_snr / 2).exp())

    @property
    def prior_std(self) -> float:
        return float(self.rates(1.0).sigma)


class Straight(Schedule):
    """alpha = sigmoid(log_snr/2), sigma = sigmoid(-log_snr/2): alpha + sigma = 1, straight from data to noise."""

    __slots__ = ()

    def at(self, t: Tensor, log_snr: Tensor) -> Rates:
        return Rates(t, (log_snr / 2).sigmoid(), (-log_snr / 2).sigmoid())

    @property
    def prior_std(self) -> float:
        return float(self.rates(1.0).sigma)


def rounded(value: float, step: float, direction: Callable[[float], int]) -> float:
    """`value` at multiples of `step`, `math.floor` or `math.ceil` of them: a number to type in that still does."""
    return float(f"{direction(value / step) * step:.6g}")


def check_range(name: str, low: float, high: float, limits: tuple[float, float]) -> None:
    """Refuse a pair that is not `limits[0] <= low < high <= limits[1]`; `name` says which settings these are."""
    if not limits[0] <= low < high <= limits[1]:
        raise ConfigError(
            f"schedule: {name} are {low} and {high}",
            expected=f"two increasing numbers within [{limits[0]:.6g}, {limits[1]:.6g}]: log-SNR within ±{MAX_LOG_SNR}",
            fix="swap or narrow them, or leave them out: the defaults fit",
        )


@dataclass(frozen=True, slots=True)
class CosineAngle(VariancePreserving):
    """alpha = cos(angle), sigma = sin(angle), the angle linear in t between the two signal rates (Béres 2022).

    angle(t) = acos(max_signal_rate) + t (acos(min_signal_rate) - acos(max_signal_rate)); log_snr = -2 log tan(angle).

    min_signal_rate: alpha at the noisy end, t = 1, where sampling starts.
    max_signal_rate: alpha at the clean end, t = 0.
    """

    min_signal_rate: float = 0.02
    max_signal_rate: float = 0.95

    def __post_init__(self) -> None:
        lowest, highest = (math.exp(-math.log1p(math.exp(-bound)) / 2) for bound in (-MAX_LOG_SNR, MAX_LOG_SNR))
        check_range(
            "min_signal_rate and max_signal_rate", self.min_signal_rate, self.max_signal_rate, (lowest, highest)
        )

    def log_snr(self, t: Tensor) -> Tensor:
        clean, noisy = math.acos(self.max_signal_rate), math.acos(self.min_signal_rate)
        return -2 * (clean + t * (noisy - clean)).tan().log()

    def time(self, log_snr: Tensor) -> Tensor:
        clean, noisy = math.acos(self.max_signal_rate), math.acos(self.min_signal_rate)
        angle = (-log_snr.to(torch.float64) / 2).exp().atan()
        return ((angle - clean) / (noisy - clean)).clamp(self.t_min, 1.0)

    def remedy(self, log_snr: float, key: str = "schedule") -> str:
        rate = (1 + math.exp(-log_snr)) ** -0.5
        return f"set {key}.min_signal_rate: {rounded(rate, 10.0 ** math.floor(math.log10(rate) - 1), math.floor)}"


@dataclass(frozen=True, slots=True)
class VpSde(VariancePreserving):
    """VP-SDE, beta linear in t: alpha² = exp(-t beta_min - t²/2 (beta_max - beta_min)) (Song et al. 2021, eq. 33).

    beta_min: noise added per unit of time at the clean end.
    beta_max: the same at the noisy end; together they set what is left of the data at t = 1.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        check_range("beta_min and beta_max", self.beta_min, self.beta_max, (1e-3, MAX_LOG_SNR))

    def log_snr(self, t: Tensor) -> Tensor:
        spent = t * self.beta_min + t**2 * (self.beta_max - self.beta_min) / 2  # the integral of beta up to t
        return -torch.expm1(spent).log()  # SNR = e^-spent / (1 - e^-spent)

    def time(self, log_snr: Tensor) -> Tensor:
        spent = torch.nn.functional.softplus(-log_snr.to(torch.float64))  # log(1 + 1/SNR)
        spent = spent.clamp(max=(self.beta_min + self.beta_max) / 2)  # all of it: what t = 1 has spent
        rise = self.beta_max - self.beta_min
        t = 2 * spent / ((self.beta_min**2 + 2 * rise * spent).sqrt() + self.beta_min)
        return t.clamp(self.t_min, 1.0)

    def remedy(self, log_snr: float, key: str = "schedule") -> str:
        spent = math.log1p(math.exp(-log_snr))
        return f"set {key}.beta_max: {min(rounded(2 * spent - self.beta_min, 0.1, math.ceil), MAX_LOG_SNR)}"


@dataclass(frozen=True, slots=True)
class LogSnrLinear(VariancePreserving):
    """log_snr linear in t, from log_snr_max at t = 0 to log_snr_min at t = 1 (Kingma et al. 2021, "fixed" schedule).

    log_snr_min: log-SNR at the noisy end, in nats.
    log_snr_max: log-SNR at the clean end, in nats.
    """

    log_snr_min: float = -15.0
    log_snr_max: float = 15.0

    def __post_init__(self) -> None:
        check_range("log_snr_min and log_snr_max", self.log_snr_min, self.log_snr_max, (-MAX_LOG_SNR, MAX_LOG_SNR))

    def log_snr(self, t: Tensor) -> Tensor:
        return self.log_snr_max + t * (self.log_snr_min - self.log_snr_max)

    def time(self, log_snr: Tensor) -> Tensor:
        t = (self.log_snr_max - log_snr.to(torch.float64)) / (self.log_snr_max - self.log_snr_min)
        return t.clamp(self.t_min, 1.0)

    def remedy(self, log_snr: float, key: str = "schedule") -> str:
        return f"set {key}.log_snr_min: {max(rounded(log_snr, 0.1, math.floor), -MAX_LOG_SNR)}"


@dataclass(frozen=True, slots=True)
class Ve(VarianceExploding):
    """sigma geometric in t, sigma_min (sigma_max/sigma_min)^t: the VE-SDE (Song et al. 2021, eq. 31).

    sigma_min: noise at the clean end, in units of the prepared data.
    sigma_max: noise at the noisy end; far above the data, or sampling starts where training never was.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        bound = math.exp(MAX_LOG_SNR / 2)
        check_range("sigma_min and sigma_max", self.sigma_min, self.sigma_max, (1 / bound, bound))

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * (math.log(self.sigma_min) + t * math.log(self.sigma_max / self.sigma_min))

    def time(self, log_snr: Tensor) -> Tensor:
        t = (-log_snr.to(torch.float64) / 2 - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)
        return t.clamp(self.t_min, 1.0)

    def remedy(self, log_snr: float, key: str = "schedule") -> str:
        return f"set {key}.sigma_max: {rounded(math.exp(-log_snr / 2), 0.1, math.ceil)}"


@dataclass(frozen=True, slots=True)
class RectifiedFlow(Straight):
    """alpha = 1 - u, sigma = u, u = t but for the bounds of log_snr (Liu et al. 2022; Lipman et al. 2023).

    u = sigmoid(-log_snr/2) runs linearly in t from sigmoid(-10) to sigmoid(10); t_min = sigmoid(-10) = 4.54e-5.
    """

    def log_snr(self, t: Tensor) -> Tensor:
        u = self.t_min + (t - self.t_min) * (1 - 2 * self.t_min) / (1 - self.t_min)
        return 2 * (torch.log1p(-u) - u.log())

    def time(self, log_snr: Tensor) -> Tensor:
        u = (-log_snr.to(torch.float64) / 2).sigmoid()
        return (self.t_min + (u - self.t_min) * (1 - self.t_min) / (1 - 2 * self.t_min)).clamp(self.t_min, 1.0)

    @property
    def t_min(self) -> float:
        return 1 / (1 + math.exp(MAX_LOG_SNR / 2))


@dataclass(frozen=True, slots=True)
class Tabulated(VariancePreserving):
    """The T-step chain of DDPM: alpha-bar on the grid t = k/T, log_snr linear in t between (Ho et al. 2020).

    betas: how much noise each step adds.
    steps: T, the length of the chain; `times` and `time_input` count the same steps.
    """

    betas: Betas = LinearBetas()
    steps: int = 1000

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MAX_STEPS:
            raise ConfigError(
                f"schedule.steps is {self.steps}",
                expected=f"the number of steps T of the chain, from 1 to {MAX_STEPS:,}",
                fix="set schedule.steps: 1000",
            )
        grid_log_snr(self)  # a table that is no schedule is refused here, not in the middle of a run

    def log_snr(self, t: Tensor) -> Tensor:
        return interpolate(grid_log_snr(self), t * self.steps - 1)

    def time(self, log_snr: Tensor) -> Tensor:
        grid = grid_log_snr(self)
        wanted = log_snr.to(torch.float64).clamp(grid[-1], grid[0])
        if self.steps == 1:
            return torch.ones_like(wanted)
        upper = torch.searchsorted(-grid, -wanted).clamp(1, self.steps - 1)
        share = (grid[upper - 1] - wanted) / (grid[upper - 1] - grid[upper])
        return (upper + share) / self.steps

    def remedy(self, log_snr: float, key: str = "schedule") -> str:
        return " or ".join(
            [*self.betas.remedies(f"{key}.betas"), f"set {key}.betas: CosineBetas, or wrap it in ZeroTerminalSnr"]
        )

    @property
    def t_min(self) -> float:
        return 1 / self.steps

    @property
    def num_steps(self) -> int:
        return self.steps


@lru_cache(maxsize=64)
def grid_log_snr(table: Tabulated) -> Tensor:
    """log_snr at t = k/T, k = 1 … T; shape (T,), float64. log alpha-bar is a sum of log1p(-beta): no cancellation.

    sigma² = -expm1(log alpha-bar). Raises ConfigError where alpha-bar leaves what float64 can tell from 0 or 1.
    """
    log_alpha_bar = torch.log1p(-table.betas.values(table.steps)).cumsum(0)
    log_snr = log_alpha_bar - (-torch.expm1(log_alpha_bar)).log()
    falls = bool(log_snr.isfinite().all()) and bool((log_snr.diff() < 0).all())
    if not falls or float(log_alpha_bar[-1]) < math.log(1e-300):
        raise ConfigError(
            f"schedule: {table.betas!r} with T = {table.steps} has a log-SNR that "
            + (f"ends at {float(log_snr[-1]):.0f}" if falls else "does not decrease strictly"),
            expected="betas that add noise at every step and leave alpha-bar above 1e-300",
            fix="lower the betas, or take CosineBetas, which fits any number of steps",
        )
    return log_snr


def interpolate(values: Tensor, position: Tensor) -> Tensor:
    """`values` (N,) read at a fractional index in [0, N - 1], linearly between entries; exact at the entries."""
    if len(values) == 1:
        return values[0].expand(position.shape)
    nearest = position.detach().round()
    near_grid = (position.detach() - nearest).abs() < 1e-9  # t·T - 1 of a grid time k/T is an integer but for rounding
    position = position + torch.where(near_grid, nearest - position.detach(), 0.0)
    index = position.detach().floor().clamp(0, len(values) - 2).long()
    return values[index] + (position - index) * (values[index + 1] - values[index])
