"""`compare`: is one run better than another, by how much, and how sure is that? From stored evaluations, without torch.

Of the evaluations that are stored of two runs, those two are taken that measure the same thing, of most examples. Where
no two do, the reason is given instead (`comparability`), and nothing is ranked.
"""

import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.errors import UsageError, printable
from sfumato.experiment.comparability import (
    SAME_EXAMPLES,
    SAME_LOSS,
    SAME_SCHEDULE,
    SAMPLING,
    Mismatch,
    is_reference,
    mismatches,
    named_metrics,
)
from sfumato.experiment.difference import Comparison, Difference, Uncompared, corrected, difference_of, reading_notes
from sfumato.experiment.evaluations import StoredEvaluation, read_evaluation, stored_evaluations
from sfumato.experiment.kinds import nearest
from sfumato.experiment.places import place_of

if TYPE_CHECKING:
    from sfumato.experiment.config import Overrides

__all__ = ["Side", "compare", "compare_sides"]

MOST_REASONS = 3  # in one sentence

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Side:
    """One of those that are compared: what it is called, its evaluations, and why it has none where it has none.

    run: how `compare` was given it; None for a file, which cannot be measured again.
    """

    label: str
    evaluations: tuple[StoredEvaluation, ...]
    lacks: str = ""
    run: str | None = None

    def names(self) -> list[str]:
        """What it has, but numbers of the data alone."""
        return [
            name for name in dict.fromkeys(n for e in self.evaluations for n in e.metrics) if not is_reference(name)
        ]


