"""The examination: an experiment and its data looked over, and two examples learnt, before anything is trained.

Nothing is written. What training would refuse for the settings alone is refused here by the same error; what it would
refuse once it knows the data becomes a remark, and the rest is looked at all the same.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from sfumato.errors import ConfigError, ResourceError, UsageError
from sfumato.experiment.build import PreparedData, prepare_data, resolved
from sfumato.experiment.catalog import recipe_names
from sfumato.experiment.config import Experiment, Overrides, load_experiment
from sfumato.experiment.doctor.learning import OWN_STEPS, PATIENCE, RATE, Learning, overfit
from sfumato.experiment.doctor.rates import RateCurve, find_rate
from sfumato.experiment.doctor.remarks import Remark, worst_first
from sfumato.experiment.doctor.settings import of_settings
from sfumato.experiment.doctor.values import Channel, channels_of, of_reach, of_values
from sfumato.experiment.doctor.verdicts import of_layers, of_learning, of_own_rate, of_rate
from sfumato.experiment.forecast import count_flops
from sfumato.experiment.kinds import keys_of
from sfumato.experiment.load import read_run_config
from sfumato.experiment.memory import require_memory
from sfumato.experiment.reach import Reach, reach
from sfumato.experiment.reporting import Silent
from sfumato.experiment.session import Session
from sfumato.experiment.wording import as_flags
from sfumato.nn import NetworkConfig
from sfumato.objectives import DenoisingLoss
from sfumato.training.engine import threads

__all__ = ["Diagnosis", "chosen", "doctor"]

MOST_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, eq=False)
class Diagnosis:
    """What the doctor found.

    experiment: with every `auto` decided. channels: the values in model space. fit: the data against the schedule.
    learning: two examples learnt by heart; None where memory forbids it. rate: None where it was not asked for.
    """

    experiment: Experiment
    remarks: tuple[Remark, ...]
    channels: tuple[Channel, ...]
    fit: Reach
    learning: Learning | None
    rate: RateCurve | None
    seconds: float

    @property
    def broken(self) -> tuple[Remark, ...]:
        """What must be mended before training."""
        return tuple(remark for remark in self.remarks if remark.level == "broken")

    @property
    def warnings(self) -> tuple[Remark, ...]:
        """What had better be mended."""
        return tuple(remark for remark in self.remarks if remark.level == "warning")

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "name": self.experiment.name,
            "healthy": not self.broken,
            "findings": [remark.document() for remark in self.remarks],
            "channels": [channel.document() for channel in self.channels],
            "schedule": self.fit.document(),
            "learning": None if self.learning is None else self.learning.document(),
            "rate": None if self.rate is None else self.rate.document(),
            "seconds": self.seconds,
        }


def chosen(what: str | Path | Experiment, overrides: Overrides | None, runs: Path) -> Experiment:
    """The experiment of a recipe, a YAML file, a run (its folder, or its name under `runs`) or another experiment."""
    if isinstance(what, Experiment) or str(what).lower() in recipe_names():
        return load_experiment(what, overrides)
    for folder in (Path(what), runs / what):
        if (folder / "config.yaml").is_file():
            return load_experiment(read_run_config(folder), overrides)
    try:
        return load_experiment(what, overrides)
    except ConfigError as error:
        if not error.what.startswith("there is no recipe"):
            raise
        expected = f"{error.expected}, or a run: its folder, or its name under {runs}"
        raise ConfigError(f"there is no recipe, file or run {str(what)!r}", expected=expected, fix=error.fix) from None


def doctor(
    recipe: str | Path | Experiment,
    overrides: Overrides | None = None,
    *,
    runs: str | Path = "runs",
    lr: bool = False,
    seconds: float = PATIENCE,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Look an experiment over; with `lr` the learning rate, too. Writes nothing.

    runs: the folder in which a run's name is looked up. seconds: how long two examples may be learnt. progress: hears
    of the steps of the learning-rate test. Raises ConfigError for settings that do not fit, DataError for data that
    cannot be read.
    """
    if not 0 < seconds <= MOST_SECONDS:
        raise UsageError(f"seconds is {seconds:g}", expected="above 0, at most 3600", fix="--seconds 20")
    began = time.perf_counter()
    experiment = chosen(recipe, overrides, Path(runs))
    with threads(experiment.training.threads):
        data = prepare_data(experiment)
        experiment = resolved(experiment, shape=data.record.shape, is_image=data.record.is_image)
        normalization, train = data.record.normalization, data.parts.train
        channels = channels_of(data.packed, normalization, train)
        fit = reach(experiment.schedule, data.packed, normalization, train)
        remarks = [*of_values(channels, normalization), *of_reach(fit, experiment), *of_settings(experiment, data)]
        refusal = _of_memory(experiment, data)
        remarks += refusal
        learning, curve = None, None
        if not refusal:
            tried = _tried(experiment, any((r.check, r.level) == ("schedule", "broken") for r in remarks))
            learning, found = _of_two_examples(tried, data, seconds)
            remarks += found
        if lr and not refusal:
            session = _session(tried, data)
            curve = find_rate(session, flops=count_flops(session), progress=progress)
            remarks += of_rate(curve, experiment.training)
    spent = time.perf_counter() - began
    return Diagnosis(experiment, worst_first(_in_flags(remarks)), channels, fit, learning, curve, spent)


def _of_two_examples(experiment: Experiment, data: PreparedData, seconds: float) -> tuple[Learning, list[Remark]]:
    """Two examples learnt, at the rate of the settings too where that is higher than the doctor's."""
    floor = isinstance(experiment.objective, DenoisingLoss)
    learning = overfit(_session(experiment, data), floor=floor, patience=seconds)
    remarks = [*of_learning(learning), *of_layers(learning)]
    rate = experiment.training.learning_rate
    if rate > RATE and learning.finite:
        own = overfit(_session(experiment, data), floor=floor, rate=rate, most=OWN_STEPS, patience=seconds)
        remarks += of_own_rate(own)
    return learning, remarks


def _undropped(network: NetworkConfig) -> NetworkConfig:
    """The network without dropout, where it has any."""
    settings: Any = network  # a frozen dataclass, as every configuration
    has_dropout = any(field.name == "dropout" for field in fields(settings))
    return replace(settings, dropout=0.0) if has_dropout else network


def _in_flags(remarks: list[Remark]) -> Iterator[Remark]:
    """Remedies as flags, also those that refusals of training wrote as settings."""
    keys = keys_of(Experiment)
    for remark in remarks:
        yield replace(remark, fix=as_flags(remark.fix, keys))


def _of_memory(experiment: Experiment, data: PreparedData) -> list[Remark]:
    """What training would say of this machine's memory."""
    try:
        require_memory(experiment, data.record.shape, data.record.condition_shape(experiment.condition))
    except ResourceError as error:
        return [Remark("memory", "broken", error.what, error.fix)]
    return []


def _tried(experiment: Experiment, refused: bool) -> Experiment:
    """What is tried: nothing dropped out, nothing compiled, nothing kept, no further averages.

    A schedule that is refused because it does not end in noise is tried all the same: the remark on it stands already.
    """
    training = replace(experiment.training, compile="off", power_ema=(), keep_best=None, copies_every=0)
    allowed = experiment.allow_terminal_signal or refused
    network = _undropped(experiment.network)
    return replace(experiment, training=training, network=network, allow_terminal_signal=allowed)


def _session(experiment: Experiment, data: PreparedData) -> Session:
    """A fresh session to be spoilt."""
    return Session(experiment, data, folder=Path("doctor"), reporter=Silent())
