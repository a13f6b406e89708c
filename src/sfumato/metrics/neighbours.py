"""Nearest neighbours among features, and what they say of samples x (n, d) beside a reference y (m, d).

    B(z; Z)      the ball around z that reaches to its k-th nearest other point of Z
    precision    share of samples in some B(y_j; y): how much of what is made is like the data
    recall       share of the reference in some B(x_i; x): how much of the data can be made   (Kynkäänniemi et al. 2019)
    density      mean over samples of the number of balls B(y_j; y) that they lie in, over k
    coverage     share of balls B(y_j; y) that hold a sample                                       (Naeem et al. 2020)

The first is blind to what is missing and the second to what is wrong; all depend on n, m and k, so that each is read
beside what as many real pictures score. Balls are closed. Precision and density are means over samples that, given the
reference, do not depend on each other. Recall and coverage jump; they have jackknives over ten blocks of the samples,
which were found too large by a tenth to two thirds, never too small.

`nearest` finds candidates in float32 and measures them in float64, so that the distance of a copy is 0.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.metrics.estimate import Estimate, Fact, influences_of_jackknife, jackknife_error, mean_of, share_of
from sfumato.metrics.pairs import blocks_of, interleaved, pieces_of, two_sets

__all__ = ["Neighbours", "coverage", "density", "nearest", "precision", "recall"]

K_MANIFOLD, K_DENSITY = 3, 5  # as their papers choose
JACKKNIFED = 10  # blocks: what is left out must be large beside a ball, or the jackknife overrates each one
SPARE = 4  # candidates beyond k, whose order float32 may have got wrong
CANDIDATES = 16  # neighbours kept for radii without a block: k of them are outside it
FLAT = 1 << 24  # float32 values in memory at once
SLACK = 1e-9  # of a squared radius: a point on the edge of a ball is in it, however the distance was rounded


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """distances (q, k) float64, increasing, and indices (q, k) int64 into the references."""

    distances: Tensor
    indices: Tensor


def nearest(queries: Tensor, references: Tensor, *, k: int = 1) -> Neighbours:
    """The k nearest references (m, d) of each query (q, d), Euclidean.

    Candidates are k + 4 nearest by |q|² + |r|² - 2 q·r in float32, both centred on the references; their distances are
    then taken in float64. Raises UsageError for fewer references than k.
    """
    if not 1 <= k <= len(references) or queries.ndim != 2 or queries.shape[1:] != references.shape[1:]:
        raise UsageError(
            f"{k} nearest of {tuple(queries.shape)} among {tuple(references.shape)}",
            expected="points (q, d) and (m, d), and k from 1 to m",
            fix="give more references, or a smaller k",
        )
    centre = references.double().mean(0)
    r = (references.double() - centre).float()
    lengths, wanted = r.square().sum(1), min(k + SPARE, len(r))
    distances, indices = [], []
    width = max(len(r), 2 * wanted * r.shape[1])
    for part in pieces_of(len(queries), width, FLAT):
        exact = queries[part].double()
        near = (lengths - 2 * (exact - centre).float() @ r.T).topk(wanted, largest=False).indices
        apart = (exact[:, None] - references[near].double()).square().sum(2)
        order = apart.argsort(dim=1, stable=True)[:, :k]
        distances.append(apart.gather(1, order).sqrt())
        indices.append(near.gather(1, order))
    return Neighbours(torch.cat(distances), torch.cat(indices))


def others(points: Tensor, k: int) -> Neighbours:
    """The k nearest other points of each of `points` (m, d). Raises UsageError for fewer than k + 1 points."""
    found = nearest(points, points, k=min(k + 1, len(points)))
    itself = found.indices == torch.arange(len(points))[:, None]
    itself[:, -1] |= ~itself.any(1)  # it is not listed among many copies, one of which is left out instead
    kept = ~itself
    count = found.indices.shape[1] - 1
    distances, indices = (z[kept].view(len(points), count) for z in (found.distances, found.indices))
    if count < k:
        raise UsageError(
            f"{len(points)} points have no {k} neighbours each", expected=f"{k + 1} or more", fix="measure more (-n)"
        )
    return Neighbours(distances, indices)


def squared_rows(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """|a_i - b_j|² in float64 of some rows i at a time, less the slack of rounding: a copy is never outside."""
    centre = b.mean(0)
    a, b = a - centre, b - centre
    from_a, from_b = a.square().sum(1), b.square().sum(1)
    rounding = 1e-12 * float(from_b.mean())
    for part in pieces_of(len(a), len(b)):
        yield part, from_a[part, None] + from_b - 2 * a[part] @ b.T - rounding


def squared_radii(points: Tensor, k: int) -> Tensor:
    """Squared radii of the balls B(z; Z), (m,), with the slack."""
    return others(points, k).distances[:, k - 1].square() * (1 + SLACK)


def precision(
    samples: Tensor, reference: Tensor, provenance: Mapping[str, Fact] | None = None, *, k: int = K_MANIFOLD
) -> Estimate:
    """The share of samples (n, d) that lie in a ball of the reference (m, d), with Wilson's error."""
    x, y = two_sets(samples, reference, least=1)
    squared = squared_radii(y, k)
    hits = torch.cat([(apart <= squared).any(1) for _, apart in squared_rows(x, y)])
    return share_of(hits, {**_facts("share of samples in a ball of the reference", x, y, k), **(provenance or {})})


