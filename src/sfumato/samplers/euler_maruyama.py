"""Euler-Maruyama on the reverse SDE (Song et al. 2021, eq. 6), the same for every family of schedules.

In y = x/alpha, u = sigma/alpha every schedule has the same reverse SDE, driven by a Brownian path W in log_snr:

    dy = -u eps dlog_snr + u dW,        u² dlog_snr = -d(u²)

In the clock u² its noise has constant strength and its drift is the score of y, -eps/u; Euler's step from t to s is

    y_s = y_t - (u_t² - u_s²)/u_t eps + sqrt(u_t² - u_s²) z

which for an exploding variance is Song et al.'s reverse diffusion sampler (their eq. 46) and ancestral sampling with
the large variance. The noise of a step has the size of the level that is left, not of the one that is reached: steps
must be small in log_snr, and equal ones serve best.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sfumato.core import Cond, Denoise, NoiseSource, mean_weights
from sfumato.samplers.base import Sampler, Stepped, predict, rates_at

__all__ = ["EulerMaruyama"]


@dataclass(frozen=True, slots=True)
class EulerMaruyama(Sampler[None]):
    """Euler-Maruyama on the reverse SDE; of first order, strongly and weakly; one call per step."""

    order: ClassVar[int] = 1

    def calls(self, steps: int) -> int:
        return steps

    def init(self, x: torch.Tensor) -> None:
        return None

    def step(
        self, d: Denoise, x_t: torch.Tensor, *, t: float, s: float, state: None, noise: NoiseSource, cond: Cond | None
    ) -> Stepped[None]:
        p = predict(d, x_t, t, cond)
        if s == 0:
            return Stepped(p.x0, None, p)
        now, then = p.rates, rates_at(d, s)
        # y_t - (1 - u_s²/u_t²) u_t eps is the posterior's mean in units of data: no difference of large numbers
        weights = mean_weights(then, now)
        added = -torch.expm1(now.log_snr - then.log_snr)  # 1 - u_s²/u_t²
        std = float(then.alpha * now.noise_level * added.sqrt())
        x_s = float(weights.keep) * x_t + float(weights.pull) * p.x0 + std * noise.increment(now, then, x_t)
        return Stepped(x_s, None, p)
