"""Previews during training: samples from one fixed noise, a picture for images and an array for everything else.

A model that is told classes shows sample i as class i mod K, with what it is called; one that is told numbers or goes
by pictures shows what it makes of those of held-out examples.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sfumato.condition import Condition
from sfumato.data.sheet import tile_sheet
from sfumato.training.storage import LocalStorage, make_folders, replace_file

__all__ = ["preview_condition", "preview_picture", "save_preview"]

TILE = 48  # pictures are enlarged by the whole factor that brings their shorter side to at least this
CAPTION = 14  # pixels that a line of text below a picture takes
GUTTER = 2
INK = "black"


def preview_condition(examples: Condition | None, num_classes: int) -> Condition | None:
    """What the samples of a preview are told, from what a network is told of as many examples of the data.

    The classes in turn, unless numbers belong to each example, which its own class goes with; nothing is dropped.
    """
    if examples is None or examples.labels is None or examples.values is not None:
        return examples
    labels = torch.arange(len(examples), device=examples.labels.device) % num_classes
    return replace(examples, labels=labels, dropped=None)


def preview_picture(images: NDArray[np.uint8], names: Sequence[str] | None = None) -> Image.Image:
    """N pictures (N, H, W, C) on a nearly square sheet, with their names below; three channels are colour, else the
    first is grey.
    """
    shown = images if images.shape[3] == 3 else images[..., 0]
    scale = math.ceil(TILE / min(images.shape[1:3]))
    columns = math.ceil(math.sqrt(len(images)))
    if names is None:
        return Image.fromarray(tile_sheet(shown, columns=columns, scale=scale))
    sheet = Image.fromarray(tile_sheet(shown, columns=columns, scale=scale, gutter=GUTTER, caption=CAPTION))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=10)
    high, wide = images.shape[1] * scale + GUTTER + CAPTION, images.shape[2] * scale + GUTTER
    for index, name in enumerate(names):
        text = name
        while pen.textlength(text, font=font) > wide and len(text) > 1:
            text = text[:-1]
        place = (index % columns * wide + wide // 2, (index // columns + 1) * high - CAPTION)
        pen.text(place, text, font=font, fill=INK, anchor="ma")
    return sheet


def save_preview(
    folder: Path, step: int, drawn: NDArray[Any], *, is_image: bool, names: Sequence[str] | None = None
) -> Path:
    """Write samples/step-00001000.png, or .npz with `values`; replaces the preview that a killed run may have left.

    `names`, of the class of each sample, are written below pictures; an array file holds them as `names`.
    """
    buffer, storage = io.BytesIO(), LocalStorage()
    if is_image:
        preview_picture(drawn, names).save(buffer, format="PNG")
    else:
        arrays = {"values": drawn} if names is None else {"values": drawn, "names": np.array(names)}
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
    make_folders(folder, storage)
    path = folder / f"step-{step:08d}.{'png' if is_image else 'npz'}"
    replace_file(path, [buffer.getvalue()], storage)
    return path
