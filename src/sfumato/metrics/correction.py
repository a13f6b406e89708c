"""What samples are, from what a judge says of them that errs as it was seen to err on real pictures.

    M_ij = N_ij/N_i             of the N_i held-out real pictures of class i the share that is judged j
    q = Mᵀ π                    shares π of classes are judged to be q
    π = A q,  A = (1 - B) M⁻ᵀ   turned back; of two classes Rogan & Gladen 1978, but for B
    B_i = M⁻ᵀ C_i m_i           column i, m_i row i of M⁻ᵀ,  C_i = (diag M_i - M_i M_iᵀ)/(N_i - 1)

M comes from finitely many pictures, C_i is the covariance of its row i, and the inverse of a matrix that scatters is
too large in the mean: with R = M⁻ᵀ dMᵀ, (M + dM)⁻ᵀ q = (1 - R + R² - …) π, and E R² = B. B takes that back.

    agreement        Σ_k c_k/n π^k_k, π^k of the c_k samples asked to be k: the mean over samples of A[asked, judged]
    total variation  ½ Σ_k |π_k - p_k|

To first order (the delta method) either is in error by Σ_j h_j dq_j - Σ_i Σ_j g_ij dM_ij, of the samples and of the
held-out pictures, which are independent multinomials:

    std_error² = that of the samples + Σ_i (Σ_j M̃_ij g_ij² - (Σ_j M̃_ij g_ij)²)/(N_i - 1)
    agreement        g_ij = Σ_k c_k/n π^k_i A_kj,     of samples: Wilson's, as of a share, in units of A's differences
    total variation  g_ij = π_i h_j,                  of samples: (Σ_j h_j² q̃_j - (Σ_j h_j q̃_j)²)/n,
                     h_j = ½ Σ_k sign(π_k - p_k) A_kj, q̃ with one draw of Mᵀ p added

A judge that made no mistake may make one yet: M̃ has 1/(2 K) of a picture more in each row, misjudged to be any other
class, half a mistake in all. Neither number is cut off: agreement may come out above 1 and a share of a class below 0,
because numbers that are cut off are wrong in the mean.

    floor            of total variation, π = p: ½ sqrt(2/π) Σ_k sqrt(S_kk), normal with
                     S = A ((diag q - q qᵀ)/n + Σ_i p_i² C̃_i) Aᵀ, q = Mᵀ p, C̃_i as C_i, with M̃
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sfumato.errors import DataError
from sfumato.metrics.classes import class_shares, counted, folded_spread
from sfumato.metrics.estimate import Estimate, Fact, influences_of_mean, require_enough

__all__ = [
    "Correction",
    "corrected_agreement",
    "corrected_total_variation",
    "corrected_total_variation_floor",
    "correction_of",
]

LEAST_SINGULAR = 1e-6  # of a confusion matrix: below it two mixtures of classes are judged alike
MOST_SCATTER = 0.4  # of M⁻ᵀ dMᵀ: above it M may be singular within 2.5 errors, and the second order is not enough


@final
@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """How a judge errs, and what turns it back; `correction_of` makes it.

    counts: (K, K) int64, held-out real pictures of class i that are judged j. confusion: M, (K, K) float64. inverse: A,
    (K, K) float64. scatter: the length of a column of M⁻ᵀ dMᵀ, root mean square: how uncertain A is, relatively.
    """

    counts: Tensor
    confusion: Tensor
    inverse: Tensor
    scatter: float

    @property
    def held_out(self) -> int:
        """Real pictures that it rests on."""
        return int(self.counts.sum())

    @property
    def facts(self) -> dict[str, Fact]:
        """What was folded in, for the provenance."""
        digest = hashlib.sha256(self.counts.contiguous().numpy().data).hexdigest()
        return {
            "corrected_for": "the judge's confusion of held-out real pictures",
            "judge_confusion": digest[:12],
            "judge_confusion_n": self.held_out,
            "judge_confusion_scatter": self.scatter,
        }

    @property
    def possible(self) -> Tensor:
        """M̃, (K, K): M with half a mistake more in all."""
        classes, rows = len(self.counts), self.counts.sum(1, keepdim=True)
        more = (1 - torch.eye(classes, dtype=torch.float64)) / (2 * classes * (classes - 1))
        found = (self.counts + more) / (rows + 1 / (2 * classes))
        return torch.where(rows > 0, found, self.confusion)

    def cells(self, effects: Tensor, confusion: Tensor) -> Tensor:
        """What the pictures of each cell of a confusion matrix add to the error of f, (K, K).

        effects: g, (K, K). The sum of their squares is the variance that the held-out pictures make.
        """
        centred = effects - (confusion * effects).sum(1, keepdim=True)
        return -(confusion * _per_picture(self.counts)[:, None]).sqrt() * centred

    def errors(self, effects: Tensor) -> "JudgeErrors":
        """What the held-out pictures add to the error of f, by its effects g (K, K)."""
        variance = float(self.cells(effects, self.possible).square().sum())
        return JudgeErrors(math.sqrt(variance), self.cells(effects, self.confusion)[self.counts > 0])


@final
@dataclass(frozen=True, slots=True, eq=False)
class JudgeErrors:
    """The part of a standard error that held-out pictures make, and its influences, one for each cell that has any."""

    std_error: float
    influences: Tensor


def correction_of(counts: Tensor, there: Tensor) -> Correction:
    """The correction for a judge with counts (K, K) int64 of held-out pictures, rows their classes, columns its words.

    there: (K,) bool, the classes that matter: asked for, or in the data. Others without pictures are taken to be judged
    right. Raises DataError, with the reason, where the judge's errors cannot be turned back: fewer than two pictures of
    a class that matters, classes that it cannot tell apart, or too few pictures for so bad a judge.
    """
    rows = counts.sum(1)
    few = int((there & (rows < 2)).sum())
    if few:
        raise _refusal(f"the judge was measured on fewer than two real pictures of {few} classes")
    same = torch.eye(len(counts), dtype=torch.float64)
    confusion = torch.where(rows[:, None] > 0, counts.double() / rows.clamp(min=1)[:, None], same)
    if float(torch.linalg.svdvals(confusion)[-1]) < LEAST_SINGULAR:
        raise _refusal("the judge says the same of different mixtures of classes")
    plain = torch.linalg.inv(confusion.T)
    per_picture = _per_picture(counts)
    squares = (confusion * plain.square().sum(0)).sum(1) - 1  # M⁻ᵀ takes the mean, row i of M, to a unit vector
    scatter = math.sqrt(max(0.0, float((per_picture * squares).mean())))
    if scatter > MOST_SCATTER:
        raise _refusal(
            f"the judge errs too often for {int(rows.sum()):,} held-out pictures: what takes its errors back is known "
            f"to {scatter:.0%} only"
        )
    centred = plain - (confusion * plain).sum(1, keepdim=True)
    bias = plain @ (per_picture[:, None] * confusion * centred).T
    return Correction(counts, confusion, plain - bias @ plain, scatter)


def _per_picture(counts: Tensor) -> Tensor:
    """1/(N_i - 1), (K,); 0 for rows of fewer than two, which are not known to scatter."""
    rows = counts.sum(1).double()
    return torch.where(rows > 1, 1 / (rows - 1).clamp(min=1), 0.0)


def _refusal(why: str) -> DataError:
    return DataError(
        why,
        expected="a judge that tells the classes apart, measured on enough real pictures of each",
        fix="take the number without [corrected], or label more pictures",
    )


def corrected_agreement(
    asked: Tensor, judged: Tensor, correction: Correction, provenance: Mapping[str, Fact] | None = None
) -> Estimate:
    """The share of samples that are of the class asked for (n,), from the class that each is judged to be (n,); int64.

    The error takes the classes asked for as drawn at random, as that of the plain share does: where some classes are
    drawn far better than others it is somewhat too large. Its influences are those of the n samples and of the held-out
    pictures, by cell: two models that one judge has judged share the latter.
    """
    n, inverse = len(asked), correction.inverse
    require_enough(n, 1)
    values = inverse[asked, judged]
    agreed = values.mean()
    classes = len(inverse)
    right = inverse.diagonal()[asked]
    wrong = (inverse.sum(1)[asked] - right) / (classes - 1)
    gap = (right - wrong).mean()
    variance = ((values - agreed).square().mean() / n + gap**2 / (4 * n**2)) / (1 + 1 / n) ** 2
    counts = torch.bincount(asked * classes + judged, minlength=classes**2).view(classes, classes).double()
    drawn = counts @ inverse.T / n  # (c_k/n) π^k_i
    held_out = correction.errors(drawn.T @ inverse)
    facts: dict[str, Fact] = {
        "method": "share of the class asked for, the judge's errors turned back",
        "std_error": "delta method, of samples and of the judge's held-out pictures",
        "judge_std_error": held_out.std_error,
        **correction.facts,
    }
    influences = None if n < 2 else torch.cat([influences_of_mean(values), held_out.influences])
    error = math.hypot(math.sqrt(float(variance)), held_out.std_error)
    return Estimate(float(agreed), error, n, {**facts, **(provenance or {})}, influences)


def corrected_total_variation(
    judged: Tensor, shares: Tensor, correction: Correction, provenance: Mapping[str, Fact] | None = None
) -> Estimate:
    """½ Σ |π_k - p_k| of the classes that samples are, from those that they are judged to be, and the data's shares.

    judged (n,) int64; shares (K,). Influences as in `corrected_agreement`.
    """
    counts, inverse = torch.bincount(judged, minlength=len(shares)), correction.inverse
    n, p = counted(counts, shares)
    apart = inverse @ (counts.double() / n) - p
    effects = 0.5 * apart.sign() @ inverse
    likely = (counts + correction.confusion.T @ p) / (n + 1)
    variance = float((likely * effects**2).sum() - (likely * effects).sum() ** 2) / n
    held_out = correction.errors((apart + p)[:, None] * effects)
    facts: dict[str, Fact] = {
        "method": "total variation of classes and the data's, the judge's errors turned back",
        "std_error": "delta method, of samples and of the judge's held-out pictures",
        "judge_std_error": held_out.std_error,
        **correction.facts,
    }
    of_samples = (effects - (effects * class_shares(judged, len(p))).sum())[judged] / n
    influences = torch.cat([of_samples, held_out.influences])
    error = math.hypot(math.sqrt(max(0.0, variance)), held_out.std_error)
    return Estimate(0.5 * float(apart.abs().sum()), error, n, {**facts, **(provenance or {})}, influences)


def corrected_total_variation_floor(
    n: int, shares: Tensor, correction: Correction, provenance: Mapping[str, Fact] | None = None
) -> Estimate:
    """What `corrected_total_variation` of n draws from the shares p (K,) themselves is on average, by normal theory.

    The mean over judges too, as they come of as many held-out pictures; M is taken as measured, so no error is stated.
    `spread` in the provenance is the standard deviation of a single such number.
    """
    require_enough(n, 1)
    p, inverse = shares.double(), correction.inverse
    weights = p.square() * _per_picture(correction.counts)
    confusion, possible = correction.confusion, correction.possible
    q = p @ confusion
    among = (q.diag() - q[:, None] * q) / n + (weights @ possible).diag() - possible.T @ (weights[:, None] * possible)
    covariance = inverse @ among @ inverse.T
    std = covariance.diagonal().clamp(min=0).sqrt()
    facts: dict[str, Fact] = {
        "method": "E of n draws of the data's shares, the judge's errors turned back, normal theory",
        "spread": folded_spread(covariance),
        **correction.facts,
    }
    return Estimate(math.sqrt(0.5 / math.pi) * float(std.sum()), 0.0, n, {**facts, **(provenance or {})})
