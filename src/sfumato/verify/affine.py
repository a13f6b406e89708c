"""The exact law of what a sampler puts out, for Gaussian data: no Monte Carlo.

With the ideal denoiser of N(0, L) a sampler is a linear map of (x_T, increments of one Brownian path, free normals),
all independent. Its output variance is the sum of the squares of the coefficients, which one batch of unit inputs
reads off. Increments over overlapping intervals are sums of those over the pieces between all times that were asked
for, so that a method may use its path as it likes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from sfumato.core import NoiseSource, Rates, Schedule
from sfumato.samplers import Sampler, sample
from sfumato.verify.ideal import Ideal
from sfumato.verify.oracles import GaussianOracle

__all__ = ["Recorder", "output_variance"]


@dataclass
class Recorder:
    """Stands in for a `NoiseSource`: remembers what was asked for, and answers with `respond(asked, x)`.

    An interval is a pair of log-SNRs, a free draw its number.
    """

    respond: Callable[[tuple[float, float] | int, Tensor], Tensor]
    intervals: list[tuple[float, float]] = field(default_factory=list)
    draws: list[int] = field(default_factory=list)

    def increment(self, t: Rates, s: Rates, x: Tensor) -> Tensor:
        interval = (float(t.log_snr), float(s.log_snr))
        self.intervals.append(interval)
        return self.respond(interval, x)

    def normal(self, x: Tensor, *, draw: int) -> Tensor:
        self.draws.append(draw)
        return self.respond(draw, x)


def output_variance(
    sampler: Sampler[Any], schedule: Schedule, times: Sequence[float], *, data_var: float, prior_var: float
) -> float:
    """Variance of the sampler's output for x_0 ~ N(0, data_var) and x_T ~ N(0, prior_var) along `times`."""
    d = Ideal(GaussianOracle([0.0], [data_var]), schedule)

    def outcome(start: Tensor, noise: Recorder) -> Tensor:
        *_, end = sample(sampler, d, start, times, noise=cast(NoiseSource, noise))
        return end.x

    blank = Recorder(lambda asked, x: torch.zeros_like(x))
    outcome(torch.zeros(1, 1, dtype=torch.float64), blank)
    cuts = sorted({end for interval in blank.intervals for end in interval})
    pieces, draws = list(pairwise(cuts)), sorted(set(blank.draws))

    def unit(asked: tuple[float, float] | int, x: Tensor) -> Tensor:
        """Row k + 1 holds the coefficient of piece k, later rows those of the free draws."""
        z = torch.zeros_like(x)
        if isinstance(asked, int):
            z[1 + len(pieces) + draws.index(asked)] = 1
            return z
        low, high = asked
        for k in range(cuts.index(low), cuts.index(high)):
            z[1 + k] = math.sqrt((cuts[k + 1] - cuts[k]) / (high - low))
        return z

    x = torch.zeros(1 + len(pieces) + len(draws), 1, dtype=torch.float64)
    x[0] = math.sqrt(prior_var)
    return float(outcome(x, Recorder(unit)).square().sum())
