"""What noisy points truly follow: the score and the density that a perfect model would have.

With x_t = alpha x_0 + sigma eps and x_0 one of N points, all equally likely,

    p_t(x) = 1/N Σ_k N(x; alpha x_k, sigma² I),    ∇ log p_t(x) = (alpha Σ_k r_k(x) x_k - x)/sigma²,

r_k(x) the probability that x came from x_k: softmax over k of -|x - alpha x_k|²/(2 sigma²). Exact for the finite set
that training saw, and what a network that knew it by heart would say. Where the law that the points were drawn from is
known (`sfumato.data.laws`), that law is the truth instead. Everything is in model units and float64.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core import Rates
from sfumato.data.laws import Law
from sfumato.errors import UsageError
from sfumato.figures.plane import require_plane

__all__ = ["LawTruth", "PointsTruth", "Truth", "squares"]

LAW_DRAWS = 4000
CHUNK = 4_000_000  # pairs of a place and a point that are held at once


class Truth(ABC):
    """The law of x_t at every noise level."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What figures call it."""

    @abstractmethod
    def score(self, x: Tensor, r: Rates) -> Tensor:
        """∇ log p_t at x (N, 2) in model units; r holds scalars, sigma > 0. float64 (N, 2)."""

    @abstractmethod
    def log_density(self, x: Tensor, r: Rates) -> Tensor:
        """log p_t at x (N, 2), in nats and model units. float64 (N,)."""

    @abstractmethod
    def draws(self) -> Tensor:
        """Points x_0 (M, 2) that the law may have made, float64, in model units."""


@dataclass(frozen=True, slots=True, eq=False)
class LawTruth(Truth):
    """The known law of the data, moved to model units; `source` names the set."""

    law: Law
    source: str

    @property
    def name(self) -> str:
        return f"the law of {self.source}"

    def score(self, x: Tensor, r: Rates) -> Tensor:
        return self.law.score(x, float(r.alpha), float(r.sigma))

    def log_density(self, x: Tensor, r: Rates) -> Tensor:
        return self.law.log_density(x, float(r.alpha), float(r.sigma))

    def draws(self) -> Tensor:
        return self.law.draw(LAW_DRAWS, 0, "figures")


@dataclass(frozen=True, slots=True, eq=False)
class PointsTruth(Truth):
    """The law of a finite set: each of `points` (N, 2), in model units, with probability 1/N."""

    points: Tensor

    def __post_init__(self) -> None:
        require_plane(self.points)

    @property
    def name(self) -> str:
        return f"the {len(self.points):,} points trained on"

    def score(self, x: Tensor, r: Rates) -> Tensor:
        points = self.points.double()
        alpha, sigma = float(r.alpha), float(r.sigma)
        centres = torch.cat([logits.softmax(1) @ points for logits in self._logits(x, alpha, sigma)])
        return (alpha * centres - x.double()) / sigma**2

    def log_density(self, x: Tensor, r: Rates) -> Tensor:
        alpha, sigma = float(r.alpha), float(r.sigma)
        sums = torch.cat([logits.logsumexp(1) for logits in self._logits(x, alpha, sigma)])
        return sums - math.log(len(self.points)) - math.log(2 * math.pi * sigma**2)

    def draws(self) -> Tensor:
        return self.points.double()

    def _logits(self, x: Tensor, alpha: float, sigma: float) -> list[Tensor]:
        """-|x - alpha x_k|²/(2 sigma²) in pieces of rows, (n, N) each."""
        if sigma == 0:
            raise UsageError(
                "a finite set of points has neither a density nor a score without noise",
                expected="a time above 0",
                fix="choose a log-SNR of the schedule's span",
            )
        centres = alpha * self.points.double()
        rows = max(1, CHUNK // len(centres))
        return [-squares(part, centres) / (2 * sigma**2) for part in x.double().split(rows)]


def squares(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|² of (n, 2) and (N, 2), (n, N); by differences, so that near points keep their digits."""
    return (x[:, None, 0] - y[:, 0]) ** 2 + (x[:, None, 1] - y[:, 1]) ** 2
