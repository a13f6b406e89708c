"""Every storage operation of a save as the place where the disk refuses, breaks, or the process is killed half-way.

Here the operating system does the work: `FaultyStorage` passes everything on to it, except the operation that fails.
"""

import errno
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import final

import pytest
import torch

from sfumato.errors import ResourceError
from sfumato.training.checkpoint import CheckpointStore, Snapshot
from sfumato.training.storage import LocalStorage, Storage


class Crash(BaseException):
    """The process is gone: no handler for ordinary errors may run on."""


@final
class FaultyStorage(Storage):
    """A storage whose operation number `at` fails half done (and, when `lasting`, every changing one after it)."""

    def __init__(self, at: int | None, fault: BaseException, *, lasting: bool = False) -> None:
        self.inner, self.at, self.fault, self.lasting = LocalStorage(), at, fault, lasting
        self.operations = 0

    def _fails(self, *, changes: bool = True) -> bool:
        number, self.operations = self.operations, self.operations + 1
        return self.at is not None and (number == self.at or (self.lasting and changes and number > self.at))

    def _checked(self, *, changes: bool = True) -> None:
        if self._fails(changes=changes):
            raise self.fault

    def mkdir(self, path: Path) -> None:
        self._checked()
        self.inner.mkdir(path)

    def write(self, path: Path, chunks: Iterable[bytes | bytearray | memoryview]) -> None:
        if self._fails():
            data = b"".join(bytes(chunk) for chunk in chunks)
            self.inner.write(path, [data[: len(data) // 2]])
            raise self.fault
        self.inner.write(path, chunks)

    def append(self, path: Path, data: bytes) -> None:
        self._checked()
        self.inner.append(path, data)

    def fsync(self, path: Path) -> None:
        self._checked()  # not passed on: only waiting would come of it

    def fsync_dir(self, path: Path) -> None:
        self._checked()

    def rename(self, source: Path, target: Path) -> None:
        self._checked()
        self.inner.rename(source, target)

    def names(self, folder: Path) -> list[str]:
        self._checked(changes=False)
        return self.inner.names(folder)

    def size(self, path: Path) -> int:
        self._checked(changes=False)
        return self.inner.size(path)

    def read(self, path: Path, *, start: int = 0, count: int | None = None) -> bytearray:
        self._checked(changes=False)
        return self.inner.read(path, start=start, count=count)

    def remove(self, path: Path) -> None:
        if self._fails():
            if path.is_dir():
                self.inner.remove(min(path.iterdir()))
            raise self.fault
        self.inner.remove(path)

    def free_space(self, folder: Path) -> int:
        self._checked(changes=False)
        return self.inner.free_space(folder)


def sound() -> Storage:
    """No fault at all."""
    return FaultyStorage(None, Crash())


def snapshot(step: int) -> Snapshot:
    generator = torch.Generator().manual_seed(step)
    weights = {"w": torch.randn(3, 2, generator=generator), "n": torch.tensor(step)}
    return Snapshot(step, 64 * step, weights, {}, {"m": torch.randn(2, generator=generator)}, {"seed": 7})


def examine(run: Path, acknowledged: list[int]) -> None:
    """After a restart: every visible checkpoint is whole, nothing acknowledged is lost, and the run can go on."""
    store = CheckpointStore(run, storage=sound())
    for step in store.steps():
        loaded, truth = store.load(store.folder / f"step-{step:08d}"), snapshot(step)
        assert loaded.step == truth.step
        torch.testing.assert_close([loaded.model, loaded.optimizer], [truth.model, truth.optimizer], rtol=0, atol=0)
    assert len(store.steps()) >= min(len(acknowledged), store.keep)
    assert max(store.steps(), default=-1) >= max(acknowledged, default=-1)
    store.clean()
    found = store.newest(pytest.fail)
    assert (found is None) == (store.steps() == [])
    store.save(snapshot(9))
    left = [path.name for path in store.folder.iterdir()]
    assert all(name.startswith("step-") for name in left), left
    assert store.steps()[-1] == 9


@pytest.mark.parametrize("prepared", [(), (0, 1)], ids=["first save", "rotation"])
def test_a_kill_at_every_operation_on_a_real_file_system(tmp_path: Path, prepared: tuple[int, ...]) -> None:
    """A2 and A18 once more where the operating system does the work."""
    for at in itertools.count():
        run = tmp_path / str(at)
        for step in prepared:
            CheckpointStore(run, storage=sound()).save(snapshot(step))
        storage = FaultyStorage(at, Crash(), lasting=True)
        acknowledged = list(prepared)
        try:
            CheckpointStore(run, storage=storage).save(snapshot(2))
            acknowledged.append(2)
        except Crash:
            pass
        examine(run, acknowledged)
        if storage.operations <= at:
            break
    assert at > 20


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT], ids=errno.errorcode.get)
def test_every_operation_may_fail(tmp_path: Path, number: int, lasting: bool) -> None:
    """A7: a refused save says so in three lines, removes what it wrote, leaves the older checkpoints as they were."""
    for at in itertools.count():
        run = tmp_path / str(at)
        for step in (0, 1):
            CheckpointStore(run, storage=sound()).save(snapshot(step))
        storage = FaultyStorage(at, OSError(number, "injected"), lasting=lasting)
        acknowledged, refusal = [0, 1], None
        try:
            CheckpointStore(run, storage=storage).save(snapshot(2))
            acknowledged.append(2)
        except ResourceError as error:
            refusal = error
        if refusal is not None:
            assert len(str(refusal).splitlines()) == 3
            assert str(run) in refusal.what
            if number == errno.ENOSPC and "saving" in refusal.what:
                assert "bytes) are needed" in refusal.what
                assert "2 older checkpoints are untouched" in refusal.what
        left = {path.name for path in (run / "checkpoints").iterdir()}
        assert {"step-00000001"} <= left
        assert lasting or 2 in acknowledged or not any(name.startswith(".tmp-") for name in left)
        examine(run, acknowledged)
        if storage.operations <= at:
            break
    assert at > 20


def test_a_disk_known_to_be_too_small_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told before anything is written: a disk filled to the brim hurts everybody else on it."""
    store = CheckpointStore(tmp_path / "run", storage=sound())
    store.save(snapshot(0))
    monkeypatch.setattr(FaultyStorage, "free_space", lambda self, folder: 100)
    monkeypatch.setattr(FaultyStorage, "write", lambda self, path, chunks: pytest.fail("written"))
    with pytest.raises(ResourceError, match=r"no space left .* 100 B \(100 bytes\) are free .* 1 older checkpoints"):
        store.save(snapshot(1))
    assert store.steps() == [0]
