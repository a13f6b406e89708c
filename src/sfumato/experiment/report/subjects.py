"""What a report can be about: a run or one of its checkpoints, a sweep with its arms, an exported file."""

from importlib import import_module
from pathlib import Path
from typing import Any

from sfumato.errors import CheckpointError, SfumatoError
from sfumato.experiment.report.entries import Entry, read_entry
from sfumato.experiment.report.page import Subject

__all__ = ["subject_of"]

SWEEP = "sweep.yaml"
REPORT = "report.html"


def subject_of(run: object, runs: Path) -> Subject:
    """The subject that is named. Raises SfumatoError where there is none of that name."""
    if getattr(run, "arms", None) is not None:  # a Sweep
        return _sweep(run)
    place = Path(str(getattr(run, "folder", run)))
    for folder in (place, runs / place):
        if (folder / SWEEP).is_file():
            return _sweep(import_module("sfumato.experiment.sweep").Sweep.load(folder))
    if place.suffix == ".safetensors" and place.is_file():
        return _file(place)
    entry = read_entry(place, runs)
    assert entry.folder is not None  # that of a run
    target = entry.folder / (REPORT if entry.place == str(entry.folder) else f"report-step-{entry.step:08d}.html")
    return Subject(entry.name, "run", (entry,), target, {})


def _file(path: Path) -> Subject:
    """An exported file: a model, and no record of its training."""
    from sfumato.experiment.load import load
    from sfumato.experiment.schema import flatten, to_plain

    model = load(path, device="cpu")
    settings = flatten(to_plain(model.experiment))
    entry = Entry(path.stem, str(path), settings=settings, step=model.steps_trained)
    return Subject(path.stem, "file", (entry,), path.with_suffix(".html"), {})


def _sweep(found: Any) -> Subject:
    """A sweep with all its arms, in the order of its table."""
    plan = found.plan
    entries = []
    for arm in found.arms:
        state, error = str(found.state(arm)), found.error(arm)
        known = {"name": arm.name, "state": state, "axes": dict(arm.settings), "seed": arm.seed, "error": error}
        try:
            entries.append(read_entry(arm.folder, Path(), **known))
        except SfumatoError as missing:
            notes = () if state == "waiting" else (f"{arm.name}: {missing.what}",)
            entries.append(Entry(place=None, notes=notes, **known))
    if not entries:
        raise CheckpointError(
            f"the sweep {plan.name} has no arms", expected="a sweep with one arm or more", fix="sfumato sweep --help"
        )
    axes = {axis.key: tuple(axis.values) for axis in plan.axes}
    return Subject(plan.name, "sweep", tuple(entries), Path(found.folder) / REPORT, axes)
