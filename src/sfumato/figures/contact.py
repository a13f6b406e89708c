"""The contact sheet: examples of a data set, evenly spaced over its classes, and its closest near copies in pairs.

Pictures are shown as they are, in whole multiples of their pixels where they are small; large ones are averaged down to
tiles. What is no picture becomes a scatter panel.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sfumato.data import Packed
from sfumato.data.copies import Copies
from sfumato.data.packed import evenly
from sfumato.data.wording import counted
from sfumato.figures.material import pictures
from sfumato.figures.sheets import CAPTION, GUTTER, grid, image_sheet, write_line
from sfumato.figures.style import INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["contact_sheet", "spread"]

EXAMPLES, POINTS, PAIRS = 100, 2000, 8
LARGEST_TILE = 96  # pixels of the longer side
COLUMNS_OF_PAIRS = 8


def contact_sheet(packed: Packed, copies: Copies | None = None, *, count: int | None = None) -> "Image.Image | Figure":
    """`count` examples of a data set (100 pictures, 2,000 points), each class as often as it is in the data.

    Below pictures stand up to eight pairs of near copies, the closest first, with their distance.
    """
    chosen = spread(packed, count if count is not None else EXAMPLES if packed.is_image else POINTS)
    labels = None
    if packed.labels is not None:
        names = packed.class_names or tuple(map(str, packed.label_values))
        labels = [names[k] for k in packed.labels[chosen].tolist()]
    if not packed.is_image:
        return grid(packed.values[chosen].flatten(1).numpy(), labels=labels)
    shown = image_sheet(pictures(_tiles(packed.values[chosen].numpy())), labels=labels)
    heads = [f"{len(chosen):,} of {len(packed):,} pictures"]
    sheets = [shown]
    if copies is not None and len(copies.pairs):
        sheets.append(_pairs(packed, copies))
        heads.append(f"the closest of {counted(len(copies.pairs), 'pair')} of near copies, with their distance")
    return _stacked(heads, sheets)


def spread(packed: Packed, count: int) -> torch.Tensor:
    """Indices of `count` examples evenly spaced over the examples in the order of their classes, int64."""
    order = torch.arange(len(packed)) if packed.labels is None else packed.labels.argsort(stable=True)
    return order[torch.tensor(evenly(len(packed), count))]


def _pairs(packed: Packed, copies: Copies) -> Image.Image:
    pairs = torch.from_numpy(copies.pairs[:PAIRS]).flatten()
    turned = [False] * len(copies.pairs) if copies.mirrored is None else copies.mirrored.tolist()
    shown = zip(copies.distances[:PAIRS].tolist(), turned, strict=False)
    labels = [text for d, mirrored in shown for text in (f"d {d:.2g}", "mirrored" if mirrored else "")]
    tiles = pictures(_tiles(packed.values[pairs].numpy()))
    return image_sheet(tiles, labels=labels, columns=COLUMNS_OF_PAIRS)


def _tiles(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures (N, H, W, C) whose longer side is at most LARGEST_TILE, averaged down where they are larger."""
    height, width, channels = pixels.shape[1:]
    longest = max(height, width)
    if longest <= LARGEST_TILE:
        return pixels
    size = max(1, width * LARGEST_TILE // longest), max(1, height * LARGEST_TILE // longest)
    flat = [Image.fromarray(p[..., 0] if channels == 1 else p).resize(size, Image.Resampling.BOX) for p in pixels]
    return np.stack([np.asarray(tile).reshape(size[1], size[0], channels) for tile in flat])


def _stacked(heads: Sequence[str], sheets: Sequence[Image.Image]) -> Image.Image:
    """Sheets below one another on white, each under its head."""
    width = max(sheet.width for sheet in sheets)
    height = sum(sheet.height + CAPTION + GUTTER for sheet in sheets)
    whole = Image.new(sheets[0].mode, (width, height), "white")
    top = 0
    for head, sheet in zip(heads, sheets, strict=True):
        write_line(whole, head, middle=width // 2, top=top + GUTTER, room=width, colour=INK)
        whole.paste(sheet, (0, top + CAPTION + GUTTER))
        top += sheet.height + CAPTION + GUTTER
    return whole
