"""Pictures in a tar or zip archive, read where they lie: nothing is ever written to disk.

What is in an archive follows the rules of a folder: class folders, hidden names, tables, links that stay inside. Names
and links are resolved among the members alone, as a file system without any other files would,

    a/../b.png is b.png,    /a.png is a.png,    ../x.png leads out,    a link is followed to the member that it names,

so that a hostile name has nowhere to lead. A name that occurs twice means its last member, as when unpacking. An
archive that holds one folder holds the same data as that folder. How members are read is in `unpacking`.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, final

from sfumato.data.cache import Cache
from sfumato.data.decoding import BadPicture
from sfumato.data.listing import MAX_LINKED, Listing, is_hidden, listed
from sfumato.data.packed import Packed
from sfumato.data.pictures import Content, Pictures, settings_key
from sfumato.data.settings import DataConfig
from sfumato.data.tables import pack_listed
from sfumato.data.unpacking import Archive, Entry, open_archive, unreadable
from sfumato.data.wording import counted
from sfumato.errors import DataError, printable

__all__ = ["ARCHIVE_SUFFIXES", "archive_pictures", "is_archive", "load_archive"]

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".zip")
MAX_LINKS = 40  # links that one name may go through, as on Linux
MAX_TABLE = 1 << 30  # bytes


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
        raise unreadable(path, error.strerror or str(error)) from None
    if not stat.S_ISREG(status.st_mode):
        raise unreadable(path, "not a regular file")
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
    with open_archive(path) as archive:
        yield ArchivePictures(archive, config.max_pixels)


@final
class ArchivePictures(Pictures):
    """The pictures of an open archive. Files of more bytes than a picture of `max_pixels` can need are not unpacked."""

    noun: ClassVar[str] = "archive"

    def __init__(self, archive: Archive, max_pixels: int) -> None:
        self._archive = archive
        self._where = printable(str(archive.path))
        self._largest = 8 * max_pixels + (16 << 20)  # four channels of 16 bits, and what is stored beside them
        tree = _Tree()
        for entry in archive.entries():
            tree.add(entry)
        self._found: dict[str, Entry | None] = {}
        self._listing = listed(archive.path, self._noted(tree), noun=self.noun)

    def _noted(self, tree: "_Tree") -> Iterator[tuple[str, str]]:
        for _ in range(tree.outside):
            yield "", "outside"
        for name, kind, entry in tree.walk(self._where):
            if kind == "file":
                self._found[name] = entry
            yield name, kind

    @property
    def listing(self) -> Listing:
        return self._listing

    def opened(self, names: Sequence[str]) -> Iterator[tuple[str, Content]]:
        """The bytes of each picture, in the order of the archive; members that several names lead to once."""
        wanted: dict[int, list[str]] = {}
        entries: dict[int, Entry] = {}
        for name in names:
            entry = self._found[name]
            if entry is None:
                yield name, BadPicture("a broken link")
            else:
                entries[entry.position] = entry
                wanted.setdefault(entry.position, []).append(name)
        for position in sorted(wanted):
            content = self._archive.content(entries[position], self._largest)
            for name in wanted[position]:
                yield name, content

    def read(self, name: str) -> bytes:
        """The bytes of a table."""
        entry = self._found[name]
        content = BadPicture("a broken link") if entry is None else self._archive.content(entry, MAX_TABLE)
        if isinstance(content, bytes):
            return content
        raise DataError(
            f"{self._where}/{printable(name)}: {content}",
            expected="a table that can be read",
            fix="make the archive again",
        )


class _Tree:
    """The members of an archive as folders in folders. Folders by their path without links ("" is the top)."""

    def __init__(self) -> None:
        self.folders: dict[str, dict[str, Entry]] = {"": {}}
        self.outside = 0

    def add(self, entry: Entry) -> None:
        """Put a member in its place; one whose name leads out of the archive, or nowhere, is only counted."""
        parts: list[str] = []
        for part in entry.name.split("/") if entry.is_nameable else [".."]:
            if part == ".." and parts:
                parts.pop()
            elif part == "..":
                self.outside += entry.kind != "folder"
                return
            elif part not in ("", "."):
                parts.append(part)
        for depth, part in enumerate(parts):
            here = "/".join(parts[:depth])
            last = depth == len(parts) - 1
            path = "/".join(parts[: depth + 1])
            if last and entry.kind != "folder" and path not in self.folders:
                self.folders[here][part] = entry
            else:  # what has something below it is a folder, whatever else the archive calls it
                self.folders[here][part] = Entry(path, "folder", entry.position)
                self.folders.setdefault(path, {})

    def walk(self, where: str) -> Iterator[tuple[str, str, Entry | None]]:
        """(path, "file" | "folder" | "outside" | "loop", member) of all that is not hidden, links followed.

        A link that leads nowhere is a file without a member. Raises `DataError` when links multiply the folders.
        """
        pending: list[tuple[str, str, tuple[str, ...]]] = [("", "", ("",))]
        linked = 0
        while pending:
            folder, prefix, chain = pending.pop()
            for name, entry in self.folders[folder].items():
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
                    linked += entry.kind == "link"
                    if linked > MAX_LINKED:
                        raise DataError(
                            f"{where}: more than {counted(MAX_LINKED, 'link')} to folders",
                            expected="an archive with few links",
                            fix="make it again without the links",
                        )
                    yield prefix + name, "folder", None
                    pending.append((real, f"{prefix}{name}/", (*chain, real)))

    def at(self, path: str) -> Entry:
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
