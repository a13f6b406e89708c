"""Archives of pictures: the same data as the folder that they were made of, and nowhere for a hostile name to lead."""

import io
import json
import os
import stat
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.data import DataConfig, Packed, archives, load_data
from sfumato.errors import ConfigError, DataError, SfumatoError

Save = Callable[..., None]
KINDS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")


def load(path: Path, **settings: object) -> Packed:
    return load_data(DataConfig(path=str(path), **settings), seed=0)  # type: ignore[arg-type]


def refusal(path: Path, **settings: object) -> SfumatoError:
    with pytest.raises((DataError, ConfigError)) as caught:
        load(path, **settings)
    assert len(str(caught.value).splitlines()) == 3
    return caught.value


def picture(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), level).save(buffer, "PNG")
    return buffer.getvalue()


def tar_of(path: Path, members: dict[str, bytes | str | tarfile.TarInfo]) -> Path:
    """A tar of files (bytes), symbolic links (text) and anything else (its own TarInfo), in this order."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            elif isinstance(content, bytes):
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def of_type(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_of(path: Path, members: list[tuple[str, bytes | str]]) -> Path:
    """A zip of files (bytes) and symbolic links (text), as Unix programs write them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.create_system = 3
            info.external_attr = (stat.S_IFLNK if isinstance(content, str) else stat.S_IFREG) << 16
            archive.writestr(info, content)
    return path


def levels(packed: Packed) -> list[int]:
    return packed.values[:, 0, 0, 0].tolist()


