"""Curves as inline SVG: drawn with the page's own colours, so that they turn dark with it, and small.

A plot is 400 by 240 units, a wide one 720 by 270, and 400 by 240 on a narrow screen, so that letters stay legible. Each
`Line` has a colour of the page's palette and a dash of its own, which tells lines apart without colour; its errors are
whiskers of one standard error on either side.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sfumato.experiment.report.axes import Axis, axis_for
from sfumato.experiment.report.markup import Html, tag
from sfumato.experiment.report.wording import number, numbers

__all__ = ["COLOURS", "CROWD", "NAMED", "Line", "Plot", "Whiskers", "crowded", "plot", "thinned", "whiskers"]

WIDTH, HEIGHT = 400.0, 240.0
WIDE, HIGH = 720.0, 270.0  # of a plot across the page: letters stay as large
LEFT, RIGHT, TOP, BOTTOM = 48.0, 12.0, 10.0, 30.0
COLOURS, DASHES = 7, 4  # in the style sheet
MOST_POINTS = 400  # of a line
CROWD, NAMED = 14, 6  # lines that can be told apart, and those of a crowd that are
CAP = 2.5  # half the width of a whisker's end


@dataclass(frozen=True, slots=True)
class Line:
    """A curve: `x` and `y` of equal lengths, NaN where there is a gap.

    errors: one standard error of each y; empty for none. look: "line", "dots" (a line with a dot at each point) or
    "faint". shade: from 0 to 1 in place of a colour, for lines that follow an order. named: whether the legend has it.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    errors: Sequence[float] = ()
    colour: int = 0
    dash: int = 0
    look: str = "line"
    shade: float | None = None
    named: bool = True


