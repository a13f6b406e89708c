"""Distances between two sets of points, x (n, D) from a model and y (m, D) from the data.

    sliced Wasserstein   SW_p^p = mean over directions u of W_p^p(u·x, u·y);  in one dimension
                         W_p^p = ∫_0^1 |F^-1(q) - G^-1(q)|^p dq, exact for empirical laws of any two sizes
                                                                                (Bonneel et al. 2015)
    energy distance      sqrt( 2 E|x - y| - E|x - x'| - E|y - y'| )             (Székely & Rizzo 2013)
    MMD²                 E k(x, x') + E k(y, y') - 2 E k(x, y)                  (Gretton et al. 2012, eq. 3)

The first two are those of the empirical laws: between two samples of the same law they are above 0, by the *two-sample
floor* that `floor` measures, and a distance means something beside its floor only. MMD² is unbiased, around 0 there.

Standard errors are delete-block jackknives over 20 blocks: block b of both samples is left out together. They take in
the scatter of both samples, to first and second order, and are rough where a distance is at its floor.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sfumato.errors import ConfigError, DataError
from sfumato.metrics.estimate import (
    Estimate,
    Fact,
    influences_of_jackknife,
    jackknife_error,
    mean_of,
    require_enough,
)

__all__ = [
    "EnergyDistance",
    "Mmd",
    "PointDistance",
    "Replicates",
    "SlicedWasserstein",
    "directions",
    "floor",
    "mode_coverage",
    "wasserstein_1d",
]

BLOCKS = 20
CHUNK = 1 << 22  # pairs of points in memory at once


@dataclass(frozen=True, slots=True, eq=False)
class Replicates:
    """A statistic of the whole samples, and (B,) with each block left out."""

    whole: float
    without: Tensor


class PointDistance(ABC):
    """A distance between two samples; its configuration is the object itself."""

    __slots__ = ()

    @property
    @abstractmethod
    def method(self) -> str:
        """What was computed, for the provenance."""

    @abstractmethod
    def replicates(self, x: Tensor, y: Tensor, blocks: int) -> Replicates:
        """The distance of x (n, D) and y (m, D), float64, and its values with each of the blocks left out."""

    def __call__(self, x: Tensor, y: Tensor, provenance: Mapping[str, Fact] | None = None) -> Estimate:
        """The distance of x (n, D) and y (m, D) with its jackknife error; n of the estimate is the smaller size.

        Raises UsageError for fewer than 4 points in either (two blocks of two), DataError for points that do not fit.
        """
        first, second = _points(x, y)
        least = min(len(first), len(second))
        blocks = min(BLOCKS, least // 2)
        found = self.replicates(first, second, blocks)
        facts: dict[str, Fact] = {"method": self.method, "n_model": len(first), "n_reference": len(second)}
        facts["std_error"] = f"jackknife over {blocks} blocks of both samples"
        provenance, influences = {**facts, **(provenance or {})}, influences_of_jackknife(found.without)
        return Estimate(found.whole, jackknife_error(found.without), least, provenance, influences)


def _points(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float64 (n, D) on the CPU; refused when they do not fit."""
    flat = [z.detach().to("cpu", torch.float64).flatten(1) for z in (x, y)]
    require_enough(min(len(z) for z in flat), 4)
    same = flat[0].shape[1] == flat[1].shape[1]
    if not same or not all(bool(z.isfinite().all()) for z in flat):
        raise DataError(
            f"points of shape {tuple(x.shape)} cannot be compared with points of shape {tuple(y.shape)}"
            + ("" if not same else ": some are not finite"),
            expected="finite points of the same dimension",
            fix="check the samples",
        )
    return flat[0], flat[1]


def _blocks(count: int, blocks: int) -> list[Tensor]:
    """0 … count - 1 in `blocks` parts, every blocks-th to the same part, so that the order does not matter much."""
    return [torch.arange(start, count, blocks) for start in range(blocks)]


def _without(count: int, left_out: Tensor) -> Tensor:
    kept = torch.ones(count, dtype=torch.bool)
    kept[left_out] = False
    return kept


def directions(dimensions: int, count: int) -> Tensor:
    """`count` fixed unit vectors (D, count), float64, evenly spread over the sphere up to sign: no randomness.

    In the plane at angles π (k + ½)/count. Beyond, sets of up to D orthonormal vectors, each the Q of a QR
    decomposition of normal numbers that are a hash of their place: the mean square of every coordinate along D of them
    is exactly 1/D, so that no direction of the data is passed over.
    """
    if dimensions == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if dimensions == 2:
        angle = math.pi * (torch.arange(count, dtype=torch.float64) + 0.5) / count
        return torch.stack([angle.cos(), angle.sin()])
    normal = torch.special.ndtri(_hashed(dimensions * count)).view(count, dimensions)
    return torch.cat([torch.linalg.qr(part.T).Q for part in normal.split(dimensions)], dim=1)


