"""UniPC: a predictor and a corrector of the same form, at one call per step (Zhao et al. 2023).

Both integrate a polynomial in lambda = log_snr/2 through values of x0, as the multistep methods do. The predictor
reaches s from the values at and before t; the corrector repeats that step with the value at s as well, which the next
step needs anyway. So the value is taken at the predicted x_s and the walk goes on from the corrected one.

With one difference to weigh, x0_1 - x0_0 at the distance r h, the paper takes B(h)/(2r) for the exact weight

    h phi_2(-h)/r,    B(h) = h (bh1) or 1 - e^-h (bh2)

which is the same to the second power of h; with more, the weights solve the paper's system exactly and B(h) cancels.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from sfumato.core import Cond, Denoise, NoiseSource, Rates
from sfumato.errors import ConfigError
from sfumato.samplers.base import Sampler, Stepped, predict, rates_at
from sfumato.samplers.exponential import Past, half_step, polynomial_weights, slide

__all__ = ["Trail", "UniPc"]


@dataclass(frozen=True, slots=True)
class Trail:
    """Where the last step came from: x (B, *) there, corrected, its rates, and x0 there and before."""

    x: Tensor
    rates: Rates
    past: Past


@dataclass(frozen=True, slots=True)
class UniPc(Sampler[Trail | None]):
    """UniPC of `points` values, plus one in the corrector (Zhao et al. 2023); third order, one call per step.

    The order is that of two values and the corrector, one above the predictor's. With three the first step, of second
    order, keeps it at 3 as a whole, though the error falls faster before that shows. The last step has no corrector:
    there is no call left. To data it is of first order.

    points: values of x0 that the predictor goes through, 2 or 3.
    variant: `bh2`, or `bh1`, which the paper prefers for few steps without guidance.
    """

    order: ClassVar[int] = 3
    points: int = 2
    variant: Literal["bh1", "bh2"] = "bh2"

    def __post_init__(self) -> None:
        if self.points not in (2, 3):
            raise ConfigError(
                f"sampler.points is {self.points}", expected="2 or 3", fix="set sampling.sampler.points: 2"
            )

    @property
    def deterministic(self) -> bool:
        return True

    def calls(self, steps: int) -> int:
        return steps

    def init(self, x: Tensor) -> None:
        return None

    def weights(self, h: float, places: list[float]) -> list[float]:
        """The weights of differences of x0 at `places`, in units of h."""
        if len(places) != 1:
            return polynomial_weights(-h, places)
        scale = -math.expm1(-h) / h if self.variant == "bh2" else 1.0
        return [scale / (2 * places[0])]

    def reach(self, trail: Trail, then: Rates, arrived: Tensor | None) -> Tensor:
        """x_s from the trail; with x0 at s as a further value where it is known."""
        h = half_step(trail.rates, then)
        places, differences = trail.past.places(h), trail.past.differences()
        if arrived is not None:
            places, differences = [*places, 1.0], [*differences, arrived - trail.past.values[0]]
        x_s = slide(trail.x, trail.past.values[0], trail.rates, then)
        for weight, difference in zip(self.weights(h, places), differences, strict=True):
            x_s = x_s + float(then.alpha) * h * weight * difference
        return x_s

    def step(
        self, d: Denoise, x_t: Tensor, *, t: float, s: float, state: Trail | None, noise: NoiseSource, cond: Cond | None
    ) -> Stepped[Trail | None]:
        p = predict(d, x_t, t, cond)
        past = Past() if state is None else state.past
        corrected = x_t if state is None else self.reach(state, p.rates, p.x0)
        trail = Trail(corrected, p.rates, past.joined(p.x0, p.rates.log_snr, keep=self.points))
        x_s = p.x0 if s == 0 else self.reach(trail, rates_at(d, s), None)
        return Stepped(x_s, trail, p)
