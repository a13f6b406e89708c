"""Nearest neighbours in Euclidean distance, exact, in pieces that fit into memory.

    |q - r|² = |q|² - 2 q·r + |r|²

is one matrix product, and in float32 it loses everything where q and r nearly agree, which is what copies do. It only
chooses candidates, k and a few more, after the mean of the references is taken off; their distances are then the norms
of differences in float64.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import DataError

__all__ = ["Neighbours", "nearest"]

SPARE = 8  # candidates beyond k, so that what rounding puts in a wrong order is put right
QUERIES, REFERENCES = 512, 8192  # at once


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """The k nearest references of each of n queries.

    distances: (n, k) float64, increasing. indices: (n, k) int64, places among the references; both on the CPU.
    """

    distances: Tensor
    indices: Tensor


def nearest(queries: Tensor, references: Tensor, *, k: int = 1) -> Neighbours:
    """The k references (N, *) nearest to each query (n, *). Raises DataError for fewer than k, and for other shapes."""
    if queries.shape[1:] != references.shape[1:] or not 1 <= k <= len(references):
        raise DataError(
            f"{k} neighbours of {tuple(queries.shape)} among {tuple(references.shape)}",
            expected="features of one shape, and at least as many references as neighbours",
            fix="compare features of one extractor, with more references",
        )
    q, r = queries.flatten(1), references.flatten(1)
    centre = r.double().mean(0)
    flat = (r - centre).float()
    parts = [_nearest(part, r, (part - centre).float(), flat, k) for part in q.split(QUERIES)]
    return Neighbours(torch.cat([p.distances for p in parts]), torch.cat([p.indices for p in parts]))


def _nearest(q: Tensor, r: Tensor, q_flat: Tensor, r_flat: Tensor, k: int) -> Neighbours:
    """Of some queries (n, d): candidates by the centred float32 forms, their order by exact distances."""
    wanted = min(k + SPARE, len(r))
    apart, chosen = torch.empty(len(q), 0, device=q.device), torch.empty(len(q), 0, dtype=torch.int64, device=q.device)
    for start in range(0, len(r), REFERENCES):
        piece = r_flat[start : start + REFERENCES]
        found = torch.addmm(piece.square().sum(1), q_flat, piece.T, alpha=-2)
        best = found.topk(min(wanted, len(piece)), largest=False)
        apart, chosen = torch.cat([apart, best.values], 1), torch.cat([chosen, best.indices + start], 1)
        kept = apart.topk(min(wanted, apart.shape[1]), largest=False)
        apart, chosen = kept.values, chosen.gather(1, kept.indices)
    exact = torch.stack([(q.double() - r[chosen[:, j]].double()).norm(dim=1) for j in range(wanted)], 1)
    order = exact.sort(dim=1, stable=True)
    return Neighbours(order.values[:, :k].cpu(), chosen.gather(1, order.indices)[:, :k].cpu())
