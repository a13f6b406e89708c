"""Where runs lie: a folder or a name under `runs`, one of its checkpoints, or the best of them. Read without torch.

    digits-1      runs/digits-1      runs/digits-1/checkpoints/step-00001000      runs/digits-1/best
    SWEEP/ARM     runs/SWEEP/arms/ARM                                             SWEEP/ARM/best

The best checkpoint is the one that the newest says is the best so far (`training.keep_best`); its step stands in
`state.json` under `best`.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.errors import CheckpointError
from sfumato.experiment.kinds import nearest
from sfumato.experiment.records import ARMS, SWEEP, newest_checkpoint
from sfumato.training.best import BEST, Best

__all__ = ["Place", "best_of", "checkpoint_at", "find_run", "inside_sweep", "place_of", "step_folder"]

_STEP = re.compile(r"step-([0-9]{8,18})")


@dataclass(frozen=True, slots=True)
class Place:
    """A run folder, and the step of the checkpoint meant; None where the run has none yet."""

    folder: Path
    step: int | None


def find_run(run: str | Path, runs: Path = Path("runs")) -> Path:
    """The run folder meant: a path, or a name under `runs`. Raises CheckpointError naming the nearest run."""
    for folder in (inside_sweep(Path(run)), inside_sweep(runs / run)):
        if (folder / "config.yaml").is_file():
            return folder
    _refuse_sweep(Path(run), runs)
    _refuse_file(Path(run), runs)
    known = sorted(path.parent.name for path in runs.glob("*/config.yaml")) if runs.is_dir() else []
    near = nearest(Path(run).name, known)
    raise CheckpointError(
        f"there is no run {str(run)!r}: neither {Path(run)} nor {runs / run} holds a config.yaml",
        expected=f"a run folder, a name under {runs} ({', '.join(known[:5]) or 'empty'}) or an exported file",
        fix=f"did you mean {near}?" if near else "`sfumato runs` lists what there is; `sfumato train digits` makes one",
    )


def _refuse_sweep(run: Path, runs: Path) -> None:
    """Say of a sweep, and of an arm that it has not, which arms there are. Raises CheckpointError."""
    for place in (run, runs / run):
        inside = inside_sweep(place)
        sweep = place if inside == place else next(folder for folder in place.parents if (folder / SWEEP).is_file())
        if not (sweep / SWEEP).is_file():
            continue
        arms = sorted(path.parent.name for path in (sweep / ARMS).glob("*/config.yaml"))
        arm = next((part for part in inside.relative_to(sweep).parts[1:]), "")  # below `arms`
        near = nearest(arm, arms)
        raise CheckpointError(
            f"{sweep} has no arm {arm} that was begun" if arm else f"{sweep} is a sweep, not a run",
            expected=f"one of its arms: {', '.join(arms[:5]) or 'none was begun yet'}{' …' if len(arms) > 5 else ''}",
            fix=f"name {sweep / (near or arms[0])}" if arms else f"begin them: sfumato sweep {sweep}",
        )


def _refuse_file(run: Path, runs: Path) -> None:
    """Say of one file what it is. Raises CheckpointError."""
    for place in (run, runs / run):
        if place.is_file():
            raise CheckpointError(
                f"{place} is one file, not a run folder",
                expected="a run folder, or the name of a run",
                fix="name the run that it was exported from; `sfumato runs` lists what there is",
            )


def inside_sweep(path: Path) -> Path:
    """SWEEP/ARM… as SWEEP/arms/ARM…, where SWEEP is the folder of a sweep; any other path as it is."""
    for folder in path.parents:
        if (folder / SWEEP).is_file():
            rest = path.relative_to(folder)
            return path if rest.parts[0] == ARMS else folder / ARMS / rest
    return path


def checkpoint_at(place: Path, runs: Path) -> Path | None:
    """The folder of one checkpoint where that is what was named: RUN/checkpoints/step-00001000, or RUN/best.

    Raises CheckpointError where a run that is there has no such checkpoint.
    """
    for path in (inside_sweep(place), inside_sweep(runs / place)):
        if path.name == BEST and not path.exists():
            run = path.parent.parent if path.parent.name == "checkpoints" else path.parent
            if (run / "config.yaml").is_file():
                return step_folder(run, best_of(run).step)
        if path.parent.name != "checkpoints" or not path.name.startswith("step-"):
            continue
        if path.is_dir():
            return path
        if path.parent.is_dir():
            there = sorted(step.name for step in path.parent.glob("step-*"))
            raise CheckpointError(
                f"there is no checkpoint {path}",
                expected=f"one of those that {path.parent} holds: {', '.join(there[-8:]) or 'none'}",
                fix=f"name {path.parent / there[0]}" if there else f"name the run: {path.parent.parent}",
            )
    return None


def place_of(run: str | Path, runs: Path) -> Place:
    """The run folder and the step meant by a run or one of its checkpoints: the newest, where a run was named."""
    chosen = checkpoint_at(Path(run), runs)
    if chosen is not None:
        found = _STEP.fullmatch(chosen.name)
        return Place(chosen.parent.parent, int(found[1]) if found else None)
    folder = find_run(run, runs)
    return Place(folder, newest_checkpoint(folder / "checkpoints"))


def best_of(folder: Path) -> Best:
    """Which checkpoint of a run is the best so far. Raises CheckpointError where none was kept, or it is gone."""
    newest = newest_checkpoint(folder / "checkpoints")
    best = None if newest is None else Best.from_plain(_state(step_folder(folder, newest)).get(BEST))
    if best is None:
        raise CheckpointError(
            f"{folder} keeps no best checkpoint",
            expected="a run that was trained with training.keep_best",
            fix=f"name the run, or one of {folder / 'checkpoints'}; a new run keeps it with --training.keep_best loss",
        )
    if not step_folder(folder, best.step).is_dir():
        raise CheckpointError(
            f"{step_folder(folder, best.step)}, the best checkpoint by {best.figure}, is gone",
            expected="the checkpoint that training kept",
            fix=f"name the run for its newest one: {folder}",
        )
    return best


def step_folder(folder: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a step."""
    return folder / "checkpoints" / f"step-{step:08d}"


def _state(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of its run; nothing where it cannot be read, which whoever loads it will be told."""
    try:
        found = json.loads((checkpoint / "state.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
