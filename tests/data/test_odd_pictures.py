"""A corpus of odd but valid pictures decodes to known values, whatever they are called; damage is only ever refused."""

import importlib
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.data import DataConfig, load_data
from sfumato.data.decoding import BadPicture, Picture, Preparation, decode, decode_bytes, quiet
from sfumato.errors import DataError

sys.path.insert(0, str(Path(__file__).parent))
odd_pictures = importlib.import_module("odd_pictures")
damaged = importlib.import_module("mutations").damaged

CORPUS = odd_pictures.corpus()
LONGEST = 10.0  # seconds; a decoder that needs more for a file of some kilobytes hangs


def test_the_corpus_is_large() -> None:
    names = [odd.name for odd in CORPUS]
    assert len(names) == len(set(names)) >= 60
    assert {name.split()[0] for name in names} == {"png", "jpeg", "webp", "gif", "bmp", "tiff"}


@pytest.mark.parametrize("odd", CORPUS, ids=lambda odd: odd.name)
def test_an_odd_picture_decodes_to_what_it_holds(odd: Any, tmp_path: Path) -> None:
    """D5 to D8, D13: exactly, but for lossy formats and one rounding of alpha: the corpus states the bound of each."""
    with quiet():
        pixels = decode_bytes(odd.content, odd.preparation).pixels
        (tmp_path / "wrongly-named.webp").write_bytes(odd.content)
        same = decode(tmp_path / "wrongly-named.webp", odd.preparation).pixels
    assert pixels.dtype == np.uint8
    assert pixels.shape == odd.pixels.shape  # grey stays grey, and nothing else becomes so
    assert np.abs(pixels.astype(int) - odd.pixels).max() <= odd.within
    assert np.array_equal(pixels, same)


def test_a_channel_is_made_where_it_is_asked_for() -> None:
    for odd in CORPUS:
        for channels in (1, 3):
            asked = Preparation(channels=channels, value_range=odd.preparation.value_range)
            with quiet():
                assert decode_bytes(odd.content, asked).pixels.shape == (*odd.pixels.shape[:2], channels), odd.name


def test_the_corpus_is_a_folder_and_an_equal_one_under_other_names(tmp_path: Path) -> None:
    """All that agree in size and colour, as one data set; natural order, and the same bytes by whatever suffix."""
    alike = [odd for odd in CORPUS if odd.pixels.shape == (32, 48, 3) and odd.preparation == Preparation()]
    for folder, suffix in (("one", ".jpg"), ("two", ".tif")):
        (tmp_path / folder).mkdir()
        for i, odd in enumerate(alike):
            (tmp_path / folder / f"{i}{suffix}").write_bytes(odd.content)
    one, two = (load_data(DataConfig(path=str(tmp_path / folder)), seed=0) for folder in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    assert one.report == ("the first frame was taken of 1 file with several",)
    expected = torch.from_numpy(np.stack([odd.pixels for odd in alike])).int()
    assert (one.values.int() - expected).abs().max() <= max(odd.within for odd in alike)


def test_formats_off_the_list_are_never_opened(tmp_path: Path) -> None:
    """D14: EPS, FITS, PSD, PDF and the like under names of pictures: refused by their first bytes."""
    for name, content in odd_pictures.refused().items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadPicture, match="not a JPEG, PNG, WEBP, BMP, GIF or TIFF"):
            decode(tmp_path / name, Preparation())
    with pytest.raises(DataError, match=f"{len(odd_pictures.refused())} of {len(odd_pictures.refused())} pictures"):
        load_data(DataConfig(path=str(tmp_path)), seed=0)


def test_a_few_hundred_damaged_files_are_pictures_or_refused() -> None:
    """The long form is tests/proofs/test_damaged_pictures.py."""
    assert sum(try_damaged(600, seed=0).values()) == 600


def test_a_folder_of_damaged_files_never_ends_in_a_traceback(tmp_path: Path) -> None:
    """D4."""
    rng = np.random.default_rng(2)
    contents = [odd.content for odd in CORPUS]
    for i in range(150):
        (tmp_path / f"{i}.png").write_bytes(damaged(contents[i % len(contents)], contents, rng))
    with pytest.raises(DataError, match="of 150 pictures cannot be used"):
        load_data(DataConfig(path=str(tmp_path)), seed=0)
    packed = load_data(DataConfig(path=str(tmp_path), bad_files="skip", size=8, channels=3), seed=0)
    left_out = [note for note in packed.report if note.startswith("left out ")]
    assert len(packed) + len(left_out) == 150
    assert len(packed) > 0
    assert len(left_out) > 0


def try_damaged(count: int, seed: int) -> dict[str, int]:
    """Decode `count` damaged files; how many became pictures, and how many were refused for which reason."""
    rng = np.random.default_rng(seed)
    contents = [odd.content for odd in CORPUS]
    outcomes: dict[str, int] = {}
    with quiet():
        for number in range(count):
            content = damaged(contents[number % len(contents)], contents, rng)
            begun = time.monotonic()
            outcome = outcome_of(content)
            assert time.monotonic() - begun < LONGEST, (seed, number)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


def outcome_of(content: bytes) -> str:
    try:
        picture = decode_bytes(content, Preparation(value_range=(0.0, 65_535.0)))
    except BadPicture as reason:
        return str(reason).split(" (")[0].splitlines()[0]
    assert isinstance(picture, Picture)
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.ndim == 3
    assert picture.pixels.shape[2] in (1, 3)
    return "a picture"
