"""What a denoiser is told besides x_t and the time: a class, real numbers, a picture.

    D(x_t, t, c),   c = (label k, values a ∈ R^V, image y (C', *space)), any of them, or none

A `ConditionShape` says which of these a network is built for, a `Condition` holds them for a batch. An example that is
`dropped` has neither label nor values: the network sees its null embeddings, so one network learns D(x_t, t, c) and
D(x_t, t) together, which classifier-free guidance needs (Ho & Salimans 2022). The image is never dropped: it is a part
of the input. This module is a leaf, because networks and the mathematics both speak of conditions and never meet.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfumato.errors import ConfigError

__all__ = ["NO_CONDITION", "Condition", "ConditionShape"]


@dataclass(frozen=True, slots=True)
class ConditionShape:
    """Which conditions a network is built for; nothing by default.

    num_classes: K, labels are 0 … K-1; 0 for no labels.
    num_values: V real numbers per example, normalised; 0 for none.
    image_channels: channels C' of a picture as high and wide as x_t, joined to it; 0 for none.
    """

    num_classes: int = 0
    num_values: int = 0
    image_channels: int = 0

    def __bool__(self) -> bool:
        return bool(self.num_classes or self.num_values or self.image_channels)

    @property
    def droppable(self) -> bool:
        """Whether there is something to drop: a label or values."""
        return bool(self.num_classes or self.num_values)


NO_CONDITION = ConditionShape()


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """The conditions of a batch of B examples, on the device of x_t.

    labels: int64 (B,) in 0 … K-1. values: float (B, V), normalised. image: float (B, C', *space), in the units of x0.
    dropped: bool (B,), which examples are to be treated as if they had neither label nor values; None for none of them.
    """

    labels: Tensor | None = None
    values: Tensor | None = None
    image: Tensor | None = None
    dropped: Tensor | None = None

    def __post_init__(self) -> None:
        lengths = {len(part) for part in self._parts() if part is not None}
        if len(lengths) > 1:
            raise ConfigError(
                f"the parts of a condition have {sorted(lengths)} examples",
                expected="labels, values, image and dropped of one batch",
                fix="give one label (one row of values, one picture) for each example",
            )

    def __len__(self) -> int:
        return next((len(part) for part in self._parts() if part is not None), 0)

    def __getitem__(self, index: slice | Tensor) -> "Condition":
        """The conditions of some of the examples."""
        return Condition(*(None if part is None else part[index] for part in self._parts()))

    def repeated(self, times: int) -> "Condition":
        """The whole batch `times` times, one after another."""
        return Condition(*(None if part is None else torch.cat([part] * times) for part in self._parts()))

    def to(self, device: torch.device | str) -> "Condition":
        """The same on another device."""
        return Condition(*(None if part is None else part.to(device) for part in self._parts()))

    def unconditional(self) -> "Condition":
        """The same with every example dropped; the image, a part of the input, stays."""
        some = next((part for part in self._parts() if part is not None), None)
        if some is None:
            return self
        return replace(self, dropped=torch.ones(len(some), dtype=torch.bool, device=some.device))

    def _parts(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        return self.labels, self.values, self.image, self.dropped
