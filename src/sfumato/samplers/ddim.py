"""DDIM: the same marginals as DDPM with any amount of fresh noise (Song, Meng & Ermon 2021).

    x_s = alpha_s x0 + sqrt(sigma_s² - noise²) eps + noise z        (eq. 12)
    noise = eta · sqrt(small)                                       (eq. 16)

with `small` the posterior's variance: eta = 0 is deterministic, eta = 1 is ancestral sampling with the small variance.
The sigma-hat variant keeps the deterministic part of eta = 1 and adds noise of the large variance (their "σ̂", used for
DDPM).
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sfumato.core import Cond, Denoise, NoiseSource, log_variances
from sfumato.errors import ConfigError
from sfumato.samplers.base import Sampler, Stepped, predict, rates_at

__all__ = ["Ddim"]


@dataclass(frozen=True, slots=True)
class Ddim(Sampler[None]):
    """DDIM with stochasticity eta in [0, 1]; first order, one call per step.

    eta: fresh noise per step, from 0 (none: the same noise gives the same sample) to 1 (as the ancestral sampler).
    sigma_hat: with eta 1, the larger variance of the forward step.
    """

    order: ClassVar[int] = 1
    eta: float = 0.0
    sigma_hat: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ConfigError(
                f"sampler.eta is {self.eta}",
                expected="a number from 0 (deterministic) to 1 (ancestral)",
                fix="set sampling.sampler.eta: 0",
            )
        if self.sigma_hat and self.eta != 1:
            raise ConfigError(
                f"sampler.sigma_hat is true and sampler.eta is {self.eta}",
                expected="eta 1 with sigma_hat, which is the larger noise for the fully stochastic sampler",
                fix="set sampling.sampler.eta: 1, or leave sampler.sigma_hat out",
            )

    @property
    def deterministic(self) -> bool:
        return self.eta == 0

    def calls(self, steps: int) -> int:
        return steps

    def init(self, x: Tensor) -> None:
        return None

    def step(
        self, d: Denoise, x_t: Tensor, *, t: float, s: float, state: None, noise: NoiseSource, cond: Cond | None
    ) -> Stepped[None]:
        p = predict(d, x_t, t, cond)
        if s == 0:
            return Stepped(p.x0, None, p)
        now, then = p.rates, rates_at(d, s)
        # sigma_s² - eta² small = sigma_s² (1 - eta² + eta² SNR_t/SNR_s): so written, nothing cancels or turns negative.
        kept = 1 - self.eta**2 + self.eta**2 * float((now.log_snr - then.log_snr).exp())
        of_noise = float(then.sigma / now.sigma) * kept**0.5
        x_s = (float(then.alpha) - of_noise * float(now.alpha)) * p.x0 + of_noise * x_t
        if self.eta > 0:
            variances = log_variances(then, now)
            log_var = variances.large if self.sigma_hat else variances.small
            x_s = x_s + self.eta * float(log_var.exp()) ** 0.5 * noise.increment(now, then, x_t)
        return Stepped(x_s, None, p)
