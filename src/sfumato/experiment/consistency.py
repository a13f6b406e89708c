"""What must fit between the sections of an experiment; each misfit names both fields and a pair that fits.

Discrete and continuous models differ in three values that belong together: a T-step chain is (`Tabulated` schedule,
`GridTimes(T)`, `StepInput(T)`), a continuous model is (any schedule, `UniformTimes` or `LogNormalTimes`, `LogSnrInput`
or `NoiseVarianceInput`). `LossAwareTimes` fit both. What objectives need stands in `objective_misfits`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sfumato.condition import ConditionShape
from sfumato.core import GridTimes, PreviousMean, Schedule, Shifted, StepInput, ZeroTerminalSnr
from sfumato.data import declared_shape
from sfumato.errors import ConfigError, UsageError
from sfumato.experiment.objective_misfits import objective_misfits, on_grid
from sfumato.nn import MlpConfig, StepMlpConfig

if TYPE_CHECKING:
    from sfumato.experiment.config import Experiment

__all__ = ["misfits"]

CONTINUOUS = {"times": "UniformTimes", "time_input": "NoiseVarianceInput"}  # what fits any schedule


def misfits(e: "Experiment") -> Iterator[UsageError]:
    """Every misfit between sections, in the order of the sections."""
    yield from _network_misfits(e)
    yield from _clock_misfits(e)
    yield from _target_misfits(e)
    yield from objective_misfits(e)
    yield from _sampling_misfits(e)
    yield from _watch_misfits(e)


def _network_misfits(e: "Experiment") -> Iterator[UsageError]:
    shape = declared_shape(e.data)
    if shape is not None:
        try:
            e.network.check(shape)
        except UsageError as error:
            yield error
    image = e.condition.image
    try:
        if shape is not None and image is not None:
            image.check(shape)
        e.network.check_condition(least_condition(e, shape))
    except UsageError as error:
        named = "condition." in error.what or image is None
        what = error.what if named else f"condition.image is {type(image).__name__}: {error.what}"
        yield ConfigError(what, expected=error.expected, fix=error.fix)


def least_condition(e: "Experiment", shape: tuple[int, ...] | None) -> ConditionShape:
    """What the network will be told, as far as the settings alone tell: at least one class, one value."""
    told = e.condition
    return ConditionShape(
        num_classes=(told.classes or 1) if told.labels else 0,
        num_values=int(told.values),
        image_channels=0 if told.image is None else told.image.image_channels(3 if shape is None else shape[0]),
    )


def steps_key(schedule: Schedule) -> str:
    """Where the number of a schedule's steps is set: in a table, or in the table that it wraps."""
    return (
        steps_key(schedule.base).replace("schedule", "schedule.base", 1)
        if isinstance(schedule, Shifted | ZeroTerminalSnr)
        else "schedule.steps"
    )


def _clock_misfits(e: "Experiment") -> Iterator[ConfigError]:
    """The schedule's steps against those of times and time_input, in one refusal; and the network that needs them."""
    steps, schedule = e.schedule.num_steps, type(e.schedule).__name__
    counters = {"times": e.times, "time_input": e.time_input}
    counting = {key: value for key, value in counters.items() if isinstance(value, GridTimes | StepInput)}
    if steps is None and counting:
        named = [f"{key} is {type(value).__name__}" for key, value in counting.items()]
        chain = ", ".join(f"{key}: {type(value).__name__}" for key, value in counting.items())
        continuous = ", ".join(f"{key}: {CONTINUOUS[key]}" for key in counting)
        yield ConfigError(
            f"{' and '.join(named)} and schedule is {schedule}, which has no steps",
            expected=f"{chain} with schedule: Tabulated, or {continuous} with schedule: {schedule}",
            fix=f"set {continuous}, or schedule: Tabulated",
        )
    elif any(value.steps != steps for value in counting.values()):
        at = steps_key(e.schedule)
        same = ", ".join(f"{key}: {steps}" for key in (at, *(f"{key}.steps" for key in counting)))
        yield ConfigError(
            " and ".join([f"{key}.steps is {value.steps}" for key, value in counting.items()] + [f"{at} is {steps}"]),
            expected="the same number of steps in all of them",
            fix=f"set {same}",
        )
    if isinstance(e.network, StepMlpConfig) and not isinstance(e.time_input, StepInput):
        yield ConfigError(
            f"network is StepMlp and time_input is {type(e.time_input).__name__}, which does not count steps",
            expected="network: StepMlp with time_input: StepInput",
            fix="set network: FourierMlp, or time_input: StepInput with times: GridTimes and schedule: Tabulated",
        )
    if isinstance(e.network, MlpConfig) and steps != 1:
        yield ConfigError(
            f"network is Mlp, which is not told the time, and schedule is {schedule}, which has many noise levels",
            expected="network: Mlp with schedule: OneLevel, or network: FourierMlp with any schedule",
            fix="set network: FourierMlp, or schedule: OneLevel",
        )


