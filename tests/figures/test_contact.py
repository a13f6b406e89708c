"""The contact sheet: which examples, where their pixels lie, and the pairs below them."""

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from sfumato.data import pack
from sfumato.data.copies import find_copies
from sfumato.figures import contact_sheet
from sfumato.figures.contact import spread
from sfumato.figures.sheets import CAPTION, GUTTER

HEAD = CAPTION + GUTTER


def test_classes_are_shown_as_often_as_they_occur() -> None:
    labels = torch.tensor([1, 0, 1, 1, 0, 1, 1, 1])
    packed = pack(torch.zeros(8, 1, 1, 1, dtype=torch.uint8), labels=labels, label_values=(0, 1))
    assert spread(packed, 4).tolist() == [1, 0, 3, 6]  # two of class 0 among eight: one of four
    assert sorted(spread(packed, 100).tolist()) == list(range(8))
    plain = pack(torch.zeros(10, 1, 1, 1, dtype=torch.uint8))
    assert spread(plain, 5).tolist() == [0, 2, 4, 6, 8]


def test_pixels_are_shown_as_they_are() -> None:
    values = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    sheet = contact_sheet(pack(values), count=4)
    assert isinstance(sheet, Image.Image)
    pixels = np.asarray(sheet)
    for index in range(4):
        top = HEAD + GUTTER + index // 2 * (48 + GUTTER)
        left = GUTTER + index % 2 * (48 + GUTTER)
        tile = pixels[top : top + 48 : 3, left : left + 48 : 3]  # every pixel is a block of 3 x 3
        assert np.array_equal(tile, values[index].numpy())


def test_large_pictures_are_averaged_down() -> None:
    values = torch.zeros(1, 192, 96, 1, dtype=torch.uint8)
    values[:, ::2] = 200  # lines of one pixel: an average, no lines
    sheet = contact_sheet(pack(values), count=1)
    assert isinstance(sheet, Image.Image)
    tile = np.asarray(sheet)[HEAD + GUTTER : HEAD + GUTTER + 96, GUTTER : GUTTER + 48]
    assert np.array_equal(np.unique(tile), [100])


def test_near_copies_stand_side_by_side() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 250, (6, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    values = np.concatenate([base, base[:2] + 5]).astype(np.uint8)
    packed = pack(torch.from_numpy(values))
    copies = find_copies(packed)
    assert copies.pairs.tolist() == [[0, 6], [1, 7]]
    plain, paired = contact_sheet(packed), contact_sheet(packed, copies)
    assert isinstance(plain, Image.Image)
    assert isinstance(paired, Image.Image)
    below = np.asarray(paired)[plain.height + HEAD :]
    scale = round(48 / 32)
    for place, index in enumerate((0, 6, 1, 7)):
        left = GUTTER + place * (32 * scale + GUTTER)
        tile = below[GUTTER : GUTTER + 32 * scale : scale, left : left + 32 * scale : scale]
        assert np.array_equal(tile, values[index]), place


def test_points_become_a_panel() -> None:
    packed = pack(torch.randn(30, 2), labels=torch.arange(30) % 2, label_values=("a", "b"))
    assert isinstance(contact_sheet(packed), Figure)
