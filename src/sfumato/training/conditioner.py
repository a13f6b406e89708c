"""What the network is told of each example: its class, its numbers, a picture of it that has lost something.

    dropped_i = u_i < dropout      u_i uniform for (seed, "label-drop", step), over the global batch
    image_i   = degradation of x0_i, whose chance is uniform for (seed, "degradation", step), over the global batch

Both are drawn for the whole batch and then sliced, like times and noise, so that neither processes nor accumulated
parts change what is trained. Pictures are made of x0 as it is trained on, mirrored where it is mirrored.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.condition import Condition
from sfumato.core import batch_uniforms
from sfumato.data import Batch
from sfumato.guidance import Degradation

__all__ = ["Conditioner", "Examples"]


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """x0 (b, *) in model space and what the network is told of them, on the device; None where it is told nothing.

    indices int64 (b,): which examples of the packed set these are; on the CPU.
    """

    x0: Tensor
    cond: Condition | None
    indices: Tensor


@dataclass(frozen=True, slots=True)
class Conditioner:
    """Makes the condition of a batch. With nothing to tell, the condition is None.

    labels, values: whether classes and numbers are told; a batch must hold them then, the numbers already normalised.
    image: what is done to the picture that is told. dropout: share of examples whose class and numbers are left out.
    """

    labels: bool = False
    values: bool = False
    image: Degradation | None = None
    dropout: float = 0.0
    seed: int = 0

    @property
    def droppable(self) -> bool:
        """Whether there is something to leave out."""
        return self.labels or self.values

    def training(self, batch: Batch, step: int, *, total: int, part: slice) -> Condition | None:
        """The condition of one `part` of the global batch of `total` examples that `step` sees.

        `dropped` is there whenever something could be: the null embedding is then always a part of what is trained.
        """
        dropped = None
        if self.droppable:
            dropped = batch_uniforms((total,), self.seed, "label-drop", step)[part] < self.dropout
            dropped = dropped.to(batch.x0.device)
        uniforms = self._uniforms(total, "degradation", step)
        return self._condition(batch, None if uniforms is None else uniforms[part], dropped)

    def plain(self, batch: Batch, purpose: str) -> Condition | None:
        """The condition of any examples, nothing left out; what is random depends on (seed, purpose, place) alone."""
        return self._condition(batch, self._uniforms(len(batch.x0), purpose), None)

    def _uniforms(self, count: int, purpose: str, *index: int) -> Tensor | None:
        if self.image is None or self.image.num_uniforms == 0:
            return None
        return batch_uniforms((count, self.image.num_uniforms), self.seed, purpose, *index)

    def _condition(self, batch: Batch, uniforms: Tensor | None, dropped: Tensor | None) -> Condition | None:
        if not self.droppable and self.image is None:
            return None
        assert batch.labels is not None or not self.labels
        assert batch.conditions is not None or not self.values
        return Condition(
            labels=batch.labels if self.labels else None,
            values=batch.conditions.to(batch.x0.dtype) if self.values and batch.conditions is not None else None,
            image=None if self.image is None else self._picture(self.image, batch.x0, uniforms),
            dropped=dropped,
        )

    @staticmethod
    def _picture(image: Degradation, x0: Tensor, uniforms: Tensor | None) -> Tensor:
        seen = image.picture(x0, uniforms)
        return seen.contiguous(memory_format=torch.channels_last)
