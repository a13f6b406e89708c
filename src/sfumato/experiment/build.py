"""From settings to objects: the one place where networks meet the mathematics.

`prepare_data` reads and measures the data, `build_denoiser` makes the model. What a model must know of its data once
the data are gone (shape, normalisation, class names) is a `DataRecord`, which every checkpoint carries.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from sfumato.core import Denoiser, derived_seed
from sfumato.data import Normalization, Packed, Split, data_std, load_data, measure, split
from sfumato.errors import CheckpointError
from sfumato.experiment.config import Experiment
from sfumato.experiment.objective_misfits import differentiates_input
from sfumato.training.engine import resolve

__all__ = ["DataRecord", "PreparedData", "build_denoiser", "build_network", "prepare_data", "resolved"]


@dataclass(frozen=True, slots=True)
class DataRecord:
    """What a model remembers of its data."""

    shape: tuple[int, ...]
    is_image: bool
    data_std: float
    normalization: Normalization
    class_names: tuple[str, ...] | None
    label_values: tuple[str | int, ...]
    fingerprint: str
    count: int
    held_out_count: int
    report: tuple[str, ...]

    def to_plain(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "shape": list(self.shape),
            "is_image": self.is_image,
            "data_std": self.data_std,
            "normalization": self.normalization.to_dict(),
            "class_names": None if self.class_names is None else list(self.class_names),
            "label_values": list(self.label_values),
            "fingerprint": self.fingerprint,
            "count": self.count,
            "held_out_count": self.held_out_count,
            "report": list(self.report),
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "DataRecord":
        """The inverse of `to_plain`. Raises CheckpointError for a record that is not one."""
        try:
            return cls(
                shape=tuple(plain["shape"]),
                is_image=plain["is_image"],
                data_std=plain["data_std"],
                normalization=Normalization.from_dict(plain["normalization"]),
                class_names=None if plain["class_names"] is None else tuple(plain["class_names"]),
                label_values=tuple(plain["label_values"]),
                fingerprint=plain["fingerprint"],
                count=plain["count"],
                held_out_count=plain["held_out_count"],
                report=tuple(plain["report"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the record of the data is damaged ({type(error).__name__}: {error})",
                expected="the `data` entry that training wrote",
                fix="use another checkpoint of the run",
            ) from None


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Data in memory, their split, and what a model remembers of them."""

    packed: Packed
    parts: Split
    record: DataRecord


def prepare_data(experiment: Experiment) -> PreparedData:
    """Read, split and measure the data of an experiment; statistics come from the training part alone."""
    packed = load_data(experiment.data, seed=experiment.seed)
    parts = split(packed, experiment.data.held_out, experiment.seed)
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
    )
    return PreparedData(packed, parts, record)


def resolved(experiment: Experiment, *, is_image: bool) -> Experiment:
    """The experiment without `auto` in its training."""
    compilable = not differentiates_input(experiment.objective)
    return replace(experiment, training=resolve(experiment.training, is_image=is_image, compilable=compilable))


def build_network(experiment: Experiment, shape: tuple[int, ...]) -> nn.Module:
    """The untrained network for examples of `shape`; twice the channels where the objective learns a variance."""
    return experiment.network.build(
        shape,
        steps=experiment.schedule.num_steps,
        time_span=experiment.time_input.span,
        out_channels=2 * shape[0] if experiment.objective.learns_variance else None,
    )


def build_denoiser(experiment: Experiment, *, shape: tuple[int, ...], data_std: float) -> Denoiser:
    """The untrained denoiser on the CPU; its weights depend on the experiment's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(experiment.seed, "weights"))
        network = build_network(experiment, shape)
    return Denoiser(
        network,
        experiment.schedule,
        experiment.parameterization,
        time_input=experiment.time_input,
        data_std=data_std,
        learn_variance=experiment.objective.learns_variance,
        allow_terminal_signal=experiment.allow_terminal_signal,
    )
