"""Checkpoints that survive a kill, a full disk, a power loss and a flipped bit.

    checkpoints/step-00001000/   model.safetensors  ema-0.999.safetensors  optimizer.safetensors  state.json
    MANIFEST.json                (and times.safetensors, where the times of training follow the losses)

A checkpoint is a folder. It is written under a temporary name, file after file, each made durable; the manifest (size
and SHA-256 of every other file) comes last; then the folder's names are made durable, the folder is renamed to its
step, and the rename is made durable. Only then is the checkpoint acknowledged, and only then may older ones go, all but
the best where one is kept: each is first renamed out of sight (durably), then removed. So at every instant, and after
every power loss, each visible `step-*` folder is either whole or recognisably broken, and the newest acknowledged one
is whole.

Nothing outside the folder says that it is complete, so it may be copied or renamed. Bytes depend on the snapshot alone.
Order is by step, never by clock. What is broken is moved aside as `*.corrupt`, never deleted.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from torch import Tensor

from sfumato.errors import CheckpointError, ConfigError, NumericsError, SfumatoError
from sfumato.training.manifest import (
    MANIFEST,
    MEMORY,
    CheckpointFolder,
    Listed,
    NewerFormatError,
    Report,
    belongs,
    damaged,
    manifest_json,
    silent,
)
from sfumato.training.storage import LocalStorage, Storage, explained, make_folders, require_free_space
from sfumato.training.tensors import check_finite, decode, encode, encoded_size, nonfinite, strict_json

__all__ = ["CheckpointStore", "Report", "Snapshot", "averaged_weights"]

_STEP = re.compile(r"step-([0-9]{8}|[1-9][0-9]{8,17})")
_TEMPORARY = (".tmp-", ".old-")

Chunk = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a run needs to go on as if it had never stopped.

    `ema` holds the tensors of each moving average under its name ("0.999"); `optimizer` is flattened to tensors;
    `memory` is what the times of training remember of losses, empty for most; `state` is plain JSON data with finite
    numbers and text keys (seeds, threads, processes, versions, data fingerprint, counters of the averages, learning
    rate …).
    """

    step: int
    images_seen: int
    model: dict[str, Tensor]
    ema: dict[str, dict[str, Tensor]]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]
    memory: dict[str, Tensor] = field(default_factory=dict)


