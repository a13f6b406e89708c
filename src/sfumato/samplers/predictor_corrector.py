"""Predictor-corrector sampling (Song et al. 2021, algorithms 2-5): a step of any sampler, then Langevin at its end.

The corrector leaves the marginal at s as it should be, whatever the predictor made of it. With eps_hat = -sigma score
its step at the level s is

    x <- x + size score + sqrt(2 size) z = x - (size/sigma) eps_hat + sqrt(2 size) z

whose length follows from the ratio `snr` of the two terms, size = 2 (snr |z| / |score|)² (their algorithms 4 and 5), so

    size = 2 snr² sigma² |z|²/|eps_hat|²

Norms are those of each sample: the published code takes means over the batch, where a sample would depend on the others
in it. Over few values |eps_hat| may come out near 0 by chance, so |z|²/|eps_hat|² counts as at most 4. The same size
holds in y = x/alpha for every family; their factor 1 - beta for variance-preserving ones, nearly 1, is left out.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sfumato.core import Cond, Denoise, NoiseSource
from sfumato.core.rates import spread
from sfumato.errors import ConfigError
from sfumato.samplers.base import Sampler, Stepped, predict
from sfumato.samplers.euler_maruyama import EulerMaruyama

__all__ = ["Corrected", "PredictorCorrector"]

LARGEST_RATIO = 4.0  # of |z|²/|eps_hat|², which is near 1 for many values
FIRST_DRAW = 1 << 32  # a predictor that takes draws of its own counts them from 0


@dataclass(frozen=True, slots=True)
class Corrected:
    """The predictor's state, and how many draws the corrector has taken."""

    predictor: Any
    draws: int = 0


@dataclass(frozen=True, slots=True)
class PredictorCorrector(Sampler[Corrected]):
    """A sampler whose every step but the last, to data, is followed by Langevin corrections at the level it reached.

    Calls are the predictor's and one per correction. The predictor is best one that works step by step: what a
    multistep method remembers is of points before their correction.

    predictor: the sampler that is corrected.
    corrections: Langevin steps after each of its steps; 0 leaves the predictor as it is.
    snr: length of the corrector's drift over that of its noise; the paper's r, 0.16 for most of its models.
    """

    order: ClassVar[int] = 1
    predictor: Sampler[Any] = EulerMaruyama()
    corrections: int = 1
    snr: float = 0.16

    def __post_init__(self) -> None:
        if isinstance(self.predictor, PredictorCorrector) or self.predictor.adaptive:
            raise ConfigError(
                f"sampler.predictor is {type(self.predictor).__name__}",
                expected="a sampler that takes the steps of the grid and no corrections of its own",
                fix="set sampling.sampler.predictor: EulerMaruyama, and sampling.sampler.corrections for more of them",
            )
        for name, value, good, usual in (
            ("corrections", self.corrections, self.corrections >= 0, 1),
            ("snr", self.snr, 0 < self.snr <= 1, 0.16),
        ):
            if not good:
                expected = "0 or more" if name == "corrections" else "a number above 0, at most 1"
                raise ConfigError(
                    f"sampler.{name} is {value}", expected=expected, fix=f"set sampling.sampler.{name}: {usual}"
                )

    @property
    def deterministic(self) -> bool:
        return self.corrections == 0 and self.predictor.deterministic

    def calls(self, steps: int) -> int:
        return self.predictor.calls(steps) + self.corrections * (steps - 1)

    def init(self, x: Tensor) -> Corrected:
        return Corrected(self.predictor.init(x))

    def step(
        self, d: Denoise, x_t: Tensor, *, t: float, s: float, state: Corrected, noise: NoiseSource, cond: Cond | None
    ) -> Stepped[Corrected]:
        first = self.predictor.step(d, x_t, t=t, s=s, state=state.predictor, noise=noise, cond=cond)
        if s == 0:
            return Stepped(first.x, Corrected(first.state, state.draws), first.prediction, calls=first.calls)
        x = first.x
        for k in range(state.draws, state.draws + self.corrections):
            x = self.corrected(d, x, noise.normal(x, draw=FIRST_DRAW + k), s, cond)
        state = Corrected(first.state, state.draws + self.corrections)
        return Stepped(x, state, first.prediction, calls=first.calls + self.corrections)

    def corrected(self, d: Denoise, x: Tensor, z: Tensor, s: float, cond: Cond | None) -> Tensor:
        """x - size/sigma eps_hat + sqrt(2 size) z at the time s, for x and z (B, *)."""
        p = predict(d, x, s, cond)
        sigma = float(p.rates.sigma)
        ratio = z.flatten(1).square().sum(1) / p.eps.flatten(1).square().sum(1)
        relative = spread(
            2 * self.snr**2 * ratio.clamp(max=LARGEST_RATIO), x
        )  # size/sigma²; a norm of 0 gives the most
        return x - relative * sigma * p.eps + (2 * relative).sqrt() * sigma * z
