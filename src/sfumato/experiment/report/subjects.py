"""What a report can be about: a run or one of its checkpoints, a sweep with its arms, an exported file."""

import shlex
from pathlib import Path

from sfumato.errors import CheckpointError, SfumatoError
from sfumato.experiment.records import SWEEP
from sfumato.experiment.report.entries import Entry, read_entry
from sfumato.experiment.report.page import Subject
from sfumato.experiment.schema import flatten, to_plain
from sfumato.experiment.sweep import Arm, Optuna, Random, Sweep
from sfumato.experiment.sweep.table import table_of

__all__ = ["again", "subject_of"]

REPORT = "report.html"


def subject_of(run: object, runs: Path) -> Subject:
    """The subject that is named. Raises SfumatoError where there is none of that name."""
    if isinstance(run, Sweep):
        return _sweep(run)
    place = Path(str(getattr(run, "folder", run)))
    for folder in (place, runs / place):
        if (folder / SWEEP).is_file():
            return _sweep(Sweep.load(folder))
    if place.suffix == ".safetensors" and place.is_file():
        return _file(place)
    entry = read_entry(place, runs)
    assert entry.folder is not None  # that of a run
    target = entry.folder / (REPORT if entry.place == str(entry.folder) else f"report-step-{entry.step:08d}.html")
    return Subject(entry.name, "run", (entry,), target, {})


def _file(path: Path) -> Subject:
    """An exported file: a model, and no record of its training."""
    from sfumato.experiment.load import load

    model = load(path, device="cpu")
    settings = flatten(to_plain(model.experiment))
    entry = Entry(path.stem, str(path), settings=settings, step=model.steps_trained)
    return Subject(path.stem, "file", (entry,), path.with_suffix(".html"), {})


def _sweep(sweep: Sweep) -> Subject:
    """A sweep with all its arms, in the order of its table."""
    if not sweep.arms:
        raise CheckpointError(
            f"the sweep {sweep.plan.name} has no arms yet",
            expected="a sweep with one arm or more",
            fix=f"go on with it: sfumato sweep {sweep.folder}",
        )
    entries = tuple(_arm(sweep, arm) for arm in sweep.arms)
    axes = {axis.key: tuple(axis.values) for axis in sweep.plan.axes}
    return Subject(
        title=sweep.plan.name,
        kind="sweep",
        entries=entries,
        target=sweep.folder / REPORT,
        axes=axes,
        about=_about(sweep),
        notes=(*sweep.notes, *table_of(sweep).notes),
        again=again(sweep),
        sweep=sweep,
    )


def _arm(sweep: Sweep, arm: Arm) -> Entry:
    """What is known of an arm; of one that waits no more than its name."""
    state, error, axes = sweep.state(arm), sweep.error(arm), dict(arm.settings)
    try:
        return read_entry(arm.folder, Path(), name=arm.name, state=state, axes=axes, seed=arm.seed, error=error)
    except SfumatoError as missing:
        notes = () if state in ("waiting", "failed") else (f"{arm.name}: {missing.what}",)
        return Entry(arm.name, None, state=state, axes=axes, seed=arm.seed, error=error, notes=notes)


def again(sweep: Sweep) -> str:
    """The command that makes a sweep of the same arms from what one of them was trained with; "" before any is."""
    plan, search = sweep.plan, sweep.plan.search
    begun = next((file for arm in sweep.arms if (file := arm.folder / "config.yaml").is_file()), None)
    if begun is None:
        return ""
    words = ["sfumato", "sweep", str(begun)]
    for axis in plan.axes:
        words += ["--axis", f"{axis.key}={','.join(axis.values)}"]
    words += ["--seeds", str(plan.seeds)] if plan.seeds > 1 else []
    words += ["--seed", str(plan.base.seed)]
    if isinstance(search, Random | Optuna):
        words += ["--search", type(search).__name__.lower(), "--trials", str(search.trials)]
        words += ["--search-seed", str(search.seed)] if search.seed else []
    words += ["--metrics", ",".join(plan.measures.metrics)] if plan.measures.metrics else []
    return shlex.join(words)


def _about(sweep: Sweep) -> tuple[tuple[str, str], ...]:
    """How the points of a sweep were chosen."""
    search = sweep.plan.search
    trials = f", {search.trials:,} trials" if isinstance(search, Random | Optuna) else ", every combination"
    return (("arms by", f"{type(search).__name__.lower()}{trials}"),)
