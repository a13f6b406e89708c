"""Files by their names, from a folder or from an archive that is read in one go and never unpacked.

Names are base names: of `jpg/image_00001.jpg` it is `image_00001.jpg`. Hidden files, links, devices and folders are
passed over; where a name occurs twice in an archive the first one counts, so that it is read no further than needed.
"""

import hashlib
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import final

from sfumato.data.decoding import BadPicture
from sfumato.data.listing import is_hidden
from sfumato.data.unpacking import Archive, Entry, open_archive
from sfumato.errors import DataError, printable

__all__ = ["ArchiveMembers", "FolderMembers", "Members", "open_members", "require_all"]

LARGEST = 256_000_000  # bytes of one member; the largest of the sets we know, CIFAR-100's, has 154 million


class Members(ABC):
    """The files of a folder or an archive at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def names(self) -> list[str]:
        """The base names of all files."""

    @abstractmethod
    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes | BadPicture]]:
        """Name and contents (or why there are none) of each wanted file that is there, in whatever order is quick.

        Raises DataError for an archive that is damaged.
        """

    @abstractmethod
    def stamp(self, wanted: Collection[str]) -> str:
        """A digest that changes when the wanted files change."""

    def whole(self, wanted: Collection[str]) -> dict[str, bytes]:
        """The wanted files that are there. Raises DataError for one that cannot be read."""
        found = {}
        for name, content in self.read(wanted):
            if isinstance(content, BadPicture):
                raise DataError(
                    f"{printable(str(self.path / name))}: cannot be read ({content})",
                    expected="the file as published",
                    fix="get it again: it is damaged or not whole",
                )
            found[name] = content
        return found

    def texts(self, wanted: Collection[str]) -> dict[str, str]:
        """The wanted files as text. Raises DataError naming those that are missing."""
        found = {name: content.decode("utf-8", "replace") for name, content in self.whole(wanted).items()}
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
    """The files right inside a folder."""

    def names(self) -> list[str]:
        try:
            with os.scandir(self.path) as entries:
                return [entry.name for entry in entries if not is_hidden(entry.name) and os.path.isfile(entry.path)]
        except OSError as error:
            raise DataError(
                f"{printable(str(self.path))}: {error.strerror or error}",
                expected="a readable folder",
                fix="mend its permissions",
            ) from None

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes | BadPicture]]:
        for name in wanted:
            if os.path.lexists(self.path / name):
                yield name, _content(self.path / name)

    def stamp(self, wanted: Collection[str]) -> str:
        digest = hashlib.sha256(os.fsencode(self.path.resolve()))
        for name in wanted:
            try:
                status = os.stat(self.path / name)
                digest.update(f"\0{status.st_size} {status.st_mtime_ns} {name}".encode("utf-8", "surrogateescape"))
            except OSError:
                digest.update(b"\0gone")
        return digest.hexdigest()


def _content(path: Path) -> bytes | BadPicture:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return BadPicture("not a regular file")
        if status.st_size > LARGEST:
            return BadPicture(f"has {status.st_size:,} bytes, more than the {LARGEST:,} that it can need")
        return path.read_bytes()
    except OSError as error:
        return BadPicture("a broken link" if path.is_symlink() else error.strerror or str(error))


@final
class ArchiveMembers(Members):
    """The files of a tar or zip archive, which is read from its beginning as far as something is wanted."""

    def names(self) -> list[str]:
        with open_archive(self.path) as archive:
            return [name for name, _ in _files(archive)]

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes | BadPicture]]:
        left = set(wanted)
        with open_archive(self.path) as archive:
            for name, entry in _files(archive):
                if name in left:
                    left.remove(name)
                    yield name, archive.content(entry, LARGEST)
                    if not left:
                        return

    def stamp(self, wanted: Collection[str]) -> str:
        status = os.stat(self.path)
        text = f"{status.st_size} {status.st_mtime_ns} "
        return hashlib.sha256(text.encode() + os.fsencode(self.path.resolve())).hexdigest()


def _files(archive: Archive) -> Iterator[tuple[str, Entry]]:
    """Base name and entry of every file that is not hidden, nor in a hidden folder."""
    for entry in archive.entries():
        parts = [part for part in entry.name.split("/") if part not in ("", ".")]
        if entry.kind == "file" and parts and not any(map(is_hidden, parts)):
            yield parts[-1], entry


def open_members(path: Path) -> Members:
    """The files of a folder, a zip or a tar, told apart by what is there and not by what it is called."""
    return FolderMembers(path) if os.path.isdir(path) else ArchiveMembers(path)
