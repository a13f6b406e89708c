"""A check is a number that must lie within a bound; running it never fails in any other way.

A check that raises has failed, with the error as its note: one broken method must not hide what the others measure.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["AtLeast", "AtMost", "Bound", "Check", "Near", "Outcome", "perform", "proves"]


class Bound(ABC):
    """What a measured number must satisfy; a number that is not finite satisfies nothing."""

    __slots__ = ()

    @property
    @abstractmethod
    def text(self) -> str:
        """The bound as people write it, such as `<= 1e-10`."""

    @abstractmethod
    def allows(self, measured: float) -> bool:
        """Whether a finite number satisfies the bound."""

    def holds(self, measured: float) -> bool:
        """Whether the measured number is finite and satisfies the bound."""
        return math.isfinite(measured) and self.allows(measured)


@dataclass(frozen=True, slots=True)
class AtMost(Bound):
    """measured <= limit."""

    limit: float

    @property
    def text(self) -> str:
        return f"<= {self.limit:.4g}"

    def allows(self, measured: float) -> bool:
        return measured <= self.limit


@dataclass(frozen=True, slots=True)
class AtLeast(Bound):
    """measured >= limit."""

    limit: float

    @property
    def text(self) -> str:
        return f">= {self.limit:.4g}"

    def allows(self, measured: float) -> bool:
        return measured >= self.limit


@dataclass(frozen=True, slots=True)
class Near(Bound):
    """|measured - value| <= within."""

    value: float
    within: float

    @property
    def text(self) -> str:
        return f"{self.value:.8g} ± {self.within:.2g}" if self.within else f"= {self.value:.8g}"

    def allows(self, measured: float) -> bool:
        return abs(measured - self.value) <= self.within


@dataclass(frozen=True, slots=True)
class Check:
    """One statement that is held against its truth.

    name: `kind[what, where]`, unique.
    about: what it proves, in one line, with its source.
    bound: what the measured number must satisfy.
    measure: computes the number; no arguments, no randomness but seeded.
    quick: whether `--quick` runs it.
    """

    name: str
    about: str
    bound: Bound
    measure: Callable[[], float]
    quick: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a check: the number (nan when the check raised), a note where it failed, and its seconds."""

    name: str
    measured: float
    bound: str
    passed: bool
    note: str
    seconds: float


def proves(measure: Callable[..., float]) -> str:
    """What a measure computes in its own words: its docstring, for the `about` of a check."""
    return " ".join((measure.__doc__ or "").split()).rstrip(".")


def perform(check: Check) -> Outcome:
    """Run a check. An exception is a failure with the first line of its text as the note."""
    start = time.perf_counter()
    measured, note = math.nan, ""
    try:
        measured = float(check.measure())
    except Exception as error:
        note = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    passed = not note and check.bound.holds(measured)
    return Outcome(check.name, measured, check.bound.text, passed, note, time.perf_counter() - start)
