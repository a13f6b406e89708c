"""Hostile and odd pictures as folders hold them (rows D10 to D12, D16): named, or handled by rule, and cheaply."""

import importlib
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.data import DataConfig, load_data
from sfumato.data.survey import survey
from sfumato.errors import DataError

sys.path.insert(0, str(Path(__file__).parent))
files = importlib.import_module("picture_files")

Save = Callable[..., None]
SIDES = (60_000, 7_100)  # of bombs: beyond what Pillow refuses by itself, and between that and data.max_pixels


def announced(width: int, height: int) -> bytes:
    """A PNG of 60 bytes whose header announces a picture of this size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = files.chunk(b"IHDR", header) + files.chunk(b"IDAT", zlib.compress(b"")) + files.chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def bombs(side: int) -> dict[str, bytes]:
    """Of each format a small file whose header announces so many pixels a side, or the most that its format can."""
    small = Image.new("RGB", (8, 8))
    jpeg = files.saved(small, "JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5  # marker, length, precision; then height and width
    gif = files.saved(small, "GIF")
    webp = files.saved(small, "WEBP", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    canvas = webp.index(b"VP8X") + 12
    most = (min(side, 16_383) - 1).to_bytes(3, "little")
    return {
        "png": announced(side, side),
        "jpg": jpeg[:frame] + struct.pack(">HH", side, side) + jpeg[frame + 4 :],
        "gif": gif[:6] + struct.pack("<HH", side, side) + gif[10:],
        "webp": webp[:canvas] + most + most + webp[canvas + 6 :],
        "bmp": files.bmp(files.bmp_header(side, side, 24), b"", b""),
        "tiff": files.tiff([b""], side, side, [8], 1),
    }


MEASURED = """
import resource, sys, time
from pathlib import Path
from sfumato.data.decoding import BadPicture, Preparation, decode, look, quiet
def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
before = most()
with quiet():
    for path in sorted(Path(sys.argv[1]).iterdir()):
        seconds = []
        for attempt in (decode, look, decode, look, decode):
            began = time.perf_counter()
            try:
                said = repr(attempt(path, Preparation()))
            except BadPicture as reason:
                said = str(reason)
            seconds.append(time.perf_counter() - began)
        print(path.name, min(seconds), most() - before, said)
"""


def test_a_bomb_costs_nothing(tmp_path: Path) -> None:
    """D11: refused from the header, whatever the format, in less than 100 ms (the best of five times) and 100 MB."""
    made = {f"{side}.{suffix}": content for side in SIDES for suffix, content in bombs(side).items()}
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-c", MEASURED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    lines = [line.split(maxsplit=3) for line in done.stdout.splitlines()]
    assert [name for name, *_ in lines] == sorted(made)
    for name, seconds, grown, said in lines:
        assert "announces" in said, name
        assert float(seconds) < 0.1, name
        assert float(grown) < 100, name


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
