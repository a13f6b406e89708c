"""What came out of a sweep: a row for every arm in the order of the plan, and the mean of each point over its seeds.

    mean over K seeds = Σ x_k / K,     std_error = sqrt( Σ (x_k - mean)² / (K (K - 1)) )

The error of an arm is that of measuring it; the error of a mean over seeds is how far training itself scatters. The
table ranks nothing: held-out losses of other schedules, targets or distances are of other quantities.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sfumato.experiment.arms import ArmState, measured_of_arm
from sfumato.experiment.comparability import LOSS, LOSS_ERROR, decides_a_loss
from sfumato.experiment.digits import with_error
from sfumato.experiment.records import RunRecord
from sfumato.experiment.sweep.plan import Arm, departures
from sfumato.experiment.sweep.search import Point
from sfumato.experiment.sweep.stored import Sweep, newest_step

__all__ = ["Figure", "Mean", "Row", "Table", "crosses_losses", "table_of"]

_MACHINE = ("training.threads", "training.precision", "training.device", "training.compile")


@dataclass(frozen=True, slots=True)
class Figure:
    """A number, its standard error and of how many examples it is, where it has them."""

    value: float
    std_error: float | None = None
    n: int | None = None

    def __str__(self) -> str:
        return with_error(self.value, self.std_error)


@dataclass(frozen=True, slots=True)
class Row:
    """One arm: what became of it, its numbers by name, and why it failed."""

    arm: Arm
    state: ArmState
    step: int
    steps: int
    figures: Mapping[str, Figure]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Mean:
    """A point over the seeds that are done: their number, and means with their errors."""

    settings: Point
    seeds: int
    figures: Mapping[str, Figure]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of the arms, means of the points (where there are several seeds), the names of the figures, sentences."""

    rows: tuple[Row, ...]
    means: tuple[Mean, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...]

    def document(self) -> dict[str, object]:
        """As JSON data. Nothing in it depends on when or how fast anything was computed."""
        return {
            "arms": [
                {
                    "name": row.arm.name,
                    "settings": dict(row.arm.settings),
                    "seed": row.arm.seed,
                    "state": row.state,
                    "step": row.step,
                    "steps": row.steps,
                    "metrics": _plain(row.figures),
                    "error": row.error,
                }
                for row in self.rows
            ],
            "means": [
                {"settings": dict(mean.settings), "seeds": mean.seeds, "metrics": _plain(mean.figures)}
                for mean in self.means
            ],
            "notes": list(self.notes),
        }


def _plain(figures: Mapping[str, Figure]) -> dict[str, dict[str, float | int | None]]:
    return {name: {"value": one.value, "std_error": one.std_error, "n": one.n} for name, one in figures.items()}


def table_of(sweep: Sweep) -> Table:
    """The table of a sweep as it stands."""
    records = {arm.name: sweep.record(arm) for arm in sweep.arms}
    rows = tuple(_row(sweep, arm, records[arm.name]) for arm in sweep.arms)
    names = tuple(dict.fromkeys(name for row in rows for name in row.figures))
    begun = {name: record for name, record in records.items() if record is not None}
    notes = (
        *_of_losses(sweep, names),
        *_of_machines(sweep, tuple(begun.values())),
        *_of_counts(rows, names),
        *_of_departures(sweep, begun),
    )
    return Table(rows, _means(sweep, rows) if sweep.plan.seeds > 1 else (), names, notes)


def _row(sweep: Sweep, arm: Arm, record: RunRecord | None) -> Row:
    steps = sweep.experiment(arm).training.steps
    step = 0 if record is None or record.step is None else record.step
    return Row(arm, sweep.state(arm), step, steps, figures_of(sweep, arm, record), sweep.error(arm))


def figures_of(sweep: Sweep, arm: Arm, record: RunRecord | None) -> dict[str, Figure]:
    """The numbers of an arm that is trained: its held-out loss, and what was measured of its averaged weights."""
    if record is None or not sweep.is_trained(arm, record):
        return {}
    found: dict[str, Figure] = {}
    if LOSS in record.figures:
        found[LOSS] = Figure(record.figures[LOSS], record.figures.get(LOSS_ERROR))
    return found | {
        name: Figure(number.value, number.std_error, number.n)
        for name, number in measured_of_arm(arm.folder, newest_step(arm)).items()
    }


def _means(sweep: Sweep, rows: Sequence[Row]) -> tuple[Mean, ...]:
    """The mean of each point over its seeds that are done, in the order of the table."""
    points: dict[str, list[Row]] = {}
    for row in rows:
        points.setdefault(repr(sorted(row.arm.settings.items())), []).append(row)
    return tuple(Mean(group[0].arm.settings, len(_done(group)), _over_seeds(_done(group))) for group in points.values())


def _done(group: Sequence[Row]) -> list[Row]:
    return [row for row in group if row.state == "done"]


def _over_seeds(group: Sequence[Row]) -> dict[str, Figure]:
    """Means of the figures that all rows have, with errors from their scatter where there are two or more."""
    if not group:
        return {}
    shared = [name for name in group[0].figures if all(name in row.figures for row in group)]
    return {name: mean_over_seeds([row.figures[name].value for row in group]) for name in shared}


def mean_over_seeds(values: Sequence[float]) -> Figure:
    """The mean and its standard error, of two values or more; one alone has no error."""
    if len(values) < 2:
        return Figure(values[0])
    return Figure(statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values)))


def crosses_losses(sweep: Sweep) -> list[str]:
    """The axes along which a loss changes its meaning, so that losses cannot be ranked."""
    return [axis.key for axis in sweep.plan.axes if any(map(decides_a_loss, axis.key.split("+")))]


def _of_losses(sweep: Sweep, names: Iterable[str]) -> tuple[str, ...]:
    """The warning that losses of different quantities are not to be ranked."""
    crossed = crosses_losses(sweep)
    shown = [name for name in names if name == LOSS or name.partition("[")[0] == "loss"]
    if not crossed or not shown:
        return ()
    return (
        f"losses are of another quantity for each {', '.join(crossed)}: never rank them against each other; "
        "distances of samples and loss_by_log_snr (--metrics) can be compared",
    )


def _of_machines(sweep: Sweep, records: Sequence[RunRecord]) -> tuple[str, ...]:
    """The warning that arms were computed differently, which no axis of the sweep asked for."""
    notes, asked = [], {key for axis in sweep.plan.axes for key in axis.key.split("+")}
    for key in (key for key in _MACHINE if key not in asked):
        values = dict.fromkeys(str(record.get(key)).partition(":")[0] for record in records)
        if len(values) > 1:
            notes.append(f"arms differ in {key} ({', '.join(values)}): part of their differences may be that")
    return tuple(notes)


def _of_counts(rows: Sequence[Row], names: Iterable[str]) -> tuple[str, ...]:
    """The warning that a number was measured of some arms on other numbers of examples than of others."""
    notes = []
    for name in names:
        counts = {row.figures[name].n for row in rows if name in row.figures} - {None}
        if len(counts) > 1:
            told = ", ".join(f"{n:,}" for n in sorted(n for n in counts if n is not None))
            notes.append(f"{name} was not measured on the same number of examples of every arm: n is {told}")
    return tuple(notes)


def _of_departures(sweep: Sweep, records: Mapping[str, RunRecord]) -> tuple[str, ...]:
    """The warning that a run was trained otherwise than the plan says, as one that was extended by hand."""
    found = {name: departures(sweep.experiments[name], record.settings) for name, record in records.items()}
    return tuple(
        f"{name} was trained with other settings than the sweep's: {', '.join(told)}"
        for name, told in found.items()
        if told
    )
