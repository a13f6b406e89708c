"""Previews during training: samples from one fixed noise, a picture for images and an array for everything else."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.training.storage import LocalStorage, make_folders, replace_file

__all__ = ["image_grid", "save_preview"]

GUTTER = 1  # pixels between pictures, before enlargement
SHORT_SIDE = 48  # pictures are enlarged, by whole factors, to at least this


def image_grid(images: NDArray[np.uint8], *, columns: int | None = None) -> Image.Image:
    """N pictures (N, H, W, C) row by row on white, enlarged by a whole factor so that 8x8 digits can be read.

    One channel is grey, three are colour; of any other number the first is shown.
    """
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    rows = math.ceil(count / columns)
    shown = images if channels == 3 else np.repeat(images[..., :1], 3, axis=3)
    sheet = np.full((rows * (height + GUTTER) + GUTTER, columns * (width + GUTTER) + GUTTER, 3), 255, dtype=np.uint8)
    for index, picture in enumerate(shown):
        top = GUTTER + (index // columns) * (height + GUTTER)
        left = GUTTER + (index % columns) * (width + GUTTER)
        sheet[top : top + height, left : left + width] = picture
    factor = max(1, math.ceil(SHORT_SIDE / min(height, width)))
    return Image.fromarray(sheet.repeat(factor, axis=0).repeat(factor, axis=1))


def save_preview(folder: Path, step: int, drawn: NDArray[Any], *, is_image: bool) -> Path:
    """Write samples/step-00001000.png, or .npz with `values`; replaces the preview that a killed run may have left."""
    buffer, storage = io.BytesIO(), LocalStorage()
    if is_image:
        image_grid(drawn).save(buffer, format="PNG")
    else:
        np.savez(buffer, values=drawn)
    make_folders(folder, storage)
    path = folder / f"step-{step:08d}.{'png' if is_image else 'npz'}"
    replace_file(path, [buffer.getvalue()], storage)
    return path
