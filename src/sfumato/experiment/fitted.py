"""What a sampler needs measured before it can run: the table of the optimal variance, from the data of the run.

The error of the guess is measured on training examples that lie evenly over the data, at noise levels equally far apart
in log-SNR. The table is kept in the run folder under the digest of the weights, in `optimal-variance.json`: as
everything there is made again when it is lost, one that cannot be read or written is no error.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sfumato.core import Denoise, Denoiser, NoiseSource, Optimal, Schedule, fit_optimal
from sfumato.data import Batches
from sfumato.errors import ConfigError, DataError, UsageError
from sfumato.experiment.build import DataRecord, PreparedData, prepare_data
from sfumato.experiment.config import Experiment, SamplingConfig
from sfumato.experiment.guiding import Guide
from sfumato.experiment.session import conditioner_of, normalised, weights_digest
from sfumato.samplers import Ancestral, PredictorCorrector, Sampler
from sfumato.training.storage import LocalStorage, replace_file

if TYPE_CHECKING:
    from sfumato.experiment.model import Model

__all__ = ["fitted", "levels", "measured"]

CACHE = "optimal-variance.json"
VALUES = 20_000  # squared errors per level: a relative standard error of about 1 %
FEWEST, MOST = 64, 4096  # examples
LEVELS = 32
SEED = 1 << 40  # far from the seeds that people sample with


def fitted(
    model: "Model", denoiser: Denoiser, guide: Guide, config: SamplingConfig, *, unlabelled: bool = False
) -> SamplingConfig:
    """The settings with every variance measured that needs it; the same object where none does.

    `guide` steers the denoiser as it samples. What is measured is its error on examples told as they are, or with
    `unlabelled` without label and values. Raises UsageError for an exported model, which holds no data, and DataError
    where the run's data are gone or have changed.
    """
    sampler = measured(config.sampler, lambda: table_of(model, denoiser, guide, unlabelled=unlabelled))
    return config if sampler is config.sampler else replace(config, sampler=sampler)


def measured(sampler: Sampler[Any], measure: Callable[[], Optimal]) -> Sampler[Any]:
    """The sampler with `measure()` in place of an optimal variance that has no table; itself where there is none."""
    if isinstance(sampler, PredictorCorrector):
        predictor = measured(sampler.predictor, measure)
        return sampler if predictor is sampler.predictor else replace(sampler, predictor=predictor)
    if isinstance(sampler, Ancestral) and isinstance(sampler.variance, Optimal) and not sampler.variance.is_fitted:
        return replace(sampler, variance=measure())
    return sampler


def table_of(model: "Model", denoiser: Denoiser, guide: Guide, *, unlabelled: bool) -> Optimal:
    """The table of these weights: from the run folder, or measured now and kept there."""
    if model.folder is None:
        raise UsageError(
            "the variance Optimal is measured on the data of the run, and an exported file holds none",
            expected="a run folder",
            fix="sample from the run, or take the variance Small or Large (--sampler.variance small)",
        )
    told = steering(model, guide, unlabelled=unlabelled)
    key = hashlib.sha256(f"{weights_digest(denoiser)}:{model.record.fingerprint}:{told}".encode()).hexdigest()
    path = model.folder / CACHE
    kept = stored_tables(path)
    if key in kept:
        with suppress(ConfigError, KeyError, TypeError, ValueError):
            found = Optimal(tuple(map(float, kept[key]["log_snr"])), tuple(map(float, kept[key]["mmse"])))
            if found.is_fitted:
                return found
    device = next(denoiser.network.parameters()).device
    table = measure(guide.steered(), data_of(model), device, experiment=model.experiment, unlabelled=unlabelled)
    kept[key] = {"log_snr": list(table.log_snr), "mmse": list(table.mmse)}
    with suppress(OSError):
        replace_file(path, [json.dumps(kept).encode()], LocalStorage(), durable=False)
    return table


def steering(model: "Model", guide: Guide, *, unlabelled: bool) -> str:
    """Everything besides weights and data that a table depends on, as text; "True" is a clipped denoiser alone."""
    config = guide.config
    parts = [config.guidance, config.guidance_interval, config.autoguidance, config.weaker, config.classifier_guidance]
    parts.append(config.dynamic_threshold)
    if not model.condition_shape and all(part is None for part in parts):
        return str(config.clip)
    return json.dumps([config.clip, unlabelled, *parts])


def stored_tables(path: Path) -> dict[str, Any]:
    """What the file holds; nothing where it is missing or damaged."""
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(path.read_text("utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def data_of(model: "Model") -> PreparedData:
    """The data that the model was trained on. Raises DataError where they are gone, or are others now."""
    fix = "bring the data back, or take the variance Small or Large (--sampler.variance small)"
    try:
        data = prepare_data(model.experiment)
    except DataError as error:
        raise DataError(
            f"the variance Optimal is measured on the data of the run: {error.what}", expected=error.expected, fix=fix
        ) from None
    if data.record.fingerprint != model.record.fingerprint:
        raise DataError(
            "the variance Optimal is measured on the data of the run, which have changed since it was trained",
            expected=f"data of fingerprint {model.record.fingerprint[:12]}, not {data.record.fingerprint[:12]}",
            fix=fix,
        )
    return data


def measure(
    guide: Denoise, data: PreparedData, device: torch.device, *, experiment: Experiment, unlabelled: bool = False
) -> Optimal:
    """`fit_optimal` on examples that lie evenly over the training part, as many as 20,000 values take."""
    train = data.parts.train
    count = min(len(train), max(FEWEST, min(MOST, VALUES // values_of(data.record))))
    chosen = train[torch.linspace(0, len(train) - 1, count, dtype=torch.float64).round().long()]
    packed = normalised(data) if experiment.condition.values else data.packed
    batches = Batches(packed, chosen, data.record.normalization, seed=0, batch_size=1, flip=False, device=device)
    batch = batches.take(chosen)
    cond = conditioner_of(experiment).plain(batch, "optimal variance")
    if unlabelled and cond is not None:
        cond = cond.unconditional()
    noise = NoiseSource.of(seed=SEED, count=count)
    return fit_optimal(guide, batch.x0, levels(guide.schedule), noise, batch_size=FEWEST, cond=cond)


def values_of(record: DataRecord) -> int:
    """How many values one example has."""
    return torch.Size(record.shape).numel()


def levels(schedule: Schedule) -> list[float]:
    """At most 32 times, equally far apart in log-SNR with both ends; those of a table on its grid, each once."""
    ends = schedule.log_snr(torch.tensor([1.0, schedule.t_min], dtype=torch.float64))
    if schedule.num_steps == 1:
        return [1.0]
    times = schedule.time(torch.linspace(float(ends[0]), float(ends[1]), LEVELS, dtype=torch.float64))
    if schedule.num_steps is not None:
        times = (times * schedule.num_steps).round().clamp(min=1).unique() / schedule.num_steps
    inner = [t for t in times.tolist() if schedule.t_min < t < 1]
    return sorted([schedule.t_min, *inner, 1.0], reverse=True)
