"""From settings to objects: the one place where networks meet the mathematics.

`prepare_data` reads and measures the data, `build_denoiser` makes the model. What a model must know of its data once
the data are gone (shape, normalisation, class names) is a `DataRecord`, which every checkpoint carries.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

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
    "drawn_by_name",
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
    """The untrained denoiser on the CPU; its weights depend on the experiment's seed alone.

    Drawn one after another, or, with `by_name`, each by its own name: then two networks begin with the same weights
    wherever names, shapes and laws are the same.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(experiment.seed, "weights"))
        if experiment.training.initial_weights == "by_name":
            network = drawn_by_name(lambda: build_network(experiment, shape, condition), experiment.seed)
        else:
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


class _Draws(TorchDispatchMode):
    """Sees every draw of random numbers in here: seeds the k-th by the k-th of `seeds`, and keeps what it wrote to."""

    def __init__(self, seeds: Sequence[int] = ()) -> None:
        super().__init__()
        self.seeds, self.written = seeds, list[Tensor]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        draws = torch.Tag.nondeterministic_seeded in func.tags
        if draws and self.seeds:
            torch.default_generator.manual_seed(self.seeds[len(self.written)])
        result = func(*args, **(kwargs or {}))
        if draws:
            self.written.append(result)  # in place or not, such operations give one tensor
        return result


def drawn_by_name(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """What `make` makes, every draw seeded by (seed, name of the tensor, how often that was drawn before).

    It is made twice: once to learn which draw is whose. Draws that end in no tensor of the module by themselves are
    named by their shape.
    """
    with _Draws() as first:
        made = make()
    tensors = [*made.named_parameters(), *made.named_buffers()]
    names = {tensor.untyped_storage().data_ptr(): name for name, tensor in tensors if tensor.numel()}
    count: Counter[str] = Counter()
    seeds = []
    for written in first.written:  # kept until here, so that no address was used twice
        name = names.get(written.untyped_storage().data_ptr(), f"of shape {tuple(written.shape)}")
        seeds.append(derived_seed(seed, f"weights {name}", count[name]))
        count[name] += 1
    with _Draws(seeds):
        return make()


def build_classifier(
    experiment: Experiment, config: NoisyClassifierConfig, *, shape: tuple[int, ...], num_classes: int
) -> nn.Module:
    """The untrained classifier of noisy data on the CPU; its weights depend on the experiment's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(experiment.seed, "classifier weights"))
        return config.build(shape, num_classes=num_classes, time_span=experiment.time_input.span)
