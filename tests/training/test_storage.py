"""The local file system, and what its refusals say to a person."""

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from sfumato.errors import ResourceError
from sfumato.training.checkpoint import CheckpointStore, Snapshot
from sfumato.training.storage import (
    LocalStorage,
    explained,
    human_bytes,
    make_folders,
    replace_file,
    require_free_space,
)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A real refusal by the operating system in the middle of a write: EFBIG, treated like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def big(step: int) -> Snapshot:
    return Snapshot(step, 0, {"w": torch.full((1 << 20,), float(step))}, {}, {}, {})


def test_bytes_come_back(tmp_path: Path) -> None:
    storage, path = LocalStorage(), tmp_path / "file"
    storage.write(path, [b"abc", memoryview(b"def"), bytearray(b"")])
    storage.append(path, b"ghi")
    storage.fsync(path)
    storage.fsync_dir(tmp_path)
    assert bytes(storage.read(path)) == b"abcdefghi"
    assert bytes(storage.read(path, start=4, count=3)) == b"efg"
    assert bytes(storage.read(path, start=7, count=99)) == b"hi"
    assert bytes(storage.read(path, start=99)) == b""
    assert storage.size(path) == 9
    storage.rename(path, tmp_path / "other")
    assert storage.names(tmp_path) == ["other"]


def test_removing_is_complete_and_repeatable(tmp_path: Path) -> None:
    storage = LocalStorage()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"1")
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_bytes(b"2")
    (folder / "link").symlink_to(outside)
    storage.remove(folder)
    storage.remove(folder)
    assert storage.names(tmp_path) == ["outside"]
    assert storage.names(outside) == ["kept"]


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    """A pipe must not be opened: that would wait for a writer for ever."""
    path = {"folder": tmp_path, "pipe": tmp_path / "pipe", "device": Path("/dev/zero")}[kind]
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(OSError, match=r"regular|directory"):
        LocalStorage().read(path)


def test_a_replaced_file_is_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with files_of_at_most(1000), pytest.raises(OSError, match="large"):
        replace_file(path, [b"x" * 10_000], LocalStorage())
    assert path.read_bytes() == b"old"
    replace_file(path, [b"new"], LocalStorage())
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_what_need_not_be_durable_is_still_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `durable` the disk is not waited for; a refused write leaves the old file and nothing else, as ever."""
    waited: list[int] = []
    monkeypatch.setattr("sfumato.training.storage._flush", waited.append)
    path = tmp_path / "file"
    replace_file(path, [b"old"], LocalStorage(), durable=False)
    with files_of_at_most(1000), pytest.raises(OSError, match="large"):
        replace_file(path, [b"x" * 10_000], LocalStorage(), durable=False)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert waited == []
    replace_file(path, [b"new"], LocalStorage())
    assert len(waited) == 2  # the file and its folder


def test_a_disk_that_fills_during_a_save(tmp_path: Path) -> None:
    """A7, with a real refusal: bytes needed and free, the path, older checkpoints byte-identical, nothing else."""
    store = CheckpointStore(tmp_path / "run")
    store.save(big(0))
    before = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
    with files_of_at_most(1_000_000), pytest.raises(ResourceError) as caught:
        store.save(big(1))
    assert caught.value.exit_code == 6
    assert f"({store.required_bytes(big(1))} bytes) are needed" in caught.value.what
    assert "bytes) are free" in caught.value.what
    assert str(store.folder / "step-00000001") in caught.value.what
    assert "1 older checkpoints are untouched" in caught.value.what
    assert {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in store.folder.iterdir()] == ["step-00000000"]
    store.save(big(1))
    assert store.steps() == [0, 1]


def test_a_disk_too_small_from_the_start(tmp_path: Path) -> None:
    """A8: three checkpoints must fit; the estimate is the exact size of the tensor files and the state."""
    store = CheckpointStore(tmp_path / "run")
    store.require_free_space(big(0))
    path = store.save(big(0))
    written = sum(file.stat().st_size for file in path.iterdir() if file.name != "MANIFEST.json")
    assert store.required_bytes(big(0)) == written
    with pytest.raises(ResourceError, match=r"3 checkpoints|one checkpoint takes 1\.0 PB|TB") as caught:
        require_free_space(tmp_path, 10**15, LocalStorage())
    assert caught.value.exit_code == 6
    assert str(tmp_path) in caught.value.what
    assert "1000.0 TB" in caught.value.what
    assert "3000.0 TB" in caught.value.expected


@pytest.mark.parametrize("where", ["run", "run/checkpoints", "runs/deep/run"])
def test_a_file_where_a_folder_should_be(tmp_path: Path, where: str) -> None:
    """A10: named, and the file stays as it was."""
    blocked = tmp_path / where
    if where == "runs/deep/run":
        blocked = tmp_path / "runs"
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_bytes(b"mine")
    run = tmp_path / ("runs/deep/run" if where == "runs/deep/run" else "run")
    with pytest.raises(ResourceError, match="a file stands where a folder should be") as caught:
        CheckpointStore(run).save(big(0))
    assert caught.value.exit_code == 6
    assert str(tmp_path) in caught.value.what
    assert blocked.read_bytes() == b"mine"


def test_a_place_that_may_not_be_written(tmp_path: Path) -> None:
    """A10: a read-only place is named with the remedy. The kernel's own read-only place serves, also for root."""
    with pytest.raises(ResourceError, match=r"not permitted|the storage failed") as caught:
        make_folders(Path("/proc/sfumato-run/checkpoints"), LocalStorage())
    assert "/proc/sfumato-run" in caught.value.what


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "no space left"),
        (errno.EFBIG, "no space left"),
        (errno.EACCES, "not permitted"),
        (errno.EROFS, "not permitted"),
        (errno.ENOTDIR, "a file stands where"),
        (errno.EIO, "the storage failed"),
    ],
)
def test_refusals_are_explained(tmp_path: Path, number: int, words: str) -> None:
    error = OSError(number, os.strerror(number))
    told = explained(error, "saving X", path=tmp_path / "gone" / "X", storage=LocalStorage(), needed=14_000_000)
    assert words in told.what
    assert "saving X" in told.what
    assert len(str(told).splitlines()) == 3
    assert explained(told, "something else", path=tmp_path, storage=LocalStorage()) is told


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (14_249_000, "14.2 MB"), (3.1e9, "3.1 GB")]
)
def test_sizes_for_people(count: float, text: str) -> None:
    assert human_bytes(count) == text
