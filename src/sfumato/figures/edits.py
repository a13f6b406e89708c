"""Before and after: one row per picture, a column for what it was, one for what was given, one for each result.

Every pixel is a block of `scale` × `scale`; the heads stand above the columns, the values are never changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.data.sheet import tile_sheet
from sfumato.errors import UsageError
from sfumato.figures.material import pictures
from sfumato.figures.sheets import CAPTION, GUTTER, fitting_scale, write_line
from sfumato.figures.style import INK

__all__ = ["Column", "edit_sheet"]


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One picture for each row, uint8 (rows, H, W, C), and what stands above them."""

    head: str
    pixels: NDArray[np.uint8]


def edit_sheet(columns: Sequence[Column], *, scale: int | None = None) -> Image.Image:
    """The columns side by side on a white sheet; grey ones beside colour are shown in colour.

    Raises UsageError for columns of different sizes.
    """
    shown = [pictures(column.pixels).pixels for column in columns]
    if len({each.shape[:3] for each in shown}) != 1:
        raise UsageError(
            f"columns of {sorted({each.shape[:3] for each in shown})} pictures",
            expected="as many pictures of one size in each",
            fix="enlarge the small ones first",
        )
    if any(each.ndim == 4 for each in shown):
        shown = [each if each.ndim == 4 else each[..., None].repeat(3, axis=-1) for each in shown]
    height, width = shown[0].shape[1:3]
    scale = fitting_scale(height, width) if scale is None else scale
    rows = np.stack(shown, axis=1).reshape(-1, *shown[0].shape[1:])
    sheet = tile_sheet(rows, columns=len(columns), scale=scale, gutter=GUTTER)
    image = Image.fromarray(np.pad(sheet, [(CAPTION, 0), *[(0, 0)] * (sheet.ndim - 1)], constant_values=255))
    room = width * scale + GUTTER
    for index, column in enumerate(columns):
        middle = GUTTER + index * room + width * scale // 2
        write_line(image, column.head, middle=middle, top=GUTTER, room=room, colour=INK)
    return image
