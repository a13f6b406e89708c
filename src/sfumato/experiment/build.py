"""From settings to objects: the one place where networks meet the mathematics.

`prepare_data` reads and measures the data, `build_denoiser` makes the model. What a model must know of its data once
the data are gone (shape, normalisation, class names) is a `DataRecord`, which every checkpoint carries.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn

from sfumato.condition import NO_CONDITION, ConditionShape
from sfumato.core import Denoiser, derived_seed
from sfumato.data import Packed, Split, data_std, load_data, measure, split
from sfumato.experiment.config import Experiment
from sfumato.experiment.data_record import DataRecord, class_counts, value_facts
from sfumato.experiment.objective_misfits import differentiates_input
from sfumato.experiment.told import require_told
from sfumato.nn.classifier import NoisyClassifierConfig
from sfumato.training.engine import resolve

__all__ = [
    "DataRecord",
    "PreparedData",
    "build_classifier",
    "build_denoiser",
    "build_network",
    "prepare_data",
    "resolved",
]


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Data in memory, their split, and what a model remembers of them."""

    packed: Packed
    parts: Split
    record: DataRecord


def prepare_data(experiment: Experiment) -> PreparedData:
    """Read, split and measure the data of an experiment; statistics come from the training part alone.

    Raises DataError where the data lack what the network is to be told, ConfigError where the settings do not fit them.
    """
    packed = load_data(experiment.data, seed=experiment.seed)
    parts = split(packed, experiment.data.held_out, experiment.seed)
    require_told(experiment, packed, parts)
    normalization = measure(packed, parts, experiment.data)
    record = DataRecord(
        shape=packed.shape,
        is_image=packed.is_image,
        data_std=data_std(packed, normalization, parts.train),
        normalization=normalization,
        class_names=packed.class_names,
        label_values=packed.label_values,
        fingerprint=packed.fingerprint,
        count=len(packed),
        held_out_count=len(parts.held_out),
        report=packed.report,
        class_counts=class_counts(packed, parts.train),
        conditions=value_facts(packed, parts.train),
    )
    return PreparedData(packed, parts, record)


def resolved(experiment: Experiment, *, shape: tuple[int, ...], is_image: bool) -> Experiment:
    """The experiment without `auto` in its training, and with every size of its network decided for this shape.

    It never fetches data again by itself: a run that is evaluated later opens no connection that nobody asked for.
    """
    compilable = not differentiates_input(experiment.objective)
    return replace(
        experiment,
        data=replace(experiment.data, download=False),
        network=experiment.network.fitted(shape),
        training=resolve(experiment.training, is_image=is_image, compilable=compilable),
    )


def build_network(
    experiment: Experiment, shape: tuple[int, ...], condition: ConditionShape = NO_CONDITION
) -> nn.Module:
    """The untrained network for examples of `shape`, told `condition`.

    It has twice the channels where the objective learns a variance.
    """
    return experiment.network.build(
        shape,
        steps=experiment.schedule.num_steps,
        time_span=experiment.time_input.span,
        out_channels=2 * shape[0] if experiment.objective.learns_variance else None,
        condition=condition,
    )


def build_denoiser(
    experiment: Experiment, *, shape: tuple[int, ...], data_std: float, condition: ConditionShape = NO_CONDITION
) -> Denoiser:
    """The untrained denoiser on the CPU; its weights depend on the experiment's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(experiment.seed, "weights"))
        network = build_network(experiment, shape, condition)
    return Denoiser(
        network,
        experiment.schedule,
        experiment.parameterization,
        time_input=experiment.time_input,
        data_std=data_std,
        learn_variance=experiment.objective.learns_variance,
        allow_terminal_signal=experiment.allow_terminal_signal,
    )


def build_classifier(
    experiment: Experiment, config: NoisyClassifierConfig, *, shape: tuple[int, ...], num_classes: int
) -> nn.Module:
    """The untrained classifier of noisy data on the CPU; its weights depend on the experiment's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(experiment.seed, "classifier weights"))
        return config.build(shape, num_classes=num_classes, time_span=experiment.time_input.span)
