"""Langevin dynamics: sampling from a score alone (Song & Ermon 2019, eq. 4 and algorithm 1).

    x <- x + step/2 score(x) + sqrt(step) temperature z,      z ~ N(0, I)

keeps the density whose score it is as step goes to 0 (temperature 1). At a finite step the law it keeps is a little
wider: for N(0, 1) the recursion x <- (1 - step/2) x + sqrt(step) z has the stationary variance 1/(1 - step/4). The
noise is Gaussian; uniform noise, which one meets in notebooks, has the mean 1/2 and drifts.

Annealed, the same runs at one noise level after another, with steps in proportion to u² = (sigma/alpha)². In
y = x/alpha the score is -eps/u, so that with step = step_size u²

    x <- x - step_size/2 sigma eps_hat + sqrt(step_size) sigma z

whatever the family. Between levels y is kept, x_s = (alpha_s/alpha_t) x_t: the point with all of its noise, of which
the next level takes the part that is too much.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from sfumato.core import Cond, Denoise, NoiseSource, Prediction
from sfumato.errors import ConfigError, UsageError
from sfumato.samplers.base import Sampler, Stepped, predict, rates_at

__all__ = ["AnnealedLangevin", "Langevin", "langevin", "score_at"]

Score = Callable[[Tensor], Tensor]
S = TypeVar("S")


def score_at(d: Denoise, t: float, cond: Cond | None = None) -> Score:
    """The denoiser's score at the time t as a function of x (B, *) alone: -eps_hat/sigma, in the units of x_t."""
    return lambda x: predict(d, x, t, cond).score


def check_langevin(key: str, steps: int, step_size: float, decay: float = 1.0, temperature: float = 1.0) -> None:
    """Refuse numbers that describe no Langevin dynamics; `key` names `steps`. Raises ConfigError."""
    checks = (
        (key, steps, steps >= 1, "1 or more", 100),
        ("step_size", step_size, 0 < step_size < math.inf, "a number above 0", 0.001),
        ("decay", decay, 0 < decay <= 1, "a number above 0, at most 1", 1),
        ("temperature", temperature, 0 <= temperature < math.inf, "a number, 0 or above", 1),
    )
    for name, value, good, expected, usual in checks:
        if not good:
            raise ConfigError(f"Langevin dynamics with {name} {value}", expected=expected, fix=f"set {name}: {usual}")


@torch.no_grad()
def langevin(
    score: Score,
    x: Tensor,
    *,
    steps: int,
    step_size: float,
    noise: NoiseSource,
    decay: float = 1.0,
    temperature: float = 1.0,
) -> Iterator[Tensor]:
    """Yield x (B, *) after each of `steps` iterations x + step/2 score(x) + sqrt(step) temperature z, z ~ N(0, I).

    The k-th step, k = 0 first, is step_size decay^k, in squared units of x. Iteration k takes draw k of `noise`. Song &
    Ermon 2019, eq. 4. Raises ConfigError for numbers that describe no such walk.
    """
    check_langevin("steps", steps, step_size, decay, temperature)
    for k in range(steps):
        size = step_size * decay**k
        x = x + size / 2 * score(x) + math.sqrt(size) * temperature * noise.normal(x, draw=k)
        yield x


@dataclass(frozen=True, slots=True)
class Langevin(Sampler[None]):
    """Langevin dynamics at one noise level, that of t = 1 on `OneLevel`; `iterations` calls, one more to denoise.

    It walks in a single interval, from t to data; a grid of more is refused. So is a level of a longer schedule with
    more noise than signal, where what is sampled are noisy data that show nothing but noise.

    iterations: steps of the walk.
    step_size: of the first step, in squared units of the prepared data.
    decay: what each step is multiplied by to make the next, at most 1.
    temperature: of the noise; below 1 the samples gather at the modes.
    denoise: end at the denoiser's x0 from the last point, rather than at that point.
    """

    order: ClassVar[int] = 1
    iterations: int = 200
    step_size: float = 0.001
    decay: float = 1.0
    temperature: float = 1.0
    denoise: bool = False

    def __post_init__(self) -> None:
        check_langevin("iterations", self.iterations, self.step_size, self.decay, self.temperature)

    def calls(self, steps: int) -> int:
        return self.iterations + self.denoise

    def init(self, x: Tensor) -> None:
        return None

    def step(
        self, d: Denoise, x_t: Tensor, *, t: float, s: float, state: None, noise: NoiseSource, cond: Cond | None
    ) -> Stepped[None]:
        if s != 0:
            raise UsageError(
                f"Langevin samples at one noise level, and the grid of times goes on from t = {t:.4g} to {s:.4g}",
                expected="one interval, from the noise level of the score to data",
                fix="set sampling.steps: 1 (with the schedule OneLevel), or take the sampler AnnealedLangevin",
            )
        check_level(d, t)
        seen = Watched(d, t, cond)
        for x in langevin(
            seen,
            x_t,
            steps=self.iterations,
            step_size=self.step_size,
            noise=noise,
            decay=self.decay,
            temperature=self.temperature,
        ):
            x_t = x
        return at_data(seen, x_t, None, denoise=self.denoise)