@dataclass(frozen=True, slots=True)
class Plot:
    """Curves over one pair of axes.

    log: of y, decided by the numbers where it is None. holds: numbers that the y axis has to reach. caption: below the
    title.
    """

    title: str
    x_label: str
    lines: tuple[Line, ...]
    log: bool | None = None
    x_range: tuple[float, float] | None = None
    holds: tuple[float, ...] = ()
    caption: str = ""
    wide: bool = False

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in units."""
        return (WIDE, HIGH) if self.wide else (WIDTH, HEIGHT)


def plot(drawn: Plot) -> Html:
    """A figure with its title, the curves, and the legend where there is more than one name."""
    named = [line for line in drawn.lines if line.named]
    legend = None
    if len(named) > 1:
        keys = (tag("li", _key(line), line.name) for line in named)
        legend = tag("ul", keys, cls="legend")
    caption = tag("span", drawn.caption, cls="aside") if drawn.caption else None
    figure = "plot wide" if drawn.wide else "plot"
    both = [_svg(drawn, "broad"), _svg(replace(drawn, wide=False), "narrow")] if drawn.wide else _svg(drawn, None)
    return tag("figure", tag("figcaption", tag("b", drawn.title), " ", caption), both, legend, cls=figure)


def _svg(drawn: Plot, screen: str | None) -> Html:
    """The drawing; `screen` says on which screens it is shown."""
    x_values = [v for line in drawn.lines for v in line.x] if drawn.x_range is None else list(drawn.x_range)
    width, height = drawn.size
    x = axis_for(x_values, LEFT, width - RIGHT, log=False, room=0.0)
    reach = [*drawn.holds, *(end for line in drawn.lines for end in _ends(line))]
    y = axis_for(reach, height - BOTTOM, TOP, log=drawn.log)
    curves = (_curve(thinned(line, MOST_POINTS), x, y) for line in drawn.lines)
    return tag(
        "svg",
        _frame(x, y, drawn.x_label),
        curves,
        viewBox=f"0 0 {width:g} {height:g}",
        cls=screen,
        role="img",
        aria_label=_said(drawn),
    )


def _ends(line: Line) -> Iterator[float]:
    """What an axis must hold of a line: its values with their errors."""
    for index, value in enumerate(line.y):
        error = line.errors[index] if line.errors else 0.0
        error = error if math.isfinite(error) else 0.0
        yield from ((value - error, value + error) if value - error > 0 or value <= 0 else (value, value + error))


def _frame(x: Axis, y: Axis, x_label: str) -> Html:
    """Lines across at round numbers, and what the axes say."""
    up, on = y.ticks(4), x.ticks(round((x.stop - x.start) / 85))
    across = [
        (
            tag("path", d=f"M{LEFT:g} {y.at(v):.1f}H{x.stop:g}", cls="grid"),
            tag("text", said, x=f"{LEFT - 6:g}", y=f"{y.at(v) + 3.5:.1f}", cls="tick end"),
        )
        for v, said in zip(up, numbers(up), strict=True)
    ]
    base = y.start
    along = [
        tag("text", said, x=f"{x.at(v):.1f}", y=f"{base + 13:g}", cls="tick mid")
        for v, said in zip(on, numbers(on), strict=True)
    ]
    label = tag("text", x_label, x=f"{x.stop:g}", y=f"{base + BOTTOM - 3:g}", cls="label end")
    return tag("g", across, tag("path", d=f"M{LEFT:g} {base:g}H{x.stop:g}", cls="axis"), along, label)


def _curve(line: Line, x: Axis, y: Axis) -> Html:
    path = _path([(x.at(a), y.at(b)) if math.isfinite(b) else None for a, b in zip(line.x, line.y, strict=True)])
    parts = [tag("path", d=path, cls="line")]
    known = [(i, a, b) for i, (a, b) in enumerate(zip(line.x, line.y, strict=True)) if math.isfinite(b)]
    if line.look == "dots":
        parts += [tag("circle", cx=f"{x.at(a):.1f}", cy=f"{y.at(b):.1f}", r="2.4", cls="dot") for _, a, b in known]
    for i, a, b in known if line.errors else ():
        found = whiskers(b, line.errors[i], y)
        if found is not None:
            place = x.at(a)
            d = f"M{place:.1f} {found.low:.1f}V{found.high:.1f}"
            ends = "".join(f"M{place - CAP:.1f} {end:.1f}h{2 * CAP:g}" for end in (found.low, found.high))
            parts.append(tag("path", d=d + ends, cls="whisker"))
    return tag("g", parts, cls=_classes(line), style=_shade(line))


@dataclass(frozen=True, slots=True)
class Whiskers:
    """The places of a value less and plus one standard error."""

    low: float
    high: float


def whiskers(value: float, error: float, axis: Axis) -> Whiskers | None:
    """One standard error on either side of a value, at their places on an axis; None where there is no error."""
    if not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return None
    low = value - error
    return Whiskers(axis.at(axis.low if axis.log and low <= 0 else low), axis.at(value + error))


def crowded(lines: Sequence[Line]) -> list[Line]:
    """The lines, but of a crowd all faint and without names except those that end lowest, which are drawn last."""
    if len(lines) <= CROWD:
        return list(lines)
    ends = [next((v for v in reversed(line.y) if math.isfinite(v)), math.inf) for line in lines]
    order = sorted(range(len(lines)), key=lambda i: ends[i], reverse=True)
    behind = [replace(lines[i], look="faint", errors=(), named=False, colour=6, dash=0) for i in order[:-NAMED]]
    return behind + [replace(lines[i], colour=k, dash=k) for k, i in enumerate(order[-NAMED:])]


def _path(places: Sequence[tuple[float, float] | None]) -> str:
    """The path through places, broken where there is none."""
    parts, pen = [], "M"
    for place in places:
        if place is None:
            pen = "M"
            continue
        parts.append(f"{pen}{place[0]:.1f} {place[1]:.1f}")
        pen = "L"
    return "".join(parts)


def thinned(line: Line, most: int) -> Line:
    """A line of about `most` points that keeps every peak and gap: the least and the largest of each stretch."""
    if len(line.x) <= most or line.errors:
        return line
    size = math.ceil(2 * len(line.x) / most)
    kept: list[int] = []
    for start in range(0, len(line.x), size):
        finite = [i for i in range(start, min(start + size, len(line.x))) if math.isfinite(line.y[i])]
        ends = {min(finite, key=lambda i: line.y[i]), max(finite, key=lambda i: line.y[i])} if finite else set()
        gap = next((i for i in range(start, min(start + size, len(line.x))) if not math.isfinite(line.y[i])), None)
        kept += sorted(ends if gap is None else {*ends, gap})
    return replace(line, x=[line.x[i] for i in kept], y=[line.y[i] for i in kept])


def _classes(line: Line) -> str:
    shade = "shade" if line.shade is not None else f"c{line.colour % COLOURS}"
    return f"{shade} d{line.dash % DASHES} {line.look}"


def _shade(line: Line) -> str | None:
    return None if line.shade is None else f"--at:{100 * line.shade:.0f}%"


def _key(line: Line) -> Html:
    """A short piece of a line, for the legend."""
    piece = tag("path", d="M1 6H25", cls="line")
    dot = tag("circle", cx="13", cy="6", r="2.4", cls="dot") if line.look == "dots" else None
    drawn = tag("g", piece, dot, cls=_classes(line), style=_shade(line))
    return tag("svg", drawn, viewBox="0 0 26 12", cls="key", aria_hidden="true")


def _said(drawn: Plot) -> str:
    """What a plot shows, for those who do not see it: where each line begins and ends."""
    said = []
    for line in drawn.lines:
        finite = [value for value in line.y if math.isfinite(value)]
        if finite and line.named:
            said.append(f"{line.name}: from {number(finite[0])} to {number(finite[-1])}")
    return f"{drawn.title} over {drawn.x_label}. {'; '.join(said[:12])}"
