"""What a model must know of its data once the data are gone, and what of them it is told.

Real numbers that belong to examples are told as a' = (a - mean)/std, with mean and standard deviation over the training
part; one that never varies keeps its scale. Classes are told by their index. A `DataRecord` is plain JSON in every
checkpoint, and a record of an older version, which had no such numbers, reads as one without them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.condition import ConditionShape
from sfumato.data import Normalization, Packed
from sfumato.errors import CheckpointError, ConfigError
from sfumato.experiment.sections import ConditionConfig

__all__ = ["DataRecord", "ValueFacts", "class_counts", "value_facts"]


@dataclass(frozen=True, slots=True)
class ValueFacts:
    """Mean, standard deviation, least and largest of each of V real numbers over the training part, and their names."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    names: tuple[str, ...] | None = None

    def to_plain(self) -> dict[str, Any]:
        """As JSON data."""
        names = None if self.names is None else list(self.names)
        columns = {"mean": self.mean, "std": self.std, "low": self.low, "high": self.high}
        return {**{key: list(column) for key, column in columns.items()}, "names": names}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "ValueFacts":
        """The inverse of `to_plain`."""
        mean, std, low, high = (tuple(map(float, plain[key])) for key in ("mean", "std", "low", "high"))
        return cls(mean, std, low, high, None if plain["names"] is None else tuple(plain["names"]))


@dataclass(frozen=True, slots=True)
class DataRecord:
    """What a model remembers of its data.

    class_counts: training examples of each class; empty without labels, and in records of older versions.
    conditions: the real numbers that belong to examples; None for none.
    """

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
    class_counts: tuple[int, ...] = ()
    conditions: ValueFacts | None = None

    @property
    def num_classes(self) -> int:
        """K, classes that occur in the data; 0 without labels."""
        return len(self.label_values)

    @property
    def num_values(self) -> int:
        """V, real numbers that belong to each example; 0 for none."""
        return 0 if self.conditions is None else len(self.conditions.mean)

    @property
    def condition_names(self) -> tuple[str, ...] | None:
        """What the data call those numbers, where they name them."""
        return None if self.conditions is None else self.conditions.names

    def called(self, label: int) -> str:
        """What class `label` is called: its name, or the value that the data wrote."""
        return str(self.label_values[label]) if self.class_names is None else self.class_names[label]

    def condition_shape(self, told: ConditionConfig) -> ConditionShape:
        """What a network of these data is built for, told what the settings say."""
        return ConditionShape(
            num_classes=self.num_classes if told.labels else 0,
            num_values=self.num_values if told.values else 0,
            image_channels=0 if told.image is None else told.image.image_channels(self.shape[0]),
        )

    def conditions_to_model(self, raw: Tensor) -> Tensor:
        """Numbers (B, V) in the units of the data as the network is told them, on the device of `raw`: float32."""
        facts = self._facts()
        mean, std = (torch.tensor(part, dtype=torch.float64, device=raw.device) for part in (facts.mean, facts.std))
        return ((raw.to(torch.float64) - mean) / std).to(torch.float32)

    def conditions_to_data(self, values: Tensor) -> Tensor:
        """The inverse of `conditions_to_model`: what the network is told (B, V), in the units of the data; float64."""
        facts = self._facts()
        mean, std = (torch.tensor(part, dtype=torch.float64, device=values.device) for part in (facts.mean, facts.std))
        return values.to(torch.float64) * std + mean

    def _facts(self) -> ValueFacts:
        if self.conditions is None:
            raise ConfigError(
                "the data have no real numbers beside the examples",
                expected="an array `conditions` in the data file",
                fix="leave the values out",
            )
        return self.conditions

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
            "class_counts": list(self.class_counts),
            "conditions": None if self.conditions is None else self.conditions.to_plain(),
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "DataRecord":
        """The inverse of `to_plain`. Raises CheckpointError for a record that is not one."""
        try:
            conditions = plain.get("conditions")
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
                class_counts=tuple(plain.get("class_counts", ())),
                conditions=None if conditions is None else ValueFacts.from_plain(conditions),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the record of the data is damaged ({type(error).__name__}: {error})",
                expected="the `data` entry that training wrote",
                fix="use another checkpoint of the run",
            ) from None


def class_counts(packed: Packed, train: Tensor) -> tuple[int, ...]:
    """Training examples of each class; empty without labels."""
    if packed.labels is None:
        return ()
    return tuple(torch.bincount(packed.labels[train], minlength=packed.num_classes).tolist())


def value_facts(packed: Packed, train: Tensor) -> ValueFacts | None:
    """The facts of the real numbers of the training part, float64; None where there are none."""
    if packed.conditions is None:
        return None
    values = packed.conditions[train].double()
    mean, std = values.mean(0), values.std(0, correction=0)
    constant = std <= 1e-7 * mean.abs().clamp(min=1e-30)  # float32 cannot tell them apart
    std = torch.where(constant, torch.ones_like(std), std)
    low, high = values.amin(0).tolist(), values.amax(0).tolist()
    return ValueFacts(tuple(mean.tolist()), tuple(std.tolist()), tuple(low), tuple(high), packed.condition_names)
