"""A clock that is trained: log_snr piecewise linear in t, monotone by construction (Kingma et al. 2021, sec. 5).

On K equal parts of [0, 1], with logits l_1 … l_K,

    log_snr(k/K) = log_snr_max - (log_snr_max - log_snr_min) (p_1 + … + p_k),     p = 0.99 softmax(l) + 0.01/K

so every part falls, by a hundredth of its even share at least, the ends stay where the settings put them, and slope and
inverse are exact. Integrated over log_snr, the bound in continuous time depends on the ends alone (their eq. 18); the
inside of the clock decides how much one loss L, at a t drawn uniformly, varies. So the network learns from E[L] and the
logits from E[L²]/2, whose gradient is E[L dL/dl]: what comes back to each example's log_snr is multiplied by its L
(their app. I.2). At the optimum -dlog_snr/dt is in proportion to 1/sqrt(E[l²]), l being the loss per unit of log_snr.

The ends decide the bound itself, so they, where they are trained, learn from E[L] (their sec. 5.1). Each moves between
the middle m of the two at the start and ±20, by its own parameter e, which starts at 0,

    log_snr_max = m + (20 - m) squash(start + e),     log_snr_min = m - (20 + m) squash(start + e)

with squash a sigmoid within (0.001, 0.999), so that they keep apart and within their bounds whatever the parameters.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from sfumato.core.schedules import MAX_LOG_SNR, LogSnrLinear, VariancePreserving, check_range, interpolate
from sfumato.errors import ConfigError

__all__ = ["NAME", "LearnedClock", "LearnedLogSnr", "PiecewiseLogSnr"]

EDGE = 1e-3  # how near the squashed parameter of an end comes to 0 and 1
ROOM = 0.1  # nats between a start and the bounds of what is trained, so that it can move
EVEN = 0.01  # of the fall is spread evenly, so that no part is lost to rounding whatever the logits
NAME = "noise_schedule"  # of the trained clock among the modules of the network, and so in every state


@dataclass(frozen=True, slots=True)
class LearnedLogSnr(VariancePreserving):
    """log_snr piecewise linear in t and trained with the network (Kingma et al. 2021, sec. 5).

    As it stands here it is the untrained one, linear in t; a denoiser's `schedule` is the trained one. The inside
    learns to lower the variance of the loss. It needs times that are uniform and a loss whose mean it does not change:
    the objective ContinuousBound, or a weighting that is a function of log_snr (Elbo, SigmoidWeight).

    The ends learn to lower the bound itself, which only ContinuousBound holds whole: without its reconstruction a
    clean end would flee from the diffusion loss, without its prior term a noisy end would. Where the data look like
    the prior (normal, of variance 1) that term hardly rises with what is left of them, so the trained noisy end is
    held besides to where sampling may start, as at the start of training: alpha² data_std²/sigma² of at most 0.01,
    unless allow_terminal_signal is set.

    knots: equal parts of [0, 1], each with its own slope.
    log_snr_min: log-SNR at the noisy end, in nats; where it starts, if it is trained.
    log_snr_max: log-SNR at the clean end, in nats; where it starts, if it is trained.
    learn_ends: train the ends too, by the bound, between their middle and ±20; needs the objective ContinuousBound.
    """

    knots: int = 32
    log_snr_min: float = -10.0
    log_snr_max: float = 10.0
    learn_ends: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.knots <= 10_000:
            raise ConfigError(
                f"schedule.knots is {self.knots}", expected="from 1 to 10,000", fix="set schedule.knots: 32"
            )
        most = MAX_LOG_SNR - ROOM if self.learn_ends else MAX_LOG_SNR
        check_range("log_snr_min and log_snr_max", self.log_snr_min, self.log_snr_max, (-most, most))
        if self.learn_ends and self.log_snr_max - self.log_snr_min < ROOM:
            raise ConfigError(
                f"schedule: log_snr_min and log_snr_max are {self.log_snr_min} and {self.log_snr_max}",
                expected=f"at least {ROOM} between ends that are trained",
                fix="leave them out: the defaults fit",
            )

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
    """The trained part of a `LearnedLogSnr`, float32: its logits (K,), and its ends (2,), clean and noisy, if trained.

    Zeros are equal parts, and ends as the settings have them.
    """

    def __init__(self, settings: LearnedLogSnr) -> None:
        super().__init__()
        self.settings = settings
        self.logits = nn.Parameter(torch.zeros(settings.knots))
        self.ends = nn.Parameter(torch.zeros(2)) if settings.learn_ends else None
        self._cleanest_end = math.inf
        self._losses: Tensor | None = None

    def end_below(self, log_snr: float) -> None:
        """Hold the trained noisy end to at most this; its parameter keeps its gradient, and so finds its way back."""
        self._cleanest_end = log_snr

    def values(self) -> Tensor:
        """log_snr at t = 0, 1/K … 1: (K + 1,) float64 on the CPU, differentiable by logits and ends."""
        return knots_between(self.span(), self.shares())

    def shares(self) -> Tensor:
        """How much of the fall each part has: (K,) float64 on the CPU, adding up to 1."""
        parts = self.logits.to("cpu", torch.float64).softmax(0)
        return (1 - EVEN) * parts + EVEN / len(parts)

    def span(self) -> Tensor:
        """log_snr at the clean and at the noisy end, (2,) float64 on the CPU; see the module."""
        begun = torch.tensor([self.settings.log_snr_max, self.settings.log_snr_min], dtype=torch.float64)
        if self.ends is None:
            return begun
        middle = begun.mean()
        room = torch.tensor([MAX_LOG_SNR, -MAX_LOG_SNR], dtype=torch.float64) - middle
        start = (((begun - middle) / room - EDGE) / (1 - 2 * EDGE)).logit()
        found = middle + room * (EDGE + (1 - 2 * EDGE) * (start + self.ends.to("cpu", torch.float64)).sigmoid())
        over = (found.detach() - found.new_tensor([math.inf, self._cleanest_end])).clamp(min=0.0)
        return found - over

    def schedule(self) -> "PiecewiseLogSnr":
        """The schedule as the logits now have it."""
        return PiecewiseLogSnr(self)

    @contextmanager
    def judged(self, losses: Tensor) -> Iterator[None]:
        """`backward` in here gives the logits the gradient of half the mean square of the losses (B,), not of the mean.

        Each example's gradient by its log_snr and slope is multiplied by its loss, on its way to the logits; a moment
        () that is the same for all examples tells them nothing. Nothing else changes: the ends learn from the mean.
        """
        self._losses = losses.detach().to("cpu", torch.float64)
        try:
            yield
        finally:
            self._losses = None

    def weighed(self, gradient: Tensor) -> Tensor:
        """What comes back to (B,) values of the clock, times the losses in judgement, if there are any; () to 0."""
        if self._losses is None:
            return gradient
        return gradient * self._losses if gradient.ndim else torch.zeros_like(gradient)


def knots_between(span: Tensor, shares: Tensor) -> Tensor:
    """(K + 1,) values that fall from span[0] to span[1] by the shares (K,); the ends are exact."""
    inside = span[0] - (span[0] - span[1]) * shares.cumsum(0)[:-1]
    return torch.cat([span[:1], inside, span[1:]])


@final
class PiecewiseLogSnr(VariancePreserving):
    """log_snr linear between its `values` (K + 1,) at t = 0, 1/K … 1; float64.

    Every number is read twice, once for the logits, whose gradient is judged, and once for the ends, whose is not.
    """

    __slots__ = ("_by_ends", "_by_logits", "clock_module", "values")

    def __init__(self, clock: LearnedClock) -> None:
        self.clock_module, self.values = clock, clock.values()
        span, shares = clock.span(), clock.shares()
        self._by_logits = knots_between(span.detach(), shares)
        self._by_ends = knots_between(span, shares.detach())

    @property
    def knots(self) -> int:
        """K, the number of parts."""
        return len(self.values) - 1

    def log_snr(self, t: Tensor) -> Tensor:
        return self._read(lambda values, moment: interpolate(values, moment * self.knots), t)

    def time(self, log_snr: Tensor) -> Tensor:
        values = self.values.detach()
        wanted = log_snr.to(torch.float64).clamp(values[-1], values[0])
        upper = torch.searchsorted(-values, -wanted).clamp(1, self.knots)
        share = (values[upper - 1] - wanted) / (values[upper - 1] - values[upper])
        return ((upper - 1 + share) / self.knots).clamp(self.t_min, 1.0)

    def slope(self, t: Tensor) -> Tensor:
        """dlog_snr/dt, that of the noisier part at a knot; differentiable by the clock, unlike other schedules'."""
        moment = t.detach().to(device="cpu", dtype=torch.float64)
        part = (moment * self.knots).floor().clamp(0, self.knots - 1).long()
        return self._read(lambda values, part: self.knots * values.diff()[part], part)

    def remedy(self, log_snr: float, key: str = "schedule") -> str:
        return self.clock_module.settings.remedy(log_snr, key)

    def _read(self, reading: Callable[[Tensor, Tensor], Tensor], place: Tensor) -> Tensor:
        found = reading(self._by_logits, place)
        if self._by_logits.requires_grad:
            found.register_hook(self.clock_module.weighed)
        if self._by_ends.requires_grad:
            again = reading(self._by_ends, place.detach())
            found = found + (again - again.detach())  # the same number: what is added is 0
        return found
