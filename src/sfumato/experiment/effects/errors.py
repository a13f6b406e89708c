"""The error of a contrast that was repeated: how far the repeats scatter, and what is common to the errors of all.

Repeat k of K (a seed, or a setting of the other axes) gives the contrast d_k = theta + a_k + m_k: a_k is what training
adds, of variance A, and m_k the error of measuring it, of variance V, with covariance C between two repeats, since the
same examples may have measured both. Their mean d has

    Var d = A/K + V/K + (K - 1) C/K,        E S² = A + V - C,     S² = Σ (d_k - d)²/(K - 1)

    so    Var d = E S²/K + C,    estimated by    S²/K + max(0, Ĉ),    Ĉ = ( |Σ_k u_k|² - Σ_k |u_k|² ) / (K (K - 1))

with u_k the influences of d_k (`sfumato.metrics.estimate`). Scatter alone forgets C: all seeds may be wrong by the same
unlucky examples. Errors of measuring alone forget A: they are about these models, not about their settings. Where
influences are missing, C is at most V, and V at most (Σ |c| s)²; both are taken at their largest.

    degrees of freedom      nu = (S²/K + C)² / ( (S²/K)²/nu_S + C²/nu_C )                         (Satterthwaite 1946)

`pooled`: S² of all contrasts together, from the two-way residuals of arms and seeds, a randomised block design with
seeds as blocks: e = y(p, k) - mean over k - mean over p + mean over all,  A-hat = Σ e² / ((P - 1)(K - 1)), and S² of a
contrast with weights c is A-hat Σ c². More degrees of freedom; it supposes that all arms scatter alike. Where one of
them has so much of Σ e² that they do not (Cochran 1941), each contrast is left its own scatter.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sfumato.experiment.difference import LEVEL
from sfumato.experiment.effects.contrasts import Place
from sfumato.experiment.evaluations import Number
from sfumato.experiment.significance import cochran, two_sided

__all__ = [
    "Error",
    "Repeat",
    "Scatter",
    "error_of",
    "is_uneven",
    "own_scatter",
    "pooled_scatter",
    "quantile",
    "repeat_of",
]

EXACT = 1e-6  # of a variance: what rounding the influences leaves unexplained
ROUNDING = 1e-12  # of a value: a scatter below it is none


@dataclass(frozen=True, slots=True)
class Repeat:
    """A contrast of one seed, or at one setting of the other axes.

    value: of the contrast.
    influences: of the contrast; None where some number has none, or of other length.
    unexplained: variance beyond the influences.
    largest: the largest standard error that measuring can have, the sum of all.
    n: examples.
    """

    value: float
    influences: tuple[float, ...] | None
    unexplained: float
    largest: float
    n: int

    @property
    def variance(self) -> float:
        """Of measuring it."""
        if self.influences is None:
            return self.largest**2
        return math.fsum(u * u for u in self.influences) + self.unexplained


@dataclass(frozen=True, slots=True)
class Scatter:
    """The variance of one repeat of a contrast around its mean, and the degrees of freedom that it rests on."""

    variance: float
    degrees: int


@dataclass(frozen=True, slots=True)
class Error:
    """The mean of the repeats, its standard error with its degrees of freedom, and the part that is of measuring."""

    value: float
    std_error: float
    degrees: float
    measuring: float

    @property
    def p_value(self) -> float:
        """The chance of such a value or a larger one, were there none; 1 where no error is known."""
        if self.value == 0 or self.std_error == 0:
            return 1.0
        return two_sided(self.value / self.std_error, self.degrees)


def repeat_of(weights: Mapping[Place, float], numbers: Mapping[Place, Number]) -> Repeat:
    """The sum of numbers by their weights, with its influences; those of the same examples are added part for part."""
    chosen = [(weight, numbers[place]) for place, weight in weights.items()]
    value = math.fsum(weight * number.value for weight, number in chosen)
    largest = math.fsum(abs(weight) * number.std_error for weight, number in chosen)
    n = min(number.n for _, number in chosen)
    known = [(weight, number, number.influences) for weight, number in chosen if number.influences is not None]
    if len(known) < len(chosen) or len({len(u) for _, _, u in known}) > 1:
        return Repeat(value, None, 0.0, largest, n)
    columns = zip(*(u for _, _, u in known), strict=True)
    signed = [weight for weight, _, _ in known]
    u = tuple(math.fsum(c * each for c, each in zip(signed, column, strict=True)) for column in columns)
    rest = math.fsum(weight**2 * _unexplained(number, found) for weight, number, found in known)
    return Repeat(value, u, rest, largest, n)


def _unexplained(number: Number, influences: Sequence[float]) -> float:
    """The part of a number's variance that its influences do not have."""
    variance = number.std_error**2
    rest = variance - math.fsum(u * u for u in influences)
    return rest if rest > EXACT * variance else 0.0


