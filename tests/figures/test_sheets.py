"""The sample grid: every pixel lies where the module says, with its value unchanged."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sfumato.data import Normalization, Packed
from sfumato.errors import UsageError
from sfumato.figures import grid
from sfumato.figures.material import material
from sfumato.figures.sheets import CAPTION, GUTTER, fitting_columns, fitting_scale

Data = tuple[Packed, Normalization]


def tile(sheet: np.ndarray, index: int, *, columns: int, size: tuple[int, int], below: int = 0) -> np.ndarray:
    """The pixels of one tile, found by the formula of the module."""
    top = GUTTER + index // columns * (size[0] + GUTTER + below)
    left = GUTTER + index % columns * (size[1] + GUTTER)
    return sheet[top : top + size[0], left : left + size[1]]


def test_grey_pictures_stay_where_and_what_they_are(digits: Data) -> None:
    images = digits[0].values[:10].numpy()
    image = grid(images, columns=4, scale=5)
    assert isinstance(image, Image.Image)
    assert image.mode == "L"
    sheet = np.asarray(image)
    assert sheet.shape == (GUTTER + 3 * (40 + GUTTER), GUTTER + 4 * (40 + GUTTER))
    outside = np.ones_like(sheet, dtype=bool)
    for index, picture in enumerate(images):
        found = tile(sheet, index, columns=4, size=(40, 40))
        assert (found == np.kron(picture[..., 0], np.ones((5, 5), np.uint8))).all()
        tile(outside, index, columns=4, size=(40, 40))[:] = False
    assert (sheet[outside] == 255).all()  # gutters and the two places left over


def test_colour_pictures_and_their_labels(sprites: Data) -> None:
    images = sprites[0].values[::500].numpy()
    image = grid(images, labels=["a"] * len(images), scale=1)
    assert isinstance(image, Image.Image)
    assert image.mode == "RGB"
    columns = fitting_columns(len(images))
    for index, picture in enumerate(images):
        assert (tile(np.asarray(image), index, columns=columns, size=(32, 32), below=CAPTION) == picture).all()
    below = np.asarray(image)[GUTTER + 32 : GUTTER + 32 + CAPTION, GUTTER : GUTTER + 32]
    assert below.min() < 100  # something dark is written there


def test_a_long_label_stays_below_its_own_tile(digits: Data) -> None:
    images = digits[0].values[:2].numpy()
    sheet = np.asarray(grid(images, labels=["a name without any end to it", ""], scale=8))
    written = sheet[GUTTER + 64 : -GUTTER] < 128
    assert written.any()
    assert not written[:, GUTTER + 64 :].any()


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channel_counts_are_shown_side_by_side_and_say_so(channels: int) -> None:
    images = np.arange(3 * 4 * 5 * channels, dtype=np.uint8).reshape(3, 4, 5, channels)
    shown = material(images)
    assert str(channels) in shown.note
    image = grid(images, columns=3, scale=10)
    assert isinstance(image, Image.Image)
    assert image.mode == "L"
    for index, picture in enumerate(images):
        found = tile(np.asarray(image), index, columns=3, size=(40, 50 * channels))[::10, ::10]
        assert (found == np.concatenate([picture[..., c] for c in range(channels)], axis=1)).all()
    assert (np.asarray(image)[-CAPTION:] < 200).any()  # the note


def test_the_shape_of_the_grid() -> None:
    found = {count: fitting_columns(count) for count in (1, 2, 3, 5, 7, 8, 10, 12, 36, 37, 100)}
    assert found == {1: 1, 2: 2, 3: 3, 5: 3, 7: 3, 8: 4, 10: 5, 12: 4, 36: 6, 37: 7, 100: 10}
    assert [fitting_scale(side, side) for side in (8, 28, 32, 64, 512)] == [6, 2, 2, 1, 1]


def test_points_are_scattered_with_equal_scales(roll: Data) -> None:
    values = roll[0].values[:500]
    figure = grid(values)
    assert isinstance(figure, Figure)
    (axes,) = figure.axes
    assert np.allclose(np.asarray(axes.collections[0].get_offsets()), values.numpy())
    assert axes.get_aspect() == 1.0
    figure.draw_without_rendering()
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    box = axes.get_window_extent()
    assert (x1 - x0) / box.width == pytest.approx((y1 - y0) / box.height, rel=1e-3)


def test_points_of_each_class_have_a_colour() -> None:
    values = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0], [3.0, 1.0]])
    figure = grid(values, labels=["b", "a", "b", "a"])
    assert isinstance(figure, Figure)
    first, second = figure.axes[0].collections
    assert np.asarray(first.get_offsets()).tolist() == [[1.0, 1.0], [3.0, 1.0]]
    assert tuple(first.get_facecolor()[0]) != tuple(second.get_facecolor()[0])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_what_is_left_out_of_points_is_said() -> None:
    assert "2 of 6" in material(np.zeros((3, 2, 3), np.float32)).note
    line = material(np.array([[5.0], [7.0]]))
    assert line.axes == ("x", "index")
    assert line.places.tolist() == [[5.0, 0.0], [7.0, 1.0]]
    figure = grid(np.zeros((9, 2)), labels=list(range(9)))
    assert isinstance(figure, Figure)
    assert "9 classes" in figure.axes[0].get_title("left")


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (np.zeros((2, 8), np.uint8), None),
        (np.zeros((2, 8, 8, 1), np.int64), None),
        (np.zeros((0, 8, 8, 1), np.uint8), None),
        (np.zeros((2, 8, 8, 1), np.uint8), ["one"]),
    ],
)
def test_what_cannot_be_shown_is_refused(values: np.ndarray, labels: list[str] | None) -> None:
    with pytest.raises(UsageError):
        grid(values, labels=labels)


def test_bad_counts_are_refused(digits: Data) -> None:
    with pytest.raises(UsageError, match="columns is 0"):
        grid(digits[0].values[:2], columns=0)
