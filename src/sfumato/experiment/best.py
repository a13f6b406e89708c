"""What decides which checkpoint of a run is the best: the held-out loss, or any metric of `sfumato evaluate`.

The held-out loss is measured anyway, in the same way every time. Another metric is measured by `evaluate` on
`evaluation.count` examples or samples with seed 0, by the averaged weights, so that the training alone moves it.
"""

from collections.abc import Callable
from typing import Any

from sfumato.core import Denoiser
from sfumato.errors import ConfigError, SfumatoError
from sfumato.experiment.build import PreparedData
from sfumato.experiment.comparability import LOSS, direction, is_reference
from sfumato.experiment.config import Experiment
from sfumato.experiment.model import Model
from sfumato.training.best import KeepBest
from sfumato.training.trainer import Hook

__all__ = ["keep_rule", "measuring_hook"]

ASKED = "loss"  # in training.keep_best
LEAST = 4  # samples that a distance can be taken of

Report = Callable[[str], None]


def keep_rule(experiment: Experiment, data: PreparedData) -> KeepBest | None:
    """What to keep by the settings; None for nothing. Raises ConfigError for what cannot be measured on these data."""
    name, every = experiment.training.keep_best, experiment.training.evaluate_every
    if name is None:
        return None
    if len(data.parts.held_out) < 2:
        raise ConfigError(
            f"training.keep_best is {name} and {len(data.parts.held_out)} examples are held out",
            expected="two held-out examples or more, on which checkpoints are compared",
            fix="set data.held_out: 0.1, or training.keep_best: null",
        )
    if name == ASKED:
        return KeepBest(LOSS, higher=False, every=every)
    _require_measurable(name, experiment, data)
    return KeepBest(name, higher=direction(name) == "higher", every=every)


def _require_measurable(name: str, experiment: Experiment, data: PreparedData) -> None:
    """Refuse what is no metric, means nothing for the data, or is neither better high nor better low."""
    from sfumato.experiment.evaluation.metrics import METRICS, require_meant
    from sfumato.experiment.evaluation.samples import require_modes

    model = Model(experiment, data.record, {}, "", 0)
    family, known = name.partition("[")[0], ", ".join(metric for metric in METRICS if direction(metric) is not None)
    try:
        require_meant(family, model)
        if family == "mode_coverage":
            require_modes(model)
    except SfumatoError as error:
        raise ConfigError(
            f"training.keep_best is {name}: {error.what}",
            expected=f"loss, or a metric that fits the data, of {known}",
            fix="set training.keep_best: loss",
        ) from error
    if direction(name) is None or is_reference(name):
        raise ConfigError(
            f"training.keep_best is {name}, of which neither more nor less is better",
            expected=f"loss, or one of {known}",
            fix="set training.keep_best: loss",
        )


def measuring_hook(
    experiment: Experiment, data: PreparedData, averaged: Callable[[], Denoiser], report: Report
) -> Hook | None:
    """What measures the metric that decides; None where the held-out loss does, or nothing."""
    name = experiment.training.keep_best
    if name is None or name == ASKED:
        return None

    def measure(done: int) -> dict[str, Any] | None:
        try:
            return _measured(name, experiment, data, averaged(), done)
        except SfumatoError as error:  # a measurement is not worth a run: weights this young may have no number
            report(f"{name} was not measured after step {done}: {error.what}")
            return None

    return Hook(experiment.training.evaluate_every, measure, name)


def _measured(
    name: str, experiment: Experiment, data: PreparedData, denoiser: Denoiser, done: int
) -> dict[str, Any] | None:
    """The figure of a metric and its standard error, for the log."""
    from sfumato.experiment.evaluation import evaluate
    from sfumato.experiment.session import weights_digest

    model = Model(experiment, data.record, {"ema": denoiser}, weights_digest(denoiser), done)
    count = max(LEAST, experiment.evaluation.count)
    # alone: of several processes that train together only the first measures, and the others would never answer
    found = evaluate(model, [name.partition("[")[0]], n=count, given=data, alone=True).metrics
    for key, estimate in found.items():
        if key == name or (key.startswith(f"{name}[") and not is_reference(key)):
            return {key: estimate.value, f"{key}_std_error": estimate.std_error}
    return None
