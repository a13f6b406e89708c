"""Progress from one noise: pictures pixel for pixel, points place by place."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sfumato.errors import DataError
from sfumato.figures import Moment, progress
from sfumato.figures.sheets import CAPTION, GUTTER


def test_sheets_stand_below_their_steps() -> None:
    rng = np.random.default_rng(0)
    sheets = [Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in range(3)]
    drawn = progress([Moment(100 * k, sheet) for k, sheet in enumerate(sheets)])
    assert isinstance(drawn, Image.Image)
    pixels = np.asarray(drawn)
    for k, sheet in enumerate(sheets):
        left = k * (30 + GUTTER)
        np.testing.assert_array_equal(pixels[CAPTION : CAPTION + 20, left : left + 30], np.asarray(sheet))


def test_wide_sheets_go_on_in_another_line() -> None:
    sheets = [Moment(k, Image.new("RGB", (800, 10), colour)) for k, colour in enumerate(("red", "green", "blue"))]
    drawn = progress(sheets)
    assert isinstance(drawn, Image.Image)
    assert drawn.width <= 1800
    assert drawn.getpixel((5, 10 + 2 * CAPTION + GUTTER + 5)) == (0, 0, 255)


def test_points_keep_their_colour() -> None:
    """Sample k has the colour of its place at the end, at every step; all panels have the same axes."""
    rng = np.random.default_rng(0)
    clouds = [rng.standard_normal((9, 2)) * k for k in (1, 2, 3)]
    drawn = progress([Moment(k, cloud) for k, cloud in enumerate(clouds)])
    assert isinstance(drawn, Figure)
    panels = drawn.axes[:3]
    assert [axes.get_title("left") for axes in panels] == ["step 0", "step 1", "step 2"]
    for axes, cloud in zip(panels, clouds, strict=True):
        (dots,) = axes.collections
        np.testing.assert_array_equal(np.asarray(dots.get_offsets()), cloud)
        np.testing.assert_array_equal(np.asarray(dots.get_array()), np.asarray(panels[0].collections[0].get_array()))
        assert axes.get_xlim() == panels[0].get_xlim()
    turns = np.arctan2(*(clouds[-1] - clouds[-1].mean(0)).T)
    assert (np.argsort(np.asarray(panels[0].collections[0].get_array())) == np.argsort(turns)).all()


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(DataError, match="no previews"):
        progress([])
    with pytest.raises(DataError, match="pictures and some are points"):
        progress([Moment(0, Image.new("L", (4, 4))), Moment(1, np.zeros((3, 2)))])
