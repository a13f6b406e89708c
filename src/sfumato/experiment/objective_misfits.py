"""What an objective needs of the rest of an experiment; each misfit names both fields and a pair that fits.

Bounds are sums over the steps of a chain and learn the variance that sampling then uses, or integrals over continuous
time; score matching differentiates the network by its input; a trained schedule needs a loss whose mean does not depend
on it, and trained ends one that is the whole bound.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sfumato.core import (
    DiscretizedGaussian,
    GridTimes,
    LearnedLogSnr,
    LogNormalTimes,
    LossAwareTimes,
    Schedule,
    Shifted,
    Times,
    Trimmed,
    UniformTimes,
    Variance,
    ZeroTerminalSnr,
)
from sfumato.data import declared_shape
from sfumato.errors import ConfigError
from sfumato.nn import ResidualUNetConfig
from sfumato.objectives import (
    ContinuousBound,
    DenoisingLoss,
    EdmLogNormal,
    Elbo,
    ExactScoreMatching,
    Hybrid,
    Mse,
    Objective,
    SigmoidWeight,
    SlicedScoreMatching,
    SohlDicksteinBound,
    StepElbo,
    VariationalBound,
)
from sfumato.samplers import Ancestral, PredictorCorrector

if TYPE_CHECKING:
    from sfumato.experiment.config import Experiment
    from sfumato.experiment.sections import SamplingConfig

__all__ = ["differentiates_input", "objective_misfits", "on_grid", "variance_misfits"]

MOST_VALUES = {ExactScoreMatching: 128, SlicedScoreMatching: 16_384}  # what their losses refuse as well, later
OF_LOG_SNR = (Elbo, SigmoidWeight, EdmLogNormal)  # weights w(log_snr) |dlog_snr/dt|: their mean knows no clock


def objective_misfits(e: "Experiment") -> Iterator[ConfigError]:
    """Every misfit of the objective with schedule, times, data, network, training and sampling."""
    yield from _bound_misfits(e)
    yield from _weighting_misfits(e)
    yield from _score_misfits(e)
    yield from _learned_schedule_misfits(e)
    yield from variance_misfits(e.objective, e.sampling)


def on_grid(times: Times, schedule: Schedule) -> bool:
    """Whether the times are steps of the schedule's table."""
    return isinstance(times, GridTimes) or (isinstance(times, LossAwareTimes) and schedule.num_steps is not None)


def differentiates_input(objective: Objective) -> bool:
    """Whether the loss holds derivatives by x_t, so that training differentiates the network twice."""
    return isinstance(objective, ExactScoreMatching | SlicedScoreMatching)


def learned_variance(objective: Objective) -> Variance | None:
    """The variance that an objective trains; None for those that train none."""
    if isinstance(objective, VariationalBound | Hybrid | SohlDicksteinBound) and objective.learns_variance:
        return objective.variance
    return None


def _bound_misfits(e: "Experiment") -> Iterator[ConfigError]:
    bounds = ContinuousBound | VariationalBound | Hybrid
    if isinstance(e.objective, bounds) and isinstance(e.objective.decoder, DiscretizedGaussian):
        yield from _decoder_misfits(e)
    if isinstance(e.objective, ContinuousBound) and e.schedule.num_steps is not None:
        schedule = type(e.schedule).__name__
        yield ConfigError(
            f"objective is ContinuousBound and schedule is {schedule}, a chain of steps",
            expected="objective: ContinuousBound with schedule: LogSnrLinear and times: UniformTimes, or "
            f"objective: VariationalBound with schedule: {schedule}",
            fix="set objective: VariationalBound, or schedule: LogSnrLinear with times: UniformTimes",
        )
    if isinstance(e.objective, VariationalBound | Hybrid | SohlDicksteinBound):
        yield from _chain_misfits(e, e.objective)


