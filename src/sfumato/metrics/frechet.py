"""Fréchet distance of two sets of features as if both were normal, x (n, d) of samples and y (m, d) of a reference.

    FID = |μ_x - μ_y|² + tr Σ_x + tr Σ_y - 2 tr (Σ_x Σ_y)^½                  (Dowson & Landau 1982; Heusel et al. 2017)

with covariances over n - 1. For any A'A = Σ_x and B'B = Σ_y the last trace is that of singular values,
tr (Σ_x Σ_y)^½ = Σ_k s_k(A B'), which holds for matrices without full rank too and takes no root of a rounding error.

FID of finite samples is too large, by roughly b/n (Chong & Forsyth 2020): it means something beside its *floor* only,
the FID of as many real pictures, and two of them may be compared at equal n only. The line through n and n/2,

    FID_∞ = 2 FID(n) - mean FID(n/2),

takes the first order away, where n is several times d. With fewer samples than features the covariance has no full
rank, the curve bends, and what the line finds is still too large.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.metrics.estimate import Estimate, Fact, influences_of_jackknife, jackknife_error, require_enough
from sfumato.metrics.pairs import blocks_of, two_sets, without
from sfumato.metrics.points import Replicates

__all__ = ["Moments", "fid", "fid_extrapolated", "fid_floor", "fid_replicates", "frechet_distance", "moments"]

METHOD = "Fréchet distance of normal laws with the features' means and covariances"
ODD_BLOCKS = 11  # an odd number: each block then lies in both halves of an extrapolation
SPLITS = 2  # ways to cut into halves, by a bit of the index
FLOORS = 4  # disjoint sets of real features


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Mean (d,) and covariance (d, d) over n - 1, float64, of n features."""

    mean: Tensor
    cov: Tensor
    n: int


def moments(features: Tensor) -> Moments:
    """Mean and covariance of features (n, d). Raises UsageError for fewer than two."""
    x = two_sets(features, features)[0]
    mean = x.mean(0)
    centred = x - mean
    return Moments(mean, centred.T @ centred / (len(x) - 1), len(x))


def frechet_distance(first: Moments, second: Moments) -> float:
    """The distance of the normal laws with these moments, at least 0."""
    gap = (first.mean - second.mean).square().sum()
    traces = first.cov.trace() + second.cov.trace()
    shared = torch.linalg.svdvals(_root(first.cov) @ _root(second.cov).T).sum()
    return max(0.0, float(gap + traces - 2 * shared))


def _root(cov: Tensor) -> Tensor:
    """A (d, d) with A'A = cov; eigenvalues that are rounding errors count as 0."""
    values, vectors = torch.linalg.eigh(cov)
    noise = len(cov) * torch.finfo(cov.dtype).eps * values.abs().max()
    return (vectors * torch.where(values > noise, values, torch.zeros_like(values)).sqrt()).T


@dataclass(frozen=True, slots=True, eq=False)
class _Reference:
    """What FID needs of the reference: mean (d,), tr Σ, and B (r, d) with B'B = Σ."""

    mean: Tensor
    trace: float
    factor: Tensor

    @classmethod
    def of(cls, y: Tensor) -> "_Reference":
        mean = y.mean(0)
        rows = (y - mean) / math.sqrt(len(y) - 1)
        factor = torch.linalg.qr(rows, mode="r").R if len(y) > y.shape[1] else rows
        return cls(mean, float(rows.square().sum()), factor)

    def distance(self, x: Tensor, *, exact: bool = True) -> float:
        """FID of x (n, d); `exact` by singular values, otherwise by the faster eigenvalues of their Gram matrix."""
        mean = x.mean(0)
        rows = (x - mean) / math.sqrt(len(x) - 1)
        along = rows @ self.factor.T
        if exact:
            shared = torch.linalg.svdvals(along).sum()
        else:
            gram = along @ along.T if len(along) <= along.shape[1] else along.T @ along
            shared = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().sum()
        found = (mean - self.mean).square().sum() + rows.square().sum() + self.trace - 2 * shared
        return max(0.0, float(found))


