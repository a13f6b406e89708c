"""`sweep`: train every arm of a plan, or go on with them; the same call again continues.

    runs/NAME/sweep.yaml is written first; then arms are trained, each an ordinary run in runs/NAME/arms/ARM

What is wanted (`Wish`: recipe, axes, seeds, search) decides the arms. How it is done (`Way`: workers, launcher, budget)
decides nothing that is computed.
"""

import fnmatch
import os
import re
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from sfumato.data import require_there
from sfumato.data.wording import counted
from sfumato.errors import ConfigError, DataError, Interrupted, UsageError, printable
from sfumato.experiment.config import Experiment, Overrides
from sfumato.experiment.records import SWEEP
from sfumato.experiment.sweep import machine
from sfumato.experiment.sweep.axes import Axis, axes_of
from sfumato.experiment.sweep.guided import asker
from sfumato.experiment.sweep.launching import Inline, Launcher, Processes
from sfumato.experiment.sweep.opening import Wish, open_sweep
from sfumato.experiment.sweep.plan import Arm, Measures, grown
from sfumato.experiment.sweep.running import Ask, Ending, Running, in_order
from sfumato.experiment.sweep.search import Grid, Search
from sfumato.experiment.sweep.slurm import Submitit, slurm_options
from sfumato.experiment.sweep.standing import Quiet, SweepReporter, duration
from sfumato.experiment.sweep.stored import Sweep, read_plan, store_plan
from sfumato.experiment.sweep.timing import Outlook, foreseen
from sfumato.training.lock import RunLock
from sfumato.training.signals import listening
from sfumato.training.storage import LocalStorage, make_folders

__all__ = ["LauncherName", "Way", "carry_out", "foresee", "seconds_of", "sweep"]

LauncherName = Literal["local", "slurm", "inline"]
_PART = re.compile(r"(\d+(?:\.\d+)?)(d|h|min|m|s)")
_UNITS = {"d": 86400.0, "h": 3600.0, "min": 60.0, "m": 60.0, "s": 1.0}


@dataclass(frozen=True, slots=True)
class Way:
    """How a sweep is carried out.

    workers: arms at a time; None: one for each GPU, or as many as the cores hold.
    launcher: `local` processes, `slurm`, or `inline`, one after another in this process.
    slurm: parameters of submitit's executor.
    budget: seconds after which no arm is started and those that run save and stop.
    only: patterns of the names of arms; the others are left alone.
    retry: also try arms again whose failure would repeat itself.
    forecast: time the arms first.
    """

    workers: int | None = None
    launcher: LauncherName = "local"
    slurm: Mapping[str, str] = field(default_factory=dict)
    budget: float | None = None
    only: tuple[str, ...] = ()
    retry: bool = False
    forecast: bool = True

    def __post_init__(self) -> None:
        if self.launcher not in get_args(LauncherName):
            raise UsageError(
                f"--launcher is {self.launcher!r}", expected=", ".join(get_args(LauncherName)), fix="--launcher local"
            )
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers is {self.workers}", expected="1 or more", fix="--workers 2")
        if self.budget is not None and self.budget <= 0:
            raise UsageError(f"--budget is {self.budget:g} s", expected="some time", fix="--budget 2h")
        if self.slurm and self.launcher != "slurm":
            raise UsageError("--slurm was given", expected="it with --launcher slurm", fix="--launcher slurm")


