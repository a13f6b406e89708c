"""The exact law of what a walk puts out, for Gaussian data and methods that are linear in x and in their noise.

The output is mean + Σ_k G_k z_k over all independent normals z_k that were asked for, the start among them. One batch
of unit inputs reads off every column of every G_k: no Monte Carlo. Like `affine`, for vectors and for walks to and fro;
it takes each request for noise to be independent of the others, as they are where no interval is asked for twice.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core import NoiseSource, Rates

__all__ = ["Law", "output_law", "silence"]

Asked = tuple[object, ...]
LARGEST_BATCH = 6000


@dataclass(frozen=True, slots=True)
class Law:
    """N(mean, cov): (D,) and (D, D), float64."""

    mean: NDArray[np.float64]
    cov: NDArray[np.float64]


@dataclass
class Replies:
    """Stands in for a `NoiseSource`: remembers what was asked for, and answers with `respond(asked, x)`."""

    respond: Callable[[Asked, Tensor], Tensor]
    asked: list[Asked] = field(default_factory=list)
    path: tuple[int, ...] = ()

    def fresh(self, index: int) -> "Replies":
        return Replies(self.respond, self.asked, (*self.path, index))

    def normal(self, x: Tensor, *, draw: int) -> Tensor:
        return self._reply((*self.path, "draw", draw), x)

    def increment(self, t: Rates, s: Rates, x: Tensor) -> Tensor:
        return self._reply((*self.path, "path", float(t.log_snr), float(s.log_snr)), x)

    def _reply(self, key: Asked, x: Tensor) -> Tensor:
        self.asked.append(key)
        return self.respond(key, x)


def silence() -> NoiseSource:
    """Noise that is 0 whatever is asked: with it a walk puts out the mean of its law."""
    return cast(NoiseSource, Replies(lambda key, x: torch.zeros_like(x)))


def output_law(walk: Callable[[Tensor, NoiseSource], Tensor], shape: tuple[int, ...], start: Law) -> Law:
    """The law of walk(x, noise), (B, *shape) both, for x of the law `start` and noise of N(0, 1)."""
    count = math.prod(shape)
    blank = Replies(lambda key, x: torch.zeros_like(x))
    walk(torch.zeros(1, *shape, dtype=torch.float64), cast(NoiseSource, blank))
    requests = {key: index for index, key in enumerate(dict.fromkeys(blank.asked))}
    values, axes = np.linalg.eigh(start.cov)
    columns = torch.from_numpy(axes * np.sqrt(np.maximum(values, 0)))  # of the start: x = mean + columns z

    def outcome(units: Tensor) -> Tensor:
        """Outputs (len(units) + 1, D), the first without any input; unit j is value j % D of request j // D."""
        rows = torch.arange(1, len(units) + 1)
        request, value = units // count, units % count
        x = torch.from_numpy(start.mean).repeat(len(units) + 1, 1)
        of_start = request == 0
        x[rows[of_start]] += columns.T[value[of_start]]

        def unit(key: Asked, like: Tensor) -> Tensor:
            z = torch.zeros(len(units) + 1, count, dtype=torch.float64)
            mine = request == requests[key] + 1
            z[rows[mine], value[mine]] = 1
            return z.reshape(like.shape)

        return walk(x.reshape(-1, *shape), cast(NoiseSource, Replies(unit))).flatten(1)

    cov, mean = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    for units in torch.arange((1 + len(requests)) * count).split(LARGEST_BATCH):
        ends = outcome(units)
        mean, moved = ends[0], ends[1:] - ends[0]
        cov = cov + moved.T @ moved
    return Law(mean.numpy(), cov.numpy())
