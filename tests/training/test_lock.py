"""One writer per run folder, whatever becomes of the others."""

import itertools
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest

from sfumato.errors import ResourceError
from sfumato.training.lock import LOCK, Holder, RunLock


@contextmanager
def forked(work: Callable[[], None]) -> Iterator[int]:
    """A child process that does the work and ends; killed at the latest when the test is over."""
    pid = os.fork()
    if pid == 0:
        status = 70
        with suppress(BaseException):  # a child must never run on into the test session
            work()
            status = 0
        os._exit(status)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def ended(pid: int) -> int:
    """Exit status of a child, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextmanager
def holder_process(folder: Path) -> Iterator[tuple[int, int]]:
    """A child that holds the lock: its number, and the descriptor whose closing lets it end."""
    ready, tell = os.pipe()
    wait, go = os.pipe()

    def hold() -> None:
        os.close(go)
        with RunLock(folder):
            os.write(tell, b"h")
            os.read(wait, 1)

    with forked(hold) as pid:
        assert os.read(ready, 1) == b"h"
        yield pid, go
    for descriptor in (ready, tell, wait):
        os.close(descriptor)


def leave(folder: Path, **changes: object) -> Path:
    """A lock file that no process holds, with the text of this process's own, changed."""
    path = folder / LOCK
    path.touch()
    holder = Holder.this_process(path.stat().st_ino)
    path.write_text(json.dumps({**asdict(holder), **changes}))
    return path


def dead_pid() -> int:
    with forked(lambda: None) as pid:
        ended(pid)
    return pid


def test_a_second_process_is_refused_and_told_who_holds(tmp_path: Path) -> None:
    """A16: pid and host in the message; the lock goes with a clean exit, and with SIGKILL."""
    with holder_process(tmp_path) as (pid, go):
        with pytest.raises(ResourceError) as caught, RunLock(tmp_path):
            pass
        assert caught.value.exit_code == 6
        assert f"process {pid} on host {socket.gethostname()}" in caught.value.what
        assert str(tmp_path) in caught.value.what
        os.close(go)
        assert ended(pid) == 0
    assert not (tmp_path / LOCK).exists()
    with holder_process(tmp_path) as (pid, go):
        os.kill(pid, signal.SIGKILL)
        assert ended(pid) == -signal.SIGKILL
        os.close(go)
    assert (tmp_path / LOCK).exists()
    with RunLock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK).exists()


def test_one_process_cannot_hold_it_twice(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        with pytest.raises(ResourceError, match=f"process {os.getpid()}"):
            RunLock(tmp_path).acquire()
        assert (tmp_path / LOCK).exists()
    lock = RunLock(tmp_path)
    for _ in range(2):
        lock.acquire()
        lock.release()
        lock.release()


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    with pytest.raises(KeyError), RunLock(tmp_path):
        raise KeyError
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"pid": 1}', "\0" * 50, '{"pid":-1,"host":1,"boot":2,"started":3,"inode":4}']
)
def test_a_torn_lock_file_is_taken_over(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK).write_text(text)
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize("case", ["killed", "rebooted", "copied", "copied from elsewhere"])
def test_a_stale_lock_is_taken_over(tmp_path: Path, case: str) -> None:
    changes: dict[str, dict[str, object]] = {
        "killed": {"pid": dead_pid()},
        "rebooted": {"boot": "another boot"},  # the number may belong to any process now: even to this one
        "copied": {"inode": 1},
        "copied from elsewhere": {"inode": 1, "host": "elsewhere", "boot": "another"},
    }
    leave(tmp_path, **changes[case])
    with RunLock(tmp_path):
        pass


def test_a_lock_of_another_machine_is_respected(tmp_path: Path) -> None:
    """It cannot be asked whether its process lives; the message names it and the file to delete."""
    path = leave(tmp_path, host="node7", boot="another", pid=4242)
    before = path.read_text()
    with pytest.raises(ResourceError, match="process 4242 on host node7") as caught, RunLock(tmp_path):
        pass
    assert str(path) in caught.value.fix
    assert path.read_text() == before