def sweep(
    recipe: str | Path | Experiment,
    axes: Mapping[str, Sequence[object]] | Iterable[Axis | str] = (),
    *,
    overrides: Overrides | None = None,
    seeds: int = 1,
    workers: int | None = None,
    launcher: LauncherName = "local",
    budget: str | float | None = None,
    search: Search | None = None,
    metrics: Sequence[str] | str = (),
    n: int | None = None,
    extractor: str | None = None,
    threads: int | None = None,
    runs: str | Path = "runs",
    name: str | None = None,
    only: Sequence[str] = (),
    retry: bool = False,
    skip_unfit: bool = False,
    yes: bool = False,
    forecast: bool = True,
    slurm: Mapping[str, str] | None = None,
    reporter: SweepReporter | None = None,
) -> Sweep:
    """Train an experiment along axes, with several seeds; the same call again continues what is left of it.

    recipe: a recipe's name, a YAML file, an Experiment, or a sweep that is there already. axes: {key: values}, or texts
    `KEY=V1,V2`. overrides: settings that all arms share. seeds: repeats, with seeds base.seed, base.seed + 1, ….
    workers: arms at a time; None: one for each GPU, or as many as the cores hold. It changes nothing that is computed.
    budget: seconds, or a text such as `2h`. search: Grid(), Random(trials=20) or Optuna(trials=20). metrics, n,
    extractor: what to measure of each arm, as in `evaluate`. threads: CPU threads of each arm, decided once.
    only: patterns of names of arms. retry: try arms again that diverged. skip_unfit: leave out combinations that cannot
    be trained. yes: more than 1,000 arms are meant. forecast: time the arms first.

    Gives the sweep, in which arms may have failed (`Sweep.state`). Raises Interrupted where arms are left because
    somebody asked to stop or the budget is spent, ConfigError for what cannot be trained or is not the sweep of that
    name.
    """
    listed = tuple(name.strip() for name in metrics.split(",")) if isinstance(metrics, str) else tuple(metrics)
    wish = Wish(
        recipe,
        axes_of(axes),
        overrides,
        seeds,
        Grid() if search is None else search,
        Measures(tuple(name for name in listed if name), n, extractor),
        threads,
        skip_unfit,
        Path(runs),
        name,
        yes,
    )
    spent = seconds_of(budget) if isinstance(budget, str) else budget
    way = Way(workers, launcher, {} if slurm is None else slurm, spent, tuple(only), retry, forecast)
    told = Quiet() if reporter is None else reporter
    return carry_out(open_sweep(wish, told.note), way, told)


def seconds_of(text: str) -> float:
    """`2h`, `90min`, `1h30m`, `45s` in seconds. Raises UsageError for a number without its unit."""
    words = text.replace(" ", "").lower()
    parts = _PART.findall(words)
    if not parts or "".join(number + unit for number, unit in parts) != words:
        raise UsageError(
            f"--budget is {text!r}", expected="a time with its unit: 2h, 90min, 1h30m, 45s", fix="--budget 2h"
        )
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def foresee(opened: Sweep, way: Way) -> Outlook:
    """What carrying out a sweep would take; nothing is written or started but what times the arms."""
    arms = _chosen(opened, way)
    here = way.launcher != "slurm"
    return foreseen(opened, arms, workers=_workers(opened, arms, way), timed=way.forecast and here)


def carry_out(opened: Sweep, way: Way, reporter: SweepReporter) -> Sweep:
    """Train all arms that are left; gives the sweep as it stands then. Raises Interrupted where some are left."""
    began = time.monotonic()
    _require_alone()
    _require_data(opened, way)
    ask = asker(opened)
    make_folders(opened.folder, LocalStorage())
    with RunLock(opened.folder):
        opened = _as_it_is_by_now(opened)
        store_plan(opened.plan, opened.folder)
        for text in opened.notes:
            reporter.note(text)
        arms = _chosen(opened, way)
        outlook = foresee(opened, way)
        _announce(outlook, way, reporter)
        with listening() as stop:
            ending = Running(
                opened,
                arms,
                _launcher(opened, way),
                workers=outlook.workers,
                reporter=reporter,
                stop=stop,
                deadline=None if way.budget is None else began + way.budget,
                ask=None if ask is None else _stored_ask(ask),
                price=outlook.price,
            ).run()
    _require_whole(ending, way)
    return ending.sweep


def _as_it_is_by_now(opened: Sweep) -> Sweep:
    """The sweep with what another command has stored since it was opened. Raises ConfigError for another sweep."""
    if not (opened.folder / SWEEP).is_file():
        return opened
    stored = read_plan(opened.folder)
    plan = grown(stored, opened.plan)
    return opened if plan == opened.plan else Sweep.of(plan, opened.folder)


def _stored_ask(ask: Ask) -> Ask:
    """Points are stored before anything is trained at them."""

    def asked(sweep: Sweep, running: Sequence[Arm]) -> Sweep | None:
        found = ask(sweep, running)
        if found is not None:
            store_plan(found.plan, found.folder)
        return found

    return asked