def _hashed(count: int) -> Tensor:
    """Numbers in (0, 1) that look drawn at random, (count,): SplitMix64 of 1 … count (Steele, Lea & Flood 2014)."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (torch.from_numpy((z >> np.uint64(11)).astype(np.float64)) + 0.5) * 2.0**-53


def wasserstein_1d(x: Tensor, y: Tensor, order: int = 1) -> Tensor:
    """W_p^p of each column of x (n, K) and y (m, K), exactly, (K,): the p-th power of the distance itself.

    With n = m it is the mean of |x_(i) - y_(i)|^p over the sorted values. Otherwise both quantile functions are
    constant between the levels i/n and j/m, which are met in whole numbers i m and j n.
    """
    first, second = x.sort(dim=0).values, y.sort(dim=0).values
    n, m = len(first), len(second)
    if n == m:
        return (first - second).abs().pow(order).mean(0)
    ends = torch.cat([torch.arange(n + 1) * m, torch.arange(m + 1) * n]).unique()
    start, width = ends[:-1], ends.diff().to(first.dtype) / (n * m)
    return width @ (first[start // m] - second[start // n]).abs().pow(order)


@dataclass(frozen=True, slots=True)
class SlicedWasserstein(PointDistance):
    """SW_p over fixed directions, in the units of the points.

    order: p, 1 or 2.
    count: how many directions.
    """

    order: int = 2
    count: int = 64

    def __post_init__(self) -> None:
        if self.order not in (1, 2) or self.count < 1:
            what = f"a sliced Wasserstein distance of order {self.order} over {self.count} directions"
            raise ConfigError(what, expected="order 1 or 2 and at least one direction", fix="order 2, 64 directions")

    @property
    def method(self) -> str:
        return f"sliced Wasserstein distance of order {self.order}, {self.count} fixed directions"

    def replicates(self, x: Tensor, y: Tensor, blocks: int) -> Replicates:
        toward = directions(x.shape[1], self.count)
        first, second = x @ toward, y @ toward
        parts = zip(_blocks(len(x), blocks), _blocks(len(y), blocks), strict=True)
        without = [self._value(first[_without(len(x), b)], second[_without(len(y), c)]) for b, c in parts]
        return Replicates(self._value(first, second), torch.tensor(without, dtype=torch.float64))

    def _value(self, first: Tensor, second: Tensor) -> float:
        return float(wasserstein_1d(first, second, self.order).mean()) ** (1 / self.order)


@dataclass(frozen=True, slots=True, eq=False)
class _BlockSums:
    """Σ of a function of two points over pairs of blocks, (B, B) each, and the sizes of the blocks (B,)."""

    xx: Tensor
    yy: Tensor
    xy: Tensor
    n: Tensor
    m: Tensor

    def without(self, block: int) -> "_BlockSums":
        """The sums that remain when one block of both samples is left out."""
        kept = torch.arange(len(self.n)) != block
        xx, yy, xy = (grid[kept][:, kept] for grid in (self.xx, self.yy, self.xy))
        return _BlockSums(xx, yy, xy, self.n[kept], self.m[kept])


class PairwiseDistance(PointDistance):
    """A distance made of sums over pairs: all block sums are had at once, and every replicate from them."""

    __slots__ = ()

    @abstractmethod
    def of_pairs(self, distance: Tensor, scale: float) -> Tensor:
        """The function of |x - y|, elementwise; `scale` is what `scale` gave."""

    @abstractmethod
    def combine(self, sums: _BlockSums) -> float:
        """The distance from the block sums."""

    def scale(self, y: Tensor) -> float:
        """A length taken from the reference y (m, D)."""
        return 1.0

    def replicates(self, x: Tensor, y: Tensor, blocks: int) -> Replicates:
        scale = self.scale(y)
        split_x, split_y = _blocks(len(x), blocks), _blocks(len(y), blocks)
        sorted_x, sorted_y = x[torch.cat(split_x)], y[torch.cat(split_y)]
        n, m = (torch.tensor([len(part) for part in split]) for split in (split_x, split_y))
        sums = _BlockSums(
            self._sums(sorted_x, sorted_x, n, n, scale),
            self._sums(sorted_y, sorted_y, m, m, scale),
            self._sums(sorted_x, sorted_y, n, m, scale),
            n.double(),
            m.double(),
        )
        without = [self.combine(sums.without(block)) for block in range(blocks)]
        return Replicates(self.combine(sums), torch.tensor(without, dtype=torch.float64))

    def _sums(self, x: Tensor, y: Tensor, n: Tensor, m: Tensor, scale: float) -> Tensor:
        rows = []
        for part in x.split(max(1, CHUNK // len(y))):
            values = self.of_pairs(torch.cdist(part, y, compute_mode="donot_use_mm_for_euclid_dist"), scale)
            rows.append(torch.stack([block.sum(1) for block in values.split(m.tolist(), dim=1)], dim=1))
        return torch.stack([block.sum(0) for block in torch.cat(rows).split(n.tolist())])


@dataclass(frozen=True, slots=True)
class EnergyDistance(PairwiseDistance):
    """sqrt(2 E|x - y| - E|x - x'| - E|y - y'|) of the empirical laws, in roots of the units of the points."""

    @property
    def method(self) -> str:
        return "energy distance of the empirical laws (a square root, as in SciPy)"

    def of_pairs(self, distance: Tensor, scale: float) -> Tensor:
        return distance

    def combine(self, sums: _BlockSums) -> float:
        n, m = float(sums.n.sum()), float(sums.m.sum())
        squared = 2 * sums.xy.sum() / (n * m) - sums.xx.sum() / n**2 - sums.yy.sum() / m**2
        return math.sqrt(max(float(squared), 0.0))  # below 0 by rounding alone: the form is positive definite


@dataclass(frozen=True, slots=True)
class Mmd(PairwiseDistance):
    """Unbiased MMD² with the mean of Gaussian kernels exp(-|x - y|²/(2 b²)), b = median · factor.

    bandwidth: the median distance; null takes that of the first 1,000 reference points.
    factors: of the bandwidths; several, as one length sees neither fine nor coarse faults.
    """

    bandwidth: float | None = None
    factors: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)

    def __post_init__(self) -> None:
        lengths = (*self.factors, 1.0 if self.bandwidth is None else self.bandwidth)
        if not self.factors or not all(length > 0 for length in lengths):
            raise ConfigError(
                f"an MMD with bandwidth {self.bandwidth} and factors {self.factors}",
                expected="lengths above 0",
                fix="leave both out",
            )

    @property
    def method(self) -> str:
        base = "the reference's median distance" if self.bandwidth is None else f"{self.bandwidth:g}"
        factors = ", ".join(f"{factor:g}" for factor in self.factors)
        return f"unbiased MMD², mean of Gaussian kernels of bandwidths {factors} times {base}"

    def scale(self, y: Tensor) -> float:
        if self.bandwidth is not None:
            return self.bandwidth
        distances = torch.pdist(y[:1000])
        return float(distances.median()) or 1.0

    def of_pairs(self, distance: Tensor, scale: float) -> Tensor:
        squared = distance.square().div_(-2 * scale**2)
        return torch.stack([(squared / factor**2).exp_() for factor in self.factors]).mean(0)

    def combine(self, sums: _BlockSums) -> float:
        n, m = float(sums.n.sum()), float(sums.m.sum())
        within = (sums.xx.sum() - n) / (n * (n - 1)) + (sums.yy.sum() - m) / (m * (m - 1))  # k(x, x) = 1
        return float(within - 2 * sums.xy.sum() / (n * m))


def floor(
    distance: PointDistance,
    pairs: Sequence[tuple[Tensor, Tensor]],
    provenance: Mapping[str, Fact] | None = None,
) -> Estimate:
    """The two-sample floor: the mean distance of independent pairs of real samples, its error over the pairs.

    Raises UsageError for fewer than two pairs.
    """
    values = [distance.replicates(*_points(x, y), blocks=2).whole for x, y in pairs]
    facts: dict[str, Fact] = {"method": distance.method, "floor": f"mean over {len(pairs)} pairs of real samples"}
    found = mean_of(torch.tensor(values, dtype=torch.float64), {**facts, **(provenance or {})})
    return Estimate(found.value, found.std_error, len(pairs[0][0]), found.provenance)


def mode_coverage(modes: Tensor, shares: Tensor, provenance: Mapping[str, Fact] | None = None) -> Estimate:
    """Σ_k min(p_k, w_k): the mass of the law's modes that a sample meets in its proportions, at most 1.

    modes (n,) int64: the mode of each sample; shares (K,): w_k. It is 1 less the total variation of the shares, and 1
    less half the missing ones' weight at least. Error: the jackknife over single samples, exact for such a sum.
    """
    require_enough(len(modes))
    counts = torch.bincount(modes.cpu(), minlength=len(shares)).double()
    n = len(modes)
    weights = shares.double()
    whole = float(torch.minimum(counts / n, weights).sum())
    fewer = (counts[None, :] - torch.eye(len(weights), dtype=torch.float64)) / (n - 1)
    each = torch.minimum(fewer, weights).sum(1)  # without one sample of mode k, as often as mode k was met
    centre = (counts * each).sum() / n
    error = math.sqrt((n - 1) / n * float((counts * (each - centre).square()).sum()))
    met = int((counts > 0).sum())
    facts: dict[str, Fact] = {"method": "Σ min(share, weight) over the modes", "modes_met": f"{met} of {len(shares)}"}
    influences = math.sqrt((n - 1) / n) * (each - centre)[modes.cpu()]
    return Estimate(whole, error, n, {**facts, **(provenance or {})}, influences)
