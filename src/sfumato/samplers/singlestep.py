"""DPM-Solver++ in single steps: x0 half-way in log-SNR stands for the whole step (Lu et al. 2022b, alg. 1).

    x_m = (sigma_m/sigma_t) x_t + (alpha_m - alpha_t sigma_m/sigma_t) x0(x_t),    lambda_m = (lambda_t + lambda_s)/2
    x_s = (sigma_s/sigma_t) x_t + (alpha_s - alpha_t sigma_s/sigma_t) x0(x_m)

which is their r = 1/2: the weight 1 - 1/(2r) of x0(x_t) in the second line is 0.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sfumato.core import Cond, Denoise, NoiseSource
from sfumato.samplers.base import Sampler, Stepped, predict, rates_at
from sfumato.samplers.exponential import midpoint, slide

__all__ = ["Dpmpp2S"]


@dataclass(frozen=True, slots=True)
class Dpmpp2S(Sampler[None]):
    """DPM-Solver++(2S): second order, two calls per step and one for the step to data, which is of first order."""

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
        return Stepped(slide(x_t, middle.x0, p.rates, then), None, p, calls=2)
