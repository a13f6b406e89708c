"""Wrappers that make a schedule of any other: the same family, another clock.

`Shifted` moves log_snr for another resolution; `ZeroTerminalSnr` stretches a variance-preserving schedule until nothing
of the data is left at t = 1. Both are schedules themselves and nest.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core.rates import Rates
from sfumato.core.schedules import MAX_LOG_SNR, CosineAngle, Schedule, Tabulated
from sfumato.core.tables import LinearBetas
from sfumato.errors import ConfigError

__all__ = ["Shifted", "ZeroTerminalSnr"]


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
