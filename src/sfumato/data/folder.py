"""A folder of pictures: what lies in it, and when it has changed.

Links are followed while they stay inside the root; those that lead out of it and those that lead to a folder above them
are left out and counted. What is made of the files is decided in `listing`, `tables` and `pictures`.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

from sfumato.data.cache import Cache
from sfumato.data.decoding import SUFFIXES
from sfumato.data.listing import MAX_LINKED, Listing, is_hidden, listed
from sfumato.data.packed import Packed, evenly
from sfumato.data.pictures import Content, Pictures, settings_key
from sfumato.data.settings import DataConfig
from sfumato.data.tables import pack_listed, require_table
from sfumato.data.wording import READABLE, counted
from sfumato.errors import DataError, printable

__all__ = ["FolderPictures", "holds_picture", "load_folder", "scan"]

FILE_SUFFIXES = (".npz", ".npy", ".tar", ".tgz", ".gz", ".zip", ".csv", ".tsv", ".jsonl", ".parquet", ".safetensors")


@final
@dataclass(frozen=True, slots=True)
class FolderPictures(Pictures):
    """The pictures below the root of a listing."""

    noun: ClassVar[str] = "folder"
    found: Listing

    @property
    def listing(self) -> Listing:
        return self.found

    def opened(self, names: Sequence[str]) -> Iterator[tuple[str, Content]]:
        """The path of each picture."""
        for name in names:
            yield name, self.found.root / name

    def read(self, name: str) -> bytes:
        """The bytes of a table; nothing but a regular file is read."""
        path = self.found.root / name
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise _error(f"{printable(str(path))}: not a regular file", "a file of text", "remove it")
            return path.read_bytes()
        except OSError as error:
            what = f"{printable(str(path))}: {error.strerror or error}"
            raise _error(what, "a readable file", "mend its permissions") from None


def scan(root: Path) -> Listing:
    """List the pictures below `root`. Raises `DataError` when there is no such folder or no picture in it."""
    if not os.path.exists(root):  # Path.exists raises for a name that is too long
        kind = "file" if root.suffix.lower() in FILE_SUFFIXES else "folder"
        raise _error(f"{printable(str(root))}: no such {kind}", READABLE, "check --data.path")
    return listed(root, _walk(os.path.realpath(root)), noun=FolderPictures.noun)


def load_folder(root: Path, config: DataConfig, cache: Cache) -> Packed:
    """Decode, prepare and pack the pictures below `root`; from `cache` when nothing has changed since."""
    pictures = FolderPictures(scan(root))
    require_table(pictures.listing, config)
    key = _key(pictures.listing, config)
    packed = cache.read(key)
    if packed is None:
        packed = pack_listed(pictures, config)
        cache.write(key, packed)
    return packed


def _walk(root: str) -> Iterator[tuple[str, str]]:
    """Yield (relative path, "file" | "folder" | "outside" | "loop") for all that is not hidden below a real path."""
    pending: list[tuple[str, str, tuple[str, ...]]] = [(root, "", (root,))]
    linked = 0
    while pending:
        folder, prefix, chain = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            where = printable(folder)
            raise _error(f"{where}: {error.strerror}", "a readable folder", "mend its permissions") from None
        for entry in entries:
            if is_hidden(entry.name):
                continue
            real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
            if entry.is_symlink() and os.path.exists(real) and os.path.commonpath([root, real]) != root:
                yield prefix + entry.name, "outside"
            elif not _is_folder(entry):
                yield prefix + entry.name, "file"
            elif real in chain:
                yield prefix + entry.name, "loop"
            else:
                linked += entry.is_symlink()
                if linked > MAX_LINKED:
                    what = f"{printable(root)}: more than {counted(MAX_LINKED, 'link')} to folders"
                    raise _error(what, "few links", "give the folder that the links lead to")
                yield prefix + entry.name, "folder"
                pending.append((real, f"{prefix}{entry.name}/", (*chain, real)))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def holds_picture(root: Path) -> bool:
    """Whether `scan` would find a picture below a folder. Raises `DataError` for folders that cannot be read."""
    names = (name for name, kind in _walk(os.path.realpath(root)) if kind == "file")
    return any(os.path.splitext(name)[1].lower() in SUFFIXES for name in names)


def _key(listing: Listing, config: DataConfig) -> str:
    """What `cache` knows the packed folder by: the settings, and the size and date of every file that matters."""
    digest = settings_key(config, str(listing.root.resolve()), table=bool(listing.tables))
    chosen = evenly(len(listing.files), None if listing.tables else config.limit)
    digest.update("\0".join(listing.folders).encode("utf-8", "surrogateescape"))  # they name the absent classes
    digest.update(f"\0{listing.ignored} {listing.outside} {listing.loops}".encode("utf-8", "surrogateescape"))  # noted
    for name in [*(listing.files[i] for i in chosen), *listing.tables]:
        try:
            status = os.stat(listing.root / name)
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            state = "gone"
        digest.update(f"\0{state} ".encode() + os.fsencode(name))
    return digest.hexdigest()


def _error(what: str, expected: str, fix: str) -> DataError:
    return DataError(what, expected=expected, fix=fix)
