"""Pictures in a tar or zip archive, read where they lie: nothing is ever written to disk.

What is in an archive follows the rules of a folder: class folders, hidden names, tables, links that stay inside. Names
and links are resolved among the members alone, as a file system without any other files would,

    a/../b.png is b.png,    /a.png is a.png,    ../x.png leads out,    a link is followed to the member that it names,

so that a hostile name has nowhere to lead. A name that occurs twice means its last member, as when unpacking. An
archive that holds one folder holds the same data as that folder.
"""

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, final

from sfumato.data.cache import Cache
from sfumato.data.decoding import BadPicture
from sfumato.data.listing import MAX_LINKED, Listing, is_hidden, listed
from sfumato.data.packed import Packed
from sfumato.data.pictures import Content, Pictures, settings_key
from sfumato.data.settings import DataConfig
from sfumato.data.tables import pack_listed
from sfumato.data.wording import counted
from sfumato.errors import DataError, printable

__all__ = ["ARCHIVE_SUFFIXES", "archive_pictures", "is_archive", "load_archive"]

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".zip")
MAX_LINKS = 40  # links that one name may go through, as on Linux
MAX_TABLE = 1 << 30  # bytes
LONGEST_LINK = 4096  # bytes of a path


def is_archive(path: Path) -> bool:
    """Whether a file is called as an archive is."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def load_archive(path: Path, config: DataConfig, cache: Cache) -> Packed:
    """Decode, prepare and pack the pictures in an archive; from `cache` when it has not changed since.

    Raises `DataError` for an archive that is damaged or holds no picture, and as a folder does for what is in it.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    if not stat.S_ISREG(status.st_mode):
        raise _unreadable(path, "not a regular file")
    digest = settings_key(config, os.path.realpath(path), table=True)
    digest.update(f"\0{status.st_size} {status.st_mtime_ns}".encode())
    packed = cache.read(digest.hexdigest())
    if packed is None:
        with archive_pictures(path, config) as pictures:
            packed = pack_listed(pictures, config)
        cache.write(digest.hexdigest(), packed)
    return packed


@contextmanager
def archive_pictures(path: Path, config: DataConfig) -> Iterator["ArchivePictures"]:
    """The pictures of an archive while it is open. Raises `DataError` for one that is damaged or holds no picture."""
    with _opened(path) as members:
        yield ArchivePictures(path, members, config.max_pixels)


@dataclass(frozen=True, slots=True)
class _Member:
    """One entry: a "file", "folder", "link" or something "other"; `size` bytes, in the archive as number `position`.

    target: what a link names, relative to its folder, or to the top of the archive where it is `from_top`.
    """

    kind: str
    position: int = 0
    size: int = 0
    target: str = ""
    from_top: bool = False


class _Members(ABC):
    """An open archive."""

    where: str

    @abstractmethod
    def entries(self) -> Iterator[tuple[str, _Member]]:
        """Every entry under the name that the archive gives it."""

    @abstractmethod
    def content(self, position: int) -> bytes | BadPicture:
        """The bytes of a member; quickest in the order of their positions. Raises `DataError` when all is lost."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> "_Members":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _opened(path: Path) -> _Members:
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    if not start:
        raise _unreadable(path, "it is empty")
    return _ZipMembers(path) if start[:2] == b"PK" else _TarMembers(path)


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(
        f"{printable(str(path))}: cannot be read ({printable(reason)})",
        expected="an intact .tar, .tar.gz, .tar.bz2, .tar.xz or .zip archive",
        fix="copy or make the archive again",
    )


def _said(error: Exception) -> str:
    """An exception in a few words."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@final