def _chain_misfits(e: "Experiment", objective: VariationalBound | Hybrid | SohlDicksteinBound) -> Iterator[ConfigError]:
    """Bounds that are sums over the steps of a chain."""
    name, schedule, steps = type(objective).__name__, type(e.schedule).__name__, e.schedule.num_steps
    if steps is None:
        yield ConfigError(
            f"objective is {name} and schedule is {schedule}, which has no steps",
            expected=f"objective: {name} with schedule: Tabulated and times: GridTimes, or objective: ContinuousBound, "
            f"or objective: DenoisingLoss with objective.weighting: Elbo, with schedule: {schedule}",
            fix="set schedule: Tabulated with times: GridTimes, or objective: DenoisingLoss with "
            "objective.weighting: Elbo",
        )
        return
    if not on_grid(e.times, e.schedule):
        yield ConfigError(
            f"objective is {name} and times is {type(e.times).__name__}, which leaves the grid",
            expected=f"objective: {name} with times: GridTimes",
            fix=f"set times: GridTimes with times.steps: {steps}",
        )
    if objective.variance.chain_steps not in (None, steps):
        yield ConfigError(
            f"objective.variance.steps is {objective.variance.chain_steps} and schedule has {steps} steps",
            expected="the same number of steps in both",
            fix=f"set objective.variance.steps: {steps}",
        )
    if isinstance(objective, SohlDicksteinBound) and steps < 2:
        yield ConfigError(
            "objective is SohlDicksteinBound and schedule has one step, the one that is fixed",
            expected="objective: SohlDicksteinBound with two steps or more",
            fix="set schedule: Tabulated with schedule.steps: 100",
        )


def _decoder_misfits(e: "Experiment") -> Iterator[ConfigError]:
    """Levels from -1 to 1 are those of pictures in their range."""
    shape = declared_shape(e.data)
    if shape is not None and len(shape) != 3:
        yield ConfigError(
            f"objective.decoder is DiscretizedGaussian and data.source is {e.data.source}, whose points have no levels",
            expected="objective.decoder: GaussianDecoder with points, DiscretizedGaussian with 8-bit pictures",
            fix="set objective.decoder: GaussianDecoder",
        )
    elif e.data.normalize != "range":
        yield ConfigError(
            f"objective.decoder is DiscretizedGaussian and data.normalize is {e.data.normalize}, "
            "which moves the levels of 8-bit pictures",
            expected="objective.decoder: DiscretizedGaussian with data.normalize: range",
            fix="set data.normalize: range, or objective.decoder: GaussianDecoder",
        )


def _weighting_misfits(e: "Experiment") -> Iterator[ConfigError]:
    weighting = e.objective.weighting if isinstance(e.objective, DenoisingLoss | Hybrid) else None
    if isinstance(weighting, StepElbo) and e.schedule.num_steps is None:
        yield ConfigError(
            f"objective.weighting is StepElbo and schedule is {type(e.schedule).__name__}, which has no steps",
            expected="objective.weighting: StepElbo with schedule: Tabulated, or objective.weighting: Elbo",
            fix="set objective.weighting: Elbo",
        )
    if isinstance(weighting, StepElbo) and not on_grid(e.times, e.schedule):
        yield ConfigError(
            f"objective.weighting is StepElbo and times is {type(e.times).__name__}, which leaves the grid",
            expected="objective.weighting: StepElbo with times: GridTimes, or objective.weighting: Elbo",
            fix="set times: GridTimes with the schedule's steps",
        )
    densities = [e.times] if isinstance(e.times, LogNormalTimes) else []
    if isinstance(weighting, EdmLogNormal):
        densities.append(LogNormalTimes(weighting.mean, weighting.std))
    for density in densities:
        try:
            density.quantiles(e.schedule)
        except ConfigError as error:
            yield error


def _score_misfits(e: "Experiment") -> Iterator[ConfigError]:
    """Score matching by derivatives: one backward pass per value, through each example alone, and twice."""
    if not differentiates_input(e.objective):
        return
    name, shape = type(e.objective).__name__, declared_shape(e.data)
    most = MOST_VALUES[type(e.objective)]
    if shape is not None and math.prod(shape) > most:
        other = "SlicedScoreMatching or DenoisingScoreMatching" if most == 128 else "DenoisingScoreMatching"
        yield ConfigError(
            f"objective is {name} and data has {math.prod(shape):,} values in an example",
            expected=f"objective: {name} with at most {most:,} values, or objective: {other}",
            fix="set objective: DenoisingScoreMatching",
        )
    if isinstance(e.network, ResidualUNetConfig):
        yield ConfigError(
            f"objective is {name} and network is ResidualUNet, whose batch normalization joins the examples",
            expected=f"objective: {name} with network: FourierMlp, or objective: DenoisingScoreMatching with any",
            fix="set objective: DenoisingScoreMatching",
        )
    if e.training.compile == "on":
        yield ConfigError(
            f"objective is {name} and training.compile is on, which cannot be differentiated twice",
            expected=f"objective: {name} with training.compile: off",
            fix="set training.compile: off",
        )


