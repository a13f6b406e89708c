"""The one module of training that touches storage, so that every fault can be injected in a test.

What a file system promises is little. `write` makes bytes visible, not durable: they survive a power loss only after
`fsync` of the file. A new, renamed or removed *name* survives only after `fsync_dir` of the folder that holds it.
`rename` within a folder is atomic: afterwards the old state or the new one is seen, never a mixture. Everything above
(checkpoints, metrics) is built from these three facts alone:

    write temporary name -> fsync files -> fsync_dir(temporary) -> rename -> fsync_dir(parent) -> "saved"

`Storage` is the interface (its doubles in the tests lose, tear and refuse things), `LocalStorage` the operating
system's. Methods raise plain `OSError`; `explained` turns one into the three-line refusal a person gets.
"""

import contextlib
import errno
import os
import shutil
import stat
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import final

from sfumato.errors import ResourceError, SfumatoError

__all__ = [
    "LocalStorage",
    "Storage",
    "explained",
    "human_bytes",
    "make_folders",
    "replace_file",
    "require_free_space",
]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
# Some network and FUSE file systems cannot sync a folder and say so; there is nothing better to do there.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


class Storage(ABC):
    """The calls through which runs are stored. Nothing is durable before `fsync` / `fsync_dir`."""

    @abstractmethod
    def mkdir(self, path: Path) -> None:
        """Make one folder. FileExistsError when the name is taken, FileNotFoundError when the parent is missing."""

    @abstractmethod
    def write(self, path: Path, chunks: Iterable[bytes | bytearray | memoryview]) -> None:
        """Create the file (or empty it) and write all chunks to it."""

    @abstractmethod
    def append(self, path: Path, data: bytes) -> None:
        """Add `data` at the end in a single call to the system: all of it, or (best effort) nothing and an OSError."""

    @abstractmethod
    def fsync(self, path: Path) -> None:
        """Make the bytes of one file durable."""

    @abstractmethod
    def fsync_dir(self, path: Path) -> None:
        """Make the names in one folder durable."""

    @abstractmethod
    def rename(self, source: Path, target: Path) -> None:
        """Rename within a folder, atomically. A file replaces a file; a folder never replaces a non-empty folder."""

    @abstractmethod
    def names(self, folder: Path) -> list[str]:
        """Sorted names in a folder."""

    @abstractmethod
    def size(self, path: Path) -> int:
        """Bytes in a regular file. OSError for anything else (folder, pipe, device), without opening it."""

    @abstractmethod
    def read(self, path: Path, *, start: int = 0, count: int | None = None) -> bytearray:
        """Bytes [start, start + count) of a regular file, to the end when `count` is None; fewer when it is shorter."""

    @abstractmethod
    def remove(self, path: Path) -> None:
        """Remove a file, or a folder with all it holds. Nothing happens when the name does not exist."""

    @abstractmethod
    def free_space(self, folder: Path) -> int:
        """Bytes that an ordinary user can still write there."""


