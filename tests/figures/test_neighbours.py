"""The sheet of the closest pairs: each picture in its place, block by block, with its captions below."""

import numpy as np
import pytest

from sfumato.experiment.evaluation.memorisation import ClosestPairs
from sfumato.figures import neighbours
from sfumato.figures.neighbours import MARGIN
from sfumato.figures.sheets import CAPTION, GUTTER


def pairs(channels: int, count: int = 4) -> ClosestPairs:
    rng = np.random.default_rng(channels)
    rows = [rng.integers(0, 256, (count, 6, 5, channels), dtype=np.uint8) for _ in range(3)]
    numbers = np.arange(count)
    return ClosestPairs("pixels", *rows, ratio=0.1 * (1 + numbers), seeds=numbers, training=numbers, held_out=numbers)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_picture_is_where_it_should_be(channels: int) -> None:
    shown, scale = pairs(channels), 9
    sheet = np.asarray(neighbours(shown, scale=scale))
    assert sheet.shape[:2] == (GUTTER + 3 * (6 * scale + GUTTER + CAPTION), MARGIN + GUTTER + 4 * (5 * scale + GUTTER))
    for row, pictures in enumerate((shown.samples, shown.originals, shown.unseen)):
        top = GUTTER + row * (6 * scale + GUTTER + CAPTION)
        for column in range(4):
            left = MARGIN + GUTTER + column * (5 * scale + GUTTER)
            tile = sheet[top : top + 6 * scale, left : left + 5 * scale]
            expected = pictures[column].repeat(scale, 0).repeat(scale, 1)
            assert np.array_equal(tile, expected[..., 0] if channels == 1 else expected)
            below = sheet[top + 6 * scale : top + 6 * scale + GUTTER + CAPTION, left : left + 5 * scale]
            assert below.min() < 200  # something is written there
        assert sheet[top : top + 6 * scale, :MARGIN].min() < 200  # and what the row is


def test_a_scale_is_chosen() -> None:
    assert neighbours(pairs(1)).width == MARGIN + GUTTER + 4 * (5 * 8 + GUTTER)  # 6 pixels become 48