def _learned_schedule_misfits(e: "Experiment") -> Iterator[ConfigError]:
    """A clock is trained on losses whose mean it does not change, at times that leave the density to it."""
    if isinstance(e.schedule, Shifted | Trimmed | ZeroTerminalSnr) and _holds_learned(e.schedule):
        yield ConfigError(
            f"schedule is {type(e.schedule).__name__} and its base is LearnedLogSnr, which it would not train",
            expected="schedule: LearnedLogSnr by itself, with the ends that are wanted",
            fix="set schedule: LearnedLogSnr, with objective.weighting: Elbo",
        )
    if isinstance(e.schedule, LearnedLogSnr):
        yield from _learning_misfits(e, e.schedule)


def _learning_misfits(e: "Experiment", schedule: LearnedLogSnr) -> Iterator[ConfigError]:
    """What the losses and the times must be for a schedule to learn from them, and for its ends."""
    weighting = e.objective.weighting if isinstance(e.objective, DenoisingLoss) else None
    listed = ", ".join(kind.__name__ for kind in OF_LOG_SNR)
    if schedule.learn_ends and not isinstance(e.objective, ContinuousBound):
        yield ConfigError(
            f"schedule.learn_ends is true and objective is {type(e.objective).__name__}, which does not know what the "
            "ends cost",
            expected="schedule.learn_ends: true with objective: ContinuousBound, the whole bound",
            fix="set objective: ContinuousBound, or schedule.learn_ends: false",
        )
    elif not isinstance(weighting, OF_LOG_SNR) and not isinstance(e.objective, ContinuousBound):
        what = "objective.weighting" if weighting is not None else "objective"
        named = type(e.objective if weighting is None else weighting).__name__
        yield ConfigError(
            f"{what} is {named} and schedule is LearnedLogSnr, which would learn to avoid the losses",
            expected="schedule: LearnedLogSnr with objective: ContinuousBound, or objective: DenoisingLoss and "
            f"objective.weighting: one of {listed}",
            fix="set objective.weighting: Elbo"
            if weighting is not None
            else "set objective: DenoisingLoss with objective.weighting: Elbo",
        )
    if isinstance(e.objective, DenoisingLoss) and not isinstance(e.objective.distance, Mse):
        yield ConfigError(
            f"objective.distance is {type(e.objective.distance).__name__} and schedule is LearnedLogSnr, which would "
            "learn to avoid the losses",
            expected="schedule: LearnedLogSnr with objective.distance: Mse",
            fix="set objective.distance: Mse",
        )
    if not isinstance(e.times, UniformTimes | GridTimes):  # steps are refused as steps
        yield ConfigError(
            f"times is {type(e.times).__name__} and schedule is LearnedLogSnr, which is a density of times itself",
            expected="schedule: LearnedLogSnr with times: UniformTimes",
            fix="set times: UniformTimes",
        )


def _holds_learned(schedule: Schedule) -> bool:
    base = schedule.base if isinstance(schedule, Shifted | Trimmed | ZeroTerminalSnr) else None
    return isinstance(schedule, LearnedLogSnr) or (base is not None and _holds_learned(base))


def variance_misfits(objective: Objective, sampling: "SamplingConfig") -> Iterator[ConfigError]:
    """A sampler's learned variance against the one that the objective trains, and the length of its steps.

    That of the predictor in a sampler that corrects another: nothing else would refuse it before it has sampled.
    """
    sampler, key = sampling.sampler, "sampling.sampler.variance"
    if isinstance(sampler, PredictorCorrector):
        sampler, key = sampler.predictor, "sampling.sampler.predictor.variance"
    variances = (
        [getattr(sampler, f.name) for f in dataclasses.fields(sampler)] if isinstance(sampler, Ancestral) else []
    )
    for variance in (found for found in variances if isinstance(found, Variance) and found.learned):
        trained, asked = learned_variance(objective), type(variance).__name__
        if trained is None:
            yield ConfigError(
                f"{key} is {asked} and objective is {type(objective).__name__}, which trains none",
                expected=f"{key}: Small, or objective: Hybrid with objective.variance: {asked}",
                fix=f"set {key}: Small",
            )
        elif trained != variance:
            yield ConfigError(
                f"{key} is {variance!r} and objective.variance is {trained!r}",
                expected="the same variance in both: a network says one thing",
                fix=f"set {key}: {type(trained).__name__}"
                + (f" with its steps: {trained.chain_steps}" if trained.chain_steps is not None else ""),
            )
        elif variance.chain_steps not in (None, sampling.steps):
            yield ConfigError(
                f"{key} is {asked}, of single steps of a chain of {variance.chain_steps}, and "
                f"sampling.steps is {sampling.steps}",
                expected="as many steps as the chain has, or a model trained with the variance LearnedRange",
                fix=f"set sampling.steps: {variance.chain_steps}",
            )
