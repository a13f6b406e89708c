"""Distances of two sets of features, by their definitions and with loops: what faster code must agree with.

KID     Bińkowski et al. 2018, §4:    the mean of k over unequal pairs of x, of y, less twice that over x and y
FID     Dowson & Landau 1982:         |μ - ν|² + tr (A + B - 2 (A B)^½), by the eigenvalues of A B
balls   Kynkäänniemi et al. 2019, Naeem et al. 2020
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Balls", "balls", "frechet", "kernel_distance", "kernel_distance_1d"]

Array = NDArray[np.float64]


def kernel_distance(x: Array, y: Array) -> float:
    """KID of x (n, d) and y (m, d)."""
    d = x.shape[1]

    def mean(a: Array, b: Array, skip: bool) -> float:
        pairs = [
            (sum(u * v for u, v in zip(p, q, strict=True)) / d + 1) ** 3
            for i, p in enumerate(a.tolist())
            for j, q in enumerate(b.tolist())
            if not (skip and i == j)
        ]
        return float(np.mean(pairs))

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def kernel_distance_1d(first: Array, second: Array) -> float:
    """The squared distance of two laws on the line from their moments E a, E a², E a³: Σ_k C(3, k) (Δ m_k)².

    (a b + 1)³ = Σ_k C(3, k) a^k b^k is a scalar product of moments.
    """
    return float(np.sum(np.array([3.0, 3.0, 1.0]) * (np.asarray(first) - np.asarray(second)) ** 2))


def frechet(mean: Array, cov: Array, other_mean: Array, other_cov: Array) -> float:
    """The distance of two normal laws; the eigenvalues of a product of two covariances are not negative."""
    roots = np.sqrt(np.maximum(np.linalg.eigvals(cov @ other_cov).real, 0.0))
    return float(np.sum((mean - other_mean) ** 2) + np.trace(cov) + np.trace(other_cov) - 2 * roots.sum())


@dataclass(frozen=True)
class Balls:
    """The four shares."""

    precision: float
    recall: float
    density: float
    coverage: float


def balls(x: Array, y: Array, k: int) -> Balls:
    """All four with the same k, from all distances at once."""

    def distances(a: Array, b: Array) -> Array:
        return np.asarray(np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1)))

    def radii(a: Array) -> Array:
        apart = distances(a, a)
        np.fill_diagonal(apart, np.inf)
        return np.asarray(np.sort(apart, axis=1)[:, k - 1])

    inside = distances(x, y) <= radii(y)[None]
    return Balls(
        precision=float(inside.any(1).mean()),
        recall=float((distances(y, x) <= radii(x)[None]).any(1).mean()),
        density=float(inside.sum(1).mean() / k),
        coverage=float(inside.any(0).mean()),
    )
