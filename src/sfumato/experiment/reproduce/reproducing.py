"""`reproduce`: a source's experiments, trained and measured as it did, beside what it printed, with a verdict on each.

The data are read before anything is trained. Arms are trained and continued (`training`), measured (`measuring`) and
judged (`judgements`); an arm that fails leaves the others alone and is reported. torch is imported when there is
something to train.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.errors import UsageError
from sfumato.experiment.reproduce.catalog import source_named
from sfumato.experiment.reproduce.findings import AnchorFound, ArmNumbers
from sfumato.experiment.reproduce.outcome import Failed, PartOutcome, Reproduction
from sfumato.experiment.reproduce.source import SCALES, Part, Scale, Source

if TYPE_CHECKING:
    from sfumato.experiment.build import PreparedData
    from sfumato.experiment.config import Experiment, Overrides
    from sfumato.experiment.reproduce.measuring import Asked
    from sfumato.experiment.reproduce.training import Means, TrainedArm
    from sfumato.experiment.sweep import SweepReporter
    from sfumato.experiment.sweep.sweeping import LauncherName
    from sfumato.training.trainer import Reporter

__all__ = ["anchors_of", "experiment_of", "own_experiment", "planned", "reproduce"]

OfSeed = Callable[[int], "PreparedData"]


def reproduce(
    name: str,
    scale: Scale = "small",
    overrides: "Overrides | None" = None,
    *,
    only: Sequence[str] = (),
    seeds: int = 1,
    workers: int | None = None,
    launcher: "LauncherName" = "local",
    runs: str | Path = "runs",
    run_name: str | None = None,
    extractor: str | None = None,
    extractor_weights: str | None = None,
    device: str = "auto",
    reporter: "Reporter | None" = None,
    sweep_reporter: "SweepReporter | None" = None,
    again: str | None = None,
) -> Reproduction:
    """Train, measure and judge the experiments of a source; the same call again goes on where it was stopped.

    overrides: settings laid over those of every arm, such as data.path. only: parts by name; the usual ones where there
    are none. seeds: how often each arm is trained. workers, launcher: as in `sweep`, where a part is a grid. run_name:
    of the folders below `runs`; SOURCE-SCALE otherwise. reporter hears of single runs, sweep_reporter of grids. again:
    the command that goes on, for messages.

    Raises UsageError for names and numbers that cannot be meant, DataError where the data are not there, Interrupted
    (saved) after SIGTERM or Ctrl-C.
    """
    from sfumato.experiment.reporting import Silent
    from sfumato.experiment.reproduce.measuring import Asked
    from sfumato.experiment.reproduce.training import Means

    source, parts = planned(name, scale, only)
    if seeds < 1:
        raise UsageError(f"--seeds is {seeds}", expected="1 or more", fix="--seeds 1")
    experiments = {part.name: experiment_of(part, scale, overrides, device) for part in parts}
    data = {part.name: data_of(experiments[part.name]) for part in parts}
    for part in parts:
        data[part.name](experiments[part.name].seed)  # data that are missing are missed now, and not after an hour
    reporter = Silent() if reporter is None else reporter
    command = f"sfumato reproduce {source.name} --scale {scale}" if again is None else again
    own = f"{source.name}-{scale}" if run_name is None else run_name
    note = reporter.note if sweep_reporter is None else sweep_reporter.note
    asked = Asked(scale, extractor, extractor_weights, device, note)
    outcomes = []
    for part in parts:
        named = f"{own}-{part.name}" if part.choices and part is not source.parts[0] else own
        means = Means(named, Path(runs), seeds, workers, launcher, reporter, sweep_reporter, command)
        outcomes.append(outcome_of(part, experiments[part.name], data[part.name], means, asked))
    return Reproduction(source, scale, seeds, command, anchors_of(source), tuple(outcomes))


def planned(name: str, scale: str, only: Sequence[str]) -> tuple[Source, tuple[Part, ...]]:
    """The source and its parts that are meant. Raises UsageError for names that there are not."""
    source = source_named(name)
    if scale not in SCALES:
        raise UsageError(f"--scale is {scale!r}", expected=" or ".join(SCALES), fix="--scale small")
    return source, source.chosen(only)


def experiment_of(part: Part, scale: Scale, overrides: "Overrides | None", device: str = "auto") -> "Experiment":
    """What the arms of a part vary, at a scale and with settings laid over it."""
    from sfumato.experiment.config import load_experiment

    base = part.base(scale)
    own = load_experiment(base.recipe, list(base.settings))
    if device != "auto":
        own = load_experiment(own, {"training.device": device})
    return own if overrides is None else load_experiment(own, overrides)


def own_experiment(part: Part, settings: Sequence[tuple[str, str]] = ()) -> "Experiment":
    """The source's own arm of these settings: at full scale."""
    from sfumato.experiment.config import load_experiment

    return load_experiment(part.full.recipe, [*part.full.settings, *settings])


def anchors_of(source: Source) -> tuple[AnchorFound, ...]:
    """The numbers that need no training, there and here."""
    parts = {part.name: part for part in source.parts}
    first = parts.get(source.anchored, source.parts[0])
    own = {name: own_experiment(parts.get(name, first)) for name in {a.part for a in source.anchors}}
    return tuple(AnchorFound(a.what, a.there, a.here(own[a.part]), a.mended) for a in source.anchors)


def data_of(experiment: "Experiment") -> OfSeed:
    """The data of an experiment by the seed of a run, which decides what is held out; each is prepared once."""
    from sfumato.experiment.build import prepare_data

    return cache(lambda seed: prepare_data(replace(experiment, seed=seed)))


def outcome_of(part: Part, experiment: "Experiment", data: OfSeed, means: "Means", asked: "Asked") -> PartOutcome:
    """Train, measure and judge one part."""
    from sfumato.experiment.reproduce.axes import AxisEffects, axis_effects, conclusions
    from sfumato.experiment.reproduce.training import train_part

    trained = train_part(part, experiment, means)
    arms = [numbers_of(arm, part, data, asked) for arm in trained if arm.error is None]
    failed = tuple(Failed(arm.folder, " ".join(arm.labels), arm.seed, arm.error) for arm in trained if arm.error)
    folder = means.runs / means.name if part.choices else None
    findings = part.judgement.findings(arms)
    told = AxisEffects() if folder is None else axis_effects(part, folder, arms)
    return PartOutcome(
        part=part,
        axes=tuple(choice.name for choice in part.choices) or ("experiment",),
        folder=folder,
        arms=tuple(arms),
        failed=failed,
        findings=findings,
        effects=told,
        conclusions=tuple(conclusions(part, findings, told)),
    )


def numbers_of(arm: "TrainedArm", part: Part, data: OfSeed, asked: "Asked") -> ArmNumbers:
    """What was measured of an arm, and in what it is not the source's."""
    from sfumato.experiment.load import read_run_config
    from sfumato.experiment.reproduce.departures import departures, other_data
    from sfumato.experiment.reproduce.measuring import measured

    return ArmNumbers(
        part=part.name,
        labels=arm.labels,
        seed=arm.seed,
        folder=arm.folder,
        evaluations=measured(arm, part, asked, lambda: data(arm.seed)),
        departures=departures(read_run_config(arm.folder), own_experiment(part, arm.settings)),
        data=other_data(data(arm.seed).record.count, part.examples),
    )
