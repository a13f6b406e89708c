"""Every storage operation of a save as the place where the process is killed or the power fails.

`MemoryStorage` is a file system of the least kindness that is allowed: bytes not yet synced are kept, lost, torn or
zeroed by a power loss; of the names changed in a folder since it was last synced any number survives, in order. All
states that can follow a crash after each operation are enumerated and examined; nothing is left to chance.
"""

import errno
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import final

import pytest
import torch

from sfumato.training.checkpoint import CheckpointStore, Snapshot
from sfumato.training.record import MetricsLog
from sfumato.training.storage import Storage, make_folders


class Crash(BaseException):
    """The process is gone: no handler for ordinary errors may run on."""


@dataclass(eq=False)
class File:
    data: bytes = b""
    synced: bytes | None = None

    def after_power_loss(self) -> list[bytes]:
        if self.data == self.synced:
            return [self.data]
        half = self.data[: len(self.data) // 2]
        torn = half + bytes(len(self.data) - len(half))
        return list(dict.fromkeys([self.data, self.synced or b"", torn, bytes(len(self.data))]))


@dataclass(eq=False)
class Folder:
    """`versions[-1]` is what is seen; a power loss leaves any of `versions`."""

    versions: list[dict[str, "File | Folder"]] = field(default_factory=lambda: [{}])

    @property
    def now(self) -> dict[str, "File | Folder"]:
        return self.versions[-1]

    def change(self, name: str, entry: "File | Folder | None", *, gone: str | None = None) -> None:
        changed = {**self.now, name: entry}
        if gone is not None:
            del changed[gone]
        self.versions.append({key: value for key, value in changed.items() if value is not None})


@final
class MemoryStorage(Storage):
    """A file system in memory that counts its operations and crashes before number `crash_at`."""

    def __init__(self, root: Folder | None = None, crash_at: int | None = None) -> None:
        self.root = Folder() if root is None else root
        self.crash_at = crash_at
        self.operations = 0

    def _tick(self) -> None:
        if self.operations == self.crash_at:
            raise Crash
        self.operations += 1

    def _find(self, path: Path) -> "File | Folder":
        entry: File | Folder = self.root
        for part in PurePosixPath(path).parts[1:]:
            if not isinstance(entry, Folder):
                raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path))
            if part not in entry.now:
                raise FileNotFoundError(errno.ENOENT, "nothing there", str(path))
            entry = entry.now[part]
        return entry

    def _folder(self, path: Path) -> Folder:
        entry = self._find(path)
        if not isinstance(entry, Folder):
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path))
        return entry

    def _file(self, path: Path) -> File:
        entry = self._find(path)
        if not isinstance(entry, File):
            raise IsADirectoryError(errno.EISDIR, "a folder", str(path))
        return entry

    def mkdir(self, path: Path) -> None:
        self._tick()
        parent = self._folder(path.parent)
        if path.name in parent.now:
            raise FileExistsError(errno.EEXIST, "taken", str(path))
        parent.change(path.name, Folder())

    def write(self, path: Path, chunks: Iterable[bytes | bytearray | memoryview]) -> None:
        self._tick()
        parent = self._folder(path.parent)
        if path.name not in parent.now:
            parent.change(path.name, File())
        file = self._file(path)
        file.data = b""
        data = b"".join(bytes(chunk) for chunk in chunks)
        file.data = data[: len(data) // 2]
        self._tick()  # killed in the middle
        file.data = data

    def append(self, path: Path, data: bytes) -> None:
        self._tick()
        parent = self._folder(path.parent)
        if path.name not in parent.now:
            parent.change(path.name, File())
        self._file(path).data += data

    def fsync(self, path: Path) -> None:
        self._tick()
        file = self._file(path)
        file.synced = file.data

    def fsync_dir(self, path: Path) -> None:
        self._tick()
        folder = self._folder(path)
        folder.versions = [folder.now]

    def rename(self, source: Path, target: Path) -> None:
        self._tick()
        assert source.parent == target.parent, "renames across folders are not atomic everywhere"
        folder = self._folder(source.parent)
        if source.name not in folder.now:
            raise FileNotFoundError(errno.ENOENT, "nothing there", str(source))
        old = folder.now.get(target.name)
        if isinstance(old, Folder) and old.now:
            raise OSError(errno.ENOTEMPTY, "not empty", str(target))
        folder.change(target.name, folder.now[source.name], gone=source.name)

    def names(self, folder: Path) -> list[str]:
        return sorted(self._folder(folder).now)

    def size(self, path: Path) -> int:
        return len(self._file(path).data)

    def read(self, path: Path, *, start: int = 0, count: int | None = None) -> bytearray:
        data = self._file(path).data
        return bytearray(data[start:] if count is None else data[start : start + count])

    def remove(self, path: Path) -> None:
        self._tick()
        try:
            entry = self._find(path)
        except FileNotFoundError:
            return
        if isinstance(entry, Folder):
            for name in list(entry.now):
                self.remove(path / name)
            self._tick()
        self._folder(path.parent).change(path.name, None)

    def free_space(self, folder: Path) -> int:
        return 10**12


def states_after_power_loss(root: Folder) -> Iterator[MemoryStorage]:
    """Every file system that may be found when the power returns."""
    found: dict[int, File | Folder] = {}

    def visit(entry: File | Folder) -> None:
        if id(entry) not in found:
            found[id(entry)] = entry
            if isinstance(entry, Folder):
                for version in entry.versions:
                    for child in version.values():
                        visit(child)

    visit(root)
    entries = list(found.values())
    options = [e.after_power_loss() if isinstance(e, File) else e.versions for e in entries]
    seen: set[str] = set()  # files in a folder that did not survive make no difference
    for choice in itertools.product(*options):
        chosen = {id(entry): option for entry, option in zip(entries, choice, strict=True)}

        def rebuilt(entry: File | Folder, chosen: dict[int, object] = chosen) -> File | Folder:
            left = chosen[id(entry)]
            if isinstance(left, bytes):
                return File(left, left)
            assert isinstance(left, dict)
            return Folder([{name: rebuilt(child) for name, child in left.items()}])

        again = rebuilt(root)
        assert isinstance(again, Folder)
        described = listing(again)
        if described not in seen:
            seen.add(described)
            yield MemoryStorage(again)


def listing(entry: File | Folder) -> str:
    """All that can be seen of a file system, as text."""
    if isinstance(entry, File):
        return repr(entry.data)
    return repr({name: listing(child) for name, child in sorted(entry.now.items())})


RUN = Path("/runs/one")


def snapshot(step: int) -> Snapshot:
    generator = torch.Generator().manual_seed(step)
    weights = {"w": torch.randn(3, 2, generator=generator), "n": torch.tensor(step)}
    ema = {"0.999": {name: tensor + 1 for name, tensor in weights.items()}}
    return Snapshot(step, 64 * step, weights, ema, {"m": torch.randn(2, generator=generator)}, {"seed": 7, "lr": 1e-3})


def same(left: Snapshot, right: Snapshot) -> bool:
    pairs = [(left.model, right.model), (left.optimizer, right.optimizer), (left.ema["0.999"], right.ema["0.999"])]
    plain = (left.step, left.images_seen, left.state) == (right.step, right.images_seen, right.state)
    return plain and all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in pairs)


