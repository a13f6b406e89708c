"""The record of a run: each step once, exact, and never worth a run."""

import errno
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import final

import pytest

from sfumato.errors import ResourceError
from sfumato.training.record import METRICS, MetricsLog
from sfumato.training.storage import LocalStorage, Storage


@final
class Filling(Storage):
    """A disk that refuses to grow while `full`, and counts what is asked of it."""

    def __init__(self) -> None:
        self.inner = LocalStorage()
        self.full = False
        self.appends: list[bytes] = []
        self.synced: list[str] = []

    def _room(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def mkdir(self, path: Path) -> None:
        self.inner.mkdir(path)

    def write(self, path: Path, chunks: Iterable[bytes | bytearray | memoryview]) -> None:
        self._room()
        self.inner.write(path, chunks)

    def append(self, path: Path, data: bytes) -> None:
        self._room()
        self.appends.append(data)
        self.inner.append(path, data)

    def fsync(self, path: Path) -> None:
        self.synced.append(path.name)
        self.inner.fsync(path)

    def fsync_dir(self, path: Path) -> None:
        self.synced.append(path.name)
        self.inner.fsync_dir(path)

    def rename(self, source: Path, target: Path) -> None:
        self.inner.rename(source, target)

    def names(self, folder: Path) -> list[str]:
        return self.inner.names(folder)

    def size(self, path: Path) -> int:
        return self.inner.size(path)

    def read(self, path: Path, *, start: int = 0, count: int | None = None) -> bytearray:
        return self.inner.read(path, start=start, count=count)

    def remove(self, path: Path) -> None:
        self.inner.remove(path)

    def free_space(self, folder: Path) -> int:
        return self.inner.free_space(folder)


def steps(path: Path) -> list[int]:
    return [entry["step"] for entry in MetricsLog.read(path)]


def test_floats_come_back_exactly_and_lines_are_plain_json(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, report=pytest.fail)
    values = [0.1 + 0.2, 1e-300, 5e-324, math.pi, 1 / 3]
    log.append({"step": 0, "loss": values[0], "bins": values, "nested": {"lr": 1e-4, "name": "ß\n"}})
    log.append({"step": 1, "loss": float("nan"), "bins": [float("inf"), 1.0]})
    lines = (tmp_path / METRICS).read_bytes().split(b"\n")
    assert len(lines) == 3
    assert lines[2] == b""
    first, second = MetricsLog.read(tmp_path / METRICS)
    assert first == {"step": 0, "loss": values[0], "bins": values, "nested": {"lr": 1e-4, "name": "ß\n"}}
    assert second == {"step": 1, "loss": None, "bins": [None, 1.0]}
    json.loads(lines[1], parse_constant=pytest.fail)


def test_each_line_is_one_write(tmp_path: Path) -> None:
    storage = Filling()
    log = MetricsLog(tmp_path, report=pytest.fail, storage=storage)
    for step in range(3):
        log.append({"step": step})
    assert storage.appends == [b'{"step":0}\n', b'{"step":1}\n', b'{"step":2}\n']
    assert storage.synced == []
    log.sync()
    assert storage.synced == [METRICS, tmp_path.name]


def test_each_step_once() -> None:
    log = MetricsLog(Path("/nowhere"), report=lambda note: None)
    log.append({"step": 5})
    with pytest.raises(AssertionError, match="recorded already"):
        log.append({"step": 5})


def test_a_full_disk_gives_one_warning_and_loses_nothing(tmp_path: Path) -> None:
    """A9: training goes on; lines wait in order and are written when there is room."""
    storage, notes = Filling(), []
    log = MetricsLog(tmp_path, report=notes.append, storage=storage)
    log.append({"step": 0})
    storage.full = True
    for step in range(1, 5):
        log.append({"step": step})
    log.sync()
    assert log.incomplete
    assert len(notes) == 1
    assert str(tmp_path / METRICS) in notes[0]
    assert os.strerror(errno.ENOSPC) in notes[0]
    assert steps(tmp_path / METRICS) == [0]
    storage.full = False
    log.append({"step": 5})
    assert not log.incomplete
    assert steps(tmp_path / METRICS) == [0, 1, 2, 3, 4, 5]


def test_a_folder_that_is_gone_gives_one_warning(tmp_path: Path) -> None:
    notes: list[str] = []
    log = MetricsLog(tmp_path / "gone", report=notes.append)
    for step in range(3):
        log.append({"step": step})
    log.sync()
    assert len(notes) == 1
    assert log.incomplete


def test_a_short_write_leaves_no_torn_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may take a part of a line before the disk is full; that part is taken back."""
    notes: list[str] = []
    log = MetricsLog(tmp_path, report=notes.append)
    log.append({"step": 0})
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:4]))
        log.append({"step": 1})
    assert (tmp_path / METRICS).read_bytes() == b'{"step":0}\n'
    assert len(notes) == 1
    log.append({"step": 2})
    assert (tmp_path / METRICS).read_bytes() == b'{"step":0}\n{"step":1}\n{"step":2}\n'


@pytest.mark.parametrize(
    "tail", [b'{"step":3,"lo', b"\0\0\0\0\0", b'{"step":3}', b"[1]\n", b'{"loss":1}\n', b"\xff\xfe\n"]
)
def test_a_torn_or_foreign_line_is_skipped_with_a_note(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / METRICS
    path.write_bytes(b'{"step":0}\n{"step":2}\n' + tail)
    notes: list[str] = []
    found = MetricsLog.read(path, notes.append)
    whole = tail == b'{"step":3}'  # only the newline is lost: what it says is whole
    assert [entry["step"] for entry in found] == ([0, 2, 3] if whole else [0, 2])
    assert notes == ([] if whole else [f"{path}: line 3 is torn or not a record; skipped"])
    log = MetricsLog(tmp_path, report=pytest.fail)
    log.truncate_after(2)
    assert path.read_bytes() == b'{"step":0}\n{"step":2}\n'
    log.append({"step": 3})
    assert steps(path) == [0, 2, 3]


def test_resuming_gives_the_same_bytes(tmp_path: Path) -> None:
    """Cut back to the checkpoint and recorded again: equal to the record of a run that was never stopped."""

    def record(folder: Path, run: Iterable[int], after: int | None = None) -> None:
        folder.mkdir(exist_ok=True)
        log = MetricsLog(folder, report=pytest.fail)
        if after is not None:
            log.truncate_after(after)
        for step in run:
            log.append({"step": step, "loss": math.sin(step)})

    record(tmp_path / "whole", range(1, 100))
    record(tmp_path / "stopped", range(1, 78))
    with (tmp_path / "stopped" / METRICS).open("ab") as file:
        file.write(b'{"step":78,"los')
    record(tmp_path / "stopped", range(51, 100), after=50)
    assert (tmp_path / "stopped" / METRICS).read_bytes() == (tmp_path / "whole" / METRICS).read_bytes()
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == [METRICS]


def test_lines_doubled_by_an_older_accident_are_cut(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_bytes(b'{"step":1,"a":1}\n{"step":2}\n{"step":1,"a":2}\n{"step":2}\n{"step":3}\n')
    MetricsLog(tmp_path, report=pytest.fail).truncate_after(3)
    assert (tmp_path / METRICS).read_bytes() == b'{"step":1,"a":1}\n{"step":2}\n{"step":3}\n'


def test_cutting_nothing_writes_nothing(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, report=pytest.fail)
    log.truncate_after(10)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / METRICS).write_bytes(b'{"step":1}\n')
    before = (tmp_path / METRICS).stat()
    log.truncate_after(10)
    after = (tmp_path / METRICS).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_cut_that_fails_leaves_the_record(tmp_path: Path) -> None:
    storage = Filling()
    path = tmp_path / METRICS
    path.write_bytes(b'{"step":1}\n{"step":2}\n')
    storage.full = True
    with pytest.raises(ResourceError, match="no space left while cutting"):
        MetricsLog(tmp_path, report=pytest.fail, storage=storage).truncate_after(1)
    assert path.read_bytes() == b'{"step":1}\n{"step":2}\n'
    assert [entry.name for entry in tmp_path.iterdir()] == [METRICS]


def test_a_record_that_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / METRICS)
    with pytest.raises(ResourceError, match=METRICS):
        MetricsLog.read(tmp_path / METRICS)
    assert MetricsLog.read(tmp_path / "none") == []
