"""DPM-Solver++ for the reverse SDE (Lu et al. 2022b, section 5, with the names of k-diffusion).

In y = x/alpha and lambda = log_snr/2 = -ln u, with noise at eta times the rate of the reverse SDE,

    y_s = e^-a y_t + ∫_0^1 a e^(-a (1 - r)) x0(r) dr + u_s sqrt(1 - e^(-2 eta h)) z,    a = (1 + eta) h

where h = lambda_s - lambda_t and r runs from t to s: the linear part and the noise are exact. eta = 0 is the
probability-flow ODE and DPM-Solver++, eta = 1 the reverse SDE, whose first step is ancestral sampling with the small
variance. Two ways to find x0 on the way:

* from earlier steps (2M, 3M), one call per step: how the noise of this very step moves x0, the next step makes up for;
* half-way through the step (`DpmppSde`), two calls: the noise up to the middle is the first half of the noise of the
  whole step, as one Brownian path has it.

Both have the second order in law (the mean and variance of samples), and the first along one path.

Their etas differ as they do in k-diffusion: the multistep methods' scales the rate of noise, DpmppSde's scales its
standard deviation, as in DDIM. At 0 and at 1 they agree.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sfumato.core import Cond, Denoise, NoiseSource, Prediction, Rates
from sfumato.errors import ConfigError
from sfumato.samplers.base import Sampler, Stepped, predict, rates_at
from sfumato.samplers.exponential import Past, half_step, midpoint, polynomial_weights
from sfumato.samplers.multistep import half_way

__all__ = ["Dpmpp2MSde", "Dpmpp3MSde", "DpmppSde"]


def check_eta(eta: float) -> None:
    """Refuse an eta outside [0, 1]. Raises ConfigError."""
    if not 0 <= eta <= 1:
        raise ConfigError(
            f"sampler.eta is {eta}",
            expected="a number from 0 (deterministic) to 1 (the reverse SDE)",
            fix="set sampling.sampler.eta: 1",
        )


def drifted(p: Prediction, then: Rates, x0: Tensor, eta: float) -> Tensor:
    """(sigma_s/sigma_t) e^(-eta h) x_t + alpha_s (1 - e^-a) x0: the step with a constant x0, without noise; (B, *)."""
    h = half_step(p.rates, then)
    of_x = float(then.sigma / p.rates.sigma) * math.exp(-eta * h)
    return of_x * p.x_t - float(then.alpha) * math.expm1(-(1 + eta) * h) * x0


def with_noise(x_s: Tensor, p: Prediction, then: Rates, eta: float, noise: NoiseSource) -> Tensor:
    """x_s + sigma_s sqrt(1 - e^(-2 eta h)) z; none is asked for at eta = 0."""
    if eta == 0:
        return x_s
    std = float(then.sigma) * math.sqrt(-math.expm1(-2 * eta * half_step(p.rates, then)))
    return x_s + std * noise.increment(p.rates, then, x_s)


@dataclass(frozen=True, slots=True)
class Dpmpp2MSde(Sampler[Past]):
    """DPM-Solver++(2M) with noise: second order in law, one call per step.

    x0 is extrapolated to the middle of the step, x0 + h/(2 h_last) (x0 - x0_last). The first step and the step to data
    are of first order.

    eta: noise as a fraction of the reverse SDE's rate: 0 for none (Dpmpp2M), 1 for all of it.
    """

    order: ClassVar[int] = 2
    eta: float = 1.0

    def __post_init__(self) -> None:
        check_eta(self.eta)

    @property
    def deterministic(self) -> bool:
        return self.eta == 0

    def calls(self, steps: int) -> int:
        return steps

    def init(self, x: Tensor) -> Past:
        return Past()

    def step(
        self, d: Denoise, x_t: Tensor, *, t: float, s: float, state: Past, noise: NoiseSource, cond: Cond | None
    ) -> Stepped[Past]:
        p = predict(d, x_t, t, cond)
        past = state.joined(p.x0, p.rates.log_snr, keep=2)
        if s == 0:
            return Stepped(p.x0, past, p)
        then = rates_at(d, s)
        middle = half_way(p, then, past)
        return Stepped(with_noise(drifted(p, then, middle, self.eta), p, then, self.eta, noise), past, p)


@dataclass(frozen=True, slots=True)
class Dpmpp3MSde(Sampler[Past]):
    """DPM-Solver++(3M) with noise: the parabola through three values of x0; one call per step.

    Second order in law, as its first steps limit it. The parabola is integrated as it is; published code weighs its
    curvature by one half of that.

    eta: noise as a fraction of the reverse SDE's rate: 0 for none (Dpmpp3M), 1 for all of it.
    """

    order: ClassVar[int] = 2
    eta: float = 1.0

    def __post_init__(self) -> None:
        check_eta(self.eta)

    @property
    def deterministic(self) -> bool:
        return self.eta == 0

    def calls(self, steps: int) -> int:
        return steps

    def init(self, x: Tensor) -> Past:
        return Past()

    def step(
        self, d: Denoise, x_t: Tensor, *, t: float, s: float, state: Past, noise: NoiseSource, cond: Cond | None
    ) -> Stepped[Past]:
        p = predict(d, x_t, t, cond)
        past = state.joined(p.x0, p.rates.log_snr, keep=3)
        if s == 0:
            return Stepped(p.x0, past, p)
        then = rates_at(d, s)
        h = half_step(p.rates, then)
        a = (1 + self.eta) * h
        x_s = drifted(p, then, p.x0, self.eta)
        for weight, difference in zip(polynomial_weights(-a, past.places(h)), past.differences(), strict=True):
            x_s = x_s + float(then.alpha) * a * weight * difference
        return Stepped(with_noise(x_s, p, then, self.eta, noise), past, p)


@dataclass(frozen=True, slots=True)
class DpmppSde(Sampler[None]):
    """DPM-Solver++ for the SDE in single steps: x0 half-way in log-SNR stands for the whole step; two calls.

    Second order in law on one Brownian path; the step to data is of first order and takes one call.

    eta: standard deviation of the fresh noise as a fraction of the reverse SDE's: 0 for none (Dpmpp2S), 1 for all.
    """

    order: ClassVar[int] = 2
    eta: float = 1.0

    def __post_init__(self) -> None:
        check_eta(self.eta)

    @property
    def deterministic(self) -> bool:
        return self.eta == 0

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
        middle = predict(d, self.moved(p, p.x0, rates_at(d, half), noise), half, cond)
        return Stepped(self.moved(p, middle.x0, then, noise), None, p, calls=2)

    def moved(self, p: Prediction, x0: Tensor, then: Rates, noise: NoiseSource) -> Tensor:
        """From x_t to the level `then` with a constant x0: a step of DDIM with its noise (eqs. 12 and 16); (B, *)."""
        share = float(-((p.rates.log_snr - then.log_snr).expm1()))  # 1 - SNR_t/SNR_s: small/sigma_s²
        of_noise = float(then.sigma / p.rates.sigma) * math.sqrt(1 - self.eta**2 * share)
        x_s = of_noise * p.x_t + (float(then.alpha) - of_noise * float(p.rates.alpha)) * x0
        if self.eta == 0:
            return x_s
        std = self.eta * float(then.sigma) * math.sqrt(share)
        return x_s + std * noise.increment(p.rates, then, x_s)
