"""Wrappers that make a schedule of any other: the same family, another clock.

`Shifted` moves log_snr for another resolution; `ZeroTerminalSnr` stretches a variance-preserving schedule until nothing
of the data is left at t = 1; `Trimmed` keeps the part of one between two signal rates. All are schedules themselves
and nest.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core.rates import Rates
from sfumato.core.schedules import FIRST_TIME, MAX_LOG_SNR, CosineAngle, Schedule, Tabulated, check_range, rounded
from sfumato.core.tables import LinearBetas
from sfumato.errors import ConfigError

__all__ = ["Shifted", "Trimmed", "ZeroTerminalSnr"]


@dataclass(frozen=True, slots=True)
class Shifted(Schedule):
    """log_snr(t) + 2 log(reference / resolution): as noisy to the eye at `resolution` as `base` is at `reference`.

    Averaging k² pixels divides the noise's variance by k² and leaves smooth images as they are (Hoogeboom et al. 2023,
    "simple diffusion", eq. 4). Where the sum would leave the bounds of log_snr, t runs linearly over the part of the
    base's time that stays inside; a table keeps its grid.

    resolution: side of the pictures to train on, in pixels.
    reference: side at which `base` is right, in pixels.
    base: the schedule to shift.
    """

    resolution: int
    reference: int = 64
    base: Schedule = CosineAngle()

    def __post_init__(self) -> None:
        for name, value in (("resolution", self.resolution), ("reference", self.reference)):
            if value < 1:
                raise ConfigError(
                    f"schedule.{name} is {value}", expected="pixels, 1 or more", fix=f"set schedule.{name}: 64"
                )
        if abs(self._shift()) > MAX_LOG_SNR:
            raise ConfigError(
                f"schedule: from {self.reference} to {self.resolution} pixels log-SNR moves by {self._shift():.1f}",
                expected=f"a shift within ±{MAX_LOG_SNR}",
                fix="bring schedule.reference nearer to schedule.resolution",
            )

    def _shift(self) -> float:
        return 2 * math.log(self.reference / self.resolution)

    def _base_span(self) -> tuple[float, float]:
        """The clean and noisy ends of the part of the base's time whose shifted log_snr stays within the bounds."""
        bounds = torch.tensor([MAX_LOG_SNR, -MAX_LOG_SNR], dtype=torch.float64) - self._shift()
        clean, noisy = self.base.time(bounds).tolist()
        return clean, noisy

    def remedy(self, log_snr: float, key: str = "schedule") -> str:
        return self.base.remedy(log_snr - self._shift(), f"{key}.base")

    def _base_time(self, t: Tensor) -> Tensor:
        if self.base.num_steps is not None:
            return t
        clean, noisy = self._base_span()
        return clean + (t - self.t_min) * (noisy - clean) / (1 - self.t_min)

    def log_snr(self, t: Tensor) -> Tensor:
        return self.base.log_snr(self._base_time(t)) + self._shift()

    def time(self, log_snr: Tensor) -> Tensor:
        base_time = self.base.time(log_snr.to(torch.float64) - self._shift())
        if self.base.num_steps is not None:
            return base_time
        clean, noisy = self._base_span()
        return (self.t_min + (base_time - clean) * (1 - self.t_min) / (noisy - clean)).clamp(self.t_min, 1.0)

    def at(self, t: Tensor, log_snr: Tensor) -> Rates:
        return self.base.at(t, log_snr)

    @property
    def t_min(self) -> float:
        return self.base.t_min if self.base.num_steps is not None else self._base_span()[0]

    @property
    def prior_std(self) -> float:
        return 1.0 if preserves_variance(self.base) else float(self.rates(1.0).sigma)

    @property
    def num_steps(self) -> int | None:
        return self.base.num_steps


@dataclass(frozen=True, slots=True)
class ZeroTerminalSnr(Schedule):
    """alpha moved and stretched: it ends at the bound log_snr = -20 and starts where it did (Lin et al. 2024, alg. 1).

    alpha' = floor + (alpha - alpha_1)(alpha_min - floor)/(alpha_min - alpha_1), with alpha_min at t_min and alpha_1 at
    t = 1; the paper's floor is 0, ours 4.5e-5, so that no network meets sigma = 1 exactly with alpha = 0.

    base: the schedule to stretch.
    """

    base: Schedule = Tabulated(LinearBetas())

    def __post_init__(self) -> None:
        if not preserves_variance(self.base):
            raise ConfigError(
                f"schedule.base is {type(self.base).__name__}, which is not variance preserving",
                expected="a base with alpha² + sigma² = 1: a table, CosineAngle, VpSde or LogSnrLinear",
                fix="drop the wrapper: the other families end at their prior already",
            )
        if self.base.num_steps == 1:
            raise ConfigError(
                "schedule.base has one step, which cannot keep its beginning and move its end",
                expected="a base of two steps or more",
                fix="raise schedule.base.steps, or drop the wrapper",
            )

    def _losses(self) -> Tensor:
        """1 - alpha at the base's clean end, at its noisy end, and at the floor; shape (3,)."""
        ends = torch.tensor([self.base.t_min, 1.0], dtype=torch.float64)
        floor = torch.tensor([-MAX_LOG_SNR], dtype=torch.float64)
        return signal_loss(torch.cat([self.base.log_snr(ends), floor]))

    def log_snr(self, t: Tensor) -> Tensor:
        clean, noisy, floor = self._losses()
        loss = clean + (signal_loss(self.base.log_snr(t)) - clean) * (floor - clean) / (noisy - clean)
        return log_snr_of_loss(loss)

    def time(self, log_snr: Tensor) -> Tensor:
        clean, noisy, floor = self._losses()
        loss = clean + (signal_loss(log_snr.to(torch.float64)) - clean) * (noisy - clean) / (floor - clean)
        return self.base.time(log_snr_of_loss(loss.clamp(clean, noisy)))

    def at(self, t: Tensor, log_snr: Tensor) -> Rates:
        return self.base.at(t, log_snr)

    @property
    def t_min(self) -> float:
        return self.base.t_min

    @property
    def prior_std(self) -> float:
        return 1.0

    @property
    def num_steps(self) -> int | None:
        return self.base.num_steps