@pytest.fixture
def folder(tmp_path: Path, save_png: Save) -> Path:
    """Classes, hidden and foreign files, a bad picture, links within, a table's worth of variety."""
    root = tmp_path / "photos"
    for i, name in enumerate(["2/b10.png", "2/b9.png", "10/a.png", "2/deeper/ü.png", ".hidden.png", "10/.x/y.png"]):
        save_png(root / name, 10 * i)
    for name in ("__MACOSX/2/b9.png", "2/notes.txt", "10/text.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("text")
    (root / "empty").mkdir()
    (root / "2" / "link.png").symlink_to("../10/a.png")
    (root / "again").symlink_to("2")
    (root / "2" / "up").symlink_to("..")
    save_png(tmp_path / "elsewhere.png", 99)
    (root / "10" / "out.png").symlink_to(tmp_path / "elsewhere.png")
    (root / "10" / "nowhere.png").symlink_to("nothing.png")
    return root


def archive_of(folder: Path, path: Path, *, inside: str = "") -> Path:
    """An archive of a folder's content, links as links; below `inside` where that is named."""
    if path.suffix != ".zip":
        compression = {".tar": "", ".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz"}[path.suffix]
        with tarfile.open(path, f"w:{compression}") as archive:  # type: ignore[call-overload]
            archive.add(folder, arcname=inside or ".")
        return path
    members: list[tuple[str, bytes | str]] = []
    for at, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            full = Path(at) / name
            called = f"{inside}/{full.relative_to(folder)}".removeprefix("/")
            if full.is_symlink():
                members.append((called, os.readlink(full)))
            elif full.is_file():
                members.append((called, full.read_bytes()))
            else:
                members.append((called + "/", b""))
    return zip_of(path, members)


@pytest.mark.parametrize("inside", ["", "photos", "a/b"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_holds_the_data_of_its_folder(folder: Path, tmp_path: Path, kind: str, inside: str) -> None:
    """Pixels, classes, absent classes, report: all equal, and packed once or below the folder's own name."""
    expected = load(folder, bad_files="skip")
    packed = load(archive_of(folder, tmp_path / f"photos{kind}", inside=inside), bad_files="skip")
    assert packed.fingerprint == expected.fingerprint
    assert packed.class_names == expected.class_names == ("2", "10", "again")
    assert packed.absent_classes == expected.absent_classes == ("empty",)
    prefix = f"{inside}/" if inside else ""
    described = [note.replace(" the archive", " the folder").replace("1 name ", "1 link ") for note in packed.report]
    assert [note.replace(f"left out {prefix}", "left out ") for note in described] == list(expected.report)
    assert len(packed) == 9  # b9, b10, deeper/ü, link, all again, and a


def test_bad_pictures_are_named_as_in_a_folder(folder: Path, tmp_path: Path) -> None:
    error = refusal(archive_of(folder, tmp_path / "photos.tar"))
    assert "2 of 11 pictures cannot be used" in error.what
    assert "10/nowhere.png: a broken link" in error.what
    assert "10/text.png: not a JPEG" in error.what


def test_nothing_is_written(folder: Path, tmp_path: Path, untouched: Callable) -> None:
    for kind in (".tgz", ".zip"):
        archive_of(folder, tmp_path / f"photos{kind}")
    before = sorted(tmp_path.rglob("*"))
    untouched()
    for kind in (".tgz", ".zip"):
        load(tmp_path / f"photos{kind}", bad_files="skip", cache="off")
    assert sorted(tmp_path.rglob("*")) == before


def test_names_that_lead_out_are_counted_and_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes(picture(99))
    members: dict[str, bytes | str | tarfile.TarInfo] = {
        "a/0.png": picture(0),
        "a/../b/1.png": picture(1),
        "./b//2.png": picture(2),
        "/c/3.png": picture(3),  # unpacking takes the slash off
        "../outside.png": picture(98),
        "a/../../outside.png": picture(97),
        "b/link.png": "../../outside.png",
        "b/absolute.png": str(outside),
        "b/inside.png": "../a/0.png",
    }
    packed = load(tar_of(tmp_path / "x.tar", members))
    assert levels(packed) == [0, 1, 2, 0, 3]
    assert packed.class_names == ("a", "b", "c")
    assert packed.report == ("ignored 4 names that lead out of the archive",)
    plain = [(name, content) for name, content in members.items() if not isinstance(content, tarfile.TarInfo)]
    assert load(zip_of(tmp_path / "x.zip", plain)).fingerprint == packed.fingerprint
    only = tar_of(tmp_path / "only.tar", {"../a.png": picture(1)})
    assert "no picture, only 1 name that lead out of the archive" in refusal(only).what


def test_links_end_and_multiply_within_bounds(tmp_path: Path) -> None:
    members: dict[str, bytes | str | tarfile.TarInfo] = {"a/0.png": picture(7), "a/self.png": "self.png", "a/up": ".."}
    members |= {"a/1.png": "2.png", "a/2.png": "1.png", "a/3.png": of_type("a/3.png", tarfile.LNKTYPE, "a/0.png")}
    members |= {"a/4.png": of_type("a/4.png", tarfile.LNKTYPE, "gone.png"), "a/5.png": "./../a/./3.png"}
    packed = load(tar_of(tmp_path / "links.tar", members), bad_files="skip")
    assert levels(packed) == [7, 7, 7]  # the file, the hard link, the link to the hard link
    assert "ignored 1 link to a folder above" in packed.report
    assert sum("a broken link" in note for note in packed.report) == 4
    # Thirty folders, each with two links to the next: 2^30 ways to one picture.
    many: dict[str, bytes | str | tarfile.TarInfo] = {"30/x.png": picture(1)}
    for i in range(30):
        many |= {f"{i}/l": f"../{i + 1}", f"{i}/r": f"../{i + 1}"}
    begun = time.monotonic()
    assert "more than 10,000 links to folders" in refusal(tar_of(tmp_path / "many.tar", many)).what
    assert time.monotonic() - begun < 20  # no speed is measured here: without the bound it would take days


def test_entries_that_are_no_files_are_bad_pictures(tmp_path: Path) -> None:
    members: dict[str, bytes | str | tarfile.TarInfo] = {"0.png": picture(5)}
    for kind in (tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE):
        members[f"{kind.decode()}.png"] = of_type(f"{kind.decode()}.png", kind)
    members["1.png"] = b""
    error = refusal(tar_of(tmp_path / "odd.tar", members))
    assert error.what.count("not a regular file") == 3
    assert "1.png: empty file" in error.what


def test_the_last_of_two_members_counts(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for level in (1, 2):
            info = tarfile.TarInfo("0.png")
            content = picture(level)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert levels(load(tmp_path / "x.tar")) == [2]


def test_tables_lie_beside_pictures_in_archives_too(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"file_name": f"{n}.png", "label": f"c{n % 2}", "x": n}) + "\n" for n in range(4))
    files = [(f"set/{n}.png", picture(n)) for n in (3, 1, 0, 2)]
    path = zip_of(tmp_path / "set.zip", [*files, ("set/metadata.jsonl", rows.encode())])
    for packed in (load(path), load(path)):  # decoded, and from the cache
        assert levels(packed) == [0, 1, 2, 3]
        assert packed.class_names == ("c0", "c1")
        assert packed.conditions is not None
        assert packed.conditions[:, 0].tolist() == [0, 1, 2, 3]
    assert (
        "set/metadata.jsonl:4: there is no picture '3.png'"
        in refusal(zip_of(tmp_path / "less.zip", [*files[1:], ("set/metadata.jsonl", rows.encode())])).what
    )
    link = zip_of(tmp_path / "link.zip", [*files, ("set/labels.csv", "nowhere.csv")])
    assert "set/labels.csv: a broken link" in refusal(link).what


def test_windows_archives_have_class_folders(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        for name, level in (("rose\\1.png", 1), ("tulip\\2.png", 2)):
            info = zipfile.ZipInfo("placeholder")
            info.filename, info.create_system = name, 0
            archive.writestr(info, picture(level))
    assert load(tmp_path / "w.zip").class_names == ("rose", "tulip")


def test_an_archive_is_listed_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar_of(tmp_path / "x.tar", {"0.png": picture(1)})
    opened: list[Path] = []
    really = archives.open_archive
    monkeypatch.setattr(archives, "open_archive", lambda path: opened.append(path) or really(path))
    assert (levels(load(path)), levels(load(path)), len(opened)) == ([1], [1], 1)
    tar_of(path, {"0.png": picture(2)})
    os.utime(path, ns=(1, 1))
    assert (levels(load(path)), len(opened)) == ([2], 2)
    assert (load(path, size=2).shape, len(opened)) == ((1, 2, 2), 3)


# ---- damage and hostility


def test_damaged_archives_are_named(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "text.tar").write_text("not an archive at all" * 100)
    (tmp_path / "empty.zip").touch()
    (tmp_path / "half.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    for name in ("text.tar", "empty.zip", "half.zip"):
        assert f"{name}: cannot be read (" in refusal(tmp_path / name).what
    assert "no such file" in refusal(tmp_path / "absent.tar").what
    os.mkfifo(tmp_path / "pipe.tar")
    assert "neither a folder nor" in refusal(tmp_path / "pipe.tar").what
    tar_of(tmp_path / "nothing.tar", {})
    assert "the archive is empty" in refusal(tmp_path / "nothing.tar").what
    tar_of(tmp_path / "words.tar", {"a.txt": b"x", "b.parquet": b"x"})
    error = refusal(tmp_path / "words.tar")
    assert "no picture among its files (1 .parquet, 1 .txt)" in error.what
    for kind in (".tar", ".tar.gz", ".tar.bz2", ".tar.xz"):
        whole = archive_of(folder, tmp_path / f"whole{kind}").read_bytes()
        whole = whole.rstrip(b"\0") if kind == ".tar" else whole  # what follows is padding
        for share in (0.4, 0.7, 0.9):
            (tmp_path / f"cut{kind}").write_bytes(whole[: int(share * len(whole))])
            assert "cannot be read (" in refusal(tmp_path / f"cut{kind}", bad_files="skip", cache="off").what


def test_a_tar_cut_between_two_members_is_noticed(tmp_path: Path) -> None:
    """Python's reader takes the end of the file, and any block that is no header, for the end of the archive."""
    path = tar_of(tmp_path / "x.tar", {f"{n}.png": picture(n) for n in range(4)})
    whole = path.read_bytes()
    path.write_bytes(whole[: 2 * 1024])  # each member is a header and one block
    assert "damaged or cut short after 2 members" in refusal(path).what
    path.write_bytes(whole[: 2 * 1024] + b"\x55" * 512 + whole[2 * 1024 + 512 :])
    assert "damaged or cut short after 2 members" in refusal(path).what


def test_a_damaged_member_of_a_zip_is_one_bad_picture(tmp_path: Path) -> None:
    path = zip_of(
        tmp_path / "x.zip", [(f"{n}.png", picture(n) + np.random.default_rng(n).bytes(500)) for n in range(3)]
    )
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        content[archive.infolist()[1].header_offset + 200] ^= 255
    path.write_bytes(content)
    assert "1 of 3 pictures cannot be used: 1.png: cannot be unpacked" in refusal(path).what
    assert levels(load(path, bad_files="skip")) == [0, 2]


def test_encrypted_members_and_unknown_compression_are_bad_pictures(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "x.zip", [("0.png", picture(0)), ("1.png", picture(1))])
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 8] |= 1  # the first is encrypted
    second = content.index(b"PK\x01\x02", directory + 4)
    content[second + 10] = 97  # compressed by WavPack
    path.write_bytes(content)
    error = refusal(path)
    assert "0.png: is encrypted" in error.what
    assert "1.png: cannot be unpacked" in error.what


def test_what_announces_too_much_is_not_unpacked(tmp_path: Path) -> None:
    """A member of zeros that would fill 60 MB: refused by its announced size, before anything is unpacked."""
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", picture(0))
        archive.writestr("1.png", bytes(60 << 20))
    error = refusal(tmp_path / "bomb.zip", max_pixels=1_000_000)
    assert "1.png: announces 62,914,560 bytes, more than the 24,777,216 that it can need" in error.what
    assert levels(load(tmp_path / "bomb.zip", max_pixels=1_000_000, bad_files="skip")) == [0]


def mutated(content: bytes, count: int) -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), rng.integers(1, 6)):
            damaged[position] = rng.integers(256)
        yield bytes(damaged[: rng.integers(len(damaged) // 2, len(damaged))] if rng.random() < 0.3 else damaged)


@pytest.mark.parametrize("kind", [".tar", ".tgz", ".zip"])
def test_damage_ends_in_data_or_in_a_refusal(folder: Path, tmp_path: Path, kind: str) -> None:
    content = archive_of(folder, tmp_path / f"whole{kind}").read_bytes()
    path = tmp_path / f"damaged{kind}"
    for damaged in mutated(content, 100):
        path.write_bytes(damaged)
        with suppress(DataError):
            load(path, bad_files="skip", cache="off")
