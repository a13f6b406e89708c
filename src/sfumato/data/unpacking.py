"""Tar and zip archives: what is in them, and the bytes of each member. Everything that is read from one is read here.

An archive is read where it lies; nothing is ever written to disk, and no name or link in it reaches the file system.
What it says of itself is not believed either. Unpacked at once are at most

    a member     as many bytes as its reader asks for, compared with what the member announces
    a header     MOST_AT_ONCE bytes (a name in a tar may announce any length)
    a whole tar  EXPANSION times the bytes of its file, or LEAST_LIMIT where that is less

and members without a name that a file could have (NUL, more than LONGEST_NAME bytes) are told as leading nowhere.
"""

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, final

from sfumato.data.decoding import BadPicture
from sfumato.data.wording import counted
from sfumato.errors import DataError, SfumatoError, printable

__all__ = ["Archive", "Entry", "open_archive", "unreadable"]

LONGEST_NAME = 4096  # bytes of a path
MOST_AT_ONCE = 1 << 20  # bytes
EXPANSION = 1000  # gzip reaches 1,032; bzip2 and xz have no such bound
LEAST_LIMIT = 1 << 30  # bytes
PACKERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


@dataclass(frozen=True, slots=True)
class Entry:
    """What an archive calls `name`: a "file" of `size` bytes, a "folder", a "link", or something "other".

    position: its number in the archive, from 0. target: what a link names, relative to its folder, or to the top of the
    archive where it is `from_top`.
    """

    name: str
    kind: str
    position: int
    size: int = 0
    target: str = ""
    from_top: bool = False

    @property
    def is_nameable(self) -> bool:
        """Whether a file could have its name."""
        return "\0" not in self.name and len(self.name.encode("utf-8", "surrogatepass")) <= LONGEST_NAME


class Archive(ABC):
    """An open archive at `path`, which leaving the `with` statement closes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Every entry, in the order of the archive. Raises `DataError` for damage."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    @abstractmethod
    def _unpacked(self, entry: Entry) -> bytes | BadPicture:
        """The bytes of a file of a size that is allowed."""

    def content(self, entry: Entry, most: int) -> bytes | BadPicture:
        """The bytes of a file, or why they cannot be had, such as that they would be more than `most`.

        Quickest in the order of the archive, and for the entry that `entries` has just come to. Raises `DataError` when
        all that follows is lost with it.
        """
        if entry.kind != "file":
            return BadPicture("not a regular file")
        if entry.size > most:
            return BadPicture(f"announces {entry.size:,} bytes, more than the {most:,} that it can need")
        return self._unpacked(entry)

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_archive(path: Path) -> Archive:
    """The archive at `path`, a zip or a tar by what it begins with. Raises `DataError` for what is neither."""
    with _explained(path):
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise unreadable(path, "not a regular file")
        with path.open("rb") as stream:
            start = stream.read(2)
    if not start:
        raise unreadable(path, "it is empty")
    return _Zip(path) if start == b"PK" else _Tar(path)


def unreadable(path: Path, reason: str) -> DataError:
    """The refusal of an archive."""
    return DataError(
        f"{printable(str(path))}: cannot be read ({printable(reason)})",
        expected="an intact .tar, .tar.gz, .tar.bz2, .tar.xz or .zip archive",
        fix="copy, fetch or make the archive again",
    )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Whatever goes wrong, as DataError: damaged archives are reported with any exception there is."""
    try:
        yield
    except SfumatoError:
        raise
    except Exception as error:
        raise unreadable(path, _said(error)) from error


def _said(error: Exception) -> str:
    """An exception in a few words."""
    if isinstance(error, RecursionError):
        return "headers of headers without end"
    told = getattr(error, "strerror", None) or str(error).strip()
    return (told.splitlines() or [type(error).__name__])[0]