def density(
    samples: Tensor, reference: Tensor, provenance: Mapping[str, Fact] | None = None, *, k: int = K_DENSITY
) -> Estimate:
    """How many balls of the reference (m, d) a sample lies in, over k: about 1 for samples of the same law."""
    x, y = two_sets(samples, reference)
    squared = squared_radii(y, k)
    counts = torch.cat([(apart <= squared).sum(1) for _, apart in squared_rows(x, y)])
    facts = _facts("balls of the reference that a sample lies in, over k", x, y, k)
    return mean_of(counts.double() / k, {**facts, "std_error": "of a mean over samples", **(provenance or {})})


def coverage(
    samples: Tensor, reference: Tensor, provenance: Mapping[str, Fact] | None = None, *, k: int = K_DENSITY
) -> Estimate:
    """The share of balls of the reference (m, d) that hold a sample. Raises UsageError for fewer than 4 samples."""
    x, y = two_sets(samples, reference, least=4)
    squared, blocks = squared_radii(y, k), blocks_of(len(x), JACKKNIFED)
    member = torch.nn.functional.one_hot(interleaved(len(x), blocks), blocks).double()
    held = torch.zeros(len(y), blocks, dtype=torch.float64)  # how many samples of each block are in each ball
    for part, apart in squared_rows(x, y):
        held += (apart <= squared).double().T @ member[part]
    rest = held.sum(1, keepdim=True) - held
    value = float((held.sum(1) > 0).double().mean())
    facts = _facts("share of balls of the reference that hold a sample", x, y, k)
    return _jackknifed(value, (rest > 0).double().mean(0), len(x), {**facts, **(provenance or {})})


def recall(
    samples: Tensor, reference: Tensor, provenance: Mapping[str, Fact] | None = None, *, k: int = K_MANIFOLD
) -> Estimate:
    """The share of the reference (m, d) that lies in a ball of the samples (n, d).

    Raises UsageError for fewer than 2 (k + 2) samples, of which none are left for a jackknife.
    """
    x, y = two_sets(samples, reference, least=2 * (k + 2))
    blocks = min(blocks_of(len(x), JACKKNIFED), len(x) // (k + 2))
    squared = torch.cat([squared_radii(x, k)[None], _radii_without(x, k, blocks)])
    hits = torch.zeros(blocks + 1, dtype=torch.float64)
    for _, apart in squared_rows(y, x):
        hits += torch.stack([(apart <= radii).any(1).sum() for radii in squared])
    shares = hits / len(y)
    facts = _facts("share of the reference in a ball of the samples", x, y, k)
    return _jackknifed(float(shares[0]), shares[1:], len(x), {**facts, **(provenance or {})})


def _radii_without(x: Tensor, k: int, blocks: int) -> Tensor:
    """Squared radii (B, n) of the balls of samples with each block left out; -∞ for those of the block itself.

    The k-th neighbour outside a block is looked for among the nearest 16; should they not hold it, the last is taken.
    """
    found = others(x, min(max(CANDIDATES, 4 * k), len(x) - 1))
    member = interleaved(len(x), blocks)
    squared = found.distances.square() * (1 + SLACK)
    radii = []
    for block in range(blocks):
        outside = (member[found.indices] != block).cumsum(1)
        place = (outside < k).sum(1).clamp(max=squared.shape[1] - 1)
        radius = squared.gather(1, place[:, None])[:, 0]
        radii.append(torch.where(member == block, -torch.inf, radius))
    return torch.stack(radii)


def _jackknifed(value: float, without: Tensor, n: int, facts: Mapping[str, Fact]) -> Estimate:
    said = f"jackknife over {len(without)} blocks of the samples, given the reference"
    influences = influences_of_jackknife(without)
    return Estimate(value, jackknife_error(without), n, {**facts, "std_error": said}, influences)


def _facts(method: str, x: Tensor, y: Tensor, k: int) -> dict[str, Fact]:
    return {"method": method, "k": k, "n_model": len(x), "n_reference": len(y)}
