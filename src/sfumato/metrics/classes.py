"""Which classes samples belong to, as a judge sees them: were they the ones asked for, and in the data's proportions?

    agreement          p = share of samples judged to be what was asked for,
                       error: Wilson's interval of one sigma, sqrt(p (1 - p)/n + 1/(4 n²))/(1 + 1/n)   (Wilson 1927)
    total variation    TV = ½ Σ_k |c_k/n - p_k|, from counts c of n samples and the data's shares p
                       error: the delta method, ½ sqrt( (Σ_k s_k² q_k - (Σ_k s_k q_k)²)/n ), s_k = sign(c_k/n - p_k),
                       with q_k = (c_k + p_k)/(n + 1), one draw of the data's shares added
    its floor          E TV of n draws from p itself, exactly: ½ Σ_k E|X_k/n - p_k|, X_k binomial, and
                       E|X - n p| = 2 m C(n, m) p^m (1 - p)^(n - m + 1), m = floor(n p) + 1            (de Moivre 1730)
    chi-square         Σ_k (c_k - n p_k)²/(n p_k) with K - 1 degrees of freedom                         (Pearson 1900)

Wilson's error does not vanish where all samples agree, 1,000 of 1,000 leave room for one in two thousand; nor does that
of a total variation where all are of one class. A total variation is never below 0, and a perfect model's is its floor
in the mean; near the floor the error of the delta method is too large, up to twice, because half of the scatter is
folded back.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import DataError
from sfumato.metrics.estimate import Estimate, Fact, require_enough, share_of

__all__ = [
    "ChiSquare",
    "agreement",
    "chi_square",
    "class_shares",
    "confusion",
    "confusions",
    "counted",
    "folded_spread",
    "total_variation",
    "total_variation_floor",
    "total_variation_influences",
]


def agreement(asked: Tensor, judged: Tensor, provenance: Mapping[str, Fact] | None = None) -> Estimate:
    """The share of samples whose judged class (n,) is the one asked for (n,); int64 both. n is at least 1."""
    require_enough(len(asked), 1)
    if asked.shape != judged.shape:
        raise DataError(
            f"{tuple(asked.shape)} classes were asked for and {tuple(judged.shape)} judged",
            expected="one judgement for each sample",
            fix="judge the samples that were asked for",
        )
    facts: dict[str, Fact] = {"method": "share judged to be the class asked for"}
    return share_of(asked == judged, {**facts, **(provenance or {})})


def confusion(asked: Tensor, judged: Tensor, classes: int) -> Tensor:
    """How often each class asked for was judged to be each class: int64 (K, K), rows asked for, columns judged."""
    return torch.bincount(asked.cpu() * classes + judged.cpu(), minlength=classes**2).view(classes, classes)


def confusions(counts: Tensor, names: tuple[str, ...], most: int = 12) -> Iterable[str]:
    """Sentences for the mistakes in a confusion matrix, the most frequent first: "asked for 3, judged 5: 2"."""
    wrong = counts - torch.diag(counts.diagonal())
    places = wrong.nonzero().tolist()
    places.sort(key=lambda place: (-int(wrong[place[0], place[1]]), place))
    yield from (f"asked for {names[a]}, judged {names[j]}: {int(wrong[a, j])}" for a, j in places[:most])
    if len(places) > most:
        left = sum(int(wrong[a, j]) for a, j in places[most:])
        yield f"and {left} more in {len(places) - most} other pairs of classes"


def class_shares(labels: Tensor, classes: int) -> Tensor:
    """The share of each class among labels (n,) int64 in 0 … K-1: (K,) float64."""
    require_enough(len(labels), 1)
    return torch.bincount(labels.cpu(), minlength=classes).double() / len(labels)


def total_variation(counts: Tensor, shares: Tensor, provenance: Mapping[str, Fact] | None = None) -> Estimate:
    """½ Σ |c_k/n - p_k| of judged counts (K,) and shares (K,), with the error of the delta method; n is Σ c_k."""
    n, p = counted(counts, shares)
    q = counts.double() / n
    apart = q - p
    sign, likely = apart.sign(), (counts.double() + p) / (n + 1)
    variance = (sign**2 * likely).sum() - (sign * likely).sum() ** 2
    error = 0.5 * math.sqrt(max(0.0, float(variance)) / n)
    test = chi_square(counts, shares)
    facts: dict[str, Fact] = {
        "method": "total variation of judged classes and the data's",
        "std_error": "delta method",
        "chi_square": test.statistic,
        "degrees_of_freedom": test.degrees,
        "p_value": test.p_value,
    }
    return Estimate(0.5 * float(apart.abs().sum()), error, n, {**facts, **(provenance or {})})


def total_variation_influences(judged: Tensor, shares: Tensor) -> Tensor:
    """What each of n samples adds to the error of a total variation: ½ (s_k - Σ_j s_j c_j/n)/n, (n,) float64.

    judged (n,) int64: the class k that each is judged to be; shares (K,): the data's. The delta method, as above.
    """
    n, p = len(judged), shares.double()
    q = class_shares(judged, len(p))
    sign = (q - p).sign()
    return 0.5 * (sign - (sign * q).sum())[judged.cpu()] / n


def total_variation_floor(n: int, shares: Tensor, provenance: Mapping[str, Fact] | None = None) -> Estimate:
    """What n draws from the shares p (K,) themselves have on average: exact, so its error is 0.

    `spread` in the provenance is the standard deviation of a single such set of n, in the limit of normal counts.
    """
    require_enough(n, 1)
    p = shares.double().clamp(0, 1)
    mean = 0.5 * sum(_mean_deviation(n, float(share)) for share in p) / n
    spread = folded_spread((p.diag() - p[:, None] * p) / n)
    facts: dict[str, Fact] = {"method": "E of n draws of the data's shares, exact", "spread": spread}
    return Estimate(mean, 0.0, n, {**facts, **(provenance or {})})


def folded_spread(covariance: Tensor) -> float:
    """The standard deviation of ½ Σ |U_k| for centred normals U of this covariance (K, K).

    Cov(|U|, |V|) = (2/π) (sqrt(1 - ρ²) + ρ asin ρ - 1) σ_U σ_V for a correlation ρ (Nabeya 1951).
    """
    std = covariance.diagonal().clamp(min=0).sqrt()
    among = covariance / (std[:, None] * std)
    rho = torch.where(torch.eye(len(std), dtype=torch.bool), 1.0, among.nan_to_num(0.0)).clamp(-1, 1)
    folded = (2 / math.pi) * ((1 - rho**2).sqrt() + rho * rho.asin() - 1) * std[:, None] * std
    return 0.5 * math.sqrt(max(0.0, float(folded.sum())))


def _mean_deviation(n: int, p: float) -> float:
    """E|X - n p| of a binomial X, exactly (de Moivre)."""
    m = math.floor(n * p) + 1
    if not 0 < p < 1 or m > n:
        return 0.0
    log_choose = math.lgamma(n + 1) - math.lgamma(m + 1) - math.lgamma(n - m + 1)
    return 2 * m * math.exp(log_choose + m * math.log(p) + (n - m + 1) * math.log1p(-p))


@dataclass(frozen=True, slots=True)
class ChiSquare:
    """Pearson's test that counts were drawn with given shares; p_value: of a larger statistic, were it so."""

    statistic: float
    degrees: int
    p_value: float


