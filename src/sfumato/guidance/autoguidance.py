"""Autoguidance: away from the mistakes of a poorer version of the same model (Karras et al. 2024).

    D_w(x_t, t, c) = D_weak(x_t, t, c) + w (D(x_t, t, c) - D_weak(x_t, t, c))

D_weak is smaller, or trained for less long, on the same data with the same condition. Where both agree nothing happens;
where the weak one errs, and the better one a little in the same direction, the difference points to where the data are.
Unlike classifier-free guidance it also helps models without a condition, and does not trade variety for quality.
"""

from dataclasses import dataclass

from torch import Tensor

from sfumato.core import Cond, Denoise, Prediction, Rates, Schedule
from sfumato.core.rates import spread
from sfumato.errors import UsageError
from sfumato.guidance.extrapolation import (
    Interval,
    Weight,
    check_interval,
    check_weight,
    extrapolated,
    weight_at,
)

__all__ = ["AutoGuided"]

SAME_LEVEL = 1e-6  # nats of log_snr; rounding is below 1e-10


@dataclass(frozen=True, slots=True, eq=False)
class AutoGuided:
    """D_weak + w (D - D_weak) of two denoisers (Karras et al. 2024, eq. 3).

    One call of `denoise` alone where w is 1 for every sample, which gives its prediction to the last bit, and one of
    each otherwise. The weak denoiser may have another schedule: it is asked about the same point at the same noise
    level, x_t alpha'/alpha at the time t' of the same log_snr, where it gives its guess of the same x0. The variance
    that a network learned is that of `denoise`.

    weaker: the poorer denoiser. weight: w, a number or one per sample (B,). interval: noise levels sigma/alpha between
    which w acts; outside them D alone; None for all. Raises UsageError for a weight that is not finite or an empty
    interval, and when the weak denoiser's schedule does not reach a noise level.
    """

    denoise: Denoise
    weaker: Denoise
    weight: Weight
    interval: Interval | None = None

    def __post_init__(self) -> None:
        check_weight(self.weight, "weight of autoguidance")
        check_interval(self.interval)

    @property
    def schedule(self) -> Schedule:
        return self.denoise.schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        good = self.denoise(x_t, t, cond)
        weight = weight_at(self.weight, self.interval, good.rates, x_t)
        if bool((weight == 1).all()):
            return good
        poor = good.with_x0(weak_x0(self.weaker, x_t, good.rates, cond))
        return extrapolated(poor, good, weight)


def weak_x0(weaker: Denoise, x_t: Tensor, r: Rates, cond: Cond | None) -> Tensor:
    """The weak denoiser's x0 (B, *) for the point x_t at the noise level of r, whatever its schedule."""
    there = weaker.schedule.rates(r.t.clamp(min=weaker.schedule.t_min))
    if not bool(((there.alpha == r.alpha) & (there.sigma == r.sigma)).all()):
        there = weaker.schedule.rates(weaker.schedule.time(r.log_snr))
        if bool(((there.log_snr - r.log_snr).abs() > SAME_LEVEL).any()):
            raise UsageError(
                f"the weaker model knows no noise level of {float(r.noise_level.max()):.4g}, where the other is asked",
                expected="two models whose schedules reach the same noise levels",
                fix="take an earlier checkpoint or a smaller model with the same schedule",
            )
        x_t = spread(there.alpha / r.alpha, x_t) * x_t
    return weaker(x_t, there.t, cond).x0