def own_scatter(repeats: Sequence[Repeat]) -> Scatter | None:
    """S² of the repeats themselves; None of one alone."""
    count = len(repeats)
    if count < 2:
        return None
    mean = math.fsum(repeat.value for repeat in repeats) / count
    return Scatter(math.fsum((repeat.value - mean) ** 2 for repeat in repeats) / (count - 1), count - 1)


def pooled_scatter(values: Sequence[Sequence[float]], weights: Sequence[float]) -> Scatter | None:
    """S² of a contrast from the residuals of all arms: `values` has a row for each arm, a column for each seed."""
    degrees = (len(values) - 1) * (len(values[0]) - 1)
    if degrees == 0:
        return None
    return Scatter(math.fsum(_squares(values)) / degrees * math.fsum(c * c for c in weights), degrees)


def is_uneven(values: Sequence[Sequence[float]]) -> bool:
    """Whether one arm scatters so much more than the others that they cannot be taken to scatter alike."""
    return len(values) > 2 and cochran(_squares(values), len(values[0]) - 1) < LEVEL


def _squares(values: Sequence[Sequence[float]]) -> list[float]:
    """Σ over seeds of the squared two-way residuals of each arm."""
    rows, columns = len(values), len(values[0])
    of_rows = [math.fsum(row) / columns for row in values]
    of_columns = [math.fsum(column) / rows for column in zip(*values, strict=True)]
    mean = math.fsum(of_rows) / rows
    return [
        math.fsum((values[p][k] - of_rows[p] - of_columns[k] + mean) ** 2 for k in range(columns)) for p in range(rows)
    ]


def error_of(repeats: Sequence[Repeat], scatter: Scatter | None, *, shared: bool) -> Error:
    """The mean of the repeats and its error. shared: whether errors without influences may be common to all repeats.

    Without scatter, or where the repeats are all the same number, which tells of none, the error is that of measuring.
    """
    count = len(repeats)
    value = math.fsum(repeat.value for repeat in repeats) / count
    common = _common(repeats, shared=shared)
    mean_variance = math.fsum(repeat.variance for repeat in repeats) / count
    measuring = mean_variance / count + (count - 1) / count * common
    parts = min(repeat.n if repeat.influences is None else len(repeat.influences) for repeat in repeats)
    of_measuring = max(1, parts - 1)
    if scatter is None or scatter.variance <= (ROUNDING * max(abs(r.value) for r in repeats)) ** 2:
        return Error(value, math.sqrt(measuring), of_measuring, math.sqrt(measuring))
    of_scatter = scatter.variance / count
    total = of_scatter + common
    spread = of_scatter**2 / scatter.degrees + common**2 / of_measuring
    degrees = total**2 / spread if spread > 0 else float(scatter.degrees)
    return Error(value, math.sqrt(total), degrees, math.sqrt(measuring))


def _common(repeats: Sequence[Repeat], *, shared: bool) -> float:
    """C, the mean covariance of the errors of measuring two repeats, at least 0."""
    count = len(repeats)
    if count == 1:
        return 0.0
    known = [repeat.influences for repeat in repeats if repeat.influences is not None]
    if len(known) < count:
        return math.fsum(repeat.variance for repeat in repeats) / count if shared else 0.0
    if len({len(u) for u in known}) > 1:  # of other examples
        return 0.0
    together = math.fsum(math.fsum(column) ** 2 for column in zip(*known, strict=True))
    alone = math.fsum(u * u for each in known for u in each)
    return max(0.0, (together - alone) / (count * (count - 1)))


def quantile(degrees: float, level: float) -> float:
    """The t with P(|T| >= t) = level for Student's T, by bisection."""
    low, high = 0.0, 1.0
    while two_sided(high, degrees) > level:
        low, high = high, 2 * high
    while high - low > ROUNDING * high:
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided(middle, degrees) > level else (low, middle)
    return high