@final
class CheckpointStore:
    """The checkpoints of one run folder. One writer at a time (see `RunLock`); any number of readers."""

    def __init__(self, run_folder: Path, *, keep: int = 2, storage: Storage | None = None) -> None:
        if keep < 2:
            raise ConfigError(
                f"keep is {keep}", expected="at least 2 checkpoints", fix="keep 2: the newest one can turn out damaged"
            )
        self.run_folder = Path(run_folder)
        self.folder = self.run_folder / "checkpoints"
        self.keep = keep
        self.storage = LocalStorage() if storage is None else storage
        self._anchored = False

    # ---------------------------------------------------------------------------------------------------------- writing

    def required_bytes(self, snapshot: Snapshot) -> int:
        """Size of the checkpoint that `save(snapshot)` would write, without the manifest (under 2 kB)."""
        tensors = sum(encoded_size(part) for part in _tensor_files(snapshot).values())
        return tensors + len(_state_json(snapshot))

    def require_free_space(self, snapshot: Snapshot, *, times: float = 3) -> None:
        """Refuse with `ResourceError` when `times` checkpoints like this one do not fit. Makes the run folder."""
        make_folders(self.run_folder, self.storage)
        require_free_space(self.run_folder, self.required_bytes(snapshot), self.storage, times=times)

    def save(self, snapshot: Snapshot, *, best: int | None = None) -> Path:
        """Write a checkpoint durably, then drop all but the newest `keep` and that of step `best`. Returns its folder.

        When the step is stored already, with the same tensors, nothing is written. Raises `ResourceError` when storage
        refuses (the temporary folder is removed, older checkpoints are untouched), `NumericsError` when a tensor is not
        finite and `CheckpointError` when the step is stored with other tensors.
        """
        _refuse_nonfinite(snapshot)
        needed = self.required_bytes(snapshot)
        target = self._path(snapshot.step)
        temporary = self.folder / f".tmp-{target.name}"
        kept = f"the {len(self.steps())} older checkpoints are untouched"

        def told(error: OSError) -> SfumatoError:
            doing = f"saving the checkpoint {target}"
            return explained(error, doing, path=self.folder, storage=self.storage, needed=needed, kept=kept)

        try:
            self._anchor()
            if self._already_saved(target, snapshot):
                return target
            if self.storage.free_space(self.folder) < needed:  # told before the disk is filled to the brim
                raise told(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            self._write(temporary, snapshot)
            self.storage.rename(temporary, target)
            self.storage.fsync_dir(self.folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                self.storage.remove(temporary)
            raise told(error) from None
        with contextlib.suppress(OSError):  # the new checkpoint is safe; what could not be dropped goes next time
            self._drop_old(best)
        return target

    def _anchor(self) -> None:
        """Once per store: see that the names leading to the checkpoints are durable, whoever made them."""
        if not self._anchored:
            make_folders(self.folder, self.storage)
            self.storage.fsync_dir(self.run_folder)
            with contextlib.suppress(PermissionError):  # a parent may be enterable but not readable
                self.storage.fsync_dir(self.run_folder.parent)
            self._anchored = True

    def _already_saved(self, target: Path, snapshot: Snapshot) -> bool:
        """Whether this step is stored with these tensors. A broken one is moved aside, a different one is an error."""
        if target.name not in self.storage.names(self.folder):
            return False
        try:
            listed = self._at(target).verify(silent)
        except CheckpointError:
            self._move_aside(target)
            return False
        for name, tensors in _tensor_files(snapshot).items():
            if name not in listed or _sha256(encode(tensors)) != listed[name].sha256:
                raise CheckpointError(
                    f"{target} exists already, with other tensors in {name}",
                    expected="each step of a run saved once",
                    fix="resume the run from its newest checkpoint, or start a new run under another name",
                )
        return True

    def _write(self, folder: Path, snapshot: Snapshot) -> None:
        self.storage.remove(folder)
        self.storage.mkdir(folder)
        listed: dict[str, Listed] = {}
        for name, tensors in _tensor_files(snapshot).items():
            listed[name] = self._write_file(folder / name, encode(tensors))
        listed["state.json"] = self._write_file(folder / "state.json", [_state_json(snapshot)])
        self._write_file(folder / MANIFEST, [manifest_json(listed)])
        self.storage.fsync_dir(folder)

    def _write_file(self, path: Path, chunks: Iterable[Chunk]) -> Listed:
        """Write, hash on the way, make durable."""
        sha, size = hashlib.sha256(), 0

        def hashed() -> Iterator[Chunk]:
            nonlocal size
            for chunk in chunks:
                sha.update(chunk)
                size += len(chunk)
                yield chunk

        self.storage.write(path, hashed())
        self.storage.fsync(path)
        return Listed(size, sha.hexdigest())

    def _drop_old(self, best: int | None) -> None:
        """Remove what is older than the newest `keep` whole checkpoints, but not `best`. Broken ones do not count."""
        whole = [step for step in reversed(self.steps()) if self._at(self._path(step)).looks_whole()]
        if len(whole) < self.keep:
            return
        old = [self._path(step) for step in self.steps() if step < whole[self.keep - 1] and step != best]
        hidden = [path.with_name(f".old-{path.name}") for path in old]
        for path, away in zip(old, hidden, strict=True):
            self.storage.remove(away)
            self.storage.rename(path, away)
        if hidden:  # otherwise a power loss could keep the name and lose the files
            self.storage.fsync_dir(self.folder)
        for away in hidden:
            self.storage.remove(away)

    # ---------------------------------------------------------------------------------------------------------- finding

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _at(self, path: Path) -> CheckpointFolder:
        return CheckpointFolder(path, self.storage)

    def steps(self) -> list[int]:
        """Steps that have a checkpoint folder, ascending, whole or not. Never writes."""
        try:
            names = self.storage.names(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise explained(error, f"listing {self.folder}", path=self.folder, storage=self.storage) from None
        return sorted(int(found[1]) for name in names if (found := _STEP.fullmatch(name)))

    def clean(self) -> None:
        """Remove what killed saves left behind. For the holder of the run's lock, at its start."""
        try:
            for name in self.storage.names(self.folder):
                if name.startswith(_TEMPORARY):
                    self.storage.remove(self.folder / name)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise explained(error, f"cleaning {self.folder}", path=self.folder, storage=self.storage) from None

    def newest(self, report: Report = silent) -> Path | None:
        """The newest whole checkpoint (every hash checked), or None in a run that never saved one.

        Newer broken ones are reported and moved aside as `*.corrupt`: for the holder of the run's lock; readers call
        `find`. Raises `CheckpointError` when none is whole (listing each with its reason; nothing is moved) or the
        newest was made by a newer format.
        """
        path, broken = self._search(report)
        for bad, reason in broken:
            report(f"{bad.name} is damaged ({reason}); moved aside, an older checkpoint is used")
            try:
                self._move_aside(bad)
            except OSError as error:
                report(f"{bad.name} could not be moved aside: {error.strerror}")
        return path

    def find(self, report: Report = silent) -> Path:
        """The newest whole checkpoint for a reader, who changes nothing. `CheckpointError` when there is none."""
        path, broken = self._search(report)
        for bad, reason in broken:
            report(f"{bad.name} is damaged ({reason}); an older checkpoint is used")
        if path is None:
            raise CheckpointError(
                f"no checkpoint in {self.folder}",
                expected="a run folder that holds at least one checkpoint (checkpoints/step-00000000 and later)",
                fix="give another run (`sfumato runs` lists them), or start one with `sfumato train`",
            )
        return path

    def _search(self, report: Report) -> tuple[Path | None, list[tuple[Path, str]]]:
        broken: list[tuple[Path, str]] = []
        for step in reversed(self.steps()):
            path = self._path(step)
            try:
                self._at(path).verify(report)
                return path, broken
            except CheckpointError as error:
                if isinstance(error.__cause__, NewerFormatError):
                    raise
                broken.append((path, error.what.removeprefix(f"{path}: ")))
        aside = [self.folder / name for name in self._names_aside()]
        broken += [(path, "moved aside earlier") for path in aside]
        if broken:
            listed = "; ".join(f"{path.name}: {reason}" for path, reason in broken)
            raise CheckpointError(
                f"no whole checkpoint is left in {self.folder}: {listed}",
                expected="at least one checkpoint whose files match their SHA-256",
                fix="restore one from a copy, or start again under a new run name; nothing was changed or deleted",
            )
        return None, []

    def _names_aside(self) -> list[str]:
        with contextlib.suppress(OSError):
            return [name for name in self.storage.names(self.folder) if ".corrupt" in name]
        return []

    def _move_aside(self, path: Path) -> None:
        taken = self.storage.names(path.parent)
        names = (f"{path.name}.corrupt{suffix}" for suffix in ("", *(f"-{count}" for count in range(2, 10_000))))
        self.storage.rename(path, path.with_name(next(name for name in names if name not in taken)))
        self.storage.fsync_dir(path.parent)

    # ---------------------------------------------------------------------------------------------------------- reading

    def load(self, path: Path, report: Report = silent) -> Snapshot:
        """Read a checkpoint folder, wherever it lies and whatever it is called; every byte is checked before use.

        Raises `CheckpointError` naming the file; unknown extra files are ignored with a note.
        """
        folder = self._at(path)
        listed = folder.listed()
        folder.note_extra(listed, report)
        read = {name: folder.checked(name, one) for name, one in listed.items()}
        state = _read_state(read.pop("state.json"), path)
        tensors = {}
        for name in list(read):
            tensors[name] = decode(read.pop(name), str(path / name)).tensors  # one file's bytes at a time are let go
            check_finite(tensors[name], str(path / name))
        return Snapshot(
            step=state.pop("step"),
            images_seen=state.pop("images_seen"),
            model=tensors.pop("model.safetensors"),
            optimizer=tensors.pop("optimizer.safetensors"),
            memory=tensors.pop(MEMORY, {}),
            ema={name[len("ema-") : -len(".safetensors")]: part for name, part in tensors.items()},
            state=state,
        )


def averaged_weights(snapshot: Snapshot) -> dict[str, Tensor]:
    """The moving average that the run used. Raises CheckpointError for a checkpoint without it."""
    name = str(snapshot.state["ema_decay"])
    if name not in snapshot.ema:
        raise CheckpointError(
            f"the checkpoint of step {snapshot.step} holds no averaged weights ema-{name}.safetensors",
            expected="a checkpoint with weights, their moving average and the optimizer's state",
            fix="use another checkpoint of the run",
        )
    return snapshot.ema[name]


def _tensor_files(snapshot: Snapshot) -> dict[str, dict[str, Tensor]]:
    files = {"model.safetensors": snapshot.model, "optimizer.safetensors": snapshot.optimizer}
    files |= {f"ema-{name}.safetensors": tensors for name, tensors in snapshot.ema.items()}
    files |= {MEMORY: snapshot.memory} if snapshot.memory else {}
    assert all(belongs(name) for name in files), list(files)
    return files


def _refuse_nonfinite(snapshot: Snapshot) -> None:
    for name, tensors in _tensor_files(snapshot).items():
        if bad := nonfinite(tensors):
            raise NumericsError(
                f"step {snapshot.step} is not saved: NaN or infinity in {bad} of {name}",
                expected="finite weights, averages and optimizer moments",
                fix="resume from the last checkpoint with a smaller learning rate or stronger gradient clipping",
            )


def _state_json(snapshot: Snapshot) -> bytes:
    assert not {"step", "images_seen"} & set(snapshot.state), "these two have fields of their own"
    state = {"step": snapshot.step, "images_seen": snapshot.images_seen, **snapshot.state}
    return json.dumps(state, indent=1, allow_nan=False).encode() + b"\n"


def _read_state(text: bytearray, path: Path) -> dict[str, Any]:
    try:
        state = strict_json(text)
    except ValueError as error:
        raise damaged(path, f"state.json is not valid JSON: {error}") from None
    if not isinstance(state, dict) or not all(type(state.get(key)) is int for key in ("step", "images_seen")):
        raise damaged(path, "state.json lacks the whole numbers step and images_seen")
    return state


def _sha256(chunks: Iterable[Chunk]) -> str:
    sha = hashlib.sha256()
    for chunk in chunks:
        sha.update(chunk)
    return sha.hexdigest()
