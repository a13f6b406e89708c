"""The way from noise to data, moment by moment: a slider where scripts run, a strip of moments where they do not."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sfumato.experiment.report.drawing import Film, Picture, moments
from sfumato.experiment.report.elements import aside
from sfumato.experiment.report.entries import Entry
from sfumato.experiment.report.markup import Html, tag
from sfumato.experiment.report.naming import arm_name
from sfumato.experiment.report.page import Page, Section, section
from sfumato.experiment.report.tiles import Frame, displayed, frame_of, kind_of, picture, scatter, span_of, wave
from sfumato.experiment.report.wording import number

__all__ = ["film"]

ON_PAPER = 8  # moments
LARGER = 2  # than a sample, where the slider shows one moment of one run
MOST_ARMS = 16
HELD, EXPECTED = "what the sampler holds, xₜ", "what the model expects it to become, x₀"


def film(page: Page) -> Section | None:
    """The slider and the moments of every run."""
    filmed = [(entry, p, p.film) for entry, p in page.pictured() if p.film is not None]
    if not filmed:
        return None
    every = [shown.entry for shown in page.shown]
    left = len(filmed) - MOST_ARMS
    shown = filmed[:MOST_ARMS]
    words = (
        "From noise to data, by the sampler's own steps. log SNR says how much of a picture is there: "
        "0 where signal and noise are of equal power, negative for more noise."
    )
    words += f" The first {MOST_ARMS} arms; {left} more are left out." if left > 0 else ""
    longest = max((f for _, _, f in shown), key=lambda f: len(f.steps))
    rows = [_strip(entry, p, f, page, every) for entry, p, f in shown]
    reel = tag("div", rows, cls="reel" if page.alone else "reel many")
    return section("film", "From noise to data", aside(words), tag("div", _controls(longest), reel, cls="film"))


def _controls(longest: Film) -> Html:
    """The slider; hidden until a script shows it."""
    last = len(longest.steps) - 1
    said = _said(longest, last)
    return tag(
        "div",
        tag("button", "Play", type="button"),
        tag(
            "input",
            type="range",
            min=0,
            max=last,
            value=last,
            step=1,
            aria_label="moment of the reverse process",
            aria_valuetext=said,
        ),
        tag("output", said),
        cls="controls",
        hidden=True,
    )


def _said(film_: Film, index: int) -> str:
    """Where a moment lies."""
    level = film_.log_snr[index]
    where = "the sample" if math.isinf(level) else f"log SNR {number(round(level, 1))}"
    return f"step {film_.steps[index]:,} of {film_.steps[-1]:,}, t = {film_.times[index]:.3f}, {where}"


def _strip(entry: Entry, drawn: Picture, film_: Film, page: Page, among: Sequence[Entry]) -> Html:
    """The moments of one run."""
    kept = set(moments(len(film_.steps), ON_PAPER))
    frame = frame_of([film_.states[0], film_.states[-1]]) if kind_of(film_.states[0]) == "points" else None
    each = [
        _moment(film_, drawn, index, frame, on_paper=index in kept, seed=page.wish.seed)
        for index in range(len(film_.steps))
    ]
    name = None if page.alone else tag("h3", arm_name(entry, among))
    said = "moments" if page.alone else f"moments of {arm_name(entry, among)}"
    return tag("div", name, tag("div", each, cls="strip", tabindex="0", role="region", aria_label=said))


def _moment(film_: Film, drawn: Picture, index: int, frame: Frame | None, *, on_paper: bool, seed: int) -> Html:
    """One moment: what the sampler holds, and what the model expects, where that is shown."""
    said = _said(film_, index)
    rows: list[Html] = []
    for name, values in ((HELD, film_.states), (EXPECTED, film_.guesses)):
        if values:
            rows += [tag("p", name, cls="caption")] if film_.guesses else []
            rows += [_stack(values[index], drawn, frame, said=f"{name}, {said}", seed=seed, alone=bool(film_.guesses))]
    level = film_.log_snr[index]
    below = "sample" if math.isinf(level) else number(round(level, 1))
    short = "the sample" if math.isinf(level) else f"log SNR {below}"
    rows += [] if film_.guesses else [tag("p", short, cls="caption")]
    last = index == len(film_.steps) - 1
    classes = " ".join(["moment", *(["now"] if last else []), *(["key-moment"] if on_paper else [])])
    return tag("figure", rows, tag("figcaption", below, title=said), cls=classes, data_said=said)


def _stack(
    values: NDArray[np.generic], drawn: Picture, frame: Frame | None, *, said: str, seed: int, alone: bool
) -> Html:
    if frame is not None:
        return tag("div", scatter(values, frame, said=said, labels=drawn.labels), cls="stack", style="--n:1;--w:26rem")
    if kind_of(values) == "curves":
        low, high = span_of(values)
        tiles = [wave(v, low, high, said=f"seed {seed + i}, {said}") for i, v in enumerate(values[:4])]
        return tag("div", tiles, cls="stack", style="--n:4;--w:12rem")
    pixels = values.astype(np.uint8)
    tiles = [picture(v, said=f"seed {seed + i}, {said}") for i, v in enumerate(pixels)]
    wide = (LARGER if alone else 1) * displayed(*pixels.shape[1:3])[1]
    return tag("div", tiles, cls="stack", style=f"--n:{len(tiles)};--w:{wide}px")