class _ZipMembers(_Members):
    """A zip archive. Its entries stand in a directory at its end, each with a checksum."""

    def __init__(self, path: Path) -> None:
        self.where = printable(str(path))
        try:
            self._file = zipfile.ZipFile(path)
            self._infos = self._file.infolist()
        except Exception as error:  # damaged archives are reported with any exception there is
            raise _unreadable(path, _said(error)) from error

    def entries(self) -> Iterator[tuple[str, _Member]]:
        for position, info in enumerate(self._infos):
            name = info.filename
            if info.create_system == 0 and "/" not in name:  # some programs on Windows write its own separator
                name = name.replace("\\", "/")
            if name.endswith("/"):
                yield name, _Member("folder", position)
            elif not stat.S_ISLNK(info.external_attr >> 16):
                yield name, _Member("file", position, info.file_size)
            elif info.file_size <= LONGEST_LINK:
                target = self.content(position)
                written = target.decode("utf-8", "surrogateescape") if isinstance(target, bytes) else ""
                yield name, _Member("link", position, target=written)

    def content(self, position: int) -> bytes | BadPicture:
        info = self._infos[position]
        if info.flag_bits & 1:
            return BadPicture("is encrypted")
        try:
            return self._file.read(info)
        except Exception as error:  # a damaged member is one bad file, the others have their own checksums
            return BadPicture(f"cannot be unpacked ({printable(_said(error))})")

    def close(self) -> None:
        self._file.close()


@final
class _TarMembers(_Members):
    """A tar archive, plain or compressed as a whole: one stream, in which damage loses all that follows."""

    def __init__(self, path: Path) -> None:
        self.where, self._path = printable(str(path)), path
        self._file: tarfile.TarFile | None = None
        self._infos: list[tarfile.TarInfo] = []

    def entries(self) -> Iterator[tuple[str, _Member]]:
        try:
            with self._unpacked() as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
                for position, info in enumerate(archive):
                    self._infos.append(info)
                    yield info.name, self._member(position, info)
                stream.seek(archive.offset)
                if stream.read(tarfile.BLOCKSIZE).count(0) != tarfile.BLOCKSIZE:  # tarfile takes anything for the end
                    raise _unreadable(self._path, f"damaged or cut short after {counted(len(self._infos), 'member')}")
        except DataError:
            raise
        except Exception as error:  # damaged archives are reported with any exception there is
            raise _unreadable(self._path, _said(error)) from error

    @staticmethod
    def _member(position: int, info: tarfile.TarInfo) -> _Member:
        if info.isdir():
            return _Member("folder", position)
        if info.issym() or info.islnk():
            return _Member("link", position, target=info.linkname, from_top=info.islnk())
        return _Member("file" if info.isreg() else "other", position, info.size)

    def _unpacked(self) -> IO[bytes]:
        """The stream of the archive's blocks, whatever it is compressed with."""
        openers: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
        with self._path.open("rb") as stream:
            start = stream.read(6)
        opener = next((opener for magic, opener in openers.items() if start.startswith(magic)), None)
        return self._path.open("rb") if opener is None else opener(self._path, "rb")

    def content(self, position: int) -> bytes | BadPicture:
        try:
            if self._file is None:
                self._file = tarfile.open(fileobj=self._unpacked(), mode="r:")  # noqa: SIM115
            stream = self._file.extractfile(self._infos[position])
            content = b"" if stream is None else stream.read()
        except Exception as error:  # damaged archives are reported with any exception there is
            raise _unreadable(self._path, _said(error)) from error
        if len(content) < self._infos[position].size:
            raise _unreadable(self._path, "it ends within a file")
        return content

    def close(self) -> None:
        if self._file is not None:
            stream = self._file.fileobj
            self._file.close()
            if stream is not None:
                stream.close()


