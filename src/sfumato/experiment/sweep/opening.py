"""Which sweep a command means: one that is stored, such a one grown, or a new one.

The same command means the same sweep. Under `--name NAME` it is the one in that folder; without a name the one among
the runs whose plan is the same, or the same with more or fewer seeds, values or trials; a sweep may also be named
itself. Arms that were asked for once are never dropped.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sfumato.data.wording import counted
from sfumato.errors import ConfigError, UsageError
from sfumato.experiment.catalog import recipe_names
from sfumato.experiment.config import Experiment, Overrides, load_experiment
from sfumato.experiment.evaluation.features import known_extractor
from sfumato.experiment.evaluation.metrics import require_known
from sfumato.experiment.kinds import nearest
from sfumato.experiment.records import ARMS, SWEEP
from sfumato.experiment.run import require_run_name
from sfumato.experiment.sweep import machine
from sfumato.experiment.sweep.axes import Axis, require_known_keys
from sfumato.experiment.sweep.plan import MANY, Measures, Plan, grown, planned, same_sweep
from sfumato.experiment.sweep.search import Grid, Search
from sfumato.experiment.sweep.stored import Sweep, read_plan, sweeps_in

__all__ = ["Wish", "open_sweep"]

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of a sweep.

    recipe: a recipe, a file, an experiment, or a sweep that is there already (a folder, or its name below `runs`).
    axes, overrides: what varies, and settings that all arms share.
    threads: CPU threads of each arm; None: decided when the sweep is made.
    yes: more than 1,000 arms are meant.
    The rest as in `Plan`.
    """

    recipe: str | Path | Experiment
    axes: tuple[Axis, ...] = ()
    overrides: Overrides | None = None
    seeds: int = 1
    search: Search = Grid()
    measures: Measures = Measures()
    threads: int | None = None
    skip_unfit: bool = False
    runs: Path = Path("runs")
    name: str | None = None
    yes: bool = False


def open_sweep(wish: Wish, note: Note) -> Sweep:
    """The sweep that is meant, with all its arms; nothing is written yet.

    The one in the folder named, or, without a name, the one of the same plan; a new one otherwise. Raises ConfigError
    where the sweep of that name was started with other settings, or arms cannot be trained.
    """
    require_known_keys(wish.axes)
    for metric in wish.measures.metrics:
        require_known(metric)
    if wish.measures.extractor is not None:
        known_extractor(wish.measures.extractor)
    folder = _stored_folder(wish)
    if folder is not None:
        return _continued(wish, folder, note)
    base = _base(wish)
    if wish.name is not None:
        require_run_name(wish.name, base.name)
        folder = wish.runs / wish.name
        if (folder / SWEEP).is_file():
            return _grown(read_plan(folder), _plan_of(wish, base, wish.name), folder, wish, note)
        _require_free(folder)
        return _new(_plan_of(wish, base, wish.name), folder, wish)
    for folder in reversed(sweeps_in(wish.runs)):
        try:
            stored = read_plan(folder)
        except ConfigError as error:
            note(f"{error.what}; passed over")
            continue
        if same_sweep(stored, wanted := _like(stored, _plan_of(wish, base, stored.name), wish)):
            note(f"this is the sweep {folder}")
            return _grown(stored, wanted, folder, wish, note)
    name = _free_name(wish.runs, base.name)
    return _new(_plan_of(wish, base, name), wish.runs / name, wish)


def _base(wish: Wish) -> Experiment:
    """What all arms share. Raises ConfigError for a name that is no recipe, telling what else is called so."""
    try:
        return load_experiment(wish.recipe, wish.overrides)
    except ConfigError as error:
        if not error.what.startswith("there is no recipe"):
            raise
        name, known = str(wish.recipe), [folder.name for folder in sweeps_in(wish.runs)]
        run, near = wish.runs / name, nearest(name, known)
        if (run / "config.yaml").is_file():
            fix = f"{name} is a run; its settings are varied by its folder: sfumato sweep {shlex.quote(str(run))} …"
        else:
            fix = f"did you mean {near}?" if near else error.fix
        sweeps = ", ".join(known[:5]) or "none"
        raise ConfigError(
            f"there is no recipe, file or sweep {name!r}",
            expected=f"{error.expected}, or a sweep under {wish.runs} ({sweeps})",
            fix=fix,
        ) from None