def compare(
    *runs: object,
    metrics: Sequence[str] | str | None = None,
    folder: str | Path = "runs",
    weights: str = "ema",
    n: int | None = None,
    seed: int | None = None,
    part: str | None = None,
    across: Collection[str] = (),
    measure: bool = False,
    sampling: "Overrides | None" = None,
    device: str = "auto",
    extractor: str | None = None,
    extractor_weights: str | Path | None = None,
    report: Report | None = None,
) -> Comparison:
    """Compare runs with the first of them, by what `evaluate` stored beside them, or by what is measured now.

    Each of `runs` is a run (a folder, a name below `folder`, a `Run`), a checkpoint of one (RUN/best), or a file that
    `evaluate` wrote. metrics: names ("loss", "loss[held-out]"), or one string with commas; None: all that both have.
    weights, n, seed, part, extractor: of the numbers looked at; None: any, the same for both. across: settings of the
    sampling that may differ, because they are what is compared. measure: evaluate all of them now, alike; `sampling`
    are settings laid over those of each, `device` is where, `extractor_weights` are those of inception.

    Raises UsageError where nothing can be compared or a metric that was named cannot, with the reason.
    """
    _require_two([str(run) for run in runs])
    _require_across(across)
    if measure:
        from sfumato.experiment.measuring import measure as measured

        return measured(
            *runs,
            metrics=metrics,
            folder=folder,
            weights=weights,
            n=n,
            seed=0 if seed is None else seed,
            part="held-out" if part is None else part,
            device=device,
            extractor=extractor,
            extractor_weights=extractor_weights,
            sampling=sampling,
            across=across,
            report=report,
        )
    if sampling is not None:
        raise UsageError(
            "settings of the sampling were given for numbers that are measured already",
            expected="settings of the sampling with --measure",
            fix="add --measure (measure=True), or leave the settings out",
        )
    places = [str(getattr(run, "folder", run)) for run in runs]
    note = report if report is not None else lambda text: None
    sides = [_side(place, Path(folder), Wanted(weights, n, seed, part, extractor), note) for place in places]
    return compare_sides(sides, metrics=metrics, across=across)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which stored numbers are looked at; None for any."""

    weights: str
    n: int | None = None
    seed: int | None = None
    part: str | None = None
    extractor: str | None = None

    def of(self, evaluation: StoredEvaluation, step: int | None) -> StoredEvaluation:
        """An evaluation with only the numbers that are wanted, of the weights after `step`."""
        facts = {
            "weights": self.weights,
            "seed": self.seed,
            "part": self.part,
            "extractor": self.extractor,
            "steps_trained": step,
        }
        asked = {fact: value for fact, value in facts.items() if value is not None}
        kept = {
            name: number
            for name, number in evaluation.metrics.items()
            if not is_reference(name)
            and (self.n is None or number.n == self.n)
            and all(number.provenance.get(fact, value) == value for fact, value in asked.items())
        }
        return replace(evaluation, metrics=kept)

    def in_words(self, step: int | None) -> str:
        """What is wanted."""
        asked = {"n": self.n, "seed": self.seed, "part": self.part, "extractor": self.extractor}
        rest = "".join(f", {name} {value}" for name, value in asked.items() if value is not None)
        return f"{self.weights} weights" + ("" if step is None else f" after step {step:,}") + rest


def _side(run: str, runs: Path, wanted: Wanted, note: Report) -> Side:
    """What is stored of a run, a checkpoint or in a file."""
    if Path(run).suffix == ".json":
        return Side(Path(run).stem, (read_evaluation(Path(run)),))
    if Path(run).suffix == ".safetensors":
        return Side(Path(run).stem, (), f"{run} is an exported file, beside which no evaluations are kept", run)
    place = place_of(run, runs)
    stored = stored_evaluations(place.folder, note)
    kept = tuple(e for e in (wanted.of(one, place.step) for one in stored) if e.metrics)
    lacks = f"{run} was never evaluated"
    if stored:
        known = {number.provenance.get("steps_trained") for e in stored for number in e.metrics.values()}
        steps = ", ".join(f"{step:,}" for step in sorted(s for s in known if isinstance(s, int)))
        lacks = f"{run} has no evaluation of its {wanted.in_words(place.step)} (there are some of step {steps})"
    return Side(run, kept, "" if kept else lacks, run)


def compare_sides(
    sides: Sequence[Side], *, metrics: Sequence[str] | str | None = None, across: Collection[str] = ()
) -> Comparison:
    """Compare each side with the first. Raises UsageError as `compare` does."""
    named = named_metrics(metrics)
    found: list[Difference] = []
    left: list[Uncompared] = []
    for side in sides[1:]:
        names = _metrics(sides[0], side, named)
        if not names:
            left.append(_nothing(sides[0], side))
        for metric in names:
            one = _closest(metric, sides[0], side, across)
            found.append(one) if isinstance(one, Difference) else left.append(one)
    if not found or (named is not None and left):
        raise _refusal(sides, left, named)
    differences = corrected(found)
    return Comparison(tuple(s.label for s in sides), differences, tuple(left), tuple(reading_notes(differences)))


def _require_two(runs: Sequence[str]) -> None:
    if len(runs) < 2:
        what = f"only {runs[0]} was named" if runs else "no run was named"
        raise UsageError(
            what,
            expected="two runs or more to compare",
            fix="sfumato compare RUN RUN; of a sweep: sfumato effects SWEEP",
        )


def _require_across(across: Collection[str]) -> None:
    """Refuse to compare across what makes numbers incomparable, such as n or the extractor."""
    for setting in across:
        if setting not in SAMPLING:
            near = nearest(setting, SAMPLING)
            raise UsageError(
                f"--across {printable(setting)}: numbers are not compared across that",
                expected=f"settings of the sampling: {', '.join(SAMPLING)}",
                fix=f"did you mean {near}?" if near else "measure both alike (--measure)",
            )


def _metrics(first: Side, second: Side, named: Sequence[str] | None) -> list[str]:
    """The names of what is to be compared: those asked for, or all that both have."""
    one, other = first.names(), second.names()
    every = list(dict.fromkeys([*one, *other]))
    if named is None:
        shared = [name for name in one if name in other]
        families = {_family(name) for name in one} & {_family(name) for name in other}
        met = {_family(name) for name in shared}
        return [name for name in every if name in shared or _family(name) in families - met]
    chosen = [[name for name in every if wish in (name, _family(name))] or [wish] for wish in named]
    return list(dict.fromkeys(name for names in chosen for name in names))


def _family(metric: str) -> str:
    """The name up to its bracket, which says by which extractor or method."""
    return metric.partition("[")[0]


def _closest(metric: str, first: Side, second: Side, across: Collection[str]) -> Difference | Uncompared:
    """The difference of the two evaluations that can best be compared: of most examples, in pairs; or the reason."""
    pairs = [
        (one.metrics[metric], other.metrics[metric])
        for one in first.evaluations
        for other in second.evaluations
        if metric in one.metrics and metric in other.metrics
    ]
    apart = [mismatches(one, other, across) for one, other in pairs]
    fit = [difference_of(metric, first.label, second.label, *p) for p, why in zip(pairs, apart, strict=True) if not why]
    if fit:
        return max(fit, key=lambda difference: (difference.one.n, difference.paired))
    if apart:
        least = min(apart, key=len)
        expected = "; ".join(dict.fromkeys(mismatch.why for mismatch in least))
        return Uncompared(metric, first.label, second.label, _told(least), expected)
    reason = "; ".join(_lacking(metric, side) for side in (first, second) if metric not in side.names())
    return Uncompared(metric, first.label, second.label, reason, f"{metric} of both")


def _nothing(first: Side, second: Side) -> Uncompared:
    """Two that have no metric in common, and why."""
    lacks = "; ".join(side.lacks for side in (first, second) if side.lacks) or "they have no metric in common"
    return Uncompared("every metric", first.label, second.label, lacks, "evaluations of both, by the same metrics")


def _lacking(metric: str, side: Side) -> str:
    """Why a side has no such number."""
    if side.lacks:
        return side.lacks
    others = [name for name in side.names() if _family(name) == _family(metric)]
    instead = f", and {', '.join(others)} is another quantity" if others else ""
    return f"{side.label} has no {metric}{instead}"


def _told(found: Sequence[Mismatch], most: int = 3) -> str:
    rest = f", and {len(found) - most} more facts differ" if len(found) > most else ""
    return ", ".join(str(mismatch) for mismatch in found[:most]) + rest


def _refusal(sides: Sequence[Side], left: Sequence[Uncompared], named: Sequence[str] | None) -> UsageError:
    """Why nothing is compared, or not what was named."""
    reasons = list(dict.fromkeys(f"{u.metric} of {u.first} and {u.second}: {u.reason}" for u in left))
    more = f" (and {len(reasons) - MOST_REASONS} more)" if len(reasons) > MOST_REASONS else ""
    what = f"not comparable: {'; '.join(reasons[:MOST_REASONS])}{more}"
    expected = "; ".join(dict.fromkeys(u.expected for u in left[:MOST_REASONS]))
    metrics = f" --metrics {','.join(dict.fromkeys(map(_family, named)))}" if named else ""
    where = " ".join(shlex.quote(side.run) for side in sides if side.run is not None)
    if all(SAME_EXAMPLES in u.expected for u in left):  # measuring them again would not help
        again = "train both with one seed, which draws the held-out part, or on data with a test part of their own"
    elif all(SAME_SCHEDULE in u.expected or SAME_LOSS in u.expected for u in left):  # nor here
        again = f"compare them at equal noise levels: sfumato compare {where} --measure --metrics loss_by_log_snr"
    else:
        again = f"measure them alike: sfumato compare {where} --measure{metrics}"
    files = any(side.run is None for side in sides)
    fix = "evaluate both alike: the same data, --metrics, -n, --seed and settings of the sampling" if files else again
    return UsageError(what, expected=expected, fix=fix)
