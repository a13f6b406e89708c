"""The probability-flow ODE of a denoiser, in coordinates in which nothing is large, small or divided by.

A deterministic path that has the marginals of the noising process at every time (Song et al. 2021, eq. 13). In
y = x/alpha and u = sigma/alpha it reads dy/du = eps for every schedule. Here the state is x at unit power and the clock
runs in w:

    z = x / power,   power = sqrt(alpha² + sigma²),   c = alpha/power
    w = -asinh(alpha/sigma) = -asinh(exp(log_snr/2)),   from log(u/2) where there is little noise to 0 in pure noise
    dz/dw = c z - x0_hat                                      (from dy/du = eps with eps = (x - alpha x0_hat)/sigma)
    div_z = c D - tr(d x0_hat / d z)

so that the right side is of the size of the data everywhere: at the clean end it fades as the noise does, at the noisy
end it is the posterior mean itself, and neither eps nor the score, both of which divide by a small sigma, is formed.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core.denoiser import Cond, Denoise
from sfumato.core.prediction import Prediction
from sfumato.core.rates import Rates, spread

__all__ = ["MAX_STEP", "ProbabilityFlow"]

MAX_STEP = 2.0  # of w: the paths of a Gaussian law have poles π/2 off the axis, so a longer step may leap over a law


@dataclass(frozen=True, slots=True)
class ProbabilityFlow:
    """The field of the ODE in (z, w), for one denoiser and one condition."""

    denoiser: Denoise
    cond: Cond | None = None

    def clock(self, t: float) -> float:
        """w at time t."""
        return -math.asinh(math.exp(float(self.denoiser.schedule.rates(t).log_snr) / 2))

    def time(self, w: Tensor) -> Tensor:
        """t at w, () or (B,), float64: the inverse of `clock`. log_snr = 2 log sinh(-w), without overflow."""
        log_snr = 2 * (-w + torch.log1p(-torch.exp(2 * w)) - math.log(2))
        return self.denoiser.schedule.time(log_snr)

    def place(self, w: float) -> str:
        """A w as people know it: the time."""
        return f"t = {float(self.time(torch.tensor(w, dtype=torch.float64))):.4g}"

    def power(self, r: Rates) -> Tensor:
        """sqrt(alpha² + sigma²), shaped as r.t: x = power · z."""
        return (r.alpha**2 + r.sigma**2).sqrt()

    def predict(self, z: Tensor, w: Tensor) -> Prediction:
        """The denoiser at z (B, *) and w (B,)."""
        t = self.time(w)
        return self.denoiser(spread(self.power(self.denoiser.schedule.rates(t)), z) * z, t, self.cond)

    def signal(self, r: Rates) -> Tensor:
        """c = alpha/power, shaped as r.t."""
        return r.alpha / self.power(r)

    def slope(self, z: Tensor, p: Prediction) -> Tensor:
        """dz/dw = c z - x0_hat, (B, *)."""
        return spread(self.signal(p.rates), z) * z - p.x0
