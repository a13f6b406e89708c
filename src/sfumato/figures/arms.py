"""Samples of several models from the same noise, a row for each: arms of a sweep in the order of its table.

Column k is drawn from the same seed in every row, so what differs in a column is what the arms learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from sfumato.data.sheet import tile_sheet
from sfumato.errors import DataError
from sfumato.figures.material import Points, material
from sfumato.figures.sheets import CAPTION, GUTTER, fitting_scale, marker_area, write_line
from sfumato.figures.strips import Limits, limits_of
from sfumato.figures.style import INK, PALETTE, house_style, new_figure, panel, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ArmRow", "arms"]

ACROSS = 4  # panels of points in a row
FAR = 3.0  # times as wide as the others: an arm that diverged


@dataclass(frozen=True, slots=True, eq=False)
class ArmRow:
    """One model: its name, and its samples, (N, H, W, C) uint8 or (N, 2)."""

    name: str
    samples: ArrayLike


def arms(rows: Sequence[ArmRow], *, scale: int | None = None) -> "Image.Image | Figure":
    """A sheet with a named row of pictures for each, or a panel of points for each.

    Raises DataError for no row, and for rows of other sizes.
    """
    if not rows:
        raise DataError("there is no arm to draw", expected="one or more that are trained", fix="train the sweep first")
    shown = [material(row.samples) for row in rows]
    names = [row.name for row in rows]
    points = [one for one in shown if isinstance(one, Points)]
    if points and len(points) == len(shown):
        return _panels(names, points)
    pixels = [one.pixels for one in shown if not isinstance(one, Points)]
    if len({one.shape for one in pixels}) != 1 or len(pixels) != len(shown):
        raise DataError(
            "the arms draw samples of other shapes", expected="pictures of one size, as many of each", fix="choose arms"
        )
    count, height, width = pixels[0].shape[:3]
    scale = fitting_scale(height, width) if scale is None else scale
    sheet = tile_sheet(np.concatenate(pixels), columns=count, scale=scale, gutter=GUTTER, caption=CAPTION)
    image = Image.fromarray(np.pad(sheet, [(CAPTION, 0), *[(0, 0)] * (sheet.ndim - 1)], constant_values=255))
    tall = height * scale + GUTTER + CAPTION
    for row, name in enumerate(names):  # each name above its row: the caption below the row before it
        write_line(image, name, middle=image.width // 2, top=row * tall, room=image.width, colour=INK)
    return image


def _panels(names: Sequence[str], points: Sequence[Points]) -> "Figure":
    """A panel of points for each, all with the same axes; arms that are far out do not flatten the others."""
    columns = min(ACROSS, len(points))
    lines = -(-len(points) // columns)
    limits = _limits([one.places for one in points])
    with house_style():
        figure = new_figure(1.9 * columns, 2.0 * lines)
        figure.set_layout_engine("compressed")  # panels of a fixed shape leave no room for their titles otherwise
        panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flatten()
        for axes, name, one in zip(panels, names, points, strict=False):
            area = marker_area(len(one), 1.5 * 72)
            axes.scatter(one.places[:, 0], one.places[:, 1], s=area, color=PALETTE[0], linewidths=0)
            left_out = limits.outside(one.places)
            panel(axes, shortened(name, 28), f"{left_out:,} of {len(one):,} lie outside" if left_out else "", "")
            axes.set_aspect("equal")
            axes.set_xlim(*limits.x)
            axes.set_ylim(*limits.y)
        for axes in panels[len(points) :]:
            axes.set_axis_off()
    return figure


def _limits(clouds: Sequence[NDArray[np.float64]]) -> Limits:
    """Limits that hold all arms that reach no more than `FAR` times as far as the narrower quarter of them."""
    reaches = [np.ptp(limits_of([cloud]).x) for cloud in clouds]
    most = FAR * float(np.quantile(reaches, 0.25))
    return limits_of([cloud for cloud, reach in zip(clouds, reaches, strict=True) if reach <= most])
