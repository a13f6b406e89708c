"""Distances of features: KID, FID and balls of neighbours against their definitions, closed forms and repeats."""

import numpy as np
import torch
from torch import Tensor

from sfumato.core import NoiseSource
from sfumato.metrics import Moments, coverage, density, fid, frechet_distance, kid, moments, nearest, precision, recall
from sfumato.verify.check import AtMost, Check, proves
from sfumato.verify.checks.material import worst
from sfumato.verify.oracles import balls, frechet, kernel_distance

__all__ = ["CHECKS"]


def spread(count: int, dim: int, turn: float, *, mean: float = 0.0) -> Tensor:
    """A cloud (count, dim) without randomness: normal quantiles of the additive sequence frac((i + turn) sqrt(p_j))."""
    primes = torch.tensor([2, 3, 5, 7, 11, 13, 17, 19, 23, 29][:dim], dtype=torch.float64)
    place = (torch.arange(1, count + 1, dtype=torch.float64)[:, None] + turn) * primes.sqrt() % 1.0
    return torch.special.ndtri(place.clamp(1e-9, 1 - 1e-9)) + mean


def normals(count: int, seed: int) -> Tensor:
    """Independent N(0, I), (count, 4)."""
    like = torch.zeros(count, 4, dtype=torch.float64)
    return NoiseSource.of(seed=seed, count=count).initial((count, 4), like=like)


def kernel_by_loops() -> float:
    """KID of two clouds less its sums over pairs by loops, over the latter; Bińkowski et al. 2018, §4."""
    x, y = spread(40, 5, 0.1, mean=0.3), spread(30, 5, 0.4)
    expected = kernel_distance(x.numpy(), y.numpy())
    return abs(kid(x, y).value - expected) / abs(expected)


def scatter_of_kid() -> float:
    """|1 - root mean square of stated errors of KID over the scatter of 200 disjoint samples of one reference|."""
    y, cloud = normals(500, 1), normals(200 * 60, 2) + 0.3
    found = [kid(part, y) for part in cloud.split(60)]
    errors = np.sqrt(np.mean([e.std_error**2 for e in found]))
    return abs(1 - float(errors / np.std([e.value for e in found], ddof=1)))


def diagonal_normals() -> float:
    """Fréchet distance of diagonal normals less Σ (m - m')² + (s - s')²; Dowson & Landau 1982."""
    steps = torch.linspace(0.1, 1.0, 10, dtype=torch.float64)
    first, second = Moments(steps, torch.diag(steps**2), 0), Moments(1 - steps, torch.diag((1.1 - steps) ** 2), 0)
    expected = float(((2 * steps - 1) ** 2 + (2 * steps - 1.1) ** 2).sum())
    return abs(frechet_distance(first, second) - expected)


def frechet_by_eigenvalues() -> float:
    """FID of two clouds by singular values less that by eigenvalues of the product of covariances, over the latter."""
    x, y = spread(60, 8, 0.2, mean=0.2) * torch.linspace(0.5, 2, 8), spread(50, 8, 0.7)
    expected = frechet(x.mean(0).numpy(), np.cov(x.numpy().T), y.mean(0).numpy(), np.cov(y.numpy().T))
    return worst(*(abs(v - expected) / expected for v in (fid(x, y).value, frechet_distance(moments(x), moments(y)))))


def shares_by_definition() -> float:
    """Precision, recall, density and coverage less their definitions; Kynkäänniemi et al. 2019, Naeem et al. 2020."""
    x, y = spread(60, 3, 0.2, mean=0.4), spread(50, 3, 0.6)
    off = []
    for k in (1, 3, 5):
        expected = balls(x.numpy(), y.numpy(), k)
        for measure in (precision, recall, density, coverage):
            off.append(abs(measure(x, y, k=k).value - float(getattr(expected, measure.__name__))))
    return worst(*off)


def copies() -> float:
    """Distance of the nearest reference of copies, far from the origin, in float32: 0, and its place is the copy's."""
    points = (spread(80, 10, 0.5) + 1e3).float()
    found = nearest(points, points)
    return float(found.distances.max()) + float((found.indices[:, 0] != torch.arange(80)).sum())


CHECKS = (
    Check("features[kid by loops]", proves(kernel_by_loops), AtMost(1e-12), kernel_by_loops),
    # the scatter of 200 is known to 5 %
    Check("features[errors of kid]", proves(scatter_of_kid), AtMost(0.2), scatter_of_kid),
    Check("features[fid of diagonal normals]", proves(diagonal_normals), AtMost(1e-10), diagonal_normals),
    Check("features[fid by eigenvalues]", proves(frechet_by_eigenvalues), AtMost(1e-9), frechet_by_eigenvalues),
    Check("features[shares by definition]", proves(shares_by_definition), AtMost(1e-12), shares_by_definition),
    Check("features[copies]", proves(copies), AtMost(0), copies),
)