@final
class ArchivePictures(Pictures):
    """The pictures of an open archive. Files of more bytes than a picture of `max_pixels` can need are not unpacked."""

    noun: ClassVar[str] = "archive"

    def __init__(self, path: Path, members: _Members, max_pixels: int) -> None:
        self._members = members
        self._largest = 8 * max_pixels + (16 << 20)  # four channels of 16 bits, and what is stored beside them
        tree = _Tree()
        for name, member in members.entries():
            tree.add(name, member)
        self._found: dict[str, _Member | None] = {}
        self._listing = listed(path, self._noted(tree), noun=self.noun)

    def _noted(self, tree: "_Tree") -> Iterator[tuple[str, str]]:
        for _ in range(tree.outside):
            yield "", "outside"
        for name, kind, member in tree.walk(self._members.where):
            if kind == "file":
                self._found[name] = member
            yield name, kind

    @property
    def listing(self) -> Listing:
        return self._listing

    def opened(self, names: Sequence[str]) -> Iterator[tuple[str, Content]]:
        """The bytes of each picture, in the order of the archive; members that several names lead to once."""
        wanted: dict[int, list[str]] = {}
        for name in names:
            member = self._found[name]
            if member is None:
                yield name, BadPicture("a broken link")
            elif member.kind != "file":
                yield name, BadPicture("not a regular file")
            elif member.size > self._largest:
                yield name, BadPicture(f"announces {member.size:,} bytes, more than data.max_pixels can need")
            else:
                wanted.setdefault(member.position, []).append(name)
        for position in sorted(wanted):
            content = self._members.content(position)
            for name in wanted[position]:
                yield name, content

    def read(self, name: str) -> bytes:
        """The bytes of a table."""
        member = self._found[name]
        where = f"{self._members.where}/{printable(name)}"
        reason = "a broken link, or not a regular file"
        if member is not None and member.kind == "file":
            reason = f"holds {member.size:,} bytes"
            if member.size <= MAX_TABLE:
                content = self._members.content(member.position)
                if isinstance(content, bytes):
                    return content
                reason = str(content)
        raise DataError(f"{where}: {reason}", expected="a table that can be read", fix="make the archive again")


class _Tree:
    """The members of an archive as folders in folders. Folders by their path without links ("" is the top)."""

    def __init__(self) -> None:
        self.folders: dict[str, dict[str, _Member]] = {"": {}}
        self.outside = 0

    def add(self, name: str, member: _Member) -> None:
        """Put a member in its place; one whose name leads out of the archive is only counted."""
        parts: list[str] = []
        for part in name.split("/"):
            if part == ".." and parts:
                parts.pop()
            elif part == "..":
                self.outside += member.kind != "folder"
                return
            elif part not in ("", "."):
                parts.append(part)
        for depth, part in enumerate(parts):
            here = "/".join(parts[:depth])
            last = depth == len(parts) - 1
            path = "/".join(parts[: depth + 1])
            if last and member.kind != "folder" and path not in self.folders:
                self.folders[here][part] = member
            else:  # what has something below it is a folder, whatever else the archive calls it
                self.folders[here][part] = _Member("folder")
                self.folders.setdefault(path, {})

    def walk(self, where: str) -> Iterator[tuple[str, str, _Member | None]]:
        """(path, "file" | "folder" | "outside" | "loop", member) of all that is not hidden, links followed.

        A link that leads nowhere is a file without a member. Raises `DataError` when links multiply the folders.
        """
        pending: list[tuple[str, str, tuple[str, ...]]] = [("", "", ("",))]
        linked = 0
        while pending:
            folder, prefix, chain = pending.pop()
            for name, member in self.folders[folder].items():
                if is_hidden(name):
                    continue
                kind, real = self.resolve(f"{folder}/{name}")
                if kind == "outside":
                    yield prefix + name, "outside", None
                elif kind == "broken" or real not in self.folders:
                    yield prefix + name, "file", None if kind == "broken" else self.at(real)
                elif real in chain:
                    yield prefix + name, "loop", None
                else:
                    linked += member.kind == "link"
                    if linked > MAX_LINKED:
                        raise DataError(
                            f"{where}: more than {counted(MAX_LINKED, 'link')} to folders",
                            expected="an archive with few links",
                            fix="make it again without the links",
                        )
                    yield prefix + name, "folder", None
                    pending.append((real, f"{prefix}{name}/", (*chain, real)))

    def at(self, path: str) -> _Member:
        """The member at a path without links."""
        folder, _, name = path.rpartition("/")
        return self.folders[folder][name]

    def resolve(self, path: str) -> tuple[str, str]:
        """("inside", path without links), ("outside", "") or ("broken", ""), as a file system would follow it."""
        pending, at, links = path.split("/")[::-1], list[str](), 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not at:
                    return "outside", ""
                at.pop()
                continue
            member = self.folders.get("/".join(at), {}).get(part)
            if member is None:
                return "broken", ""
            if member.kind != "link":
                at.append(part)
                continue
            links += 1
            if member.target.startswith("/") and not member.from_top:
                return "outside", ""
            if links > MAX_LINKS or not member.target:
                return "broken", ""
            at = [] if member.from_top else at
            pending += member.target.split("/")[::-1]
        return "inside", "/".join(at)