def _require_alone() -> None:
    if "RANK" in os.environ:
        raise UsageError(
            "a sweep was started by torchrun, several times at once",
            expected="one process, which starts those of the arms",
            fix="start it without torchrun: sfumato sweep …",
        )


def _require_data(opened: Sweep, way: Way) -> None:
    """Refuse a sweep none of whose arms finds its data, before anything is written. Raises DataError."""
    if way.launcher == "slurm":  # its machines may have what this one has not
        return
    refusals: list[ConfigError | DataError] = []
    for arm in _chosen(opened, way):
        try:
            require_there(opened.experiment(arm).data)
            return
        except (ConfigError, DataError) as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def _chosen(opened: Sweep, way: Way) -> tuple[Arm, ...]:
    """The arms to train. Raises CheckpointError for a pattern that none of the sweep's arms matches."""
    for pattern in way.only:
        if not any(fnmatch.fnmatchcase(arm.name, pattern) for arm in opened.arms):
            opened.arm(pattern)
    return tuple(arm for arm in in_order(opened, retry=way.retry) if _is_meant(arm, way))


def _is_meant(arm: Arm, way: Way) -> bool:
    """Whether an arm's name is like one of the patterns, where there are some."""
    return not way.only or any(fnmatch.fnmatchcase(arm.name, pattern) for pattern in way.only)


def _workers(opened: Sweep, arms: Sequence[Arm], way: Way) -> int:
    """How many arms are trained at a time."""
    coming = max(len(arms), opened.plan.search.count(opened.plan.axes) if opened.plan.search.learns else 0)
    if way.launcher == "inline":
        return 1
    if way.launcher == "slurm":
        return max(1, coming if way.workers is None else way.workers)
    usual = machine.usual_workers(opened.plan.base) if way.workers is None else way.workers
    return max(1, min(usual, coming))


def _launcher(opened: Sweep, way: Way) -> Launcher:
    if way.launcher == "slurm":
        return Submitit(opened, slurm_options(way.slurm))
    return Inline() if way.launcher == "inline" else Processes(machine.gpus(opened.plan.base))


def _announce(outlook: Outlook, way: Way, reporter: SweepReporter) -> None:
    """Say what is going to happen."""
    reporter.note(f"{outlook.sweep.folder}: " + "; ".join(outlook.lines()))
    busy, here = outlook.workers * (outlook.threads or 1), machine.cores()
    if way.launcher == "local" and busy > here:
        reporter.note(
            f"{outlook.workers} arms of {counted(outlook.threads or 1, 'thread')} want {busy} cores; here are {here}: "
            "fewer --workers would be as fast; the threads of a sweep stay what they are"
        )
    if way.budget is not None and outlook.seconds is not None and outlook.seconds > way.budget:
        reporter.note(
            f"the budget of {duration(way.budget)} is less than the forecast of {duration(outlook.seconds)}: "
            "it will stop then, saved; the same command goes on"
        )


def _require_whole(ending: Ending, way: Way) -> None:
    """Raise Interrupted where arms are left that did not fail, of those that were to be trained."""
    sweep = ending.sweep
    states = [sweep.state(arm) for arm in sweep.arms if _is_meant(arm, way)]
    left = [state for state in states if state not in ("done", "failed")]
    coming = sweep.plan.search.learns and len(sweep.plan.asked) < sweep.plan.search.count(())
    if not left and not (coming and ending.why is not None):
        return
    why = "not all is done" if ending.why is None else f"stopped by {ending.why}"
    if ending.why == "budget":
        assert way.budget is not None
        why = f"the budget of {duration(way.budget)} is spent"
    counts = {"begun and saved": "half-done", "failed": "failed", "trained by another process": "running"}
    told = [f"{states.count(state)} {words}" for words, state in counts.items() if state in states]
    raise Interrupted(
        f"{why}: " + ", ".join([f"{states.count('done')} of {len(states)} arms done", *told]),
        expected="nothing is lost: the sweep goes on where it stopped",
        fix=f"sfumato sweep {shlex.quote(printable(sweep.folder))}",
    )
