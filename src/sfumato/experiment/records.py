"""What became of runs, read from their folders without torch: settings, figures, progress, and whether they still run.

A folder that is damaged is listed with a note; it never hides the others.
"""

import contextlib
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sfumato.errors import SfumatoError, UsageError
from sfumato.experiment.kinds import canonical, nearest
from sfumato.experiment.schema import flatten
from sfumato.experiment.tree import Plain, untyped
from sfumato.experiment.yaml_file import read_yaml
from sfumato.training.lock import LOCK, Holder

__all__ = ["SWEEP", "RunRecord", "list_runs", "matching", "newest_checkpoint", "read_run", "sorted_by"]

SWEEP = "sweep.yaml"  # in the folder of a sweep, whose runs lie in its folder `arms`
_STEP = re.compile(r"step-([0-9]{8,12})")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run. `state` is running, finished, interrupted, or broken (`note` says why).

    `settings` are those of config.yaml by dotted key, `figures` the last value of each number in metrics.jsonl,
    `sweep` the name of the sweep that the run is an arm of; its own name is SWEEP/ARM then.
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

    def get(self, key: str) -> object:
        """A column, a figure or a setting by name; None when the run has none of that name."""
        columns = {
            "name": self.name,
            "state": self.state,
            "step": self.step,
            "steps": self.steps,
            "started": self.started,
            "date": self.started,
            "parameters": self.parameters,
            "sweep": self.sweep,
        }
        if key in columns:
            return columns[key]
        for values in (self.figures, self.settings):
            for name in (key, f"{key}.kind"):
                if name in values:
                    return values[name]
        return None

    def names(self) -> set[str]:
        """Everything that `get` knows."""
        return {"name", "state", "step", "steps", "started", "parameters", "sweep", *self.figures, *self.settings}


def list_runs(runs: Path) -> list[RunRecord]:
    """Every run in a folder, by name, the arms of sweeps among them; folders that hold nothing of a run are passed
    over.
    """
    found: list[RunRecord] = []
    for path in _folders(runs):
        if _looks_like_a_run(path):
            found.append(read_run(path))
        if (path / SWEEP).is_file():
            arms = (read_run(arm) for arm in _folders(path / "arms") if _looks_like_a_run(arm))
            found += [replace(arm, name=f"{path.name}/{arm.name}", sweep=path.name) for arm in arms]
    return found


def _folders(parent: Path) -> list[Path]:
    """The folders in a folder that are not hidden, by name; none where it is not there."""
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))


def _looks_like_a_run(folder: Path) -> bool:
    return any((folder / part).exists() for part in ("config.yaml", "metrics.jsonl", "checkpoints"))


def read_run(folder: Path) -> RunRecord:
    """The record of one run folder."""
    try:
        settings = flatten(untyped(read_yaml(folder / "config.yaml")))
        figures = _last_figures(folder / "metrics.jsonl")
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
        note=_note(folder, holder, lost),
    )


def _note(folder: Path, holder: Holder | None, lost: bool) -> str | None:
    """What the columns cannot say."""
    if holder is not None:
        return f"held by {holder.host}" if holder.host != socket.gethostname() else None
    gone = f"its checkpoints are gone from {folder / 'checkpoints'}: it can be neither sampled nor resumed"
    return gone if lost else None


def _last_figures(path: Path) -> dict[str, float]:
    """The last value of every number in the log; lines that are torn or foreign are passed over."""
    found: dict[str, float] = {}
    if not path.exists():
        return found
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                found.update((k, v) for k, v in entry.items() if isinstance(v, int | float) and not isinstance(v, bool))
    return found


def _environment(path: Path) -> dict[str, Any]:
    """What is known of how the run was made; nothing when the file is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(path.read_bytes())
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
        listed = json.loads((checkpoint / "MANIFEST.json").read_bytes()).get("files", {})
        return all((checkpoint / str(name)).is_file() for name in listed)
    return False


def _holder(path: Path) -> Holder | None:
    """The living process that holds the run's lock. One on another machine counts as living: it cannot be asked."""
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
        holder = Holder(**json.loads(path.read_bytes()))
        if holder.inode != path.stat().st_ino:
            return None  # the folder is a copy
        if holder.host != socket.gethostname() or holder.is_alive_here:
            return holder
    return None


def matching(records: list[RunRecord], conditions: list[str]) -> list[RunRecord]:
    """The records for which every KEY=VALUE holds. Numbers are compared as numbers, names without regard to case.

    Raises UsageError for a KEY that none of the given records has.
    """
    every = records
    for condition in conditions:
        key, equals, text = condition.partition("=")
        if not equals or not key:
            raise UsageError(f"--where {condition}", expected="KEY=VALUE", fix="--where schedule=CosineAngle")
        require_known(every, key, "--where")
        records = [record for record in records if _equal(record.get(key), text)]
    return records


def sorted_by(records: list[RunRecord], key: str) -> list[RunRecord]:
    """The records by a column, figure or setting, smallest first; those without it come last."""
    require_known(records, key, "--sort")

    def rank(record: RunRecord) -> tuple[int, float, str]:
        value = record.get(key)
        if value is None:
            return (2, 0.0, record.name)
        return (0, float(value), record.name) if isinstance(value, int | float) else (1, 0.0, str(value))

    return sorted(records, key=rank)


def require_known(records: list[RunRecord], key: str, option: str) -> None:
    """Refuse a name that no run knows, suggesting the nearest."""
    names: set[str] = set().union(*(record.names() for record in records)) if records else set()
    names |= {name.removesuffix(".kind") for name in names}
    if not records or key in names or key == "date":
        return
    near = nearest(key, sorted(names))
    raise UsageError(
        f"{option} {key}: no run has a setting or figure of that name",
        expected="a column (name, state, step, parameters, started), a figure such as held_out_loss, or a setting",
        fix=f"did you mean {near}?" if near else "`sfumato runs --json` shows all names",
    )


def _equal(value: object, text: str) -> bool:
    wanted = Plain(text).value()
    if isinstance(value, bool) or isinstance(wanted, bool) or value is None or wanted is None:
        return value is wanted
    if isinstance(value, int | float) and isinstance(wanted, int | float):
        return value == wanted
    return canonical(str(value)) == canonical(text)
