"""One metric of two models: how far apart the numbers are, how sure that is, and what may be said of it.

    difference    second - first,     error = sqrt( Σ (u - w)² + what u and w do not explain )
    verdict       Student's t on the pairs, corrected for the number of comparisons (Holm), at the level 0.05

u and w are the influences of the two numbers (`sfumato.metrics.estimate`): the same examples, met by the same noise (of
samples: drawn from the same seeds, held against the same reference), part for part. What of a standard error they do
not explain is added in full. Where one of the two has none, the error is the sum of both errors, which no correlation
exceeds. Read and computed without torch.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sfumato.experiment.comparability import direction
from sfumato.experiment.evaluations import Number
from sfumato.experiment.significance import holm, two_sided

__all__ = ["LEVEL", "Comparison", "Difference", "Uncompared", "corrected", "difference_of", "reading_notes"]

LEVEL = 0.05
EXACT = 1e-6  # of a variance: what rounding the influences leaves unexplained
FEW = 20  # examples below which their mean may be far from normal


@dataclass(frozen=True, slots=True)
class Difference:
    """How much more of a metric the second has than the first.

    one, other: the numbers of the first and of the second. value, std_error: of other - one.
    paired: whether the error is that of pairs; correlation: of their influences, None without pairs.
    p_value: the chance of such a difference or a larger one, were there none; corrected: for all comparisons made.
    """

    metric: str
    first: str
    second: str
    one: Number
    other: Number
    value: float
    std_error: float
    paired: bool
    correlation: float | None
    p_value: float
    corrected: float = 1.0

    @property
    def verdict(self) -> str:
        """What may be said of the second."""
        if self.one.value == self.other.value and self.std_error == 0:
            return "the same"
        if not self.paired and self.std_error == 0:
            return "no error known"
        if self.corrected >= LEVEL:
            return "no difference seen"
        way = "lower" if self.value < 0 else "higher"
        better = direction(self.metric)
        return way if better is None else "better" if way == better else "worse"

    def to_plain(self) -> dict[str, Any]:
        """As JSON data; `difference` has the form of an estimate."""
        facts = {"difference": "paired" if self.paired else "unpaired: the largest error it can have"}
        sides = ((self.first, self.one), (self.second, self.other))
        return {
            "metric": self.metric,
            "first": self.first,
            "second": self.second,
            "values": [
                {
                    "run": name,
                    "value": number.value,
                    "std_error": number.std_error,
                    "n": number.n,
                    "provenance": dict(number.provenance),
                }
                for name, number in sides
            ],
            "difference": {"value": self.value, "std_error": self.std_error, "n": self.one.n, "provenance": facts},
            "correlation": self.correlation,
            "p_value": self.p_value,
            "corrected_p_value": self.corrected,
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True)
class Uncompared:
    """A metric of which two cannot be compared, and why: in words, and what a comparison would need."""

    metric: str
    first: str
    second: str
    reason: str
    expected: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that was compared with the first of the sides, and what could not be."""

    labels: tuple[str, ...]
    differences: tuple[Difference, ...]
    uncompared: tuple[Uncompared, ...]
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "runs": list(self.labels),
            "comparisons": [difference.to_plain() for difference in self.differences],
            "not_compared": [
                {"metric": u.metric, "first": u.first, "second": u.second, "reason": u.reason} for u in self.uncompared
            ],
            "notes": list(self.notes),
        }


def difference_of(metric: str, first: str, second: str, one: Number, other: Number) -> Difference:
    """other - one, with its error, of two numbers that can be compared."""
    value, u, w = other.value - one.value, one.influences, other.influences
    if u is None or w is None or len(u) != len(w):
        most = one.std_error + other.std_error
        p_value = 1.0 if most == 0 else two_sided(value / most, max(1, one.n - 1))
        return Difference(metric, first, second, one, other, value, most, False, None, p_value)
    apart = math.fsum((a - b) ** 2 for a, b in zip(u, w, strict=True))
    error = math.sqrt(apart + _unexplained(one, u) + _unexplained(other, w))
    lengths = math.sqrt(math.fsum(a * a for a in u) * math.fsum(b * b for b in w))
    correlation = math.fsum(a * b for a, b in zip(u, w, strict=True)) / lengths if lengths > 0 else None
    t = 0.0 if value == 0 else math.inf if error == 0 else value / error
    p_value = two_sided(t, max(1, len(u) - 1))
    return Difference(metric, first, second, one, other, value, error, True, correlation, p_value)


def _unexplained(number: Number, influences: Sequence[float]) -> float:
    """The part of a number's variance that its influences do not have: a correction for few, a second order."""
    variance = number.std_error**2
    rest = variance - math.fsum(u * u for u in influences)
    return rest if rest > EXACT * variance else 0.0


def corrected(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """The same differences, each with its p-value corrected for all of them."""
    p_values = holm([difference.p_value for difference in differences])
    return tuple(replace(d, corrected=p) for d, p in zip(differences, p_values, strict=True))


def reading_notes(differences: Sequence[Difference]) -> Iterator[str]:
    """How the numbers are to be read."""
    count = len(differences)
    of = f", corrected for {count} comparisons by Holm's method" if count > 1 else ""
    yield f"p is the chance of such a difference, were there none: Student's t, two-sided{of}; verdicts at p < {LEVEL}"
    if any(d.paired for d in differences):
        yield "differences are paired: the same examples or seeds, the same noise, the same reference"
    alone = [d.metric for d in differences if not d.paired]
    if alone:
        names = ", ".join(dict.fromkeys(alone))
        yield f"{names}: pairs were not stored; the error is the largest that the difference can have, the sum of both"
    few = [d.metric for d in differences if d.one.n < FEW]
    if few:
        names = ", ".join(dict.fromkeys(few))
        yield f"{names}: fewer than {FEW} examples; Student's t supposes that their mean is normal"
