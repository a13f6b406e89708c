"""Points that Optuna asks for (extra `hpo`), as a function of the points before them and what was measured.

Nothing of Optuna's is stored: for each point a study is made anew from the points that were asked for, in their order,
and the sampler is seeded with the number of the point. With one worker a sweep that was killed therefore goes on to the
same points; with several it depends on which arms were done when the next point was asked for.

A point's value is the mean of the metric over its seeds; points whose arms failed are told as failed, those that are
still being trained as running, so that several workers look in different places.
"""

import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sfumato.core import derived_seed
from sfumato.errors import PlatformError, UsageError
from sfumato.experiment.comparability import LOSS, direction
from sfumato.experiment.sweep.axes import Axis
from sfumato.experiment.sweep.plan import Arm
from sfumato.experiment.sweep.search import Optuna, Point
from sfumato.experiment.sweep.stored import Sweep
from sfumato.experiment.sweep.table import crosses_losses, figures_of

__all__ = ["Told", "ask_for", "asker", "next_point", "require_rankable", "told_of"]


@dataclass(frozen=True, slots=True)
class Told:
    """A point and what is known of it: its value, that it failed, or neither while it is being trained."""

    point: Point
    value: float | None = None
    failed: bool = False


def asker(sweep: Sweep) -> Callable[[Sweep, Sequence[Arm]], Sweep | None] | None:
    """What asks for the next point of a sweep; None where all points are known.

    Raises PlatformError without Optuna, UsageError where the metric cannot rank the arms.
    """
    if not isinstance(sweep.plan.search, Optuna):
        return None
    _optuna()
    require_rankable(sweep)
    return ask_for


def ask_for(sweep: Sweep, running: Sequence[Arm]) -> Sweep | None:
    """The sweep with the next point; None when all trials are asked for."""
    search = sweep.plan.search
    assert isinstance(search, Optuna)
    if len(sweep.plan.asked) >= search.trials:
        return None
    return sweep.with_asked(next_point(search, sweep.plan.axes, told_of(sweep, search, running)))


def require_rankable(sweep: Sweep) -> None:
    """Refuse a metric that cannot say which of two arms is better. Raises UsageError."""
    search = sweep.plan.search
    assert isinstance(search, Optuna)
    metric, base = search.metric, sweep.plan.base
    is_loss = metric == LOSS or metric.partition("[")[0] == "loss"
    crossed = crosses_losses(sweep) if is_loss else []
    if crossed:
        raise UsageError(
            f"--metric {metric}: a loss is of another quantity for each {', '.join(crossed)}, and ranks nothing there",
            expected="a metric that means the same for every arm",
            fix="--metrics noise_error --metric noise_error, or a distance of samples (energy_distance, kid)",
        )
    if metric == LOSS:
        if base.training.evaluate_every == 0 or base.data.held_out == 0:
            raise UsageError(
                "--metric held_out_loss: no held-out loss is measured in training",
                expected="training.evaluate_every and data.held_out above 0",
                fix="--training.evaluate_every 500, or another --metric that --metrics measures",
            )
        return
    if metric.partition("[")[0] not in (name.partition("[")[0] for name in sweep.plan.measures.metrics):
        raise UsageError(
            f"--metric {metric} is not measured of the arms",
            expected="held_out_loss, or one of --metrics",
            fix=f"--metrics {metric.partition('[')[0]}",
        )
    if direction(metric) is None:
        raise UsageError(
            f"--metric {metric}: neither more nor less of it is better",
            expected="a metric to rank by",
            fix="name another",
        )


def told_of(sweep: Sweep, search: Optuna, running: Sequence[Arm]) -> list[Told]:
    """What is known of every point that was asked for, in their order."""
    going = {arm.name for arm in running}
    known: dict[str, Told] = {}
    for point in {repr(sorted(p.items())): p for p in sweep.plan.asked}.values():
        arms = [arm for arm in sweep.arms if dict(arm.settings) == dict(point)]
        values = [_value(sweep, arm, search.metric) for arm in arms if arm.name not in going]
        whole = [value for value in values if value is not None]
        if arms and len(whole) == len(arms):
            told = Told(point, statistics.fmean(whole))
        else:
            pending = any(arm.name in going or sweep.state(arm) in ("waiting", "half-done", "running") for arm in arms)
            told = Told(point, failed=not pending)
        known[repr(sorted(point.items()))] = told
    return [known[repr(sorted(point.items()))] for point in sweep.plan.asked]


def _value(sweep: Sweep, arm: Arm, metric: str) -> float | None:
    """The metric of an arm that is done: that of the name, or the first of its family."""
    if sweep.state(arm) != "done":
        return None
    found = figures_of(sweep, arm, sweep.record(arm))
    names = [name for name in found if metric in (name, name.partition("[")[0])]
    return found[names[0]].value if names else None


def next_point(search: Optuna, axes: Sequence[Axis], told: Sequence[Told]) -> dict[str, str]:
    """The point that Optuna asks for after those that it is told of; the same whenever it is told the same."""
    optuna = _optuna()
    scales = {axis.key: _distribution(axis) for axis in axes}
    sampler = optuna.samplers.TPESampler(
        seed=derived_seed(search.seed, "optuna", len(told)) % 2**32,
        n_startup_trials=search.startup,
        multivariate=len(axes) > 1,
        constant_liar=True,
    )
    aim = "maximize" if direction(search.metric) == "higher" else "minimize"
    study = optuna.create_study(direction=aim, sampler=sampler)
    for one in told:
        study.add_trial(_trial(one, axes, scales))
    asked = study.ask(scales)
    return {axis.key: _text(axis, asked.params[axis.key]) for axis in axes}


def _trial(told: Told, axes: Sequence[Axis], scales: dict[str, Any]) -> Any:
    """A point as a trial of the study."""
    optuna = _optuna()
    states = optuna.trial.TrialState
    state = states.COMPLETE if told.value is not None else states.FAIL if told.failed else states.RUNNING
    params = {axis.key: _number(axis, told.point[axis.key]) for axis in axes}
    return optuna.trial.create_trial(state=state, value=told.value, params=params, distributions=scales)


def _distribution(axis: Axis) -> Any:
    """What Optuna knows of an axis: one of several values, or a range of numbers."""
    scales, between = _optuna().distributions, axis.between
    if between is None:
        return scales.CategoricalDistribution(axis.values)
    if between.whole:
        return scales.IntDistribution(int(between.low), int(between.high), log=between.log)
    return scales.FloatDistribution(between.low, between.high, log=between.log)


def _number(axis: Axis, text: str) -> str | int | float:
    between = axis.between
    return text if between is None else int(text) if between.whole else float(text)


def _text(axis: Axis, value: object) -> str:
    """A parameter as a flag has it: numbers of four digits, within their range."""
    between = axis.between
    if between is None or between.whole:
        return str(value)
    return between.rounded(float(str(value)))


def _optuna() -> Any:
    """The package, silent. Raises PlatformError where it is not installed."""
    try:
        import optuna
    except ModuleNotFoundError:
        raise PlatformError(
            "--search optuna needs the package optuna",
            expected="an environment with optuna",
            fix="pip install 'sfumato[hpo]', or --search random",
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna
