"""What headers tell of a folder: sizes set upright, modes, formats, depth, files that are no pictures."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from sfumato.data import DataConfig, decoding
from sfumato.data.decoding import BadPicture, Header, Preparation, look
from sfumato.data.survey import Size, Survey, survey
from sfumato.errors import DataError

Save = Callable[..., None]
PLAIN = Preparation()


def upright(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(path, exif=exif)


@pytest.fixture
def folder(tmp_path: Path, save_png: Save) -> Path:
    """Every kind of file: colour PNGs of 4x6, a grey one, one of 16 bits, a palette GIF, a turned JPEG, and wrecks."""
    for i in range(3):
        save_png(tmp_path / "a" / f"{i}.png", i, (4, 6, 3))
    save_png(tmp_path / "b" / "grey.png", 7, (8, 8))
    save_png(tmp_path / "b" / "clear.png", 7, (8, 8, 4))
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "b" / "deep.png")
    Image.new("P", (5, 5)).save(tmp_path / "b" / "palette.gif")
    upright(tmp_path / "b" / "turned.jpg", 6)
    (tmp_path / "b" / "empty.png").touch()
    (tmp_path / "b" / "text.jpg").write_text("text")
    (tmp_path / "b" / "notes.txt").write_text("text")
    (tmp_path / "b" / "out.png").symlink_to(Path(__file__))
    return tmp_path


def test_everything_is_counted(folder: Path, untouched: Callable) -> None:
    untouched()
    found = survey(folder, DataConfig(path=str(folder)))
    assert (found.looked_at, found.good, found.folders) == (10, 8, 2)
    assert found.bytes == sum(
        p.stat().st_size for p in folder.rglob("*.*") if p.suffix != ".txt" and not p.is_symlink()
    )
    assert dict(found.formats) == {"PNG": 6, "GIF": 1, "JPEG": 1}
    assert dict(found.modes) == {"RGB": 4, "L": 1, "RGBA": 1, "I;16": 1, "P": 1}
    assert found.sizes == (Size(4, 6, 3), Size(8, 8, 3), Size(5, 5, 1), Size(6, 4, 1))
    assert (found.grey, found.colour) == (2, 5)
    assert (found.transparent, found.turned, found.deep) == (1, 1, 1)
    assert [(bad.name, bad.reason.split(",")[0]) for bad in found.bad] == [
        ("b/empty.png", "empty file"),
        ("b/text.jpg", "not a JPEG"),
    ]
    assert (found.ignored, found.outside, found.loops) == (((".txt", 1),), 1, 0)
    assert found.mixed_sizes
    assert found.mixed_colours
    document = found.document()
    assert document["shorter_side"] == {"least": 4, "median": 4, "largest": 8}
    assert document["num_bad"] == len(document["bad"]) == 2


def test_nothing_is_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: ImageFile.ImageFile) -> None:
        raise AssertionError("a picture was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert survey(folder, DataConfig(path=str(folder))).good == 8


def test_a_limit_is_looked_at_alone(folder: Path) -> None:
    assert survey(folder, DataConfig(path=str(folder), limit=3)).looked_at == 3


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_an_archive_is_its_folder(folder: Path, suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """All but what an archive has no word for: where its links lead on the disk."""
    (folder / "b" / "out.png").unlink()
    where = tmp_path_factory.mktemp("packed") / "x"
    made = Path(shutil.make_archive(str(where), {".zip": "zip", ".tar.gz": "gztar"}[suffix], folder))
    assert survey(made, DataConfig()) == survey(folder, DataConfig())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_those_of_the_upright_picture(tmp_path: Path, orientation: int) -> None:
    upright(tmp_path / "x.jpg", orientation)
    header = look(tmp_path / "x.jpg", PLAIN)
    assert (header.height, header.width) == decoding.decode(tmp_path / "x.jpg", PLAIN).pixels.shape[:2]
    assert header.turned == (orientation != 1)


def test_a_header_says_what_cannot_be_used(tmp_path: Path, save_png: Save) -> None:
    """The same refusals as the decoder's, before it begins."""
    save_png(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("text")
    for name, preparation, why in (
        ("small.png", Preparation(min_size=5), r"data\.min_size 5"),
        ("small.png", Preparation(max_pixels=15), r"data\.max_pixels 15"),
        ("text.png", PLAIN, "not a JPEG"),
        ("absent.png", PLAIN, "No such file"),
    ):
        with pytest.raises(BadPicture, match=why):
            look(tmp_path / name, preparation)


def test_sixteen_bit_colour_is_deep(tmp_path: Path) -> None:
    """Pillow gives such pictures mode RGB, as if nothing had been lost."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compress((b"\0" + bytes(2 * 6)) * 2)
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(file)
    assert look(tmp_path / "x.png", PLAIN) == Header("PNG", "RGB", 2, 2, deep=True)


def made(*sizes: tuple[int, int, int]) -> Survey:
    return Survey(0, 0, 0, (), (), tuple(Size(*s) for s in sizes), 0, 0, 0, 0, 0, (), (), 0, 0)


def test_quantiles_and_aspects() -> None:
    found = made((100, 200, 8), (50, 60, 1), (30, 20, 1))
    assert [found.shorter_side(share) for share in (0.0, 0.1, 0.2, 0.21, 1.0)] == [20, 20, 50, 100, 100]
    assert found.aspect() is None
    assert made((218, 178, 99), (10, 10, 1)).aspect() == pytest.approx(218 / 178)
    assert made((100, 99, 1), (100, 100, 1)).aspect() == 1
    assert made((100, 99, 1), (99, 100, 1)).aspect() is None  # 2.03 % apart
    assert made().aspect() is None


def test_folders_without_pictures_are_refused_as_by_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the folder is empty"):
        survey(tmp_path, DataConfig())
    with pytest.raises(DataError, match="no such folder"):
        survey(tmp_path / "absent", DataConfig())
