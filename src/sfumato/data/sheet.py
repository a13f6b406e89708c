"""Pictures on one sheet: picture k in row k // columns and column k % columns, each pixel a block of scale x scale.

left = gutter + column · (W · scale + gutter)        top = gutter + row · (H · scale + gutter + caption)
"""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["tile_sheet"]


def tile_sheet(
    pictures: NDArray[np.uint8], *, columns: int, scale: int = 1, gutter: int = 2, caption: int = 0
) -> NDArray[np.uint8]:
    """Pictures (N, H, W) or (N, H, W, 3) as one white sheet; `caption` pixels stay free below each."""
    height, width = pictures.shape[1:3]
    tall, wide = height * scale + gutter + caption, width * scale + gutter
    rows = math.ceil(len(pictures) / columns)
    sheet = np.full((gutter + rows * tall, gutter + columns * wide, *pictures.shape[3:]), 255, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = gutter + index // columns * tall, gutter + index % columns * wide
        tile = picture.repeat(scale, axis=0).repeat(scale, axis=1)
        sheet[top : top + height * scale, left : left + width * scale] = tile
    return sheet
