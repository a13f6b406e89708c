"""Ancestral sampling: draw x_s from the reverse kernel p(x_s | x_t) (Ho et al. 2020, algorithm 2).

For any s < t, so that step-skipping needs no table of its own. The step that ends at data returns x0, without noise.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sfumato.core import Cond, Denoise, NoiseSource, Small, Variance, reverse
from sfumato.samplers.base import Sampler, Stepped, predict, rates_at

__all__ = ["Ancestral"]


@dataclass(frozen=True, slots=True)
class Ancestral(Sampler[None]):
    """DDPM's sampler with the small or the large variance; one call per step.

    variance: of the noise that each step adds.
    """

    order: ClassVar[int] = 1
    variance: Variance = Small()

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
        then = rates_at(d, s)
        kernel = reverse(p, then, self.variance)
        return Stepped(kernel.sample(noise.increment(p.rates, then, x_t)), None, p)
