"""The plane that figures of two-dimensional models show: noisy points in the units of the data.

    shown = scale · x_t/power + mean,    power = max(1, sqrt(alpha² + sigma²))

with the mean and scale of the data's normalization; dividing by the power keeps exploding processes in the picture, as
in the forward and reverse strips. What is drawn are densities and scores of the *shown* points:

    ∇ log p(shown) = power/scale · ∇ log p_t(x_t),    log p(shown) = log p_t(x_t) + Σ log(power/scale).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core import Rates
from sfumato.data import Normalization
from sfumato.errors import UsageError
from sfumato.figures.strips import Limits

__all__ = ["Plane", "lattice", "require_plane", "roomy"]


@dataclass(frozen=True, slots=True)
class Plane:
    """From model units at a noise level to the units of the axes, and back; all float64."""

    normalization: Normalization

    def __post_init__(self) -> None:
        if self.normalization.is_image or len(self.normalization.mean) != 2:
            kind = "pictures" if self.normalization.is_image else f"{len(self.normalization.mean)} coordinates"
            raise _no_plane(f"the data are {kind}")

    def shown(self, x_t: Tensor, r: Rates) -> Tensor:
        """x_t (N, 2) as it is drawn."""
        return x_t.double() / self._stretch(r) + self._mean

    def inside(self, shown: Tensor, r: Rates) -> Tensor:
        """The x_t of what is drawn at `shown` (N, 2)."""
        return (shown.double() - self._mean) * self._stretch(r)

    def score(self, score: Tensor, r: Rates) -> Tensor:
        """The score of the shown points from that of x_t, (N, 2)."""
        return score.double() * self._stretch(r)

    def log_density(self, log_density: Tensor, r: Rates) -> Tensor:
        """The log-density of the shown points from that of x_t, (N,), in nats."""
        return log_density.double() + self._stretch(r).log().sum()

    @property
    def _mean(self) -> Tensor:
        return torch.tensor(self.normalization.mean, dtype=torch.float64)

    def _stretch(self, r: Rates) -> Tensor:
        """power/scale, (2,)."""
        power = max(1.0, math.hypot(float(r.alpha), float(r.sigma)))
        return power / torch.tensor(self.normalization.scale, dtype=torch.float64)


def require_plane(points: Tensor) -> None:
    """Refuse with UsageError whatever is not floating-point points (N, 2)."""
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0 or not points.is_floating_point():
        raise _no_plane(f"values of shape {tuple(points.shape)} and type {points.dtype}")


def _no_plane(what: str) -> UsageError:
    return UsageError(
        f"{what}: no points of the plane",
        expected="data of two numbers each, (N, 2)",
        fix="name a run on swiss-roll, moons, mixture or another set of points",
    )


def lattice(limits: Limits, side: int, *, edges: bool = False) -> Tensor:
    """Places of a side x side lattice, float64 (side², 2), row by row from below.

    They are the centres of equal cells of the limits, or with `edges` evenly spaced from limit to limit.
    """
    count = torch.arange(side, dtype=torch.float64)
    share = count / (side - 1) if edges else (count + 0.5) / side
    across, up = (low + (high - low) * share for low, high in (limits.x, limits.y))
    rows, columns = torch.meshgrid(up, across, indexing="ij")
    return torch.stack([columns.flatten(), rows.flatten()], dim=1)


def roomy(cloud: NDArray[np.float64], room: float = 0.12) -> Limits:
    """Square limits around a cloud (N, 2) with `room` of its larger extent on every side."""
    low, high = cloud.min(axis=0), cloud.max(axis=0)
    middle, half = (low + high) / 2, float((high - low).max()) * (0.5 + room)
    start, stop = (middle - half).tolist(), (middle + half).tolist()
    return Limits((start[0], stop[0]), (start[1], stop[1]))
