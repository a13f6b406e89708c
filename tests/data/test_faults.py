"""Hostile and odd pictures as folders hold them (rows D10 to D12, D16): named, or handled by rule, and cheaply."""

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sfumato.data import DataConfig, load_data
from sfumato.data.survey import survey
from sfumato.errors import DataError

Save = Callable[..., None]


def announced(width: int, height: int) -> bytes:
    """A PNG of 60 bytes whose header announces a picture of this size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


MEASURED = """
import resource, sys, time
from sfumato.data import DataConfig, load_data
from sfumato.errors import DataError
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
try:
    load_data(DataConfig(path=sys.argv[1], cache="off"), seed=0)
except DataError as error:
    print(error.what)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (1 if sys.platform == "darwin" else 1024)
print("seconds", time.perf_counter() - began)
print("MiB", grown)
"""


def test_a_bomb_costs_nothing(tmp_path: Path) -> None:
    """D11: 60,000 x 60,000 pixels would be 10 GB. It is the memory that says nothing was decoded; the time is printed,
    and only bounded from far above, since machines are busy."""
    (tmp_path / "bomb.png").write_bytes(announced(60_000, 60_000))
    command = [sys.executable, "-c", MEASURED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    said, seconds, grown = done.stdout.splitlines()
    assert "header announces" in said
    assert float(grown.split()[1]) < 100
    assert float(seconds.split()[1]) < 5


def test_a_bomb_among_pictures_is_named_and_the_rest_is_read(tmp_path: Path, save_png: Save) -> None:
    save_png(tmp_path / "good.png", 7)
    (tmp_path / "bomb.png").write_bytes(announced(60_000, 60_000))
    found = survey(tmp_path, DataConfig())
    assert [(bad.name, "announces" in bad.reason) for bad in found.bad] == [("bomb.png", True)]
    with pytest.raises(DataError, match=r"1 of 2 pictures cannot be used: bomb\.png"):
        load_data(DataConfig(path=str(tmp_path)), seed=0)
    packed = load_data(DataConfig(path=str(tmp_path), bad_files="skip"), seed=0)
    assert packed.names == ("good.png",)


def test_small_pictures_are_enlarged_and_counted_or_named(tmp_path: Path, save_png: Save) -> None:
    """D10."""
    save_png(tmp_path / "small.png", 7, (4, 4, 3))
    save_png(tmp_path / "large.png", 7, (16, 16, 3))
    packed = load_data(DataConfig(path=str(tmp_path), size=8), seed=0)
    assert packed.report == ("1 of 2 pictures smaller than the target, enlarged",)
    with pytest.raises(DataError, match=r"small\.png: 4x4 pixels, shorter than data\.min_size 8"):
        load_data(DataConfig(path=str(tmp_path), size=8, min_size=8), seed=0)


@pytest.mark.parametrize("shape", [(1, 100_000, 3), (100_000, 1, 3), (1, 1, 3)], ids=str)
def test_extreme_shapes_are_cropped_by_the_rule(shape: tuple[int, ...], tmp_path: Path, save_png: Save) -> None:
    """D12: the centre square of a line of pixels is one pixel, enlarged; that little was kept is said."""
    pixels = np.zeros(shape, np.uint8)
    pixels[(shape[0] - 1) // 2, (shape[1] - 1) // 2] = 200
    save_png(tmp_path / "x.png", pixels)
    packed = load_data(DataConfig(path=str(tmp_path), size=4), seed=0)
    assert packed.values.unique().tolist() == [200]
    narrow = "the centre crop kept less than half of 1 picture" in packed.report
    assert narrow == (shape[:2] != (1, 1))
    found = survey(tmp_path, DataConfig())
    assert (found.sizes[0].height, found.sizes[0].width) == shape[:2]


@pytest.mark.parametrize(
    ("key", "place", "value", "said"),
    [
        ("images", (2, 1, 1), np.nan, r"images\[2, 1, 1\] is nan: 1 value NaN or infinite"),
        ("images", (0, 3, 0), np.inf, r"images\[0, 3, 0\] is inf"),
        ("images", (1, 0, 0), 1.5, "which values are black and white"),
        ("values", (2, 1, 1), -np.inf, r"values\[2, 1, 1\] is -inf"),
    ],
)
def test_numbers_that_are_none_are_named_with_their_place(
    key: str, place: tuple[int, ...], value: float, said: str, tmp_path: Path
) -> None:
    """D16."""
    array = np.random.default_rng(0).random((3, 4, 4))
    array[place] = value
    np.savez(tmp_path / "x.npz", **{key: array})
    with pytest.raises(DataError, match=said):
        load_data(DataConfig(path=str(tmp_path / "x.npz")), seed=0)