def fid(x: Tensor, y: Tensor, provenance: Mapping[str, Fact] | None = None) -> Estimate:
    """FID of samples x (n, d) and a reference y (m, d); its error is a jackknife over blocks of the samples.

    The error is that of a value which is itself too large by its bias at this n; below four samples it is the value.
    Raises UsageError for fewer than two of either, DataError for features that do not fit.
    """
    x, y = two_sets(x, y)
    reference, blocks = _Reference.of(y), blocks_of(len(x))
    value = reference.distance(x)
    facts = _facts(x, y)
    if blocks < 2:
        return Estimate(value, value, len(x), {**facts, "std_error": "too few samples", **(provenance or {})})
    facts["std_error"] = f"jackknife over {blocks} blocks of the samples, given the reference"
    left = _left_out(reference, x, blocks)
    provenance = {**facts, **(provenance or {})}
    return Estimate(value, jackknife_error(left), len(x), provenance, influences_of_jackknife(left))


def fid_replicates(x: Tensor, y: Tensor, blocks: int) -> Replicates:
    """FID, and (B,) with each block of samples left out: sample i is in block i mod B, given the reference."""
    x, y = two_sets(x, y, least=2 * blocks)
    reference = _Reference.of(y)
    return Replicates(reference.distance(x, exact=False), _left_out(reference, x, blocks))


def _left_out(reference: _Reference, x: Tensor, blocks: int) -> Tensor:
    each = [reference.distance(x[kept], exact=False) for kept in without(len(x), blocks)]
    return torch.tensor(each, dtype=torch.float64)


def fid_floor(real: Tensor, y: Tensor, provenance: Mapping[str, Fact] | None = None, *, n: int) -> Estimate:
    """FID of n real features that are not in the reference: what a perfect model has at this n.

    The mean over up to four disjoint sets of n out of `real` (N, d), with its error over them; of all of `real` where
    N < 2n, with the error of `fid`.
    """
    real, y = two_sets(real, y)
    sets = [real[first : first + n] for first in range(0, len(real) - n + 1, n)][:FLOORS] if n >= 2 else []
    if len(sets) < 2:
        return fid(real[:n] if n >= 2 else real, y, {"floor": "one set of real pictures", **(provenance or {})})
    reference = _Reference.of(y)
    each = torch.tensor([reference.distance(part) for part in sets], dtype=torch.float64)
    facts = {**_facts(sets[0], y), "floor": f"mean over {len(sets)} sets of real pictures"}
    facts["std_error"] = "scatter of the sets, given the reference"
    error = float(each.std(correction=1)) / math.sqrt(len(sets))
    return Estimate(float(each.mean()), error, n, {**facts, **(provenance or {})})


def fid_extrapolated(x: Tensor, y: Tensor, provenance: Mapping[str, Fact] | None = None) -> Estimate:
    """FID_∞ of this module: samples and reference both extrapolated, at the ratio of sizes that they have.

    It is unbiased to first order, and may be below 0 by its error, a jackknife over 11 blocks of the samples. Raises
    UsageError for fewer than 22 samples or four reference features.
    """
    require_enough(len(x), 2 * ODD_BLOCKS)
    x, y = two_sets(x, y, least=4)
    whole = _Reference.of(y)
    halves = [(_Reference.of(y[chosen_y]), chosen_x) for chosen_x, chosen_y in _halves(len(x), len(y))]

    def value(kept: Tensor, *, exact: bool) -> float:
        small = [reference.distance(x[kept & chosen], exact=exact) for reference, chosen in halves]
        return 2 * whole.distance(x[kept], exact=exact) - sum(small) / len(small)

    each = [value(kept, exact=False) for kept in without(len(x), ODD_BLOCKS)]
    left = torch.tensor(each, dtype=torch.float64)
    facts = _facts(x, y)
    facts["method"] = f"line in 1/n through n and n/2 ({len(halves)} halves), to infinitely many of both"
    facts["std_error"] = f"jackknife over {ODD_BLOCKS} blocks of the samples, given the reference"
    found = value(torch.ones(len(x), dtype=torch.bool), exact=True)
    provenance = {**facts, **(provenance or {})}
    return Estimate(found, jackknife_error(left), len(x), provenance, influences_of_jackknife(left))


def _halves(n: int, m: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Masks of halves of both sets: by each of the last bits of the index, either half."""
    for bit in range(SPLITS):
        for side in (0, 1):
            first, second = (((torch.arange(count) >> bit) & 1) == side for count in (n, m))
            yield first, second


def _facts(x: Tensor, y: Tensor) -> dict[str, Fact]:
    return {"method": METHOD, "n_model": len(x), "n_reference": len(y), "features": x.shape[1]}
