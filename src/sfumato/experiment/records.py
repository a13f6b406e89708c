"""What became of runs, read from their folders without torch: settings, figures, progress, and whether they still run.

The folders are all there is: no list of runs is kept that could be locked, out of date or damaged, and reading writes
nothing. A folder that is damaged is listed with a note; it never hides the others. The arms of a sweep
(`runs/SWEEP/arms/ARM`) are runs called SWEEP/ARM.
"""

import contextlib
import json
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from sfumato.errors import SfumatoError
from sfumato.experiment.arms import arm_state, failed_arms, failure_of, lacking
from sfumato.experiment.evaluations import Number
from sfumato.experiment.measured import measured_of
from sfumato.experiment.remarks import Note, remarks_of
from sfumato.experiment.schema import flatten
from sfumato.experiment.tree import untyped
from sfumato.experiment.yaml_file import read_yaml
from sfumato.training.lock import LOCK, Holder
from sfumato.training.storage import LocalStorage

__all__ = ["ARMS", "COLUMNS", "SWEEP", "RunRecord", "list_runs", "newest_checkpoint", "read_run", "silent"]

_STEP = re.compile(r"step-([0-9]{8,12})")
COLUMNS = ("name", "sweep", "state", "step", "steps", "started", "parameters", "labels", "notes", "note", "folder")
SWEEP, ARMS = "sweep.yaml", "arms"  # in the folder of a sweep
ALIASES = {"date": "started", "label": "labels"}

Report = Callable[[str], None]