@final
class LocalStorage(Storage):
    """The file system of this machine."""

    def mkdir(self, path: Path) -> None:
        path.mkdir()

    def write(self, path: Path, chunks: Iterable[bytes | bytearray | memoryview]) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            for chunk in chunks:
                rest = memoryview(chunk).cast("B")
                while rest:  # a signal or a nearly full disk can cut a write short
                    rest = rest[os.write(descriptor, rest) :]
        finally:
            os.close(descriptor)

    def append(self, path: Path, data: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            before = os.fstat(descriptor).st_size
            written = os.write(descriptor, data)
            if written < len(data):
                os.ftruncate(descriptor, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        finally:
            os.close(descriptor)

    def fsync(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            _flush(descriptor)
        finally:
            os.close(descriptor)

    def fsync_dir(self, path: Path) -> None:
        if os.name == "nt":  # Windows has no handle for this; its renames are journalled
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _flush(descriptor)
        except OSError as error:
            if error.errno not in _NO_FOLDER_SYNC:
                raise
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def names(self, folder: Path) -> list[str]:
        return sorted(os.listdir(folder))

    def size(self, path: Path) -> int:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return found.st_size

    def read(self, path: Path, *, start: int = 0, count: int | None = None) -> bytearray:
        rest = max(0, self.size(path) - start)  # also refuses pipes, whose opening would wait for ever
        buffer = bytearray(rest if count is None else min(rest, count))
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            view, done = memoryview(buffer), 0
            while done < len(buffer) and (got := file.readinto(view[done:])):
                done += got
            view.release()
        del buffer[done:]
        return buffer

    def remove(self, path: Path) -> None:
        try:
            path.unlink()
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):  # macOS says EPERM for a folder
            if not path.is_dir():
                raise
            shutil.rmtree(path)

    def free_space(self, folder: Path) -> int:
        return shutil.disk_usage(folder).free


def _flush(descriptor: int) -> None:
    """fsync that reaches the medium; on macOS plain fsync stops at the drive's cache."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):  # not every file system there offers it
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def make_folders(path: Path, storage: Storage) -> None:
    """Make a folder and its missing parents, each made durable in the folder above it.

    Raises `ResourceError` when a file stands in the way or the place cannot be written.
    """
    try:
        try:
            storage.mkdir(path)
        except FileNotFoundError:
            make_folders(path.parent, storage)
            storage.mkdir(path)
        storage.fsync_dir(path.parent)
    except OSError as error:
        try:
            if isinstance(error, FileExistsError):
                storage.names(path)  # a folder is as good; a file is not
                return
        except OSError as obstacle:
            error = obstacle
        raise explained(error, f"making the folder {path}", path=path, storage=storage) from None


def replace_file(
    path: Path, chunks: Iterable[bytes | bytearray | memoryview], storage: Storage, *, durable: bool = True
) -> None:
    """Give `path` new contents, so that every reader sees the old or the new bytes, whole.

    `durable=False` leaves it to the system when they reach the disk: for what can be made again. Raises OSError; the
    old file is then untouched and the temporary one removed.
    """
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        storage.write(temporary, chunks)
        if durable:
            storage.fsync(temporary)
        storage.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            storage.remove(temporary)
        raise
    if durable:
        storage.fsync_dir(path.parent)


def require_free_space(folder: Path, needed: int, storage: Storage, *, times: float = 3.0) -> None:
    """Refuse with `ResourceError` when fewer than `times * needed` bytes are free: two checkpoints and a spare."""
    try:
        free = storage.free_space(folder)
    except OSError as error:
        raise explained(error, f"asking for the free space of {folder}", path=folder, storage=storage) from None
    if free < times * needed:
        raise ResourceError(
            f"too little space in {folder}: {human_bytes(free)} are free, one checkpoint takes {human_bytes(needed)}",
            expected=f"at least {human_bytes(times * needed)} free ({times:g} checkpoints)",
            fix="free some space, or put the run on another disk with --runs DIR",
        )


def explained(
    error: OSError, doing: str, *, path: Path, storage: Storage, needed: int | None = None, kept: str = ""
) -> SfumatoError:
    """The `ResourceError` that says in three lines what an OSError means here.

    `doing` completes "… failed while"; `needed` is what the operation had to write, in bytes; `kept` says what is safe.
    """
    if isinstance(error, SfumatoError):  # explained where it arose; a ResourceError is an OSError
        return error
    safe = f"; {kept}" if kept else ""
    if error.errno in _FULL:
        size = "" if needed is None else f": {human_bytes(needed)} ({needed} bytes) are needed"
        return ResourceError(
            f"no space left while {doing}{size}, {_free(path, storage)}{safe}",
            expected="enough free space (and quota, and file-size limit) at that place",
            fix="free some space there, then repeat the command (a stopped run: `sfumato resume RUN`)",
        )
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return ResourceError(
            f"a file stands where a folder should be, while {doing}{safe}",
            expected=f"a folder, or nothing yet, at {path}",
            fix="move that file away, or choose another place with --runs DIR",
        )
    if error.errno in _DENIED:
        return ResourceError(
            f"not permitted while {doing}: {error.strerror} ({path}){safe}",
            expected="a place that this user may read and write",
            fix="change its permissions (`ls -ld` shows them), or choose another place with --runs DIR",
        )
    return ResourceError(
        f"the storage failed while {doing}: {error.strerror or error} ({path}){safe}",
        expected="storage that reads and writes without errors",
        fix="look at the disk (`dmesg`, `df`) or the network mount, then repeat the command",
    )


def _free(path: Path, storage: Storage) -> str:
    for folder in (path, *path.parents):
        with contextlib.suppress(OSError):
            free = storage.free_space(folder)
            return f"{human_bytes(free)} ({free} bytes) are free at {path}"
    return f"at {path}"


def human_bytes(count: float) -> str:
    """A size for people, in powers of 1000 as disks are sold: 999 B, 14.2 MB, 3.1 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
