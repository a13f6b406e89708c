"""Sampling is a walk down a grid of times; a sampler is one step of it.

A `Sampler` declares its order and the number of denoiser calls, keeps its memory in an explicit state, and steps from t
to s < t. `sample` drives any sampler over any denoiser and yields every step, so figures and pages may keep the path.
The last time of a grid is 0, which stands for data: the step to it returns the prediction's x0. A grid may also end at
t_min.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from sfumato.core import Cond, Denoise, NoiseSource, Prediction, Rates
from sfumato.errors import NumericsError, UsageError

__all__ = ["Sampler", "Step", "Stepped", "sample"]

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Stepped(Generic[S]):
    """The outcome of one step: x_s (B, *), the sampler's state for the next, and the prediction it was made from.

    calls: how often the step asked the denoiser.
    calls_each: (B,) int64, how many of them each sample needed, where that differs: adaptive methods.
    """

    x: Tensor
    state: S
    prediction: Prediction
    calls: int = 1
    calls_each: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a trajectory: x_s (B, *) at s = `s`, reached from t = `t`, after `calls` denoiser calls in all.

    calls_each: (B,) int64, the calls that each sample needed so far; the same for all but with an adaptive method.
    """

    x: Tensor
    t: float
    s: float
    prediction: Prediction
    calls: int
    calls_each: Tensor


class Sampler(ABC, Generic[S]):
    """One step of a method; frozen, its own configuration.

    An `adaptive` one finds its own steps within the interval that it is given, which may be all of [0, 1]: it takes
    tolerances, not a number of steps.
    """

    __slots__ = ()
    order: ClassVar[int]
    adaptive: ClassVar[bool] = False

    @abstractmethod
    def calls(self, steps: int) -> int:
        """Denoiser calls that `steps` intervals take, the last of which ends at data."""

    @property
    def deterministic(self) -> bool:
        """Whether steps ask for no noise, so that a walk can be retraced; False unless a sampler says so."""
        return False

    @abstractmethod
    def init(self, x: Tensor) -> S:
        """The state before the first step from x (B, *)."""

    @abstractmethod
    def step(
        self, d: Denoise, x_t: Tensor, *, t: float, s: float, state: S, noise: NoiseSource, cond: Cond | None
    ) -> Stepped[S]:
        """x_s from x_t (B, *), 0 <= s < t <= 1; s = 0 is data."""


def rates_at(d: Denoise, t: float) -> Rates:
    """The rates of the denoiser's schedule at t, and those of data at the destination 0; scalars, float64."""
    return Rates.data() if t == 0 else d.schedule.rates(t)


def predict(d: Denoise, x: Tensor, t: float, cond: Cond | None) -> Prediction:
    """The denoiser at one time for the whole batch."""
    return d(x, torch.tensor(t, dtype=torch.float64), cond)


def check_times(times: Sequence[float]) -> None:
    """Refuse a grid that does not go down strictly within [0, 1]."""
    falling = all(t > s for t, s in pairwise(times))
    if len(times) < 2 or not falling or not (times[-1] >= 0 and times[0] <= 1):
        raise UsageError(
            f"the times {list(times)[:6]}… are no sampling grid",
            expected="at least two strictly decreasing times within [0, 1]; a last time of 0 means data",
            fix="take a grid such as Trailing().times(schedule, steps)",
        )


@torch.no_grad()
def sample(
    sampler: Sampler[S],
    d: Denoise,
    x: Tensor,
    times: Sequence[float],
    *,
    noise: NoiseSource,
    cond: Cond | None = None,
    wanted: int | None = None,
) -> Iterator[Step]:
    """Walk x (B, *) down `times` and yield every step; one `Step` per interval.

    For an adaptive sampler [1, 0] are times enough; more of them are places where the path is seen.

    `wanted`: only the first so many are of interest, the rest fill a batch up; all by default. Raises NumericsError
    when one of those is not finite at the end, naming the first.
    """
    check_times(times)
    state, done, each = sampler.init(x), 0, torch.zeros(len(x), dtype=torch.int64)
    for t, s in pairwise(times):
        stepped = sampler.step(d, x, t=t, s=s, state=state, noise=noise, cond=cond)
        x, state, done = stepped.x, stepped.state, done + stepped.calls
        each = each + (stepped.calls if stepped.calls_each is None else stepped.calls_each)
        if s == times[-1]:
            check_finite(x[:wanted], s)
        yield Step(x, t, s, stepped.prediction, done, each)


def check_finite(x: Tensor, s: float) -> None:
    """Refuse samples that are not finite: no black picture passes for a good one."""
    good = x.flatten(1).isfinite().all(1)
    if not bool(good.all()):
        bad = (~good).nonzero().flatten().tolist()
        raise NumericsError(
            f"{len(bad)} of {len(x)} samples are not finite at t = {s:.4g} (first: sample {bad[0]} of the batch)",
            expected="finite values from every step of the sampler",
            fix="sample in float32, with more steps or less guidance, or from an earlier checkpoint",
        )
