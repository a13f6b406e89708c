"""How sure a difference is: Student's t on pairs, and Holm's correction for looking at many.

    t = d/s,   P(|T| >= |t|) = I_x(m/2, 1/2),   x = m/(m + t²)          for m degrees of freedom
    Holm: the i-th smallest of k p-values becomes max over j <= i of min(1, (k - j + 1) p_(j))           (Holm 1979)

    Cochran: the largest of k variances is more of their sum than c with P <= k I_(1-c)((k-1)m/2, m/2)  (Cochran 1941)

I is the regularised incomplete beta function, by its continued fraction (DLMF 8.17.22), which keeps its digits however
small p is. Where a hundred things are compared, five differ at p < 0.05 by chance; after Holm's correction the chance
that any does is below 0.05, whatever depends on what.
"""

import math
from collections.abc import Sequence

__all__ = ["cochran", "holm", "two_sided"]

MOST_TERMS = 100_000


def two_sided(t: float, degrees: float) -> float:
    """P(|T| >= |t|) for Student's T with `degrees` of freedom, at least 1; they need not be whole."""
    squared = t * t
    if math.isinf(squared):
        return 0.0
    return _beta_share(degrees / 2, 0.5, degrees / (degrees + squared), squared / (degrees + squared))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number, in the order given."""
    count, adjusted, least = len(p_values), [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (count - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


def cochran(squares: Sequence[float], degrees: float) -> float:
    """The chance that the largest of k sums of squares is so much of their sum, were all variances equal, at most.

    `degrees` of each. For two of them it is exact, for more an upper bound, close where it is small.
    """
    total = math.fsum(squares)
    if total == 0:
        return 1.0
    rest = 1 - max(squares) / total
    return min(1.0, len(squares) * _beta_share((len(squares) - 1) * degrees / 2, degrees / 2, rest, 1 - rest))


def _beta_share(a: float, b: float, x: float, rest: float) -> float:
    """I_x(a, b) of 0 <= x <= 1; `rest` is 1 - x, with the digits that the subtraction would lose."""
    if x == 0 or rest == 0:
        return 0.0 if x == 0 else 1.0
    log_x = math.log1p(-rest) if rest < 0.5 else math.log(x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * log_x + b * math.log(rest)
    if x < (a + 1) / (a + b + 2):
        return math.exp(log_front) / (a * _fraction(a, b, x))
    return 1 - math.exp(log_front) / (b * _fraction(b, a, rest))


def _fraction(a: float, b: float, x: float) -> float:
    """1 + d_1/(1 + d_2/(1 + …)) by Lentz's method; converges fast for x < (a + 1)/(a + b + 2)."""
    value, above, below = 1.0, 1.0, 0.0
    for n in range(1, MOST_TERMS):
        m = n // 2
        if n % 2 == 0:
            d = m * (b - m) * x / ((a + n - 1) * (a + n))
        else:
            d = -(a + m) * (a + b + m) * x / ((a + n - 1) * (a + n))
        below = 1 / _away(1 + d * below)
        above = _away(1 + d / above)
        value *= above * below
        if abs(above * below - 1) < 1e-15:
            break
    return value


def _away(value: float) -> float:
    """The value, kept off 0, as Lentz's method needs it."""
    return value if abs(value) > 1e-300 else 1e-300
