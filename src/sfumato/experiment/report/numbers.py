"""The measured numbers of several runs, set side by side only where they measure the same thing.

For each metric the runs' numbers fall into classes: within one every fact about how they were measured is the same
(`comparability`). Only a metric with one class has a column and a common scale; for the others the reasons are told,
and nothing invites to rank them. Another seed holds out other examples, which makes arms replicates rather than others:
within a seed all facts must agree, between seeds those that do not follow from it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sfumato.data import POINT_SOURCES
from sfumato.experiment.comparability import LOSS, LOSS_ERROR, Mismatch, is_reference, mismatches
from sfumato.experiment.evaluations import Number
from sfumato.experiment.measured import logged_loss
from sfumato.experiment.report.entries import Entry

__all__ = ["OF_A_SEED", "Column", "Uneven", "columns_of", "floor_of", "headline", "number_of"]

DONE = ("done", "finished")
BY_BIN = "_by_log_snr["
# What another seed of the same arm changes: which examples are held out, and with them the deviation of the data.
OF_A_SEED = ("split", "reference", "reference_digest", "measured_as")
GENERATED = ("data",)  # that, too, where the points themselves are drawn from the seed
MOST_TRIED = 24  # ways of measuring a metric, of which the most common is found
# What a page tells first, by the family of the metric: how good samples are, then how well the data are known.
FIRST = ("kid", "fid", "bits_per_dim", "nll", "sliced_wasserstein", "energy_distance", "mode_coverage", "memorisation")


@dataclass(frozen=True, slots=True)
class Column:
    """One metric of all runs that have it, measured alike; None for a run that has it not."""

    metric: str
    numbers: tuple[Number | None, ...]
    floor: Number | None


@dataclass(frozen=True, slots=True)
class Uneven:
    """One metric that was not measured alike: the numbers, and in what they differ from the first one."""

    metric: str
    numbers: tuple[Number | None, ...]
    reasons: tuple[str, ...]


def candidates(entry: Entry, metric: str) -> list[Number]:
    """The numbers of a run for a metric: those of the averaged weights first, then those of most examples."""
    found = [m.numbers[metric] for m in entry.current if metric in m.numbers]
    if metric == LOSS:
        found += _logged(entry)
    return sorted(found, key=lambda number: (not number.is_averaged, -number.n))


def _logged(entry: Entry) -> list[Number]:
    """The last held-out loss in the log of an arm that is trained, with all that makes it the loss that it is."""
    value, error = entry.last(LOSS), entry.last(LOSS_ERROR)
    if value is None or not math.isfinite(value) or entry.state not in DONE:
        return []
    known = error is not None and math.isfinite(error)
    return [logged_loss(entry.settings, value, error if known else None)]


def number_of(entry: Entry, metric: str) -> Number | None:
    """The number of a run for a metric: that of most examples."""
    found = candidates(entry, metric)
    return found[0] if found else None


def names_of(entries: Sequence[Entry]) -> list[str]:
    """The metrics that some run has, but numbers of the data alone and those by noise level."""
    names = dict.fromkeys(name for e in entries for m in e.current for name in m.numbers)
    names |= {LOSS: None} if len(entries) > 1 and any(map(_logged, entries)) else {}
    return [name for name in names if not is_reference(name) and BY_BIN not in name]


def columns_of(entries: Sequence[Entry]) -> tuple[tuple[Column, ...], tuple[Uneven, ...]]:
    """The metrics that have a column, and those that have none."""
    even: list[Column] = []
    uneven: list[Uneven] = []
    for metric in names_of(entries):
        found = alike(entries, metric)
        first = next(number for number in found if number is not None)
        apart = _apart(entries, found)
        if any(apart):
            uneven.append(Uneven(metric, found, _reasons(apart)))
        else:
            even.append(Column(metric, found, floor_of(entries, metric, first)))
    return tuple(even), tuple(uneven)


def alike(entries: Sequence[Entry], metric: str) -> tuple[Number | None, ...]:
    """A number of each run, measured like that of most runs where there is such a one."""
    every = [candidates(entry, metric) for entry in entries]
    models = [number for found in every for number in found]
    replicate = _of_a_seed(entries)
    models = models[:: math.ceil(len(models) / MOST_TRIED)]

    def liked(one: Number) -> tuple[int, int]:
        return sum(any(not mismatches(one, n, replicate) for n in each) for each in every), one.n

    best = max(models, key=liked)
    fitting = (next((n for n in each if not mismatches(best, n, replicate)), None) for each in every)
    return tuple(
        fit if fit is not None else each[0] if each else None for fit, each in zip(fitting, every, strict=True)
    )


def _apart(entries: Sequence[Entry], found: Sequence[Number | None]) -> list[list[Mismatch]]:
    """In what each number differs: from the first of its own seed, and that from the first of all."""
    firsts: dict[int | None, tuple[Entry, Number]] = {}
    apart: list[list[Mismatch]] = []
    replicate = _of_a_seed(entries)
    for entry, number in zip(entries, found, strict=True):
        if number is None:
            apart.append([])
            continue
        base, other = firsts.setdefault(entry.seed, (entry, number))
        if base is not entry:
            apart.append(mismatches(other, number))
            continue
        base, other = next(iter(firsts.values()))
        same = base.axes == entry.axes
        across = [fact for fact in replicate if same or fact != "measured_as"]
        apart.append([] if base is entry else mismatches(other, number, across))
    return apart


def _of_a_seed(entries: Sequence[Entry]) -> tuple[str, ...]:
    """The facts that follow from the seed: for points drawn by one law the data are among them."""
    laws = [{key: value for key, value in e.settings.items() if key.startswith("data.")} for e in entries]
    drawn = all(law.get("data.source") in POINT_SOURCES and law.get("data.path") is None for law in laws)
    return (*OF_A_SEED, *GENERATED) if drawn and all(law == laws[0] for law in laws) else OF_A_SEED


def _reasons(apart: Sequence[Sequence[Mismatch]]) -> tuple[str, ...]:
    """In which facts numbers differ, each once."""
    return tuple(dict.fromkeys(str(mismatch) for one in apart for mismatch in one))


def floor_of(entries: Sequence[Entry], metric: str, number: Number) -> Number | None:
    """What real data score by the same measure: the floor or the ceiling of a metric, of the same n."""
    for name in (f"{metric}[floor]", f"{metric}[real]"):
        for entry in entries:
            for candidate in candidates(entry, name):
                if candidate.n == number.n:
                    return candidate
    return None


def headline(entry: Entry, most: int = 3) -> list[str]:
    """The metrics that are told first of a run, one of each family."""
    names, chosen = names_of([entry]), list[str]()
    for family in FIRST:
        found = [name for name in names if name.partition("[")[0] == family and "leaning" not in name]
        chosen += found[-1:] if family in ("bits_per_dim", "nll") else found[:1]
    return chosen[:most]
