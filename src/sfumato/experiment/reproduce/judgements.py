"""How a source's table is set beside ours: each of its columns has a rule for what its numbers can be held to.

Held      by value, where the settings are the source's own: |here - there|² <= (2 scatter · there)² + (t · error)²,
          t = 2, or Student's where the error is that of a few seeds. Within it "agrees" is said only where the numbers
          could have disagreed: where it is narrow, and leaves out what a perfect model would have
Ordered   by the order of the arms alone, where runs repeat too badly for more
Shown     printed and not judged, with the reason
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sfumato.experiment.evaluations import Number
from sfumato.experiment.reproduce.findings import (
    BY_LEVEL,
    HELD_OUT,
    ArmNumbers,
    Finding,
    Findings,
    Levels,
    Order,
    Value,
    Verdict,
)
from sfumato.experiment.reproduce.ordering import order_of
from sfumato.experiment.reproduce.seeds import blocks_of
from sfumato.experiment.reproduce.source import Judgement

__all__ = ["Column", "Held", "Ordered", "Printed", "Rule", "Shown", "levels_of", "together"]

Arm = tuple[str, ...]
MOST_DEPARTURES = 3  # in one sentence
WIDE = 0.1  # of the source's number: an agreement within more than that says nothing


class Rule(ABC):
    """What the numbers of a column can be held to."""

    __slots__ = ()

    @abstractmethod
    def verdict(self, arm: ArmNumbers, there: Value, here: Value, should: Value | None = None) -> tuple[Verdict, str]:
        """A verdict on one number, and why. should: what a perfect model has."""

    def order(self, title: str, there: Mapping[Arm, float], here: Mapping[Arm, Sequence[Number]]) -> Order | None:
        """The ranking of the arms, where that is what is judged."""
        return None


@dataclass(frozen=True, slots=True)
class Held(Rule):
    """By value.

    scatter: relative standard deviation of the source's own runs. rows: the labels of arms that can be held to; all
    where there are none, and `otherwise` says why not the others. anywhere: also at settings that are not the source's,
    where it does not say its own.
    """

    scatter: float
    rows: frozenset[str] = frozenset()
    otherwise: str = ""
    anywhere: bool = False

    def verdict(self, arm: ArmNumbers, there: Value, here: Value, should: Value | None = None) -> tuple[Verdict, str]:
        if self.rows and self.rows.isdisjoint(arm.labels):
            return "not compared", self.otherwise
        if arm.departures and not self.anywhere:
            return "not compared", departed(arm)
        if not math.isfinite(here.value) or not math.isfinite(here.room):
            return "cannot tell", "ours is not finite"
        own = there.room if there.std_error is not None else 2 * self.scatter * abs(there.value)
        allowed = math.hypot(own, here.room)
        apart = here.value - there.value
        said = f"{apart:+.2g} where repeats and measurement allow ±{allowed:.2g}"
        verdict: Verdict = "agrees"
        if abs(apart) > allowed:
            verdict = "differs"
        elif allowed > WIDE * abs(there.value):
            verdict = "cannot tell"
            said += f", which is {allowed / abs(there.value):.0%} of the source's number" if there.value else ""
        if verdict != "differs" and should is not None and abs(should.value - there.value) <= own:
            verdict, said = "cannot tell", f"{said}; the source's own cannot be told from a perfect model's"
        beside = "; ".join(filter(None, [arm.data, departed(arm) if arm.departures else None]))
        return verdict, said + (f" ({beside})" if beside else "")


@dataclass(frozen=True, slots=True)
class Ordered(Rule):
    """By the order of the arms. scatter: relative standard deviation of the source's own runs."""

    scatter: float

    def verdict(self, arm: ArmNumbers, there: Value, here: Value, should: Value | None = None) -> tuple[Verdict, str]:
        return "not compared", "by the order of the arms only"

    def order(self, title: str, there: Mapping[Arm, float], here: Mapping[Arm, Sequence[Number]]) -> Order | None:
        return order_of(title, there, here, self.scatter)


@dataclass(frozen=True, slots=True)
class Shown(Rule):
    """Printed beside the source's and not judged. why: the reason."""

    why: str

    def verdict(self, arm: ArmNumbers, there: Value, here: Value, should: Value | None = None) -> tuple[Verdict, str]:
        return "not compared", self.why


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a source's table.

    title: its name there. metrics: ours, by name or family; several are parts of a whole and are added. printed: what
    the source has, by the labels of an arm; none where it measured nothing. errors: of those, where they are known.
    perfect: what a perfect model has, by name, added like metrics. where: the arms that have it here, by a label;
    all where there is none.
    """

    title: str
    metrics: tuple[str, ...]
    weights: str = "ema"
    printed: Mapping[Arm, float] = field(default_factory=dict)
    errors: Mapping[Arm, float] = field(default_factory=dict)
    rule: Rule = field(default_factory=lambda: Shown("the source printed none"))
    perfect: tuple[str, ...] = ()
    where: str | None = None

    def there(self, labels: Arm) -> Value | None:
        """The source's number for an arm."""
        value = self.printed.get(labels)
        return None if value is None else Value(value, self.errors.get(labels))

    def here(self, arm: ArmNumbers) -> Number | None:
        """Our number for an arm of one seed."""
        return together([arm.number(metric, self.weights) for metric in self.metrics])

    def should(self, arm: ArmNumbers) -> Value | None:
        """What a perfect model would have, in the eyes of the same extractor or judge."""
        parts = [arm.number(metric, self.weights) for metric in self.perfect]
        known = [part.value for part in parts if part is not None]
        return Value(math.fsum(known)) if known and len(known) == len(parts) else None