def _stored_folder(wish: Wish) -> Path | None:
    """The folder of a sweep that was named in the place of a recipe; a recipe of that name wins, where more is said."""
    if isinstance(wish.recipe, Experiment):
        return None
    if (wish.axes or wish.overrides or wish.name is not None) and str(wish.recipe) in recipe_names():
        return None
    places = (Path(wish.recipe), wish.runs / wish.recipe)
    return next((place for place in places if (place / SWEEP).is_file()), None)


def _continued(wish: Wish, folder: Path, note: Note) -> Sweep:
    """A sweep that was named itself; more seeds and measures may be asked of it."""
    stored = read_plan(folder)
    if wish.axes or wish.overrides:
        raise UsageError(
            f"settings were given for {folder}, a sweep that is there already",
            expected="a sweep without axes and settings, which goes on; or a recipe with them",
            fix=f"sfumato sweep {shlex.quote(str(folder))}",
        )
    search = stored.search if isinstance(wish.search, Grid) else wish.search
    seeds = max(wish.seeds, stored.seeds)
    wanted = replace(stored, seeds=seeds, search=search, measures=wish.measures, skip_unfit=wish.skip_unfit)
    if wish.threads is not None:
        training = replace(stored.base.training, threads=wish.threads)
        wanted = replace(wanted, base=replace(stored.base, training=training))
    return _grown(stored, wanted, folder, wish, note)


def _plan_of(wish: Wish, base: Experiment, name: str) -> Plan:
    """The plan of a wish. What must be alike in all arms is decided: how initial weights are drawn, and the threads."""
    training = replace(base.training, initial_weights="by_name")
    if wish.threads is not None:
        training = replace(training, threads=wish.threads)
    base = replace(base, training=training)
    return Plan(name, base, wish.axes, wish.seeds, wish.search, wish.measures, wish.skip_unfit)


def _new(plan: Plan, folder: Path, wish: Wish) -> Sweep:
    """A sweep that is not there yet."""
    _require_few(plan, wish)
    if plan.base.training.threads is None:
        count = machine.threads_for(plan.base, plan.count)
        plan = replace(plan, base=replace(plan.base, training=replace(plan.base.training, threads=count)))
    return Sweep.of(plan, folder)


def _like(stored: Plan, wanted: Plan, wish: Wish) -> Plan:
    """The wanted plan with the threads of the stored one, where nobody named others."""
    training = wanted.base.training
    if training.threads is not None:
        return wanted
    return replace(wanted, base=replace(wanted.base, training=replace(training, threads=stored.base.training.threads)))


def _grown(stored: Plan, wanted: Plan, folder: Path, wish: Wish, note: Note) -> Sweep:
    """A stored sweep with what a command adds to it."""
    plan = grown(stored, _like(stored, wanted, wish))
    if plan.count <= stored.count:
        return Sweep.of(plan, folder)
    _require_few(plan, wish)
    found = Sweep.of(plan, folder)
    _require_same_names(stored, found)
    note(f"{folder} grows from {stored.count} to {counted(plan.count, 'arm')}")
    return found


def _require_same_names(stored: Plan, found: Sweep) -> None:
    """Refuse values beside which an arm that is there already would have another name: it is what it is found by."""
    named = {arm.name: (dict(arm.settings), arm.seed) for arm in found.arms}
    for arm in planned(stored, found.folder).arms:
        if named.get(arm.name) != (dict(arm.settings), arm.seed):
            raise ConfigError(
                f"with these values the arm {arm.name} of {found.folder} would be another one",
                expected="values whose arms are called otherwise than those that are there",
                fix="start them as a sweep of their own: choose another --name",
            )


def _require_few(plan: Plan, wish: Wish) -> None:
    if plan.count > MANY and not wish.yes:
        raise UsageError(
            f"{plan.count:,} arms are asked for",
            expected=f"at most {MANY:,} without a yes",
            fix="--yes if all are meant; --search random --trials 50 draws some of them",
        )


def _is_free(folder: Path) -> bool:
    """Whether nothing is there, or no more than what a sweep that was killed before its plan was written left."""
    if not folder.is_dir():
        return not folder.exists()
    return all(path.name == "LOCK" or (path.name == ARMS and not any(path.iterdir())) for path in folder.iterdir())


def _require_free(folder: Path) -> None:
    if not _is_free(folder):
        raise ConfigError(
            f"{folder} exists already, and is no sweep",
            expected="a new name, or that of a sweep, which then goes on",
            fix="choose another --name",
        )


def _free_name(runs: Path, name: str) -> str:
    """NAME-sweep-K with the first free K."""
    number = 1
    while not _is_free(runs / f"{name[:80]}-sweep-{number}"):
        number += 1
    return f"{name[:80]}-sweep-{number}"
