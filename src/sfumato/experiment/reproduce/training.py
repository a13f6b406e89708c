"""The arms of a part, trained: a grid by `sweep`, a single arm as a run of its own. The same call again continues both.

runs/NAME/arms/ARM      of a grid, the folder of its sweep
runs/NAME-PART-sK       a single arm of seed K
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sfumato.errors import ConfigError, Interrupted, SfumatoError, UsageError
from sfumato.experiment.config import Experiment
from sfumato.experiment.load import read_run_config
from sfumato.experiment.reproduce.departures import begun_otherwise
from sfumato.experiment.reproduce.source import Part
from sfumato.experiment.run import resume, train
from sfumato.experiment.sweep import SweepReporter, sweep
from sfumato.experiment.sweep.sweeping import LauncherName
from sfumato.training.trainer import Reporter

__all__ = ["Means", "TrainedArm", "train_part"]


@dataclass(frozen=True, slots=True)
class TrainedArm:
    """An arm of one seed: the source's words for it, its settings along the choices, its folder, or why it failed."""

    part: str
    labels: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]
    seed: int
    folder: Path
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Means:
    """How arms are trained.

    name: of their folders below `runs`. workers, launcher: of grids, as `sweep` has them. reporter: hears of single
    runs, sweep_reporter of grids. again: the command that goes on with them.
    """

    name: str
    runs: Path
    seeds: int
    workers: int | None
    launcher: LauncherName
    reporter: Reporter
    sweep_reporter: SweepReporter | None
    again: str


def train_part(part: Part, experiment: Experiment, means: Means) -> tuple[TrainedArm, ...]:
    """All arms of a part, of all seeds; those that failed say why. Raises Interrupted, resumable."""
    try:
        return _grid(part, experiment, means) if part.choices else tuple(_singles(part, experiment, means))
    except Interrupted as stop:
        raise Interrupted(stop.what, expected=stop.expected, fix=f"go on with: {means.again}") from stop


def _grid(part: Part, experiment: Experiment, means: Means) -> tuple[TrainedArm, ...]:
    """The arms of a sweep over the part's choices."""
    found = sweep(
        experiment,
        {choice.key: list(choice.labels) for choice in part.choices},
        seeds=means.seeds,
        workers=means.workers,
        launcher=means.launcher,
        name=means.name,
        runs=means.runs,
        reporter=means.sweep_reporter,
    )
    arms = []
    for arm in found.arms:
        state = found.state(arm)
        error = None if state == "done" else found.error(arm) or f"it is {state}"
        settings = tuple(pair for choice in part.choices for pair in choice.pairs(arm.settings[choice.key]))
        arms.append(TrainedArm(part.name, part.labels(arm.settings), settings, arm.seed, arm.folder, error))
    return tuple(arms)


def _singles(part: Part, experiment: Experiment, means: Means) -> Iterator[TrainedArm]:
    """A run for each seed; one that fails does not stop the others."""
    for seed in range(experiment.seed, experiment.seed + means.seeds):
        folder, error = means.runs / f"{means.name}-{part.name}-s{seed}", None
        try:
            _run(replace(experiment, seed=seed), folder, means.reporter)
        except (UsageError, Interrupted):
            raise
        except SfumatoError as failure:
            error = f"{failure.code}: {failure.what}"
        yield TrainedArm(part.name, (part.name,), (), seed, folder, error)


def _run(experiment: Experiment, folder: Path, reporter: Reporter) -> None:
    """Train a run, or go on with it. Raises ConfigError where the folder holds a run of other settings."""
    if not (folder / "config.yaml").is_file():
        train(experiment, runs=folder.parent, name=folder.name, reporter=reporter)
        return
    otherwise = begun_otherwise(read_run_config(folder, reporter.note), experiment)
    if otherwise:
        raise ConfigError(
            f"{folder} was begun with other settings: {', '.join(otherwise)}",
            expected="the settings that it was begun with, which the same command has",
            fix=f"choose another --name, or move it away: mv {shlex.quote(str(folder))} elsewhere",
        )
    resume(folder, reporter=reporter)