def saves(steps: Iterable[int]) -> Callable[[Storage, list[int]], None]:
    """A run that saves these steps and notes what was acknowledged."""

    def scenario(storage: Storage, acknowledged: list[int]) -> None:
        store = CheckpointStore(RUN, storage=storage)
        store.clean()
        store.newest()
        for step in steps:
            store.save(snapshot(step))
            acknowledged.append(step)

    return scenario


def examine(storage: Storage, acknowledged: list[int]) -> None:
    """After a restart: nothing acknowledged is lost, nothing broken is in sight, and the run can go on."""
    store = CheckpointStore(RUN, storage=storage)
    last = max(acknowledged, default=-1)
    whole = [step for step in store.steps() if same(store.load(store.folder / f"step-{step:08d}"), snapshot(step))]
    assert whole == store.steps()
    assert len(whole) >= min(len(acknowledged), store.keep)
    notes: list[str] = []
    store.clean()
    found = store.newest(notes.append)
    assert notes == []
    assert found is not None or not acknowledged
    if found is not None:
        loaded = store.load(found)
        assert loaded.step >= last
        assert same(loaded, snapshot(loaded.step))
    following = store.save(snapshot(last + 2))
    assert same(CheckpointStore(RUN, storage=storage).load(following), snapshot(last + 2))
    assert [name for name in storage.names(store.folder) if not name.startswith("step-")] == []


Scenario = Callable[[Storage, list[int]], None]