@dataclass(frozen=True, slots=True)
class Printed(Judgement):
    """A printed table, column by column. levels: whether the noise error by log-SNR goes beside it."""

    columns: tuple[Column, ...]
    levels: bool = False

    def findings(self, arms: Sequence[ArmNumbers]) -> Findings:
        rows = by_labels(arms)
        found: list[Finding] = []
        orders: list[Order] = []
        for column in self.columns:
            numbers = {labels: [n for arm in own if (n := column.here(arm))] for labels, own in rows.items()}
            values = _over_seeds(numbers)
            found += [
                _finding(column, own[0], values.get(labels))
                for labels, own in rows.items()
                if column.where is None or column.where in labels
            ]
            order = column.rule.order(column.title, column.printed, numbers)
            orders += [] if order is None else [order]
        return Findings(tuple(found), tuple(orders), levels_of(rows) if self.levels else ())


def by_labels(arms: Sequence[ArmNumbers]) -> dict[Arm, list[ArmNumbers]]:
    """The arms of each row, by seed: the seeds that all rows have, or the first of each where there are none."""
    rows: dict[Arm, list[ArmNumbers]] = {}
    for arm in sorted(arms, key=lambda arm: arm.seed):
        rows.setdefault(arm.labels, []).append(arm)
    shared = set.intersection(*({arm.seed for arm in own} for own in rows.values())) if rows else set()
    kept = {labels: [arm for arm in own if arm.seed in shared] if shared else own[:1] for labels, own in rows.items()}
    return {labels: kept[labels] for labels in dict.fromkeys(arm.labels for arm in arms)}


def _finding(column: Column, arm: ArmNumbers, here: Value | None) -> Finding:
    """One number of the table."""
    there, should = column.there(arm.labels), column.should(arm)
    if there is None or here is None:
        why = "the source printed none" if there is None else "it was not measured here"
        verdict: Verdict = "no number" if there is None else "not compared"
        return Finding(arm.labels, column.title, there, here, verdict, why, should)
    verdict, why = column.rule.verdict(arm, there, here, should)
    if should is not None and here.std_error:
        errors = (here.value - should.value) / here.std_error
        why += f"; {errors:+.1f} errors of ours from a perfect model"
    return Finding(arm.labels, column.title, there, here, verdict, why, should)


def _over_seeds(numbers: Mapping[Arm, Sequence[Number]]) -> dict[Arm, Value]:
    """Of each arm the number, or the mean over seeds with the error of seeds; arms without a number are left out."""
    there = {arm: own for arm, own in numbers.items() if own}
    seeds = min((len(own) for own in there.values()), default=0)
    if seeds < 2:
        return {arm: Value(own[0].value, own[0].std_error, own[0].n) for arm, own in there.items()}
    blocks = blocks_of({arm: [one.value for one in own[:seeds]] for arm, own in there.items()})
    degrees = len(blocks.means) * (seeds - 1)
    return {arm: Value(mean, blocks.error, there[arm][0].n, degrees) for arm, mean in blocks.means.items()}


def together(parts: Sequence[Number | None]) -> Number | None:
    """A number alone, or the sum p of shares of one whole with Wilson's error; None where one is missing.

    sqrt(p (1 - p)/n + 1/(4 n²))/(1 + 1/n): classes exclude each other, so their errors do not add up (Wilson 1927).
    """
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or not known:
        return None
    if len(known) == 1:
        return known[0]
    p, n = math.fsum(part.value for part in known), known[0].n
    error = math.sqrt(max(0.0, p * (1 - p)) / n + 1 / (4 * n**2)) / (1 + 1 / n)
    return Number(p, error, n, known[0].provenance)


def levels_of(rows: Mapping[Arm, Sequence[ArmNumbers]]) -> tuple[Levels, ...]:
    """The held-out noise error of each arm in bins of log-SNR, means over seeds."""
    prefix, suffix = BY_LEVEL, HELD_OUT
    names = [
        name
        for own in rows.values()
        for arm in own
        for evaluation in arm.evaluations
        for name in evaluation.metrics
        if name.startswith(prefix) and name.endswith(suffix)
    ]
    bins = [name.removeprefix(prefix).removesuffix(suffix) for name in dict.fromkeys(names)]
    if not bins:
        return ()
    bins.sort(key=lambda text: float(text.partition("..")[0]))
    found: dict[Arm, list[Value | None]] = {labels: [] for labels in rows}
    for text in bins:
        numbers = {
            labels: [n for arm in own if (n := arm.number(f"{prefix}{text}{suffix}", "ema"))]
            for labels, own in rows.items()
        }
        values = _over_seeds(numbers)
        for labels, own_values in found.items():
            own_values.append(values.get(labels))
    title = "noise error (eps_hat - eps)² by log-SNR, held out: the one thing by which schedules can be compared"
    return (Levels(title, tuple(bins), {labels: tuple(own) for labels, own in found.items()}),)


def departed(arm: ArmNumbers) -> str:
    """In what an arm is not the source's, in one sentence."""
    shown = arm.departures[:MOST_DEPARTURES]
    more = len(arm.departures) - len(shown)
    return "; ".join(shown) + (f" and {more} more" if more else "")
