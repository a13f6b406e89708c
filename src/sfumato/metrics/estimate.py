"""A measured number and how far it can be trusted: the only type that a metric returns.

    mean of n values v_i      value = Σ v_i / n,   std_error = sqrt( Σ (v_i - value)² / (n (n - 1)) )
    paired difference         the mean of v_i - w_i, for two measurements on the same examples
    independent difference    std_error = sqrt( std_error_a² + std_error_b² )
    share p of n              std_error = sqrt( p (1 - p)/n + 1/(4 n²) )/(1 + 1/n)                      (Wilson 1927)
    delete-block jackknife    std_error = sqrt( (B - 1)/B Σ_b (θ_b - mean θ)² ),  θ_b without block b  (Künsch 1989)

Every such error is the length of a vector of *influences* u, one for each example or block:

    mean          u_i = (v_i - value) / sqrt(n (n - 1))
    jackknife     u_b = sqrt((B - 1)/B) (θ_b - mean θ),              std_error² = Σ u²

Where two measurements were made on the same examples, with the same noise, part for part, their difference has the
error sqrt(Σ (u - w)²), whatever was measured: an `Estimate` carries its influences, so that a paired difference can be
taken later, of two files.

A paired difference is the one to quote wherever both numbers were measured on the same examples: what makes an example
hard for both drops out of it.

In the provenance a setting is a text, a whole number or a yes or no, and must be the same for two numbers to be
compared; a float is something measured on the way, and may differ.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sfumato.errors import NumericsError, UsageError

__all__ = [
    "Estimate",
    "Fact",
    "difference",
    "influences_of_jackknife",
    "influences_of_mean",
    "jackknife_error",
    "mean_of",
    "paired_difference",
    "require_enough",
    "share_of",
]

Fact = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, its standard error, how many examples it rests on, and where it comes from.

    value: the estimate.
    std_error: standard error of the value, at least 0.
    n: examples that it rests on.
    provenance: what one must know to compare it: data, weights, method, convention.
    influences: (m,) float64, what each example or block adds to the error: std_error² = Σ influences², or more where
        there is more to the error. None where they are not known.
    """

    value: float
    std_error: float
    n: int
    provenance: Mapping[str, Fact] = field(default_factory=dict)
    influences: Tensor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and math.isfinite(self.std_error) and self.std_error >= 0):
            raise NumericsError(
                f"an estimate from {self.n} examples is {self.value} ± {self.std_error}",
                expected="a finite value with a standard error of at least 0",
                fix="look for values that are not finite in the data or in the model's answers",
            )

    def to_plain(self) -> dict[str, object]:
        """As JSON data, without the influences."""
        return {
            "value": self.value,
            "std_error": self.std_error,
            "n": self.n,
            "provenance": dict(self.provenance),
        }

    def scaled(self, factor: float, **facts: Fact) -> "Estimate":
        """The same quantity in another unit: value and error times `factor`, with further facts."""
        influences = None if self.influences is None else self.influences * factor
        provenance = {**self.provenance, **facts}
        return Estimate(self.value * factor, self.std_error * abs(factor), self.n, provenance, influences)


def require_enough(n: int, least: int = 2) -> None:
    """Refuse a number of examples that leaves no error to estimate. Raises UsageError."""
    if n < least:
        raise UsageError(
            f"{n} examples cannot be measured with an error",
            expected=f"at least {least} examples",
            fix=f"ask for more (-n {max(least, 1000)}), or hold out more of the data (data.held_out)",
        )


def mean_of(values: Tensor, provenance: Mapping[str, Fact] | None = None) -> Estimate:
    """The mean of one value per example, (n,), in float64. Raises UsageError for fewer than two."""
    require_enough(len(values))
    v = values.detach().to("cpu", torch.float64)
    error = v.std(correction=1) / math.sqrt(len(v))
    return Estimate(float(v.mean()), float(error), len(v), dict(provenance or {}), influences_of_mean(v))


def share_of(hits: Tensor, provenance: Mapping[str, Fact] | None = None) -> Estimate:
    """The share of n trials that succeeded, from (n,) of them, with Wilson's error, which is not 0 where all agree.

    Raises UsageError for none.
    """
    n = len(hits)
    require_enough(n, 1)
    p = float(hits.double().mean())
    error = math.sqrt(p * (1 - p) / n + 1 / (4 * n**2)) / (1 + 1 / n)
    influences = influences_of_mean(hits.double()) if n > 1 else None
    return Estimate(p, error, n, {"std_error": "Wilson, one sigma", **(provenance or {})}, influences)


def paired_difference(first: Tensor, second: Tensor, provenance: Mapping[str, Fact] | None = None) -> Estimate:
    """first - second from one value of each per example, both (n,): two measurements on the same examples."""
    if first.shape != second.shape:
        raise UsageError(
            f"{len(first)} values cannot be paired with {len(second)}",
            expected="two measurements on the same examples",
            fix="measure both with the same n and seed, or take the independent difference",
        )
    pairs = first.detach().to("cpu", torch.float64) - second.detach().to("cpu", torch.float64)
    return mean_of(pairs, {**(provenance or {}), "difference": "paired"})


def difference(first: Estimate, second: Estimate) -> Estimate:
    """first - second for measurements on independent examples; n is the smaller."""
    error = math.hypot(first.std_error, second.std_error)
    return Estimate(first.value - second.value, error, min(first.n, second.n), {"difference": "independent"})


def jackknife_error(without: Tensor) -> float:
    """Standard error of a statistic from its values with each of B blocks left out, (B,). B at least 2."""
    count = len(without)
    spread = (without - without.mean()).square().sum()
    return math.sqrt((count - 1) / count * float(spread))


def influences_of_mean(values: Tensor) -> Tensor:
    """What each of n values adds to the error of their mean: (v - mean)/sqrt(n (n - 1)), (n,) float64; n at least 2."""
    v, n = values.detach().to("cpu", torch.float64), len(values)
    return (v - v.mean()) / math.sqrt(n * (n - 1))


def influences_of_jackknife(without: Tensor) -> Tensor:
    """What each of B blocks adds to the error of a statistic, from its values without each, (B,): float64."""
    w, count = without.detach().to("cpu", torch.float64), len(without)
    return (w - w.mean()) * math.sqrt((count - 1) / count)
