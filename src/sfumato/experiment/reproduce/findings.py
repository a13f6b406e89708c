"""What is found when a source is reproduced: its numbers beside ours, and a verdict on each. Read without torch.

verdict    agrees         the two are as far apart as repeats and measurements scatter, or nearer
           differs        they are further apart
           cannot tell    they are not further apart, but errors leave so much room that this says nothing
           not compared   they measure different things, and `why` says which
           no number      the source printed none
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sfumato.experiment.comparability import is_reference
from sfumato.experiment.difference import LEVEL
from sfumato.experiment.evaluations import Number, StoredEvaluation
from sfumato.experiment.rounding import with_error

__all__ = [
    "BY_LEVEL",
    "HELD_OUT",
    "AnchorFound",
    "ArmNumbers",
    "Finding",
    "Findings",
    "Levels",
    "Order",
    "Value",
    "Verdict",
    "as_plain",
    "name_of",
]

BY_LEVEL, HELD_OUT = "loss_by_log_snr[", "][held-out]"  # what stands around a bin in the name of its noise error

Verdict = Literal["agrees", "differs", "cannot tell", "not compared", "no number"]


@dataclass(frozen=True, slots=True)
class Value:
    """A number with its standard error, where one is known, and how many examples it rests on.

    degrees: of freedom of the error; few of them where it is the scatter of a few seeds.
    """

    value: float
    std_error: float | None = None
    n: int | None = None
    degrees: float = math.inf

    @property
    def room(self) -> float:
        """Half the width of its 95 % interval: two errors, more where seeds are few; 0 where no error is known."""
        if self.std_error is None:
            return 0.0
        if math.isinf(self.degrees):
            return 2.0 * self.std_error
        from sfumato.experiment.effects.errors import quantile

        return max(2.0, quantile(self.degrees, LEVEL)) * self.std_error

    def text(self) -> str:
        """For people: as many digits as the error leaves, five without one."""
        return with_error(self.value, self.std_error)


@dataclass(frozen=True, slots=True)
class ArmNumbers:
    """An arm that was trained, with one seed: the source's words for it, and what was measured.

    departures: in what its settings differ from those of the source, in words.
    data: in what its examples differ from the source's, in words; None where they do not.
    """

    part: str
    labels: tuple[str, ...]
    seed: int
    folder: Path
    evaluations: tuple[StoredEvaluation, ...] = ()
    departures: tuple[str, ...] = ()
    data: str | None = None

    def number(self, metric: str, weights: str) -> Number | None:
        """A number by its whole name, or by its family where what follows in brackets is the extractor."""
        own = [
            (name, number)
            for evaluation in self.evaluations
            for name, number in evaluation.metrics.items()
            if number.provenance.get("weights", weights) == weights
        ]
        meant = name_of(metric, [name for name, _ in own])
        return next((number for name, number in own if name == meant), None)


def name_of(metric: str, names: Sequence[str]) -> str | None:
    """The name of a metric, or the first of its family where what follows in brackets is the extractor."""
    family = [name for name in names if name.startswith(f"{metric}[") and not is_reference(name)]
    return metric if metric in names else family[0] if family else None


@dataclass(frozen=True, slots=True)
class Finding:
    """One number of the source beside ours.

    arm: the source's words for the arm. quantity: its name there. there, here: the two numbers, None where missing.
    should: what it should have been, where that is known exactly.
    """

    arm: tuple[str, ...]
    quantity: str
    there: Value | None
    here: Value | None
    verdict: Verdict
    why: str
    should: Value | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """How arms are ranked there and here by a quantity that is known too badly to be compared by value.

    arms, pairs: how many there are. apart: pairs further apart there than its repeats scatter. decided: those of
    `apart` that are told apart here, `same` and `opposite` by which way.
    best_there, best_here: the arms with the least. tied: the arms that cannot be told from best_here.
    """

    quantity: str
    arms: int
    pairs: int
    apart: int
    same: int
    opposite: int
    best_there: tuple[str, ...]
    best_here: tuple[str, ...]
    tied: tuple[tuple[str, ...], ...]
    error: str

    @property
    def decided(self) -> int:
        """Pairs that are told apart there and here."""
        return self.same + self.opposite

    @property
    def verdict(self) -> Verdict:
        """By the pairs that are decided in both."""
        return "cannot tell" if self.decided == 0 else "agrees" if self.opposite == 0 else "differs"


@dataclass(frozen=True, slots=True)
class Levels:
    """A quantity in bins of log-SNR, which schedules can be compared by: by arm, a value for each bin."""

    title: str
    bins: tuple[str, ...]
    rows: Mapping[tuple[str, ...], tuple[Value | None, ...]]


@dataclass(frozen=True, slots=True)
class Findings:
    """All that can be said of a part."""

    findings: tuple[Finding, ...] = ()
    orders: tuple[Order, ...] = ()
    levels: tuple[Levels, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AnchorFound:
    """A number that needed no training: there and here, and whether the source's is a fault that was mended."""

    what: str
    there: float
    here: float
    mended: bool

    @property
    def verdict(self) -> str:
        """`mended` for a fault; otherwise whether ours is the same to the digits printed."""
        if self.mended:
            return "mended"
        return "agrees" if math.isclose(self.there, self.here, rel_tol=1e-4) else "differs"


def as_plain(value: Any) -> Any:
    """Findings as JSON data: tuples of words joined, paths as text."""
    if isinstance(value, Value):
        return {"value": value.value, "std_error": value.std_error, "n": value.n}
    if isinstance(value, Mapping):
        return {_key(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _key(key: object) -> str:
    return " ".join(key) if isinstance(key, tuple) else str(key)
