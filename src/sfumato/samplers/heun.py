"""Two calls, second order: Heun's method (Karras et al. 2022) and DPM-Solver-2 (Lu et al. 2022a).

In y = x/alpha and u = noise_level the probability-flow ODE is dy/du = eps, whatever the schedule. Both methods correct
the DDIM step y_t + (u_s - u_t) eps_t by a second look at the slope,

    Heun:    y_s = y_t + (u_s - u_t) (eps_t + eps_s)/2,    eps_s at the end of the DDIM step
    Dpm2:    y_s = y_t + (u_s - u_t) eps_m,                eps_m half-way in log-SNR

Since eps_s - eps_t = (x0_t - x0_s)/u_s along a DDIM step, each is written as that step plus a multiple of x0_s - x0_t,
which float32 bears at any noise level.

Heun's correction is ½ (u_t/u_s - 1)(x0_s - x0_t): a step that divides the noise level by far more than 2 magnifies the
change of x0. Take steps of bounded ratio, as `Karras` and `UniformLogSnr` make, above all for flows, whose u(1) is 2e4.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sfumato.core import Cond, Denoise, NoiseSource, Schedule, log_variances
from sfumato.errors import ConfigError
from sfumato.samplers.base import Sampler, Stepped, predict, rates_at
from sfumato.samplers.exponential import half_step, midpoint, slide

__all__ = ["Dpm2", "Heun"]

MOST_CHURN = math.log(2) / 2  # Karras et al. never raise the noise level by more than the factor sqrt(2)


@dataclass(frozen=True, slots=True)
class Heun(Sampler[None]):
    """EDM's sampler (Karras et al. 2022, alg. 2); second order, two calls per step and one for the step to data.

    With churn c a step from u_t to u_s first goes back up to ln u = ln u_t + c (ln u_t - ln u_s), by fresh noise, at
    most by ln 2 / 2 and never above the noise level of t = 1. Measured so, finer grids follow the same Brownian path
    to the same stochastic equation; c = 1 has the noise of Song et al. 2021's reverse SDE. Over S equal steps of ln u
    it is EDM's S_churn = S (e^(c L/S) - 1), about c L, with L = ln(u(1)/u(t_min)). The step to data adds no noise.

    churn: share of each step's length in log noise level that is first gone back up with fresh noise; 0 for none.
    churn_min: noise level below which there is no churn.
    churn_max: noise level above which there is no churn; null for none.
    churn_noise: standard deviation of the fresh noise, 1 or slightly above.
    """

    order: ClassVar[int] = 2
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float | None = None
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("churn", self.churn), ("churn_noise", self.churn_noise)):
            if not 0 <= value < math.inf:
                raise ConfigError(
                    f"sampler.{name} is {value}",
                    expected="a number, 0 or above",
                    fix=f"set sampling.sampler.{name}: {0 if name == 'churn' else 1}",
                )
        if not 0 <= self.churn_min < self.highest:
            raise ConfigError(
                f"sampler.churn_min and sampler.churn_max are {self.churn_min} and {self.churn_max}",
                expected="two increasing noise levels, 0 or above",
                fix="swap them, or leave them out: churn then acts at every noise level",
            )

    @property
    def deterministic(self) -> bool:
        return self.churn == 0

    @property
    def highest(self) -> float:
        """The noise level above which there is no churn."""
        return math.inf if self.churn_max is None else self.churn_max

    def calls(self, steps: int) -> int:
        return 2 * steps - 1

    def init(self, x: Tensor) -> None:
        return None

    def raised(self, schedule: Schedule, t: float, s: float) -> float:
        """The time that the step from t to s > 0 starts from: later than t where there is churn, at most 1."""
        now, then = schedule.rates(t), schedule.rates(s)
        if self.churn == 0 or not self.churn_min <= float(now.noise_level) <= self.highest:
            return t
        back_up = min(self.churn * half_step(now, then), MOST_CHURN)
        return max(t, float(schedule.time(now.log_snr - 2 * back_up)))

    def step(
        self, d: Denoise, x_t: Tensor, *, t: float, s: float, state: None, noise: NoiseSource, cond: Cond | None
    ) -> Stepped[None]:
        if s == 0:
            p = predict(d, x_t, t, cond)
            return Stepped(p.x0, None, p)
        then, start = rates_at(d, s), self.raised(d.schedule, t, s)
        if start > t:
            now, up = rates_at(d, t), rates_at(d, start)
            std = self.churn_noise * float(log_variances(now, up).large.exp()) ** 0.5  # of q(x_start | x_t)
            x_t = float(up.alpha / now.alpha) * x_t + std * noise.increment(now, then, x_t)
        p = predict(d, x_t, start, cond)
        first = slide(x_t, p.x0, p.rates, then)
        second = predict(d, first, s, cond)
        correction = float(then.alpha * (p.rates.noise_level / then.noise_level - 1)) / 2
        return Stepped(first + correction * (second.x0 - p.x0), None, p, calls=2)


@dataclass(frozen=True, slots=True)
class Dpm2(Sampler[None]):
    """DPM-Solver-2: the slope half-way in log-SNR (Lu et al. 2022a, alg. 1 with r = 1/2); second order, two calls.

    The step to data is of first order and takes one call.
    """

    order: ClassVar[int] = 2

    @property
    def deterministic(self) -> bool:
        return True

    def calls(self, steps: int) -> int:
        return 2 * steps - 1

    def init(self, x: Tensor) -> None:
        return None

    def step(
        self, d: Denoise, x_t: Tensor, *, t: float, s: float, state: None, noise: NoiseSource, cond: Cond | None
    ) -> Stepped[None]:
        p = predict(d, x_t, t, cond)
        if s == 0:
            return Stepped(p.x0, None, p)
        then = rates_at(d, s)
        half = midpoint(d.schedule, p.rates, then)
        middle = predict(d, slide(x_t, p.x0, p.rates, rates_at(d, half)), half, cond)
        correction = float(then.alpha * (p.rates.noise_level - then.noise_level) / middle.rates.noise_level)
        x_s = slide(x_t, p.x0, p.rates, then) + correction * (middle.x0 - p.x0)
        return Stepped(x_s, None, p, calls=2)