@final
class _Zip(Archive):
    """A zip archive. Its entries stand in a directory at its end, each with a checksum: damage loses one file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with _explained(path):
            self._file = zipfile.ZipFile(path)
            self._infos = self._file.infolist()

    def entries(self) -> Iterator[Entry]:
        for position, info in enumerate(self._infos):
            name = info.filename
            if info.create_system == 0 and "/" not in name:  # some programs on Windows write its own separator
                name = name.replace("\\", "/")
            if name.endswith("/"):
                yield Entry(name, "folder", position)
            elif not stat.S_ISLNK(info.external_attr >> 16):
                yield Entry(name, "file", position, info.file_size)
            else:
                target = self.content(Entry(name, "file", position, info.file_size), LONGEST_NAME)
                written = target.decode("utf-8", "surrogateescape") if isinstance(target, bytes) else ""
                yield Entry(name, "link", position, target=written)

    def _unpacked(self, entry: Entry) -> bytes | BadPicture:
        info = self._infos[entry.position]
        if info.flag_bits & 1:
            return BadPicture("is encrypted")
        try:
            return self._file.read(info)
        except Exception as error:  # the others have their own checksums
            return BadPicture(f"cannot be unpacked ({printable(_said(error))})")

    def close(self) -> None:
        self._file.close()


@final
class _Tar(Archive):
    """A tar archive, plain or compressed as a whole: one stream, in which damage loses all that follows."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with _explained(path):
            self._stream = _Stream(path)
        self._file: tarfile.TarFile | None = None
        self._infos: list[tarfile.TarInfo] = []

    def _opened(self) -> tarfile.TarFile:
        if self._file is None:
            stream: Any = self._stream
            self._file = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115
        return self._file

    def entries(self) -> Iterator[Entry]:
        self._infos = []
        with _explained(self.path):
            archive = self._opened()
            for position, info in enumerate(archive):
                self._infos.append(info)
                yield self._entry(position, info)
            self._stream.seek(archive.offset)
            if self._stream.read(tarfile.BLOCKSIZE).count(0) != tarfile.BLOCKSIZE:  # tarfile takes anything for the end
                raise unreadable(self.path, f"damaged or cut short after {counted(len(self._infos), 'member')}")
            while self._stream.read(MOST_AT_ONCE):  # the checksum of a compressed stream is at its end
                self._stream.seek(self._stream.tell())

    @staticmethod
    def _entry(position: int, info: tarfile.TarInfo) -> Entry:
        if info.isdir():
            return Entry(info.name, "folder", position)
        if info.issym() or info.islnk():
            return Entry(info.name, "link", position, target=info.linkname, from_top=info.islnk())
        return Entry(info.name, "file" if info.isreg() else "other", position, info.size)

    def _unpacked(self, entry: Entry) -> bytes | BadPicture:
        with _explained(self.path), self._stream.allowing(entry.size):
            stream = self._opened().extractfile(self._infos[entry.position])
            content = b"" if stream is None else stream.read()
        if len(content) < entry.size:
            raise unreadable(self.path, "it ends within a file")
        return content

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._stream.close()


class _TooMuch(Exception):
    """Why an archive is not unpacked any further."""


class _Stream:
    """The blocks of a tar, whatever it is compressed with, within the bounds at the head of this module."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            start = file.read(6)
        opener = next((opener for magic, opener in PACKERS.items() if start.startswith(magic)), None)
        self._stream: IO[bytes] = path.open("rb") if opener is None else opener(path, "rb")
        self._end = max(LEAST_LIMIT, EXPANSION * os.stat(path).st_size)
        self._most = MOST_AT_ONCE

    @contextmanager
    def allowing(self, most: int) -> Iterator[None]:
        """Let so many bytes be read at once."""
        self._most = max(most, MOST_AT_ONCE)
        try:
            yield
        finally:
            self._most = MOST_AT_ONCE

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._most:
            raise _TooMuch(f"a header announces {size:,} bytes")
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        if position > self._end:
            raise _TooMuch(f"its members announce more than {self._end:,} bytes, which such a small file cannot hold")
        return self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()

    def close(self) -> None:
        self._stream.close()