def crash_points(scenario: Scenario, prepared: Iterable[int]) -> Iterator[tuple[Folder, list[int]]]:
    """What is on the medium after a crash before each operation of the scenario, and after its end."""
    for crash_at in itertools.count():
        storage = MemoryStorage()
        storage.mkdir(RUN.parent)
        storage.fsync_dir(Path("/"))
        acknowledged: list[int] = []
        saves(prepared)(storage, acknowledged)
        storage.operations, storage.crash_at = 0, crash_at
        try:
            scenario(storage, acknowledged)
        except Crash:
            yield storage.root, acknowledged
        else:
            yield storage.root, acknowledged
            return


SCENARIOS = {"first saves": ((), (0, 1)), "rotation": ((0, 1), (2, 3)), "again": ((0, 1, 2), (2,))}


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_power_loss_loses_an_acknowledged_checkpoint(name: str) -> None:
    """A2 and A3: a kill or a power loss at every operation, in every state it can leave behind."""
    prepared, steps = SCENARIOS[name]
    points = states = 0
    for root, acknowledged in crash_points(saves(steps), prepared):
        points += 1
        for storage in states_after_power_loss(root):
            states += 1
            examine(storage, acknowledged)
        examine(MemoryStorage(root), acknowledged)  # killed, with the power on
    print(f"{name}: {points} crash points, {states} states")
    assert points > (40 if name != "again" else 2)
    assert states > (130 if name != "again" else 2)


def test_folders_left_by_a_killed_process_are_made_durable() -> None:
    """A folder that exists need not be durable: whoever made it may have been killed before syncing its parent."""
    storage = MemoryStorage()
    storage.mkdir(RUN.parent)
    storage.fsync_dir(Path("/"))
    storage.mkdir(RUN)
    storage.mkdir(RUN / "checkpoints")
    acknowledged: list[int] = []
    saves((0,))(storage, acknowledged)
    for state in states_after_power_loss(storage.root):
        examine(state, acknowledged)


def test_made_folders_are_durable() -> None:
    storage = MemoryStorage()
    make_folders(Path("/a/b/c"), storage)
    assert [state.names(Path("/a/b/c")) for state in states_after_power_loss(storage.root)] == [[]]


def test_a_second_crash_during_recovery_loses_nothing() -> None:
    """Moving a damaged checkpoint aside and cleaning up are crash points too."""
    for crash_at in itertools.count():
        storage = MemoryStorage()
        storage.mkdir(RUN.parent)
        storage.fsync_dir(Path("/"))
        saves((0, 1, 2))(storage, [])
        storage.write(RUN / "checkpoints/step-00000002/model.safetensors", [b"torn"])
        storage.fsync(RUN / "checkpoints/step-00000002/model.safetensors")
        storage.mkdir(RUN / "checkpoints/.tmp-step-00000003")
        storage.fsync_dir(RUN / "checkpoints")
        storage.operations, storage.crash_at = 0, crash_at
        finished = True
        try:
            saves(())(storage, [])
        except Crash:
            finished = False
        for state in states_after_power_loss(storage.root):
            store = CheckpointStore(RUN, storage=state)
            found = store.newest()
            assert found is not None
            assert same(store.load(found), snapshot(1))
        if finished:
            break
    assert crash_at >= 3


def test_cutting_the_record_back_survives_every_crash() -> None:
    """The record is whole after any crash: as before, or cut; never less than the lines of the checkpoint."""
    lines = [b'{"step":%d,"loss":0.5}\n' % step for step in range(6)]
    for crash_at in itertools.count():
        storage = MemoryStorage()
        storage.mkdir(RUN.parent)
        storage.mkdir(RUN)
        log = MetricsLog(RUN, report=pytest.fail, storage=storage)
        for step in range(6):
            log.append({"step": step, "loss": 0.5})
        log.sync()
        storage.fsync_dir(RUN.parent)
        storage.fsync_dir(Path("/"))
        storage.operations, storage.crash_at = 0, crash_at
        finished = True
        try:
            log.truncate_after(3)
        except Crash:
            finished = False
        for state in states_after_power_loss(storage.root):
            assert bytes(state.read(RUN / "metrics.jsonl")) in (b"".join(lines), b"".join(lines[:4]))
        if finished:
            break
    assert bytes(storage.read(RUN / "metrics.jsonl")) == b"".join(lines[:4])
