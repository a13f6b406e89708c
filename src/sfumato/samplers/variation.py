"""Variations of given pictures: noise them up to a time t, and sample from there (SDEdit; Meng et al. 2022).

    x_t = alpha_t x0 + sigma_t n,  then any sampler from t down to data

The more noise, the less of x0 is left: coarse structure goes last. At t = 1 nothing of it is, and the result is a
sample like any other. The pictures need not be of the law that the denoiser knows: a sketch becomes what it looks like.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from sfumato.core import Cond, Denoise, NoiseSource, marginal
from sfumato.errors import UsageError
from sfumato.samplers.base import Sampler, Step, sample

__all__ = ["times_below", "vary"]

S = TypeVar("S")


def times_below(times: Sequence[float], start: float) -> list[float]:
    """The part of a sampling grid below `start`, which comes first: [start, those of `times` below it].

    Raises UsageError for a start outside (0, 1], or one below which the grid has no time.
    """
    rest = [t for t in times if t < start]
    if not (0 < start <= 1 and rest):
        raise UsageError(
            f"variations from the time {start:g}",
            expected="a time above 0, where nothing changes, and at most 1, where nothing is kept",
            fix="choose 0.5; more to change more",
        )
    return [start, *rest]


def vary(
    sampler: Sampler[S],
    d: Denoise,
    x0: Tensor,
    times: Sequence[float],
    *,
    start: float,
    noise: NoiseSource,
    cond: Cond | None = None,
) -> Iterator[Step]:
    """Noise x0 (B, *) up to the time `start`, walk down the part of `times` below it, and yield every step.

    The noise is that from which sample i of the source would start, so that seeds mean the same variation at any
    `start`. Raises UsageError for a start outside the schedule's span (t_min, 1].
    """
    below = times_below(times, max(start, 0.0))
    if start <= d.schedule.t_min:
        raise UsageError(
            f"variations from the time {start:g}, where there is no noise",
            expected=f"a time above {d.schedule.t_min:.3g}",
            fix="choose 0.5; more to change more",
        )
    x_t = marginal(x0, d.schedule.rates(torch.tensor(start, dtype=torch.float64)))
    start_noise = noise.initial(tuple(x0.shape), like=x0)
    return sample(sampler, d, x_t.mean + x_t.std.to(x0) * start_noise, below, noise=noise, cond=cond)
