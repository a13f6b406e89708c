"""The one way to read a member: what an archive announces is not believed, whoever reads it."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato.data import DataConfig, Packed, load_data, unpacking
from sfumato.data.decoding import BadPicture
from sfumato.data.members import FolderMembers, open_members
from sfumato.data.unpacking import MOST_AT_ONCE, open_archive
from sfumato.errors import DataError

MEGABYTE = 1 << 20


def picture(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), level).save(buffer, "PNG")
    return buffer.getvalue()


def load(path: Path, **settings: Any) -> Packed:
    return load_data(DataConfig(path=str(path), **settings), seed=0)


def tar_of(path: Path, members: dict[str, bytes], *, kind: str = "", format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, f"w:{kind}", format=format) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_header_of_any_length_is_not_read_into_memory(tmp_path: Path, kind: bytes, monkeypatch: Any) -> None:
    """A name of twice the bytes that are read at once; compressed, it is next to nothing on disk."""
    size = 2 * MOST_AT_ONCE
    head = tarfile.TarInfo("long")
    head.type, head.size = kind, size
    path = tmp_path / "x.tar.bz2"
    with tarfile.open(path, "w:bz2") as archive:
        assert archive.fileobj is not None
        archive.fileobj.write(head.tobuf() + bytes(size))
        archive.offset += 512 + size
        archive.addfile(tarfile.TarInfo("a.txt"))
    assert path.stat().st_size < 2000
    with pytest.raises(DataError, match=r"x\.tar\.bz2: cannot be read \(a header announces 2,097,152 bytes"):
        load(path)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_small_file_is_not_unpacked_without_end(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "LEAST_LIMIT", MEGABYTE)
    monkeypatch.setattr(unpacking, "EXPANSION", 10)
    noise = np.random.default_rng(0).bytes(300_000)
    members = {"a.png": picture(3), "noise.bin": noise, "b.png": picture(4)}
    fair = tar_of(tmp_path / f"fair.tar.{kind}", members, kind=kind)
    assert load(fair).values[:, 0, 0, 0].tolist() == [3, 4]
    bomb = tar_of(tmp_path / f"bomb.tar.{kind}", {"a.png": picture(3), "zeros.bin": bytes(3 * MEGABYTE)}, kind=kind)
    with pytest.raises(DataError, match=r"announce more than 1,048,576 bytes, which such a small file cannot hold"):
        load(bomb)


@pytest.mark.parametrize("name", ["a/\0b.png", "d/" * 3000 + "b.png", "1" * 5000 + ".png"], ids=["nul", "deep", "long"])
def test_names_that_no_file_can_have_lead_nowhere(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for called, level in (("a/0.png", 1), (name, 2)):
            info = tarfile.TarInfo("placeholder")
            info.size, info.pax_headers = len(picture(level)), {"path": called}
            archive.addfile(info, io.BytesIO(picture(level)))
    packed = load(path)
    assert packed.values[:, 0, 0, 0].tolist() == [1]
    assert packed.names == ("a/0.png",)
    assert packed.report == ("ignored 1 name that lead out of the archive",)


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_content_is_bounded_by_who_reads_it(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    if suffix == ".tar":
        tar_of(path, {"a": bytes(1000), "b": b"b"})
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a", bytes(1000))
            archive.writestr("b", b"b")
    with open_archive(path) as found:
        entries = list(found.entries())
        assert found.content(entries[0], 1000) == bytes(1000)
        refused = found.content(entries[0], 999)
        assert isinstance(refused, BadPicture)
        assert "announces 1,000 bytes, more than the 999" in str(refused)
        assert found.content(entries[1], 999) == b"b"


def mac_zip(path: Path, *, encrypted: bool = False) -> Path:
    """Faces as Finder packs them, with its own files beside them."""
    with zipfile.ZipFile(path, "w") as archive:
        for level in (1, 2, 3):
            archive.writestr(f"img_align_celeba/{level:06d}.jpg", picture(level))
            archive.writestr(f"__MACOSX/img_align_celeba/._{level:06d}.jpg", b"\0\5\x16\7")
        archive.writestr("img_align_celeba/._1.jpg", b"\0\5\x16\7")
    if encrypted:
        content = bytearray(path.read_bytes())
        content[content.index(b"PK\x01\x02") + 8] |= 1
        path.write_bytes(content)
    return path


def test_hidden_members_of_a_sets_archive_are_no_pictures(tmp_path: Path) -> None:
    path = mac_zip(tmp_path / "img_align_celeba.zip")
    assert sorted(open_members(path).names()) == [f"{i:06d}.jpg" for i in (1, 2, 3)]
    packed = load(tmp_path, source="celeba")
    assert packed.values[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert packed.names == tuple(f"{i:06d}.jpg" for i in (1, 2, 3))


def test_one_bad_member_of_a_sets_archive_is_one_bad_picture(tmp_path: Path) -> None:
    mac_zip(tmp_path / "img_align_celeba.zip", encrypted=True)
    with pytest.raises(DataError, match=r"1 of 3 pictures cannot be used: 000001\.jpg: is encrypted"):
        load(tmp_path, source="celeba")
    assert load(tmp_path, source="celeba", bad_files="skip").names == ("000002.jpg", "000003.jpg")


def test_files_of_a_set_that_are_no_files(tmp_path: Path, save_png: Callable[..., None]) -> None:
    folder = tmp_path / "img_align_celeba"
    save_png(folder / "1.jpg")
    (folder / "2.jpg").symlink_to("nowhere")
    (folder / "3.jpg").mkdir()
    members = FolderMembers(folder)
    found = {name: content for name, content in members.read(["1.jpg", "2.jpg", "3.jpg", "4.jpg"])}
    assert str(found["2.jpg"]) == "a broken link"
    assert str(found["3.jpg"]) == "not a regular file"
    assert "4.jpg" not in found
    with pytest.raises(DataError, match=r"2\.jpg: cannot be read \(a broken link\)"):
        members.whole(["2.jpg"])


def test_the_checksum_at_the_end_of_a_stream_counts(tmp_path: Path) -> None:
    """A flipped bit in a picture without a checksum of its own would change the data and nothing else."""
    path = tar_of(tmp_path / "x.tar.gz", {"a.png": picture(3)}, kind="gz")
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read \(CRC check failed"):
        load(path)


def test_headers_of_headers_end(tmp_path: Path) -> None:
    head = tarfile.TarInfo("x")
    head.type = tarfile.XHDTYPE
    (tmp_path / "x.tar").write_bytes(head.tobuf() * 3000 + bytes(1024))
    with pytest.raises(DataError, match="headers of headers without end"):
        load(tmp_path / "x.tar")
