"""Files by their names, from a folder or from an archive that is read in one go and never unpacked.

Names are base names: of `jpg/image_00001.jpg` it is `image_00001.jpg`. Links, devices and folders inside an archive are
passed over, and nothing that a member's path says reaches the file system.
"""

import hashlib
import os
import posixpath
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import final

from sfumato.data.fetch import megabytes
from sfumato.errors import DataError, SfumatoError, printable

__all__ = ["FolderMembers", "Members", "TarMembers", "ZipMembers", "open_members"]

LARGEST = 256_000_000  # bytes of one member; the largest of the sets we know, CIFAR-100's, has 154 million


class Members(ABC):
    """The files of a folder or an archive at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def names(self) -> list[str]:
        """The base names of all files."""

    @abstractmethod
    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Name and contents of each wanted file that is there, once, in whatever order is quick.

        Raises DataError for what is damaged or unreadable.
        """

    @abstractmethod
    def stamp(self, wanted: Collection[str]) -> str:
        """A digest that changes when the wanted files change."""

    def texts(self, wanted: Collection[str]) -> dict[str, str]:
        """The wanted files as text. Raises DataError naming those that are missing."""
        found = {name: content.decode("utf-8", "replace") for name, content in self.read(wanted)}
        require_all(self.path, wanted, found)
        return found


def require_all(path: Path, wanted: Collection[str], found: Collection[str]) -> None:
    """Raise DataError naming the wanted files that were not found."""
    missing = [name for name in wanted if name not in found]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DataError(
            f"{printable(str(path))}: no {', '.join(map(printable, missing[:5]))}{more} in it",
            expected="the files as published",
            fix="get it again, or unpack it again",
        )


@final
class FolderMembers(Members):
    """The files right inside a folder; hidden ones are passed over."""

    def names(self) -> list[str]:
        with _explained(self.path), os.scandir(self.path) as entries:
            return [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file()]

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        for name in wanted:
            path = self.path / name
            if not os.path.isfile(path):
                continue
            with _explained(path):
                _require_size(path, path.stat().st_size)
                content = path.read_bytes()
            yield name, content

    def stamp(self, wanted: Collection[str]) -> str:
        digest = hashlib.sha256(os.fsencode(self.path.resolve()))
        for name in wanted:
            try:
                status = os.stat(self.path / name)
                digest.update(f"\0{status.st_size} {status.st_mtime_ns} {name}".encode("utf-8", "surrogateescape"))
            except OSError:
                digest.update(b"\0gone")
        return digest.hexdigest()


class _Archive(Members):
    """What archives have in common."""

    def stamp(self, wanted: Collection[str]) -> str:
        status = self.path.stat()
        text = f"{status.st_size} {status.st_mtime_ns} "
        return hashlib.sha256(text.encode() + os.fsencode(self.path.resolve())).hexdigest()


@final
class TarMembers(_Archive):
    """A tar, plain or compressed with gzip, bzip2 or xz; read from its beginning as far as something is wanted."""

    def names(self) -> list[str]:
        with _explained(self.path), tarfile.open(self.path, "r|*") as archive:
            return [posixpath.basename(member.name) for member in archive if member.isreg()]

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        left = set(wanted)
        with _explained(self.path), tarfile.open(self.path, "r|*") as archive:
            for member in archive:
                name = posixpath.basename(member.name)
                if not member.isreg() or name not in left:
                    continue
                _require_size(self.path / member.name, member.size)
                stream = archive.extractfile(member)
                assert stream is not None
                left.remove(name)
                yield name, stream.read()
                if not left:
                    return


@final
class ZipMembers(_Archive):
    """A zip archive; what it holds besides the wanted files is not read."""

    def names(self) -> list[str]:
        with _explained(self.path), zipfile.ZipFile(self.path) as archive:
            return [posixpath.basename(item.filename) for item in archive.infolist() if not item.is_dir()]

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        left = set(wanted)
        with _explained(self.path), zipfile.ZipFile(self.path) as archive:
            for item in archive.infolist():
                name = posixpath.basename(item.filename)
                if item.is_dir() or name not in left:
                    continue
                _require_size(self.path / item.filename, item.file_size)
                left.remove(name)
                yield name, archive.read(item)


def open_members(path: Path) -> Members:
    """The files of a folder, a zip or a tar, told apart by what is there and not by what it is called."""
    if path.is_dir():
        return FolderMembers(path)
    with _explained(path), path.open("rb") as stream:
        return ZipMembers(path) if stream.read(2) == b"PK" else TarMembers(path)


def _require_size(path: Path, size: int) -> None:
    if size > LARGEST:
        raise DataError(
            f"{printable(str(path))} has {megabytes(size)}",
            expected=f"files of at most {megabytes(LARGEST)}",
            fix="check that it is the published file",
        )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Whatever goes wrong while a file or archive is read, as DataError naming it."""
    try:
        yield
    except SfumatoError:
        raise
    except Exception as error:  # tarfile, zipfile and their decompressors report damage with any exception there is
        reason = getattr(error, "strerror", None) or (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{printable(str(path))}: cannot be read ({reason})",
            expected="the file as published",
            fix="get it again: it is damaged or not whole",
        ) from error
