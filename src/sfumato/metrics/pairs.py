"""Two sets of features, x (n, d) of samples and y (m, d) of a reference: checked, and cut into blocks.

Distances of such sets are computed in float64 on the CPU: they are small differences of large sums.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from sfumato.errors import DataError
from sfumato.metrics.estimate import require_enough

__all__ = ["BLOCKS", "blocks_of", "interleaved", "pieces_of", "two_sets", "without"]

BLOCKS = 20  # of a delete-block jackknife
CHUNK = 1 << 22  # pairs in memory at once


def two_sets(x: Tensor, y: Tensor, *, least: int = 2) -> tuple[Tensor, Tensor]:
    """Both as float64 (n, d) and (m, d) on the CPU.

    Raises UsageError for fewer than `least` of either, DataError for features that do not fit or are not finite.
    """
    pair = (x, y)
    require_enough(min(len(z) for z in pair), least)
    same = all(z.ndim == 2 for z in pair) and x.shape[1] == y.shape[1]
    first, second = (z.detach().to("cpu", torch.float64) for z in pair)
    if not same or not all(bool(z.isfinite().all()) for z in (first, second)):
        raise DataError(
            f"features of shape {tuple(x.shape)} cannot be compared with features of shape {tuple(y.shape)}"
            + (": some are not finite" if same else ""),
            expected="finite features (n, d) and (m, d) of one extractor",
            fix="extract both with the same extractor",
        )
    return first, second


def blocks_of(count: int, most: int = BLOCKS) -> int:
    """How many blocks of at least two to cut `count` into; fewer than two where there are too few for a jackknife."""
    return min(most, count // 2)


def interleaved(count: int, blocks: int) -> Tensor:
    """The block of each of `count`, (count,): in turn, so that the order does not matter much."""
    return torch.arange(count) % blocks


def without(count: int, blocks: int) -> Iterator[Tensor]:
    """For each block the mask (count,) of what remains without it."""
    member = interleaved(count, blocks)
    return (member != block for block in range(blocks))


def pieces_of(count: int, width: int, most: int = CHUNK) -> Iterator[slice]:
    """Slices of `count` rows with at most `most` values of `width` each; one row at least."""
    size = max(1, most // max(1, width))
    return (slice(first, min(first + size, count)) for first in range(0, count, size))