@pytest.mark.parametrize("alive", [True, False])
def test_without_flock_the_process_itself_is_asked(
    tmp_path: Path, alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process number is used again: the start time tells whose it is."""
    monkeypatch.setattr(RunLock, "_flock", lambda self, descriptor: False)
    leave(tmp_path, **({} if alive else {"started": "12"}))
    if alive:
        with pytest.raises(ResourceError, match=f"process {os.getpid()}"):
            RunLock(tmp_path).acquire()
    else:
        with RunLock(tmp_path):
            pass
    leave(tmp_path, pid=dead_pid())
    with RunLock(tmp_path):
        pass


def test_whether_a_process_is_alive() -> None:
    holder = Holder.this_process(0)
    assert holder.is_alive_here
    assert not replace(holder, pid=dead_pid()).is_alive_here
    if holder.started:
        assert not replace(holder, started="1").is_alive_here
        assert not replace(holder, pid=1).is_alive_here


def test_a_child_does_not_keep_its_parents_lock(tmp_path: Path) -> None:
    """A forked worker that outlives its parent must not hold the run for ever."""
    lock = RunLock(tmp_path)
    lock.acquire()
    read, write = os.pipe()
    born, bearing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.write(bearing, b".")  # its handlers of the fork have run
        os.read(read, 1)  # lives until the parent lets it go
        os._exit(0)
    try:
        os.read(born, 1)
        with pytest.raises(ResourceError):
            RunLock(tmp_path).acquire()
        assert lock._descriptor is not None
        os.close(lock._descriptor)  # as the kernel does when the parent is killed
        lock._descriptor = None
        with RunLock(tmp_path):
            pass
    finally:
        os.close(write)
        os.waitpid(child, 0)
        os.close(read)


def locking_killed_at(folder: Path, at: int) -> None:
    """Take the lock and give it back; die before the call number `at` to the system."""
    import fcntl

    calls = itertools.count()

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            if next(calls) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        return call

    for module, names in (
        (os, ("open", "fstat", "ftruncate", "pwrite", "pread", "close", "unlink")),
        (fcntl, ("flock",)),
    ):
        for name in names:
            setattr(module, name, counted(getattr(module, name)))
    with RunLock(folder):
        pass


def test_a_kill_at_any_operation_leaves_the_run_free(tmp_path: Path) -> None:
    """A2 for the lock: taken and given back, killed before each call to the system; the next process gets it."""
    for at in itertools.count():
        with forked(partial(locking_killed_at, tmp_path, at)) as pid:
            status = ended(pid)
        with RunLock(tmp_path):
            pass
        assert not (tmp_path / LOCK).exists()
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert at > 8


def test_a_file_removed_while_we_wait_for_it_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder removes the file between our opening and locking it: we would hold a lock that nobody else can see."""
    real, removals = RunLock._flock, iter([True, True, False])

    def late(self: RunLock, descriptor: int) -> bool:
        if next(removals):
            self.path.unlink()
        return real(self, descriptor)

    monkeypatch.setattr(RunLock, "_flock", late)
    with RunLock(tmp_path):
        monkeypatch.setattr(RunLock, "_flock", real)
        with pytest.raises(ResourceError, match=f"process {os.getpid()}"):
            RunLock(tmp_path).acquire()


def test_a_folder_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="locking") as caught:
        RunLock(tmp_path / "gone").acquire()
    assert str(tmp_path / "gone") in caught.value.what
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(ResourceError, match="a file stands where a folder should be"):
        RunLock(tmp_path / "file").acquire()


def count_under_lock(folder: Path, times: int) -> None:
    counter = folder / "count"
    while times:
        try:
            with RunLock(folder):
                value = int(counter.read_text())
                time.sleep(0.0005)
                counter.write_text(str(value + 1))
                times -= 1
        except ResourceError:
            time.sleep(0.0002)


def test_racing_processes_never_hold_it_together(tmp_path: Path) -> None:
    """Four processes take it 25 times each and count in a file that only the holder may touch."""
    (tmp_path / "count").write_text("0")
    with ExitStack() as stack:
        racers = [stack.enter_context(forked(partial(count_under_lock, tmp_path, 25))) for _ in range(4)]
        assert [ended(pid) for pid in racers] == [0] * 4
    assert (tmp_path / "count").read_text() == "100"