def check_level(d: Denoise, t: float) -> None:
    """Refuse a walk at a level of more noise than signal where the schedule has cleaner ones. Raises UsageError."""
    level = float(d.schedule.rates(t).noise_level)
    if level > 1 and d.schedule.t_min < t:
        raise UsageError(
            f"Langevin samples at one noise level, and at t = {t:.4g} that is {level:.3g} times the signal",
            expected="a level at which the data can be seen, as those of the schedule OneLevel",
            fix="take the sampler AnnealedLangevin, which goes down all levels, or another (--sampler ddim)",
        )


@dataclass(frozen=True, slots=True)
class AnnealedLangevin(Sampler[int]):
    """Langevin dynamics at every level of the grid in turn (Song & Ermon 2019, algorithm 1), for any schedule.

    `iterations` calls per level, and one more to denoise at the end (Jolicoeur-Martineau et al. 2021), without which
    the noise of the last level stays in the samples. The state is the number of draws so far.

    iterations: steps at each level.
    step_size: step in units of noise_level², below 4; the paper's eps/sigma_L², where theirs is 2e-5/0.01² = 0.2.
    denoise: end at the denoiser's x0 from the last point, rather than at that point.
    """

    order: ClassVar[int] = 1
    iterations: int = 100
    step_size: float = 0.2
    denoise: bool = True

    def __post_init__(self) -> None:
        check_langevin("iterations", self.iterations, self.step_size)
        if self.step_size >= 4:
            raise ConfigError(
                f"annealed Langevin dynamics with step_size {self.step_size}, in units of noise_level²",
                expected="a number below 4, from where on the walk flies apart",
                fix="set sampling.sampler.step_size: 0.2",
            )

    def calls(self, steps: int) -> int:
        return steps * self.iterations + self.denoise

    def init(self, x: Tensor) -> int:
        return 0

    def step(
        self, d: Denoise, x_t: Tensor, *, t: float, s: float, state: int, noise: NoiseSource, cond: Cond | None
    ) -> Stepped[int]:
        seen, x, now = Watched(d, t, cond), x_t, rates_at(d, t)
        size = self.step_size * float(now.sigma) ** 2
        for k in range(state, state + self.iterations):
            x = x + size / 2 * seen(x) + math.sqrt(size) * noise.normal(x, draw=k)
        done = state + self.iterations
        if s == 0:
            return at_data(seen, x, done, denoise=self.denoise)
        kept = float(rates_at(d, s).alpha / now.alpha)
        return Stepped(kept * x, done, seen.first, calls=seen.calls)


class Watched:
    """A denoiser's score at one time that remembers its first prediction and counts its calls."""

    def __init__(self, d: Denoise, t: float, cond: Cond | None) -> None:
        self.d, self.t, self.cond = d, t, cond
        self.predictions: list[Prediction] = []
        self.calls = 0

    def predict(self, x: Tensor) -> Prediction:
        p = predict(self.d, x, self.t, self.cond)
        self.calls += 1
        self.predictions = self.predictions or [p]
        return p

    def __call__(self, x: Tensor) -> Tensor:
        return self.predict(x).score

    @property
    def first(self) -> Prediction:
        return self.predictions[0]


def at_data(seen: Watched, x: Tensor, state: S, *, denoise: bool) -> Stepped[S]:
    """The end of the last level: the denoiser's x0 from x (B, *), or x in units of data, x/alpha, as it is."""
    if not denoise:
        return Stepped(x / float(seen.first.rates.alpha), state, seen.first, calls=seen.calls)
    p = seen.predict(x)
    return Stepped(p.x0, state, p, calls=seen.calls)
