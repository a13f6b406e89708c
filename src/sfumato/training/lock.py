"""One writer per run folder.

The lock is the operating system's (`flock` on the file LOCK), which ends with the process however it dies, so a SIGKILL
leaves nothing to clean up. The file's text says who holds it, for the message a second process prints. Text left by a
killed process is judged too, because some network file systems keep `flock` to one machine:

* the same boot of the same machine: holding `flock` is proof enough that the old holder is gone;
* the same host after a reboot, or a copy of a run folder (the text names another inode): nobody holds it;
* another machine: it may still be running and cannot be asked. Refused; the message says what to delete.

Where there is no `flock` at all, the holder is alive when its process is, and started when the text says it did:
process numbers are used again.
"""

import contextlib
import errno
import json
import os
import socket
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, final

from sfumato.errors import ResourceError
from sfumato.training.storage import LocalStorage, explained

__all__ = ["LOCK", "Holder", "RunLock"]

LOCK = "LOCK"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock. `boot` names one boot of a kernel, `started` is in clock ticks since then; "" when unknown."""

    pid: int
    host: str
    boot: str
    started: str
    inode: int

    @classmethod
    def this_process(cls, inode: int) -> "Holder":
        pid = os.getpid()
        return cls(pid, socket.gethostname(), _boot(), _start_of(pid), inode)

    @property
    def is_alive_here(self) -> bool:
        """Whether that process still runs on this machine (another one with its number does not count)."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return not self.started or _start_of(self.pid) == self.started


@final
class RunLock:
    """`with RunLock(run_folder):` holds the folder for this process; `ResourceError` when another process holds it."""

    def __init__(self, run_folder: Path) -> None:
        self.path = Path(run_folder) / LOCK
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, or refuse at once naming pid and host of the holder."""
        assert self._descriptor is None, "held already by this object"
        try:
            while not self._try_acquire():
                pass  # the holder removed the file between our opening and locking it
        except OSError as error:
            if isinstance(error, ResourceError):
                raise
            place = self.path.parent
            raise explained(error, f"locking {place}", path=place, storage=LocalStorage()) from None

    def _try_acquire(self) -> bool:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            proven = self._flock(descriptor)
            inode = os.fstat(descriptor).st_ino
            if not _names(self.path, inode):
                os.close(descriptor)
                return False
            self._refuse_living(_read(descriptor), inode, proven)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(Holder.this_process(inode))).encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _held.add(self)
        return True

    def _flock(self, descriptor: int) -> bool:
        """Take the system's lock. False where the system has none to offer."""
        try:
            import fcntl
        except ImportError:  # Windows
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._refusal(_read(descriptor)) from None
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return False
            raise
        return True

    def _refuse_living(self, left: Holder | None, inode: int, proven: bool) -> None:
        """Judge the text found in a file that we could lock."""
        if left is None or left.inode != inode:
            return
        same_boot = left.boot == _boot() and left.boot != ""
        if proven and same_boot:
            return
        rebooted = left.boot != _boot()
        elsewhere = left.host != socket.gethostname() and not same_boot
        if elsewhere or (not rebooted and left.is_alive_here):
            raise self._refusal(left)

    def _refusal(self, holder: Holder | None) -> ResourceError:
        who = "another process" if holder is None else f"process {holder.pid} on host {holder.host}"
        return ResourceError(
            f"{self.path.parent} is in use by {who}",
            expected="one process at a time on a run folder",
            fix=f"wait for it or stop it; when it surely runs no more, delete {self.path}; or start another run",
        )

    def release(self) -> None:
        """Give the lock back and remove its file. Nothing happens when it is not held."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        _held.discard(self)
        with contextlib.suppress(
            OSError
        ):  # removed while still locked: whoever waits sees another file and tries again
            if _names(self.path, os.fstat(descriptor).st_ino):
                self.path.unlink()
        os.close(descriptor)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _forget(self) -> None:
        """In a forked child: let go of the parent's lock, which would otherwise live as long as the child."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None


_held: "weakref.WeakSet[RunLock]" = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_held):
        lock._forget()


if os.name != "nt":
    os.register_at_fork(after_in_child=_forget_all)


def _names(path: Path, inode: int) -> bool:
    """Whether the name still leads to the file we opened."""
    try:
        return path.stat().st_ino == inode
    except FileNotFoundError:
        return False


def _read(descriptor: int) -> Holder | None:
    """The holder written in a lock file; None for an empty, torn or foreign one."""
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        holder = Holder(**found)
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (holder.host, holder.boot, holder.started)
    right = type(holder.pid) is int and holder.pid > 0 and type(holder.inode) is int
    return holder if right and all(isinstance(text, str) for text in texts) else None


def _boot() -> str:
    """A name for this boot of this machine: containers on one machine share it, two machines never do."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _start_of(pid: int) -> str:
    """When a process started (field 22 of /proc/PID/stat), or "" where that cannot be known."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""
