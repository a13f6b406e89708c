"""What `sfumato evaluate` stored of a run: numbers with errors, what real data score, and how each was measured."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from sfumato.data.wording import counted
from sfumato.experiment.comparability import is_reference, mismatches
from sfumato.experiment.evaluations import Fact, Number
from sfumato.experiment.report.elements import aside, facts, folded, measure, notes, table
from sfumato.experiment.report.entries import Entry, Measurement
from sfumato.experiment.report.markup import Child, Html, tag
from sfumato.experiment.report.naming import arm_name, metric_name
from sfumato.experiment.report.numbers import BY_BIN
from sfumato.experiment.report.page import Page, Section, section
from sfumato.experiment.report.sections.arms import better_in_words
from sfumato.experiment.report.wording import title, with_error

__all__ = ["measured"]

ROUNDING = 1e-3  # of an error: what an evaluation of the same weights and samples differs by on the same machine


def measured(page: Page) -> Section | None:
    """The evaluations of one run; of a sweep how its numbers were measured, arm by arm."""
    if not page.alone:
        return _of_arms([shown.entry for shown in page.shown])
    entry = page.shown[0].entry
    if not entry.measurements:
        if entry.folder is None:
            return None
        words = ("Nothing is measured yet. ", tag("code", f"sfumato evaluate {entry.place}"), " does it.")
        return section("metrics", "Metrics", tag("p", *words))
    now = once(entry.current)
    before = [m for m in entry.measurements if m not in entry.current]
    body: list[Child] = [_one(m, main=True) for m in now]
    if not now:
        body.append(aside("These weights are not measured yet; what follows is of earlier ones."))
    older = [_one(m, main=False) for m in once(before)]
    said = aside("A number with one standard error, over n examples or samples. A floor is what data or chance score.")
    return section("metrics", "Metrics", said, body, folded("Other weights of this run", older) if older else None)


def once(found: Iterable[Measurement]) -> list[Measurement]:
    """Evaluations without the numbers that another has but for rounding, measured in the same way, and what is left."""
    told: list[tuple[str, Number]] = []
    kept: list[Measurement] = []
    for one in sorted(found, key=lambda m: -len(m.numbers)):
        fresh = {name: number for name, number in one.numbers.items() if not any(_same(name, number, *t) for t in told)}
        told += fresh.items()
        notes_ = tuple(note for note in one.notes if not any(note in other.notes for other in kept))
        if fresh:
            kept.append(replace(one, numbers=fresh, notes=notes_))
    return kept


def _same(name: str, number: Number, other: str, told: Number) -> bool:
    """Whether two numbers are one: equal but for rounding, and no fact that both tell is against it."""
    room = ROUNDING * told.std_error
    near = abs(number.value - told.value) <= room and abs(number.std_error - told.std_error) <= room
    alike = near and number.n == told.n
    against = [m for m in mismatches(number, told) if m.first is not None and m.second is not None]
    return name == other and alike and not against


def _one(found: Measurement, *, main: bool) -> Html:
    """One evaluation: its numbers, its notes, and the provenance of each number."""
    shared = _shared(_of_the_model(found))
    shown = [name for name in found.numbers if BY_BIN not in name]
    rows = [_row(name, found.numbers[name]) for name in shown]
    lesser = [index for index, name in enumerate(shown) if is_reference(name)]
    head = ["metric", "value", "n", "what it says"]
    about = facts((key.replace("_", " "), title(value)) for key, value in shared.items())
    each = [
        tag("div", tag("h3", name), facts((k.replace("_", " "), title(v)) for k, v in _own(number, shared).items()))
        for name, number in found.numbers.items()
        if _own(number, shared)
    ]
    return tag(
        "div",
        tag("h3", _heading(found)),
        table(head, rows, said=f"numbers of {_heading(found)}", left=(0, 3), lesser=lesser)
        if rows
        else aside("By noise level: below."),
        folded("How to read them", notes(found.notes), open_=main) if found.notes else None,
        folded("How each was measured", about, each, on_paper=False),
    )


def _heading(found: Measurement) -> str:
    """Which weights were measured, on what."""
    facts_ = _shared(_of_the_model(found))
    step = facts_.get("steps_trained")
    weights = {"ema": "averaged weights", "live": "live weights"}.get(str(facts_.get("weights")), "the weights")
    after = f" after step {step:,}" if isinstance(step, int) else ""
    seed = f", seed {facts_['seed']}" if "seed" in facts_ else ""
    return f"{weights}{after}{seed}"


def _row(name: str, found: Number) -> list[Child]:
    unit = found.provenance.get("unit")
    floor = "what real data or chance score" if name.endswith(("[floor]", "[real]")) else ""
    note = floor if is_reference(name) else better_in_words(name)
    value: Child = measure(with_error(found.value, found.std_error))
    said = value if unit is None else [value, tag("small", str(unit))]
    return [metric_name(name), said, f"{found.n:,}", tag("span", note, cls="aside")]


def _of_the_model(found: Measurement) -> list[Number]:
    """The numbers that tell of the weights; of others, such as floors and differences, where there are no such."""
    every = [number for number in found.numbers.values() if "weights" in number.provenance]
    return every if every else list(found.numbers.values())


def _shared(numbers: Iterable[Number]) -> Mapping[str, Fact]:
    """The facts that all numbers of a file have in common."""
    every = [number.provenance for number in numbers]
    if not every:
        return {}
    return {key: value for key, value in every[0].items() if all(each.get(key, ...) == value for each in every)}


def _own(number: Number, shared: Mapping[str, Fact]) -> dict[str, Fact]:
    return {key: value for key, value in number.provenance.items() if key not in shared}


def _of_arms(entries: Sequence[Entry]) -> Section | None:
    """How the numbers of the arms were measured."""
    files = [(entry, m) for entry in entries for m in entry.current]
    if not files:
        return None
    every = [tag("div", tag("h3", arm_name(entry, entries)), aside(m.file), _one(m, main=False)) for entry, m in files]
    words = aside("Every number of the table above: how to read it, and how it was measured.")
    inside = folded(counted(len(files), "evaluation"), every, on_paper=False)
    return section("metrics", "How it was measured", words, inside)
