"""Strips: rows of equal tiles, a column for each moment, names at the left, numbers above and below.

The layout is counted in pixels. Every tile is a whole multiple of the pictures' own pixels, so that all of them come
out equally large and with their values unchanged; points are drawn in square panels with the same limits everywhere.
"""

import math
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sfumato.figures.sheets import marker_area
from sfumato.figures.style import FAINT, INK, PALETTE, RULE, SMALL, house_style, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Limits", "PictureTile", "PointTile", "Row", "Tile", "limits_of", "strip"]

DPI = 300
PAGE = 7.0  # inches; strips aim at the width of a page
TITLE = 7.5  # points


class Tile(ABC):
    """What stands in one place of a strip."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int] | None:
        """Height and width in pixels of its own, None where any size will do."""

    @abstractmethod
    def draw(self, axes: "Axes", *, scale: int, side: float) -> None:
        """Fill the axes: pixels as blocks of scale x scale, or points in a panel of `side` points."""


@dataclass(frozen=True, slots=True, eq=False)
class PictureTile(Tile):
    """One picture, uint8 (H, W) or (H, W, 3)."""

    pixels: NDArray[np.uint8]

    @property
    def size(self) -> tuple[int, int] | None:
        return self.pixels.shape[0], self.pixels.shape[1]

    def draw(self, axes: "Axes", *, scale: int, side: float) -> None:
        # Enlarged here: viewers of PDF and SVG smooth small pictures.
        blocks = self.pixels.repeat(scale, axis=0).repeat(scale, axis=1)
        axes.imshow(blocks, cmap="gray", vmin=0, vmax=255, interpolation="none", aspect="auto")
        axes.set_axis_off()


@dataclass(frozen=True, slots=True)
class Limits:
    """The part of the plane that every panel shows."""

    x: tuple[float, float]
    y: tuple[float, float]

    def outside(self, places: NDArray[np.float64]) -> int:
        """How many of the points (N, 2) are not shown."""
        low, high = np.array([self.x, self.y]).T
        return int((~((places >= low) & (places <= high)).all(axis=1)).sum())


def limits_of(clouds: Sequence[NDArray[np.float64]], *, square: bool = True) -> Limits:
    """Limits that hold all points of all clouds (N, 2) with a little room; of equal lengths when `square`."""
    finite = [cloud[np.isfinite(cloud).all(axis=1)] for cloud in clouds]
    everything = np.concatenate([*finite, np.zeros((0, 2))])
    if len(everything) == 0:
        return Limits((-1.0, 1.0), (-1.0, 1.0))
    low, high = everything.min(axis=0), everything.max(axis=0)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 1e-9) * 1.06
    half = np.full(2, half.max()) if square else half
    start, stop = (middle - half).tolist(), (middle + half).tolist()
    return Limits((start[0], stop[0]), (start[1], stop[1]))


@dataclass(frozen=True, slots=True, eq=False)
class PointTile(Tile):
    """A cloud of points (N, 2) within given limits."""

    places: NDArray[np.float64]
    limits: Limits
    colour: str = PALETTE[0]

    @property
    def size(self) -> tuple[int, int] | None:
        return None

    def draw(self, axes: "Axes", *, scale: int, side: float) -> None:
        area = marker_area(len(self.places), side)
        many = len(self.places) > 1000
        x, y = self.places.T
        axes.scatter(x, y, s=area, color=self.colour, alpha=0.7, linewidths=0, rasterized=many)
        axes.set(xlim=self.limits.x, ylim=self.limits.y, xticks=[], yticks=[])
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set(visible=True, color=RULE, linewidth=0.6)


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """Tiles of one row (None leaves a place empty), its name, and the numbers below it; `apart` adds room above."""

    name: str
    tiles: Sequence[Tile | None]
    captions: Sequence[str] = ()
    apart: bool = False


@dataclass(frozen=True, slots=True)
class _Measures:
    """A strip in pixels at `dpi`; fixed lengths are counted in points and converted here."""

    dpi: int
    scale: int
    tile: tuple[int, int]
    left: int
    columns: int

    def of(self, points: float) -> int:
        return round(points * self.dpi / 72)

    @property
    def width(self) -> int:
        return self.left + self.columns * (self.tile[1] + self.of(2)) + self.of(2)


def strip(
    rows: Sequence[Row], *, header: Sequence[str], header_name: str = "", caption_name: str = "", note: str = ""
) -> "Figure":
    """The figure of the rows under one header; all tiles with a size of their own have the same."""
    with house_style():
        names = ["\n".join(textwrap.fill(part, 18) for part in _parts(row.name)) for row in rows]
        m = _measured(rows, names, len(header), header_name, caption_name)
        tops, height = _tops(rows, m, footer=11 if note else 0)
        figure = _blank(m.width, height, m.dpi)

        def write(text: str, x: float, y: float, size: float, colour: str, ha: str, va: str = "baseline") -> None:
            figure.text(x / m.width, 1 - y / height, text, size=size, color=colour, ha=ha, va=va)

        name_at, first = m.left - m.of(5), m.of(10)
        write(header_name, name_at, first, SMALL, FAINT, "right")
        for column, text in enumerate(header):
            write(text, _left(m, column) + m.tile[1] / 2, first, TITLE, INK, "center")
        for row, name, top in zip(rows, names, tops, strict=True):
            write(name, name_at, top + m.tile[0] / 2, TITLE, INK, "right", "center")
            for column, tile in enumerate(row.tiles):
                if tile is not None:
                    left, low = _left(m, column) / m.width, 1 - (top + m.tile[0]) / height
                    axes = figure.add_axes((left, low, m.tile[1] / m.width, m.tile[0] / height))
                    tile.draw(axes, scale=m.scale, side=m.tile[0] / m.dpi * 72)
            below = top + m.tile[0] + m.of(8.5)
            if row.captions:
                write(caption_name, name_at, below, SMALL, FAINT, "right")
            for column, text in enumerate(row.captions):
                write(text, _left(m, column) + m.tile[1] / 2, below, SMALL, FAINT, "center")
        write(note, m.left + m.of(2), height - m.of(4), SMALL, FAINT, "left")
    return figure


def _parts(name: str) -> list[str]:
    """A name, and what stands in brackets after it, on lines of their own."""
    return name.replace(" (", "\n(").split("\n")


def _left(m: _Measures, column: int) -> int:
    return m.left + m.of(2) + column * (m.tile[1] + m.of(2))


def _measured(
    rows: Sequence[Row], names: Sequence[str], columns: int, header_name: str, caption_name: str
) -> _Measures:
    """Tiles as wide as a page allows, between half an inch and 1.3 inches, and whole multiples of the pictures'."""
    widest = max([text_width(name, TITLE) for name in names])
    widest = max(widest, text_width(header_name, SMALL), text_width(caption_name, SMALL))
    margin = widest + 9 / 72 if widest > 0 else 0.0
    target = min(1.3, max(0.5, (PAGE - margin) / columns - 2 / 72))
    sizes = {tile.size for row in rows for tile in row.tiles if tile is not None and tile.size is not None}
    assert len(sizes) <= 1, "all pictures of a strip have one size"
    if not sizes:
        side = round(target * DPI)
        return _Measures(DPI, 1, (side, side), round(margin * DPI), columns)
    height, width = sizes.pop()
    scale = max(1, round(target * DPI / width))
    dpi = DPI * max(1, math.ceil(scale * width / (1.3 * DPI)))  # finer instead of larger, for pictures of many pixels
    return _Measures(dpi, scale, (height * scale, width * scale), round(margin * dpi), columns)


def _tops(rows: Sequence[Row], m: _Measures, *, footer: float) -> tuple[list[int], int]:
    """The upper edge of each row, and the height of the whole figure."""
    tops: list[int] = []
    y = m.of(14)
    for row in rows:
        y += m.of(5) if row.apart and tops else 0
        tops.append(y)
        y += m.tile[0] + m.of(2) + (m.of(9) if row.captions else 0)
    return tops, y + m.of(footer) + m.of(1)


def _blank(width: int, height: int, dpi: int) -> "Figure":
    from matplotlib.figure import Figure

    sliver = 1e-6  # width / dpi · dpi must not come out a hair below the whole number of pixels
    return Figure(figsize=((width + sliver) / dpi, (height + sliver) / dpi), dpi=dpi)
