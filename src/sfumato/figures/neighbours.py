"""Samples above the training and the held-out examples nearest to them: what a copy looks like, and what chance does.

One column for each sample, most like a copy first. Below the sample stands the seed that draws it, below the training
example how far it is, as a multiple of the distance to the held-out one.
"""

import numpy as np
from PIL import Image

from sfumato.data.sheet import tile_sheet
from sfumato.experiment.evaluation.memorisation import ClosestPairs
from sfumato.figures.material import pictures
from sfumato.figures.sheets import CAPTION, GUTTER, fitting_scale, write_line
from sfumato.figures.style import FAINT, INK, number

__all__ = ["neighbours"]

MARGIN = 60  # pixels for what the rows are called
ROWS = ("samples", "training", "held out")


def neighbours(pairs: ClosestPairs, *, scale: int | None = None) -> Image.Image:
    """Three rows of pictures with their captions; values are never changed."""
    rows = [pictures(array).pixels for array in (pairs.samples, pairs.originals, pairs.unseen)]
    height, width = rows[0].shape[1:3]
    scale = fitting_scale(height, width) if scale is None else scale
    sheet = tile_sheet(np.concatenate(rows), columns=len(pairs), scale=scale, gutter=GUTTER, caption=CAPTION)
    beside = [(0, 0), (MARGIN, 0), *[(0, 0)] * (sheet.ndim - 2)]
    image = Image.fromarray(np.pad(sheet, beside, constant_values=255))
    tall, wide = height * scale + GUTTER + CAPTION, width * scale + GUTTER
    captions = ([str(seed) for seed in pairs.seeds], [number(r, 2) for r in pairs.ratio], ["1"] * len(pairs))
    for row, (name, below) in enumerate(zip(ROWS, captions, strict=True)):
        top = GUTTER + row * tall
        middle = top + (height * scale - CAPTION) // 2
        write_line(image, name, middle=MARGIN // 2, top=middle, room=MARGIN, colour=INK)
        for column, text in enumerate(below):
            centre = MARGIN + GUTTER + column * wide + width * scale // 2
            write_line(image, text, middle=centre, top=top + height * scale + GUTTER, room=width * scale, colour=FAINT)
    return image
