"""Predictor-corrector sampling (Song et al. 2021, algorithms 2-5): a step of any sampler, then Langevin at its end.

The corrector leaves the marginal at s as it should be, whatever the predictor made of it. Its step at the level s is

    x <- x + size score + sqrt(2 size) z,      size = 2 (snr |z| / |score|)²

where `snr` is the ratio of the lengths of the two terms (their algorithms 4 and 5). With eps_hat = -sigma score that is
size = 2 snr² sigma² |z|²/|eps_hat|², and here the norms are taken at what they are for noise, |z|² = |eps_hat|² = D:

    size = 2 snr² sigma²,      x <- x - 2 snr² sigma eps_hat + 2 snr sigma z

Norms of the sample at hand would be wrong where it has few values: a step that grows with |z| is hotter by (D + 2)/D,
and one that grows as |eps_hat| falls drives points from the modes (in 2-D, samples came out a quarter too wide). Means
over the batch, as published code takes, let a sample depend on the others in it. With D in the thousands all agree but
for Gamma = E|eps_hat|²/D <= 1 of the denoiser, so that no step is longer than theirs. The same holds in y = x/alpha for
every family; their factor 1 - beta for variance-preserving ones, nearly 1, is left out.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sfumato.core import Cond, Denoise, NoiseSource
from sfumato.errors import ConfigError
from sfumato.samplers.ancestral import Ancestral
from sfumato.samplers.base import Sampler, Stepped, predict
from sfumato.samplers.unipc import UniPc

__all__ = ["Corrected", "PredictorCorrector"]

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
    multistep method remembers is of points before their correction. UniPc goes on from such a point itself, so that it
    would walk past every correction: it is refused.

    predictor: the sampler that is corrected.
    corrections: Langevin steps after each of its steps; 0 leaves the predictor as it is.
    snr: length of the corrector's drift over that of its noise; the paper's r, 0.16 for most of its models.
    """

    order: ClassVar[int] = 1
    predictor: Sampler[Any] = Ancestral()
    corrections: int = 1
    snr: float = 0.16

    def __post_init__(self) -> None:
        if isinstance(self.predictor, PredictorCorrector | UniPc) or self.predictor.adaptive:
            raise ConfigError(
                f"sampler.predictor is {type(self.predictor).__name__}",
                expected="a sampler that takes the steps of the grid and makes no corrections of its own",
                fix="set sampling.sampler.predictor: Ancestral, and sampling.sampler.corrections for more of them",
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
        x, done = first.x, state.draws
        for k in range(done, done + self.corrections):
            p = predict(d, x, s, cond)
            sigma = float(p.rates.sigma)
            x = x - 2 * self.snr**2 * sigma * p.eps + 2 * self.snr * sigma * noise.normal(x, draw=FIRST_DRAW + k)
        state = Corrected(first.state, done + self.corrections)
        return Stepped(x, state, first.prediction, calls=first.calls + self.corrections)