def _target_misfits(e: "Experiment") -> Iterator[ConfigError]:
    """Targets that are defined on the grid of a chain."""
    if isinstance(e.parameterization, PreviousMean):
        if e.parameterization.schedule != e.schedule:
            yield ConfigError(
                f"parameterization.schedule is {e.parameterization.schedule!r} and schedule is {e.schedule!r}",
                expected="the same schedule in both places",
                fix="write the schedule's settings under parameterization.schedule too",
            )
        if not on_grid(e.times, e.schedule):
            yield ConfigError(
                f"parameterization is PreviousMean and times is {type(e.times).__name__}, which leaves the grid",
                expected="parameterization: PreviousMean with times: GridTimes",
                fix="set times: GridTimes, or parameterization: Velocity",
            )


def _sampling_misfits(e: "Experiment") -> Iterator[ConfigError]:
    steps = e.schedule.num_steps
    if steps is not None and e.sampling.steps > steps:
        yield ConfigError(
            f"sampling.steps is {e.sampling.steps} and {steps_key(e.schedule)} is {steps}",
            expected=f"sampling.steps of at most {steps}",
            fix=f"set sampling.steps: {min(50, steps)}",
        )
    yield from _guidance_misfits(e)


def _watch_misfits(e: "Experiment") -> Iterator[ConfigError]:
    """A look for copies needs held-out examples to compare with, and samples that are not made after an example."""
    if not e.training.copies_every:
        return
    every = f"training.copies_every is {e.training.copies_every}"
    if e.data.held_out == 0:
        yield ConfigError(
            f"{every} and data.held_out is 0: there is nothing to compare likenesses with",
            expected="training.copies_every with data.held_out above 0",
            fix="set data.held_out: 0.1, or training.copies_every: 0",
        )
    if e.condition.image is not None:
        yield ConfigError(
            f"{every} and condition.image is {type(e.condition.image).__name__}: samples are to be like the examples",
            expected="training.copies_every: 0 with condition.image",
            fix="set training.copies_every: 0",
        )


def _guidance_misfits(e: "Experiment") -> Iterator[ConfigError]:
    """Guidance by a label or values that the network was never without, or never with; 1 is the network as it is."""
    weight = e.sampling.guidance
    if weight is None:
        return
    if not e.condition.droppable:
        yield ConfigError(
            f"sampling.guidance is {weight:g} and condition.labels and condition.values are false: "
            "the network is told nothing that guidance could lead to",
            expected="sampling.guidance: null with condition.labels: false, or a weight with condition.labels: true",
            fix="set sampling.guidance: null, or condition.labels: true",
        )
    elif e.condition.dropout == 0 and weight != 1:
        yield ConfigError(
            f"sampling.guidance is {weight:g} and condition.dropout is 0: "
            "the network is never trained without its label, which guidance leads away from",
            expected="sampling.guidance: null with condition.dropout: 0, or a weight with condition.dropout: 0.1",
            fix="set condition.dropout: 0.1, or sampling.guidance: null",
        )
