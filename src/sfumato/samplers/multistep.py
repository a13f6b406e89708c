"""One call, higher order: multistep methods reuse the predictions of earlier steps.

All integrate a polynomial in lambda = log_snr/2 through the latest values exactly (see `exponential`): exponential
Adams-Bashforth methods. With x0 they are DPM-Solver++ (Lu et al. 2022b), with eps DEIS (Zhang & Chen 2023). Each starts
from one value, so its first step is of first order, whose error h² is what a longer memory cannot take back: the order
is 2 for two values and for three, though three are the more accurate.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sfumato.core import Cond, Denoise, NoiseSource, Prediction, Rates
from sfumato.errors import ConfigError
from sfumato.samplers.base import Sampler, Stepped, predict, rates_at
from sfumato.samplers.exponential import Past, half_step, polynomial_weights, slide

__all__ = ["Deis", "Dpmpp2M", "Dpmpp3M"]


def through_past(p: Prediction, then: Rates, past: Past) -> Tensor:
    """x_s by the exact integral of the polynomial through x0 of `past`, whose latest value is that of p; (B, *)."""
    h = half_step(p.rates, then)
    weights = polynomial_weights(-h, past.places(h))
    x_s = slide(p.x_t, p.x0, p.rates, then)
    for weight, difference in zip(weights, past.differences(), strict=True):
        x_s = x_s + float(then.alpha) * h * weight * difference
    return x_s


def half_way(p: Prediction, then: Rates, past: Past) -> Tensor:
    """x0 at the middle of the step to `then`, (B, *): the line through the last two values, or the only one there is.

    x0 + h/(2 h_last) (x0 - x0_last), steps h in log-SNR (Lu et al. 2022b, algorithm 2).
    """
    if len(past) < 2:
        return p.x0
    (place,) = past.places(half_step(p.rates, then))  # of the last value, -h_last/h
    return p.x0 + (past.values[1] - p.x0) / (2 * place)


@dataclass(frozen=True, slots=True)
class Dpmpp2M(Sampler[Past]):
    """DPM-Solver++(2M) (Lu et al. 2022b, alg. 2): second order, one call per step.

    x0 is extrapolated to the middle of the step, x0 + h/(2 h_last) (x0 - x0_last), and taken as constant. The first
    step and the step to data are of first order.
    """

    order: ClassVar[int] = 2

    @property
    def deterministic(self) -> bool:
        return True

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
        return Stepped(slide(x_t, middle, p.rates, then), past, p)


@dataclass(frozen=True, slots=True)
class Dpmpp3M(Sampler[Past]):
    """DPM-Solver++(3M): the parabola through three values of x0; one call per step, second order as a whole.

    The first step has one value and the second has two, which limits the order to 2; on smooth problems the error
    often falls as the third power. The published code of 3M weighs the parabola's curvature by one half of what the
    integral says (its D2 is x0''/2, its weight that of x0''); here the integral is taken as it is.
    """

    order: ClassVar[int] = 2

    @property
    def deterministic(self) -> bool:
        return True

    def calls(self, steps: int) -> int:
        return steps

    def init(self, x: Tensor) -> Past:
        return Past()

    def step(
        self, d: Denoise, x_t: Tensor, *, t: float, s: float, state: Past, noise: NoiseSource, cond: Cond | None
    ) -> Stepped[Past]:
        p = predict(d, x_t, t, cond)
        past = state.joined(p.x0, p.rates.log_snr, keep=3)
        x_s = p.x0 if s == 0 else through_past(p, rates_at(d, s), past)
        return Stepped(x_s, past, p)


@dataclass(frozen=True, slots=True)
class Deis(Sampler[Past]):
    """DEIS with polynomials of eps in log-SNR (Zhang & Chen 2023, eq. 14-15, in log rho); second order, one call.

    y_s = y_t + Σ_k c_k eps_k with c_k = ∫ l_k(ln u) du, l_k the Lagrange polynomials of the latest `points` values.
    Two points and three are both of order 2, because the first step has one; three are the more accurate. The step to
    data is of first order.

    points: values of eps that the polynomial goes through, 2 or 3.
    """

    order: ClassVar[int] = 2
    points: int = 2

    def __post_init__(self) -> None:
        if self.points not in (2, 3):
            raise ConfigError(
                f"sampler.points is {self.points}",
                expected="2 or 3 (with one point, DEIS is Ddim)",
                fix="set sampling.sampler.points: 2",
            )

    @property
    def deterministic(self) -> bool:
        return True

    def calls(self, steps: int) -> int:
        return steps

    def init(self, x: Tensor) -> Past:
        return Past()

    def step(
        self, d: Denoise, x_t: Tensor, *, t: float, s: float, state: Past, noise: NoiseSource, cond: Cond | None
    ) -> Stepped[Past]:
        p = predict(d, x_t, t, cond)
        past = state.joined(p.eps, p.rates.log_snr, keep=self.points)
        if s == 0:
            return Stepped(p.x0, past, p)
        then = rates_at(d, s)
        h = half_step(p.rates, then)
        x_s = slide(x_t, p.x0, p.rates, then)
        weights = polynomial_weights(h, past.places(h))
        for weight, difference in zip(weights, past.differences(), strict=True):
            x_s = x_s - float(then.sigma) * h * weight * difference
        return Stepped(x_s, past, p)
