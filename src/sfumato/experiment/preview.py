"""Previews during training: samples from one fixed noise, a picture for images and an array for everything else."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.data.sheet import tile_sheet
from sfumato.training.storage import LocalStorage, make_folders, replace_file

__all__ = ["preview_picture", "save_preview"]

TILE = 48  # pictures are enlarged by the whole factor that brings their shorter side to at least this


def preview_picture(images: NDArray[np.uint8]) -> Image.Image:
    """N pictures (N, H, W, C) on a nearly square sheet; three channels are colour, else the first is grey."""
    shown = images if images.shape[3] == 3 else images[..., 0]
    scale = math.ceil(TILE / min(images.shape[1:3]))
    return Image.fromarray(tile_sheet(shown, columns=math.ceil(math.sqrt(len(images))), scale=scale))


def save_preview(folder: Path, step: int, drawn: NDArray[Any], *, is_image: bool) -> Path:
    """Write samples/step-00001000.png, or .npz with `values`; replaces the preview that a killed run may have left."""
    buffer, storage = io.BytesIO(), LocalStorage()
    if is_image:
        preview_picture(drawn).save(buffer, format="PNG")
    else:
        np.savez(buffer, values=drawn)
    make_folders(folder, storage)
    path = folder / f"step-{step:08d}.{'png' if is_image else 'npz'}"
    replace_file(path, [buffer.getvalue()], storage)
    return path
