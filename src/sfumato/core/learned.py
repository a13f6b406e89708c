"""A clock that is trained: log_snr piecewise linear in t, monotone by construction (Kingma et al. 2021, sec. 5.2).

On K equal parts of [0, 1], with logits l_1 … l_K,

    log_snr(k/K) = log_snr_max - (log_snr_max - log_snr_min) (p_1 + … + p_k),     p = 0.99 softmax(l) + 0.01/K

so every part falls, by a hundredth of its even share at least, the ends stay where the settings put them, and slope and
inverse are exact. Integrated over log_snr,
the bound in continuous time depends on the ends alone (their eq. 18); the inside of the clock decides how much one
loss L, at a t drawn uniformly, varies. So the network learns from E[L] and the logits from E[L²]/2, whose gradient is
E[L dL/dl]: what comes back to each example's log_snr is multiplied by its L (their app. I.2). At the optimum
-dlog_snr/dt is in proportion to 1/sqrt(E[l²]), l being the loss per unit of log_snr.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from sfumato.core.schedules import MAX_LOG_SNR, LogSnrLinear, VariancePreserving, check_range, interpolate
from sfumato.errors import ConfigError

__all__ = ["NAME", "LearnedClock", "LearnedLogSnr", "PiecewiseLogSnr"]

EVEN = 0.01  # of the fall is spread evenly, so that no part is lost to rounding whatever the logits
NAME = "noise_schedule"  # of the trained clock among the modules of the network, and so in every state


@dataclass(frozen=True, slots=True)
class LearnedLogSnr(VariancePreserving):
    """log_snr piecewise linear in t and trained with the network, between fixed ends (Kingma et al. 2021, sec. 5.2).

    As it stands here it is the untrained one, linear in t; a denoiser's `schedule` is the trained one. It needs times
    that are uniform and a weighting that is a function of log_snr (Elbo, SigmoidWeight).

    knots: equal parts of [0, 1], each with its own slope.
    log_snr_min: log-SNR at the noisy end, in nats; not trained.
    log_snr_max: log-SNR at the clean end, in nats; not trained.
    """

    knots: int = 32
    log_snr_min: float = -10.0
    log_snr_max: float = 10.0

    def __post_init__(self) -> None:
        if not 1 <= self.knots <= 10_000:
            raise ConfigError(
                f"schedule.knots is {self.knots}", expected="from 1 to 10,000", fix="set schedule.knots: 32"
            )
        check_range("log_snr_min and log_snr_max", self.log_snr_min, self.log_snr_max, (-MAX_LOG_SNR, MAX_LOG_SNR))

    def clock(self) -> "LearnedClock":
        return LearnedClock(self)

    def log_snr(self, t: Tensor) -> Tensor:
        return self._start().log_snr(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return self._start().time(log_snr)

    def remedy(self, log_snr: float, key: str = "schedule") -> str:
        return self._start().remedy(log_snr, key)

    def _start(self) -> LogSnrLinear:
        return LogSnrLinear(self.log_snr_min, self.log_snr_max)


@final
class LearnedClock(nn.Module):
    """The trained part of a `LearnedLogSnr`: its logits, (K,) float32; zeros are equal parts."""

    def __init__(self, settings: LearnedLogSnr) -> None:
        super().__init__()
        self.settings = settings
        self.logits = nn.Parameter(torch.zeros(settings.knots))
        self._losses: Tensor | None = None

    def values(self) -> Tensor:
        """log_snr at t = 0, 1/K … 1: (K + 1,) float64 on the CPU, differentiable by the logits."""
        parts = self.logits.to("cpu", torch.float64).softmax(0)
        fallen = ((1 - EVEN) * parts + EVEN / len(parts)).cumsum(0)[:-1]
        low, high = self.settings.log_snr_min, self.settings.log_snr_max
        inside = high - (high - low) * fallen
        return torch.cat([inside.new_tensor([high]), inside, inside.new_tensor([low])])

    def schedule(self) -> "PiecewiseLogSnr":
        """The schedule as the logits now have it."""
        return PiecewiseLogSnr(self)

    @contextmanager
    def judged(self, losses: Tensor) -> Iterator[None]:
        """`backward` in here gives the logits the gradient of half the mean square of the losses (B,), not of the mean.

        Each example's gradient by its log_snr and slope is multiplied by its loss; nothing else changes.
        """
        self._losses = losses.detach().to("cpu", torch.float64)
        try:
            yield
        finally:
            self._losses = None

    def weighed(self, gradient: Tensor) -> Tensor:
        """What comes back to (B,) values of the clock, times the losses in judgement, if there are any."""
        return gradient if self._losses is None else gradient * self._losses


@final
class PiecewiseLogSnr(VariancePreserving):
    """log_snr linear between its `values` (K + 1,) at t = 0, 1/K … 1; float64."""

    __slots__ = ("clock_module", "values")

    def __init__(self, clock: LearnedClock) -> None:
        self.clock_module, self.values = clock, clock.values()

    @property
    def knots(self) -> int:
        """K, the number of parts."""
        return len(self.values) - 1

    def log_snr(self, t: Tensor) -> Tensor:
        return self._watched(interpolate(self.values, t * self.knots))

    def time(self, log_snr: Tensor) -> Tensor:
        values = self.values.detach()
        wanted = log_snr.to(torch.float64).clamp(values[-1], values[0])
        upper = torch.searchsorted(-values, -wanted).clamp(1, self.knots)
        share = (values[upper - 1] - wanted) / (values[upper - 1] - values[upper])
        return ((upper - 1 + share) / self.knots).clamp(self.t_min, 1.0)

    def slope(self, t: Tensor) -> Tensor:
        """dlog_snr/dt, that of the noisier part at a knot; differentiable by the logits, unlike other schedules'."""
        moment = t.detach().to(device="cpu", dtype=torch.float64)
        part = (moment * self.knots).floor().clamp(0, self.knots - 1).long()
        return self._watched(self.knots * self.values.diff()[part])

    def remedy(self, log_snr: float, key: str = "schedule") -> str:
        return self.clock_module.settings.remedy(log_snr, key)

    def _watched(self, found: Tensor) -> Tensor:
        if found.requires_grad and found.ndim == 1:
            found.register_hook(self.clock_module.weighed)
        return found