def chi_square(counts: Tensor, shares: Tensor) -> ChiSquare:
    """Σ (c - n p)²/(n p) over the classes of share above 0; infinite where a class of share 0 was met."""
    n, p = counted(counts, shares)
    there = p > 0
    degrees = max(1, int(there.sum()) - 1)
    if int(counts[~there].sum()):
        return ChiSquare(math.inf, degrees, 0.0)
    expected = n * p[there]
    statistic = ((counts[there].double() - expected) ** 2 / expected).sum()
    p_value = torch.special.gammaincc(torch.tensor(degrees / 2, dtype=torch.float64), statistic / 2)
    return ChiSquare(float(statistic), degrees, float(p_value))


def counted(counts: Tensor, shares: Tensor) -> tuple[int, Tensor]:
    """The number of samples Σ counts and the shares (K,) in float64. Raises DataError for shares that are none."""
    n, p = int(counts.sum()), shares.double()
    require_enough(n, 1)
    if counts.shape != shares.shape or abs(float(p.sum()) - 1) > 1e-6 or bool((p < 0).any()):
        raise DataError(
            f"counts of {len(counts)} classes and {len(shares)} shares that add up to {float(p.sum()):.6g}",
            expected="a share for each class, together 1",
            fix="take class_shares of the data's labels",
        )
    return n, p