def silent(text: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run. `state` is running, finished, interrupted, failed (an arm of a sweep), or broken; `note` says why.

    settings: those of config.yaml by dotted key.
    figures: the last value of each number in metrics.jsonl.
    sweep: the sweep that the run is an arm of.
    labels, notes: what people say of it.
    measured: what `sfumato evaluate` stored of it, by name.
    """

    name: str
    folder: Path
    state: str
    step: int | None = None
    steps: int | None = None
    started: str | None = None
    parameters: int | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    note: str | None = None
    sweep: str | None = None
    labels: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    measured: Mapping[str, Number] = field(default_factory=dict)

    def values(self) -> dict[str, object]:
        """All that is known of the run by name: columns, figures, numbers measured with their errors, settings.

        A class among the settings stands under its own key (`schedule`, not `schedule.kind`), the name of the
        experiment under `experiment`.
        """
        flat: dict[str, object] = {
            "name": self.name,
            "sweep": self.sweep,
            "state": self.state,
            "step": self.step,
            "steps": self.steps,
            "started": self.started,
            "parameters": self.parameters,
            "labels": " ".join(self.labels) or None,
            "notes": "; ".join(note.text for note in self.notes) or None,
            "note": self.note,
            "folder": str(self.folder),
        }
        for name, number in self.measured.items():
            flat |= {name: number.value, f"{name}.std_error": number.std_error, f"{name}.n": number.n}
        for name, figure in self.figures.items():
            flat.setdefault(name, figure)
        for key, setting in self.settings.items():
            flat.setdefault("experiment" if key == "name" else key.removesuffix(".kind"), setting)
        return flat

    def get(self, key: str) -> object:
        """A column, a figure or a setting by name; None when the run has none of that name."""
        return self.values().get(ALIASES.get(key, key.removesuffix(".kind")))

    def names(self) -> set[str]:
        """Everything that `get` knows."""
        return set(self.values())


def list_runs(runs: Path, report: Report = silent) -> list[RunRecord]:
    """Every run in a folder, by name, the arms of sweeps among them; what holds nothing of a run is passed over.

    `report` hears of what was damaged and passed over in the folders. Nothing is written.
    """
    if not runs.is_dir():
        return []
    if (runs / SWEEP).is_file():
        return list(_arms(runs, report))
    found: list[RunRecord] = []
    for folder in _folders(runs):
        try:
            found += _in(folder, report)
        except OSError as error:  # not permitted, or removed while it was looked at
            why = error.strerror or str(error)
            found.append(RunRecord(folder.name, folder, "broken", note=f"{folder} cannot be read: {why}"))
    return found


def _in(folder: Path, report: Report) -> list[RunRecord]:
    """The runs that a folder among runs is: itself, the arms of a sweep, or none."""
    if (folder / SWEEP).is_file():
        return list(_arms(folder, report))
    return [_whole(read_run(folder, report), report)] if _looks_like_a_run(folder) else []


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _arms(sweep: Path, report: Report) -> Iterator[RunRecord]:
    """The arms of a sweep that were begun, or failed before they were."""
    name, wanted = sweep.resolve().name, _wanted(sweep)
    arms = _folders(sweep / ARMS) if (sweep / ARMS).is_dir() else []
    begun = {folder.name: folder for folder in arms if _looks_like_a_run(folder)}
    for arm in sorted({*begun, *failed_arms(sweep)}):
        record = RunRecord(arm, sweep / ARMS / arm, "failed")
        if arm in begun:
            record = _whole(read_run(begun[arm], report), report)
        failure = failure_of(sweep, arm)
        state = arm_state(record.state, lacking=lacking(wanted, record.measured), failure=failure)
        if state == "failed":
            record = replace(record, state=state, note=None if failure is None else failure.what)
        yield replace(record, name=f"{name}/{arm}", sweep=name)


def _wanted(sweep: Path) -> tuple[str, ...]:
    """The metrics that are to be measured of every arm of a sweep; none where its plan cannot be read."""
    with contextlib.suppress(SfumatoError, OSError, LookupError, TypeError):
        found = flatten(untyped(read_yaml(sweep / SWEEP)))["measures.metrics"]
        return tuple(map(str, found)) if isinstance(found, list) else ()
    return ()


def _whole(record: RunRecord, report: Report) -> RunRecord:
    """A record with what people say of the run, and what was measured of it."""
    said = remarks_of(record.folder, report)
    saved = newest_checkpoint(record.folder / "checkpoints")
    measured = measured_of(record.folder, saved, report)
    return replace(record, labels=said.labels, notes=said.notes, measured=measured)


def _looks_like_a_run(folder: Path) -> bool:
    return any((folder / part).exists() for part in ("config.yaml", "metrics.jsonl", "checkpoints"))


def read_run(folder: Path, report: Report = silent) -> RunRecord:
    """The record of one run folder: settings, figures and state; labels and what was measured are looked up by
    `list_runs`.
    """
    try:
        settings = flatten(untyped(read_yaml(folder / "config.yaml")))
        figures = _last_figures(folder / "metrics.jsonl", report)
        environment = _environment(folder / "environment.json")
        saved = newest_checkpoint(folder / "checkpoints")
    except (SfumatoError, OSError) as error:
        what = error.what if isinstance(error, SfumatoError) else str(error)
        return RunRecord(folder.name, folder, "broken", note=what)
    logged = figures.get("step")
    step = max((int(s) for s in (saved, logged) if s is not None), default=None)
    steps = settings.get("training.steps")
    steps = steps if isinstance(steps, int) else None
    holder = _holder(folder / LOCK)
    lost = saved is None and "step" in figures
    if holder is not None:
        state = "running"
    elif lost:
        state = "broken"
    elif steps is not None and saved is not None and saved >= steps:
        state = "finished"
    else:
        state = "interrupted"
    return RunRecord(
        name=folder.name,
        folder=folder,
        state=state,
        step=step,
        steps=steps,
        started=environment.get("started"),
        parameters=environment.get("parameters"),
        settings=settings,
        figures=figures,
        note=_note(folder, holder, lost) or (None if holder is not None else _gap(settings, saved, logged)),
    )


def _note(folder: Path, holder: Holder | None, lost: bool) -> str | None:
    """What the columns cannot say."""
    if holder is not None:
        return f"held by {holder.host}" if holder.host != socket.gethostname() else None
    gone = f"its checkpoints are gone from {folder / 'checkpoints'}: it can be neither sampled nor resumed"
    return gone if lost else None


def _gap(settings: Mapping[str, object], saved: int | None, logged: float | None) -> str | None:
    """That the record ends well before the newest checkpoint: its lines were lost on a disk that was full."""
    every = settings.get("training.log_every")
    if not isinstance(every, int) or every < 1 or saved is None or saved < every:
        return None
    last = 0 if logged is None else int(logged)
    if saved - last < every:
        return None
    return f"metrics.jsonl is incomplete: it ends at step {last:,}, and the newest checkpoint is of step {saved:,}"


def _last_figures(path: Path, report: Report) -> dict[str, float]:
    """The last value of every number in the log; lines that are torn or foreign are noted and passed over.

    A number that was not finite (`null`) the last time it was recorded has no value: an older one would be a lie.
    """
    found: dict[str, float] = {}
    if not path.exists():
        return found
    seen: set[str] = set()
    torn: list[int] = []
    lines = _read(path).split(b"\n")
    for number in range(len(lines), 0, -1):
        line = lines[number - 1]
        entry: object = None
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(line.decode())
        if isinstance(entry, dict):
            for key in entry.keys() - seen:
                seen.add(key)
                if _is_figure(entry[key]):
                    found[key] = entry[key]
        elif line:
            torn.append(number)
    for number in reversed(torn):
        report(f"{path}: line {number} is torn or not a record; skipped")
    return found


def _is_figure(value: object) -> TypeGuard[int | float]:
    """Whether something in the log is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _read(path: Path) -> bytes:
    """The bytes of a file. OSError for what is none: opening a pipe would wait for ever."""
    return bytes(LocalStorage().read(path))


def _environment(path: Path) -> dict[str, Any]:
    """What is known of how the run was made; nothing when the file is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(_read(path))
        if isinstance(found, dict):
            wanted = {"started": str, "parameters": int}
            return {key: found[key] for key, kind in wanted.items() if type(found.get(key)) is kind}
    return {}


def newest_checkpoint(folder: Path) -> int | None:
    """The step of the newest checkpoint that was completed (its manifest is written last)."""
    if not folder.is_dir():
        return None
    found = ((path, _STEP.fullmatch(path.name)) for path in folder.iterdir())
    return max((int(m[1]) for path, m in found if m and _is_whole(path)), default=None)


def _is_whole(checkpoint: Path) -> bool:
    """Whether the manifest is there, and with it every file that it lists; their bytes are not read."""
    with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError):
        listed = json.loads(_read(checkpoint / "MANIFEST.json")).get("files", {})
        return all((checkpoint / str(name)).is_file() for name in listed)
    return False


def _holder(path: Path) -> Holder | None:
    """The living process that holds the run's lock. One on another machine counts as living: it cannot be asked."""
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
        holder = Holder(**json.loads(_read(path)))
        if holder.inode != path.stat().st_ino:
            return None  # the folder is a copy
        if holder.host != socket.gethostname() or holder.is_alive_here:
            return holder
    return None
