"""Samples from one fixed noise by step: what a run learned, from the previews that its training left.

Sample k stands in the same place at every step. Pictures are shown as they were saved; points in panels with the same
axes, in one colour each by their last place, so that a sample can be followed back to where it began.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from sfumato.errors import DataError
from sfumato.figures.material import Points, material
from sfumato.figures.sheets import CAPTION, GUTTER, marker_area, write_line
from sfumato.figures.strips import limits_of
from sfumato.figures.style import INK, house_style, new_figure, panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Moment", "progress"]

ACROSS, SIDE = 6, 1.55  # panels in a row, inches
MOST_WIDE = 1800  # pixels of a sheet, before its pictures go on in another line


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """Samples after `step` steps: a sheet of pictures, or points (N, ...) of floats."""

    step: int
    samples: "Image.Image | ArrayLike"


def progress(moments: Sequence[Moment]) -> "Image.Image | Figure":
    """The moments side by side under their steps. Raises DataError for none, and for pictures among points."""
    sheets = [one.samples.convert("RGB") for one in moments if isinstance(one.samples, Image.Image)]
    if not moments or 0 < len(sheets) < len(moments):
        raise DataError(
            "there are no previews to draw" if not moments else "some previews are pictures and some are points",
            expected="previews of one run",
            fix="train with --training.preview_every 500",
        )
    steps = [f"step {one.step:,}" for one in moments]
    if sheets:
        return _sheet(steps, sheets)
    shown = [material(one.samples) for one in moments if not isinstance(one.samples, Image.Image)]
    return _panels(steps, [one for one in shown if isinstance(one, Points)])


def _sheet(steps: Sequence[str], sheets: Sequence[Image.Image]) -> Image.Image:
    """Sheets in lines, each under its step."""
    wide = max(sheet.width for sheet in sheets) + GUTTER
    tall = max(sheet.height for sheet in sheets) + CAPTION + GUTTER
    columns = max(1, min(len(sheets), MOST_WIDE // wide))
    lines = -(-len(sheets) // columns)
    whole = Image.new("RGB", (columns * wide - GUTTER, lines * tall - GUTTER), "white")
    for index, (step, sheet) in enumerate(zip(steps, sheets, strict=True)):
        left, top = index % columns * wide, index // columns * tall
        write_line(whole, step, middle=left + sheet.width // 2, top=top, room=sheet.width, colour=INK)
        whole.paste(sheet, (left, top + CAPTION))
    return whole


def _panels(steps: Sequence[str], points: Sequence[Points]) -> "Figure":
    """A panel of points for each step, all with the same axes and equal scales."""
    columns = min(ACROSS, len(points))
    lines = -(-len(points) // columns)
    limits = limits_of([one.places for one in points])
    order = np.argsort(np.argsort(np.arctan2(*(points[-1].places - points[-1].places.mean(0)).T)))
    same = len({len(one) for one in points}) == 1  # as many samples: the k-th of each is from one noise
    with house_style():
        figure = new_figure(SIDE * columns + 0.3, (SIDE + 0.2) * lines + 0.2)
        panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flatten()
        for axes, step, one in zip(panels, steps, points, strict=False):
            colour = order if same else None
            area = marker_area(len(one), SIDE * 60)
            axes.scatter(*one.places.T, s=area, c=colour, cmap="twilight_shifted", linewidths=0, rasterized=True)
            panel(axes, step, "", "")
            axes.set_aspect("equal")
            axes.set_xlim(*limits.x)
            axes.set_ylim(*limits.y)
        for axes in panels[len(points) :]:
            axes.set_axis_off()
    return figure
