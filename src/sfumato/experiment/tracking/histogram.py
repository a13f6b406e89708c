"""How much lies where: what a tracker draws as bars, over values or over noise levels.

    of values              amount_k = number of values in [edge_k, edge_{k+1})
    of loss by log-SNR     amount_k = loss_k · (edge_{k+1} - edge_k),        edges half-way between the levels

Trackers spread the amount of a bar evenly over its width and draw amount/width: of the second kind that height is the
loss itself, whatever the distances between the levels, and the whole area is the integral of the loss over log-SNR.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Histogram", "histogram_of", "loss_by_log_snr"]

PARTS = 30  # as many as TensorBoard draws


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Bars side by side.

    edges: (K + 1,) rising.
    amounts: (K,), none below 0; amounts[k] lies between edges[k] and edges[k + 1].
    """

    edges: NDArray[np.float64]
    amounts: NDArray[np.float64]

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bar, (K,)."""
        middle: NDArray[np.float64] = (self.edges[:-1] + self.edges[1:]) / 2
        return middle


def histogram_of(values: NDArray[np.floating] | Sequence[float]) -> Histogram | None:
    """How many of the values that are finite lie where; None for none, and where no bars fit between them."""
    found = np.asarray(values, dtype=np.float64).ravel()
    found = found[np.isfinite(found)]
    if not len(found):
        return None
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            amounts, edges = np.histogram(found, bins=PARTS)
    except ValueError:  # closer together than float64 tells apart, or further than it reaches
        return None
    return Histogram(edges.astype(np.float64), amounts.astype(np.float64))


def loss_by_log_snr(log_snr: Sequence[float | None], losses: Sequence[float | None]) -> Histogram | None:
    """The loss of each noise level as bars over log-SNR in nats; one level has a bar of width 1.

    None where a loss is below 0 or not finite (a log-likelihood, a divergence), or two levels are the same.
    """
    pairs = sorted((level, loss) for level, loss in zip(log_snr, losses, strict=False) if _finite(level, loss))
    levels = np.array([level for level, _ in pairs], dtype=np.float64)
    heights = np.array([loss for _, loss in pairs], dtype=np.float64)
    if not len(pairs) or len(pairs) < len(losses) or (heights < 0).any() or (np.diff(levels) <= 0).any():
        return None
    between = (levels[1:] + levels[:-1]) / 2
    first = levels[0] - 0.5 if len(levels) == 1 else 2 * levels[0] - between[0]
    last = levels[-1] + 0.5 if len(levels) == 1 else 2 * levels[-1] - between[-1]
    edges = np.concatenate([[first], between, [last]])
    return Histogram(edges, heights * np.diff(edges))


def _finite(*numbers: float | None) -> bool:
    return all(number is not None and math.isfinite(number) for number in numbers)