@dataclass(frozen=True, slots=True)
class Trimmed(Schedule):
    """The part of another schedule between two signal rates, stretched over the whole of the time.

    log_snr(t) = base.log_snr(u),   u = u_clean + t (u_noisy - u_clean),
    alpha(u_clean) = max_signal_rate,   alpha(u_noisy) = min_signal_rate.

    Schedules that are trimmed alike share their ends and differ only in how they spend the time between: what falbel's
    linear schedule was meant to be, which clips alpha² instead of alpha, and clips where it should stretch. Where the
    base does not reach a rate, its own end stays. A table becomes continuous: log_snr linear between its grid points.

    min_signal_rate: alpha at the noisy end, t = 1, where sampling starts.
    max_signal_rate: alpha at the clean end, t = 0.
    base: the schedule to trim, one with alpha² + sigma² = 1.
    """

    min_signal_rate: float = 0.02
    max_signal_rate: float = 0.95
    base: Schedule = Tabulated(LinearBetas())

    def __post_init__(self) -> None:
        lowest, highest = (math.exp(-math.log1p(math.exp(-bound)) / 2) for bound in (-MAX_LOG_SNR, MAX_LOG_SNR))
        check_range(
            "min_signal_rate and max_signal_rate", self.min_signal_rate, self.max_signal_rate, (lowest, highest)
        )
        if not preserves_variance(self.base):
            raise ConfigError(
                f"schedule.base is {type(self.base).__name__}, whose alpha is no signal rate: alpha² + sigma² is not 1",
                expected="a base with alpha² + sigma² = 1: a table, CosineAngle, VpSde or LogSnrLinear",
                fix="drop the wrapper, or choose such a schedule.base",
            )
        clean, noisy = self._base_span()
        if not clean < noisy:
            raise ConfigError(
                f"schedule.base has no time at which alpha is {self.min_signal_rate} to {self.max_signal_rate}",
                expected="rates that the base passes through",
                fix="move schedule.min_signal_rate and schedule.max_signal_rate apart, or take another schedule.base",
            )

    def _base_span(self) -> tuple[float, float]:
        """The times of the base at which alpha is the larger and the smaller rate."""
        rates = torch.tensor([self.max_signal_rate, self.min_signal_rate], dtype=torch.float64)
        clean, noisy = self.base.time(2 * rates.log() - torch.log1p(-rates.square())).tolist()
        return clean, noisy

    def log_snr(self, t: Tensor) -> Tensor:
        clean, noisy = self._base_span()
        return self.base.log_snr(clean + t * (noisy - clean))

    def time(self, log_snr: Tensor) -> Tensor:
        clean, noisy = self._base_span()
        return ((self.base.time(log_snr.to(torch.float64)) - clean) / (noisy - clean)).clamp(self.t_min, 1.0)

    def at(self, t: Tensor, log_snr: Tensor) -> Rates:
        return self.base.at(t, log_snr)

    def remedy(self, log_snr: float, key: str = "schedule") -> str:
        if float(self.base.rates(1.0).log_snr) > log_snr:
            return self.base.remedy(log_snr, f"{key}.base")
        rate = (1 + math.exp(-log_snr)) ** -0.5
        return f"set {key}.min_signal_rate: {rounded(rate, 10.0 ** math.floor(math.log10(rate) - 1), math.floor)}"

    @property
    def t_min(self) -> float:
        return FIRST_TIME

    @property
    def prior_std(self) -> float:
        return 1.0


def preserves_variance(schedule: Schedule) -> bool:
    """Whether alpha² + sigma² = 1, seen where the families differ most: in the middle of the span of log_snr."""
    r = schedule.at(torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))
    return abs(float(r.alpha**2 + r.sigma**2) - 1) < 1e-9


def signal_loss(log_snr: Tensor) -> Tensor:
    """1 - alpha of a variance-preserving pair, as sigma²/(1 + alpha): no cancellation near the clean end."""
    return (-log_snr).sigmoid() / (1 + log_snr.sigmoid().sqrt())


def log_snr_of_loss(loss: Tensor) -> Tensor:
    """The inverse of `signal_loss`: log((1 - loss)² / (loss (2 - loss)))."""
    return 2 * torch.log1p(-loss) - loss.log() - (2 - loss).log()
