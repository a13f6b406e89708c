"""The sample grid: pictures row by row on a white sheet, or points in one scatter panel.

Where each pixel lies is said, and done, by `data.sheet`; values are never changed.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from sfumato.data.sheet import tile_sheet
from sfumato.errors import UsageError
from sfumato.figures.material import Pictures, Points, material
from sfumato.figures.style import FAINT, INK, PALETTE, SMALL, house_style, new_figure, panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.ImageFont import FreeTypeFont

__all__ = ["GUTTER", "fitting_columns", "fitting_scale", "grid", "image_sheet", "marker_area", "write_line"]

GUTTER = 2  # pixels of the finished sheet between tiles and around them
CAPTION = 16  # pixels that a line of text below a tile takes
TILE = 48  # a tile's longer side is near this many pixels: larger, 8x8 digits fall apart into squares
MOST_CLASSES = len(PALETTE)


def grid(
    values: ArrayLike,
    *,
    labels: Sequence[object] | None = None,
    columns: int | None = None,
    scale: int | None = None,
) -> "Image.Image | Figure":
    """A sheet of the pictures, (N, H, W, C) uint8, or a scatter panel of the points, (N, 2) floats.

    `labels` (N,) are written below pictures and colour points. `columns` and `scale`, the side of a pixel's block, are
    chosen when left out; they are of no use to points. Raises UsageError for other arrays and for counts that differ.
    """
    shown = material(values)
    names = None if labels is None else [str(label) for label in labels]
    if names is not None and len(names) != len(shown):
        raise UsageError(
            f"{len(names)} labels were given for {len(shown)} examples",
            expected="one label for each",
            fix="leave the labels out, or give as many",
        )
    if isinstance(shown, Points):
        return scatter(shown, labels=names)
    return image_sheet(shown, labels=names, columns=columns, scale=scale)


def fitting_columns(count: int) -> int:
    """The columns of a nearly square grid, without a gap in the last row where that can be had."""
    square = math.ceil(math.sqrt(count))
    full = [columns for columns in range(square, 2 * square) if count % columns == 0 and columns**2 <= 4 * count]
    return full[0] if full else square


def fitting_scale(height: int, width: int, tile: int = TILE) -> int:
    """The whole factor that brings the longer side nearest to `tile` pixels; 1 for large pictures."""
    return max(1, round(tile / max(height, width)))


def image_sheet(
    shown: Pictures, *, labels: Sequence[str] | None = None, columns: int | None = None, scale: int | None = None
) -> Image.Image:
    """Pictures on one white sheet, mode L for grey and RGB for colour; the module says where each pixel lies."""
    height, width = shown.pixels.shape[1:3]
    columns = fitting_columns(len(shown)) if columns is None else min(columns, len(shown))
    scale = fitting_scale(height, width) if scale is None else scale
    if columns < 1 or scale < 1:
        raise UsageError(
            f"columns is {columns} and scale is {scale}", expected="whole numbers of 1 or more", fix="leave them out"
        )
    caption = 0 if labels is None else CAPTION
    tall, wide = height * scale + GUTTER + caption, width * scale + GUTTER
    below = CAPTION if shown.note else 0
    sheet = tile_sheet(shown.pixels, columns=columns, scale=scale, gutter=GUTTER, caption=caption)
    image = Image.fromarray(np.pad(sheet, [(0, below), *[(0, 0)] * (sheet.ndim - 1)], constant_values=255))
    for index, label in enumerate(labels or ()):
        middle = GUTTER + index % columns * wide + width * scale // 2
        write_line(
            image, label, middle=middle, top=(index // columns + 1) * tall - caption, room=width * scale, colour=INK
        )
    if shown.note:
        size = image.width
        write_line(image, shown.note, middle=size // 2, top=image.height - below, room=size, colour=FAINT)
    return image


def write_line(image: Image.Image, text: str, *, middle: int, top: int, room: int, colour: str) -> None:
    """A line of text centred at `middle`, cut short with … where it is wider than `room` pixels."""
    from PIL import ImageColor, ImageDraw

    pen, font = ImageDraw.Draw(image), _font()
    while pen.textlength(text, font=font) > room and len(text) > 1:
        text = text.removesuffix("…")[:-1] + "…"
    pen.text((middle, top), text, font=font, fill=ImageColor.getcolor(colour, image.mode), anchor="ma")


def _font() -> "FreeTypeFont":
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 11)


def scatter(shown: Points, *, labels: Sequence[str] | None = None) -> "Figure":
    """Points in one square panel with equal scales; up to seven classes have colours of their own."""
    with house_style():
        figure = new_figure(3.4, 3.4)
        axes = figure.add_subplot()
        panel(axes, "", *shown.axes)
        classes = [] if labels is None else list(dict.fromkeys(labels))
        area = marker_area(len(shown), 3.0 * 72)
        notes = [shown.note] if shown.note else []
        if len(classes) > MOST_CLASSES:
            notes.append(f"{len(classes)} classes in one colour")
        if not 0 < len(classes) <= MOST_CLASSES:
            classes, labels = [""], [""] * len(shown)
        named = np.asarray(labels)
        for name, colour in zip(sorted(classes), PALETTE, strict=False):
            _dots(axes, shown.places[named == name], area=area, colour=colour, label=name)
        if len(classes) > 1:
            enlarged = (12 / area) ** 0.5
            figure.legend(loc="outside lower center", ncols=len(classes), markerscale=enlarged, handletextpad=0)
        if shown.axes[1] != "index":
            axes.set_aspect("equal", adjustable="datalim")
        if notes:
            axes.set_title("; ".join(notes), color=FAINT, fontsize=SMALL)
    return figure


def marker_area(count: int, side: float) -> float:
    """Marker area in points² so that `count` points fill a similar share of a panel of `side` points, however many."""
    return float(np.clip(0.2 * side**2 / max(count, 1), 0.35, 14.0))


def _dots(axes: "Axes", places: NDArray[np.float64], *, area: float, colour: str, label: str) -> None:
    many = len(places) > 2000  # as vectors they would make a PDF of megabytes
    x, y = places.T
    axes.scatter(x, y, s=area, color=colour, alpha=0.7, linewidths=0, label=label, rasterized=many)
