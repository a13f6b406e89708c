"""Samples of every run, all from the same noise: column k is the noise of seed K + k, whatever the run."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sfumato.experiment.report.drawing import Picture
from sfumato.experiment.report.elements import aside
from sfumato.experiment.report.entries import Entry
from sfumato.experiment.report.markup import Html, tag
from sfumato.experiment.report.naming import arm_name
from sfumato.experiment.report.page import Page, Section, section
from sfumato.experiment.report.tiles import (
    averaged,
    displayed,
    frame_of,
    kind_of,
    picture,
    scatter,
    span_of,
    wave,
)
from sfumato.experiment.report.wording import title
from sfumato.experiment.sweep.axes import axis_names

__all__ = ["how_drawn", "samples"]


def samples(page: Page) -> Section | None:
    """The samples of the run, or a row of them for each arm."""
    drawn = page.pictured()
    if not drawn:
        return None
    body = _alone(page, drawn[0][1]) if page.alone else _in_rows(page, drawn)
    return section("samples", "Samples", body)


def how_drawn(drawn: Picture) -> str:
    """The sampler, its steps and the weights, in words."""
    asked = drawn.sampling
    steps = f", {title(asked['steps'])} steps" if "steps" in asked else ""
    guidance = f", guidance {title(asked['guidance'])}" if asked.get("guidance") is not None else ""
    weights = "averaged" if asked.get("weights") == "ema" else "live"
    return f"{asked.get('sampler')}{steps}{guidance}, {weights} weights after step {drawn.steps_trained:,}"


def _alone(page: Page, drawn: Picture) -> list[Html]:
    values = drawn.values
    assert values is not None
    first, last = page.wish.seed, page.wish.seed + len(values) - 1
    kind = kind_of(values)
    shown = (
        "" if drawn.side == 0 or max(values.shape[1:3]) <= drawn.side else f" Pictures are averaged to {drawn.side}."
    )
    words = f"The seeds {first} to {last}, nothing chosen: {how_drawn(drawn)}.{shown}"
    if kind == "points":
        frame = frame_of([values] if drawn.behind is None else [values, drawn.behind])
        said = f"{len(values):,} samples in the plane"
        note = "" if drawn.behind is None else f" Grey: {len(drawn.behind):,} examples of the training part."
        panel = scatter(values, frame, said=said, behind=drawn.behind, labels=drawn.labels)
        return [aside(words + note + _coordinates(values)), panel]
    return [aside(words), tag("div", _tiles(drawn, page.wish.seed), cls="tiles")]


def _coordinates(values: NDArray[np.generic]) -> str:
    dimensions = values.reshape(len(values), -1).shape[1]
    return f" The first 2 of {dimensions} coordinates are shown." if dimensions > 2 else ""


def _tiles(drawn: Picture, seed: int) -> list[Html]:
    """A captioned tile for each sample."""
    values = drawn.values
    assert values is not None
    found = []
    curves = kind_of(values) == "curves"
    low, high = span_of(values) if curves else (0.0, 1.0)
    for index in range(len(values)):
        name = str(seed + index) if drawn.labels is None else drawn.labels[index]
        said = f"sample of seed {seed + index}" + ("" if drawn.labels is None else f", asked for {name}")
        if curves:
            tile = wave(values[index], low, high, said=said)
        else:
            tile = picture(averaged(values[index : index + 1].astype(np.uint8), drawn.side)[0], said=said)
        found.append(tag("figure", tile, tag("figcaption", name, title=said)))
    return found


def _in_rows(page: Page, drawn: Sequence[tuple[Entry, Picture]]) -> list[Html]:
    """A row for each arm, in the order of the table."""
    every = [shown.entry for shown in page.shown]
    seed, counts = page.wish.seed, [0 if p.values is None else len(p.values) for _, p in drawn]
    names = ", ".join(axis_names(list(page.subject.axes)).values())
    common = _common(drawn)
    words = (
        f"Every arm starts from the same noise, from seed {seed} on, column by column, and nothing is chosen. "
        f"{common}The rows are in the order of the table{f' ({names})' if names else ''}."
    )
    if all(p.values is not None and kind_of(p.values) == "points" for _, p in drawn):
        return [aside(words), tag("div", [_panel(e, p, every) for e, p in drawn], cls="panels")]
    rows = [_row(e, p, every, seed, None if common else f"after step {p.steps_trained:,}") for e, p in drawn]
    heads = None
    if len(set(counts)) == 1:
        told = {p.labels for _, p in drawn}
        asked = told.pop() if len(told) == 1 else None
        cells = [tag("span", str(seed + k), _asked(asked, k)) for k in range(counts[0])]
        wide = displayed_width(drawn[0][1])
        row = tag("div", cells, cls="row seeds", style=f"--n:{counts[0]};--w:{wide}px")
        heads = tag("div", tag("span", "seed", cls="arm-name aside"), row, cls="arm")
    return [aside(words), tag("div", heads, rows, cls="arms")]


def _asked(labels: Sequence[str] | None, index: int) -> Html | None:
    """What a column of samples was asked to be, where all arms were asked the same."""
    return None if labels is None else tag("small", labels[index], title=labels[index])


def displayed_width(drawn: Picture) -> int:
    """The width of a picture of a run on the page."""
    values = drawn.values
    assert values is not None
    if kind_of(values) == "curves":
        return 144
    small = averaged(values[:1].astype(np.uint8), drawn.side)
    return displayed(*small.shape[1:3])[1]


def _common(drawn: Sequence[tuple[Entry, Picture]]) -> str:
    """How the samples were drawn, where that is the same for all."""
    told = {how_drawn(picture_) for _, picture_ in drawn}
    return f"{told.pop()}. " if len(told) == 1 else ""


def _row(entry: Entry, drawn: Picture, among: Sequence[Entry], seed: int, said: str | None) -> Html:
    values = drawn.values
    assert values is not None
    if kind_of(values) == "curves":
        low, high = span_of(values)
        tiles = [wave(v, low, high, said=f"seed {seed + i}") for i, v in enumerate(values)]
    else:
        small = averaged(values.astype(np.uint8), drawn.side)
        tiles = [picture(v, said=f"seed {seed + i}") for i, v in enumerate(small)]
    row = tag("div", tiles, cls="row", style=f"--n:{len(values)};--w:{displayed_width(drawn)}px")
    below = None if said is None else tag("span", said, cls="aside")
    return tag("div", tag("div", tag("b", arm_name(entry, among)), below, cls="arm-name"), row, cls="arm")


def _panel(entry: Entry, drawn: Picture, among: Sequence[Entry]) -> Html:
    values = drawn.values
    assert values is not None
    frame = frame_of([values] if drawn.behind is None else [drawn.behind])
    name = arm_name(entry, among)
    panel = scatter(values, frame, said=f"samples of {name}", behind=drawn.behind, labels=drawn.labels)
    return tag("figure", panel, tag("figcaption", name), cls="plot")
