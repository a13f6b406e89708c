"""Errors at equal noise levels, which can be compared between schedules, targets and losses, as losses cannot.

Read from evaluations that have `NAME_by_log_snr[LOW..HIGH][PART]`, for every such NAME: the error in bins of log-SNR.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from sfumato.experiment.comparability import mismatches
from sfumato.experiment.evaluations import Number
from sfumato.experiment.report.elements import aside
from sfumato.experiment.report.entries import Entry
from sfumato.experiment.report.markup import tag
from sfumato.experiment.report.naming import arm_name
from sfumato.experiment.report.numbers import OF_A_SEED
from sfumato.experiment.report.page import Page, Section, section
from sfumato.experiment.report.plots import CROWD, NAMED, Line, Plot, crowded, plot

__all__ = ["bins_of", "levels"]

_BIN = re.compile(r"(\w+)_by_log_snr\[(-?[\d.]+)\.\.(-?[\d.]+)\]\[([\w-]+)\]")
LEAST = 1e-3  # of the largest error: what one of next to nothing is drawn at
PARTS = ("training", "held-out", "attainable")  # in the colours of the curves of training
NAMES = {"held-out": "held out", "attainable": "known by heart"}
UNITS = {"loss": "noise error |ε̂ − ε|²", "noise_error": "noise error", "image_error": "image error"}
Bins = Mapping[tuple[str, str], Mapping[float, Number]]  # (name, part) -> middle of the bin -> number


def bins_of(numbers: Mapping[str, Number]) -> dict[tuple[str, str], dict[float, Number]]:
    """The numbers of each name and part by the middle of their bin, in nats of log-SNR."""
    found: dict[tuple[str, str], dict[float, Number]] = {}
    for metric, number in numbers.items():
        match = _BIN.fullmatch(metric)
        if match is not None:
            middle = (float(match[2]) + float(match[3])) / 2
            found.setdefault((match[1], match[4]), {})[middle] = number
    return {key: dict(sorted(bins.items())) for key, bins in found.items()}


def levels(page: Page) -> Section | None:
    """A panel for each kind of error: of one run its parts, of a sweep the held-out part of every arm."""
    entries = [shown.entry for shown in page.shown]
    every: list[tuple[Entry, Bins]] = [(entry, _bins(entry)) for entry in entries]
    every = [(entry, bins) for entry, bins in every if bins]
    if not every:
        return None
    plots, notes = [], []
    for name in dict.fromkeys(name for _, bins in every for name, _ in bins):
        if page.alone:
            plots.append(_of_run(name, every[0][1]))
        else:
            lines, left = _of_arms(name, every, entries)
            notes += left
            words = f"Of {len(lines)} arms the {NAMED} that end lowest are named." if len(lines) > CROWD else ""
            plots.append(Plot(_title(name), "log SNR (nats)", tuple(crowded(lines)), caption=words, wide=True))
    words = "In bins of log-SNR, left is noise and right is nearly clean. "
    words += "Errors at one noise level are the same quantity for every schedule, target and loss."
    said = [aside(words), *(aside(note) for note in notes)]
    return section("levels", "Error at equal noise levels", said, tag("div", map(plot, plots), cls="plots"))


def _bins(entry: Entry) -> Bins:
    """The bins of the evaluations of a run; of several the one of most examples."""
    ordered = sorted(entry.current, key=lambda m: max((n.n for n in m.numbers.values()), default=0))
    found: dict[tuple[str, str], dict[float, Number]] = {}
    for each in ordered:
        found |= bins_of(each.numbers)
    return found


def _title(name: str) -> str:
    return UNITS.get(name, name.replace("_", " "))


def _line(name: str, bins: Mapping[float, Number], index: int, least: float = 0.0) -> Line:
    """A curve over the bins; values below `least` are drawn there."""
    errors = [number.std_error for number in bins.values()]
    look = "line" if name == NAMES["attainable"] else "dots"
    return Line(
        name, list(bins), [max(n.value, least) for n in bins.values()], errors, colour=index, dash=index, look=look
    )


def _of_run(name: str, bins: Bins) -> Plot:
    """The parts of one kind of error."""
    least = LEAST * max(n.value for (own, _), each in bins.items() if own == name for n in each.values())
    lines = [
        _line(NAMES.get(part, part), bins[name, part], index, least if part == "attainable" else 0.0)
        for index, part in enumerate(part for part in PARTS if (name, part) in bins)
    ]
    return Plot(_title(name), "log SNR (nats)", tuple(lines), wide=True)


def _of_arms(name: str, every: Iterable[tuple[Entry, Bins]], among: Sequence[Entry]) -> tuple[list[Line], list[str]]:
    """The held-out errors of the arms that were measured alike, and who is left out."""
    lines: list[Line] = []
    left: list[str] = []
    first: Mapping[float, Number] | None = None
    seed: int | None = None
    for entry, bins in every:
        own = bins.get((name, "held-out"), bins.get((name, "training"), {}))
        if not own:
            continue
        first, seed = (own, entry.seed) if first is None else (first, seed)
        across = () if entry.seed == seed else OF_A_SEED
        apart = [m for level, n in own.items() if level in first for m in mismatches(first[level], n, across)]
        if apart:
            left.append(f"{arm_name(entry, among)} is left out of {_title(name)}: {apart[0]}.")
            continue
        lines.append(_line(arm_name(entry, among), own, len(lines)))
    return lines, left
