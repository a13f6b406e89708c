"""The arms of a sweep in one table: what they differ in, how far they came, and what was measured alike."""

import math
from collections.abc import Sequence

from sfumato.experiment.comparability import LOSS, direction
from sfumato.experiment.report.axes import Axis, axis_for
from sfumato.experiment.report.elements import aside, folded, table
from sfumato.experiment.report.entries import Entry
from sfumato.experiment.report.markup import Child, Html, tag
from sfumato.experiment.report.naming import arm_name, by_axes, metric_name, state_mark
from sfumato.experiment.report.numbers import Column, Uneven, columns_of
from sfumato.experiment.report.page import Page, Section, section
from sfumato.experiment.report.wording import with_error
from sfumato.experiment.sweep.axes import axis_names
from sfumato.experiment.sweep.table import mean_over_seeds

__all__ = ["END", "WIDE", "arms", "bar", "better_in_words"]

WIDE, HIGH, END = 120.0, 15.0, 4.0  # units of a cell's drawing, and of its margins


def arms(page: Page) -> Section | None:
    """The table, and the metrics that are not measured alike."""
    if page.alone:
        return None
    entries = [shown.entry for shown in page.shown]
    even, uneven = columns_of(entries)
    axes = page.subject.axes
    seeds = len({entry.seed for entry in entries}) > 1
    names = axis_names(list(axes))
    head: list[Child] = [*(names[axis].replace("_", " ") for axis in axes), *(["seed"] if seeds else [])]
    head += ["state", "step", *(_head(column) for column in even)]
    rows = [_row(page, entry, index, even, seeds=seeds) for index, entry in enumerate(entries)]
    failed = [_failed(arm_name(e, entries), e.error) for e in entries if e.error]
    words = (
        "Whiskers are one standard error on either side; a dashed line is the floor, what real data or chance score."
    )
    if not even:
        words = "" if uneven else "Nothing is measured yet: sfumato evaluate ARM, or --metrics with the sweep."
    return section(
        "arms",
        "Arms",
        table(head, rows, said="the arms and what was measured of them", left=range(len(axes) + seeds + 1)),
        _means(page, even),
        aside(words) if words else None,
        failed,
        [_apart(one, entries) for one in uneven],
    )


def _failed(name: str, error: str) -> Html:
    return tag("p", tag("b", name), f" failed: {error}", cls="warning")


def _means(page: Page, even: Sequence[Column]) -> Html | None:
    """The mean of each point over its seeds, with the error of their scatter; nothing for one seed."""
    entries = [shown.entry for shown in page.shown]
    if not even or len({entry.seed for entry in entries}) < 2:
        return None
    points: dict[tuple[str, ...], list[int]] = {}
    for index, entry in enumerate(entries):
        points.setdefault(tuple(by_axes(entry, page.subject.axes)), []).append(index)
    rows = []
    for values, places in points.items():
        found = [[n.value for i in places if (n := column.numbers[i]) is not None] for column in even]
        counts = "/".join(str(k) for k in dict.fromkeys(len(each) for each in found))
        rows.append([*values, counts, *(_mean(each) for each in found)])
    names = axis_names(list(page.subject.axes))
    head: list[Child] = [*(name.replace("_", " ") for name in names.values()), "seeds", *map(_head, even)]
    said = aside("Means over seeds; the error is that of the scatter between seeds, which training itself makes.")
    table_ = table(head, rows, said="means over seeds", left=range(len(names)))
    return tag("div", tag("h3", "Means over seeds"), said, table_)


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "–"
    found = mean_over_seeds(values)
    return with_error(found.value, found.std_error)


def better_in_words(metric: str) -> str | None:
    """Which way a metric is better; None for one of which neither is."""
    better = "lower" if metric == LOSS else direction(metric)
    return None if better is None else f"{better} is better"


def _head(column: Column) -> Html:
    words = better_in_words(column.metric)
    return tag("span", metric_name(column.metric), tag("small", words) if words else None)


def _row(page: Page, entry: Entry, index: int, even: Sequence[Column], *, seeds: bool) -> list[Child]:
    cells: list[Child] = [*by_axes(entry, page.subject.axes)]
    cells += [str(entry.seed)] if seeds else []
    step = "" if entry.record is None or entry.record.step is None else f"{entry.record.step:,}"
    return [*cells, state_mark(entry), step, *(_cell(column, index) for column in even)]


def _cell(column: Column, index: int) -> Child:
    """A number with its error, and where it lies among those of the other arms."""
    found = column.numbers[index]
    if found is None:
        return "–"
    known = [n for n in column.numbers if n is not None]
    ends = [end for n in known for end in (n.value - n.std_error, n.value + n.std_error)]
    ends += [] if column.floor is None else [column.floor.value]
    axis = axis_for(ends, END, WIDE - END, log=False)
    low, high = found.value - found.std_error, found.value + found.std_error
    line = None if column.floor is None else column.floor.value
    return [with_error(found.value, found.std_error), bar(found.value, low, high, axis, line)]


def bar(value: float, low: float, high: float, axis: Axis, line: float | None = None) -> Html | None:
    """A dot on a bar along an axis, and a dashed line across at a place of it; nothing for what is no number."""
    if not math.isfinite(value):
        return None
    middle = HIGH / 2
    known = math.isfinite(low) and math.isfinite(high) and high > low
    return tag(
        "svg",
        None if line is None else tag("path", d=f"M{axis.at(line):.1f} 0V{HIGH:g}", cls="floor"),
        tag("path", d=f"M{axis.at(low):.1f} {middle:g}H{axis.at(high):.1f}", cls="whisker") if known else None,
        tag("circle", cx=f"{axis.at(value):.1f}", cy=f"{middle:g}", r="2.6", cls="dot"),
        viewBox=f"0 0 {WIDE:g} {HIGH:g}",
        cls="dotted c0",
        aria_hidden="true",
    )


def _apart(one: Uneven, entries: Sequence[Entry]) -> Html:
    """The numbers of a metric that is another quantity in every arm, in the order of the arms and with the reason."""
    rows = [
        [arm_name(entry, entries), with_error(n.value, n.std_error), f"{n.n:,}"]
        for entry, n in zip(entries, one.numbers, strict=True)
        if n is not None
    ]
    why = "; ".join(one.reasons[:4]) + (f"; and {len(one.reasons) - 4} more" if len(one.reasons) > 4 else "")
    return folded(
        f"{one.metric}: not one scale, so no column and no ranking",
        aside(f"These numbers do not measure the same thing: {why}."),
        table(["arm", one.metric, "n"], rows, said=f"{one.metric} of each arm, not to be ranked"),
    )
