"""How like samples are to the examples that a model was trained on: the spaces to compare in, and both sides of it.

Held-out examples that are trained on too, value for value, are left out: they would hide copies. Where training
mirrored its pictures, a sample is compared as it is and mirrored, on both sides. `metrics.memorisation` says what
follows from the distances.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sfumato.data import Normalization, Packed, Split
from sfumato.metrics.memorisation import Closeness, References, closeness

__all__ = ["Space", "Values", "alternately", "beside", "unshared"]


class Space(Protocol):
    """Where distances are measured: its name, what tells it from others of that name, and features there."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    def __call__(self, raw: Tensor) -> Tensor:
        """Features (n, d) of samples as the data hold examples: uint8 (n, H, W, C), or float32 (n, *)."""
        ...

    def of_examples(self, values: Tensor, places: Tensor) -> References:
        """Features of the examples `places` (m,) among `values`, which may be computed as they are asked for."""
        ...


@dataclass(frozen=True, slots=True)
class Values:
    """The values themselves: 8-bit levels of pictures; other data as the model has them, so that all count alike."""

    normalization: Normalization

    @property
    def name(self) -> str:
        return "pixels" if self.normalization.is_image else "values"

    @property
    def digest(self) -> str:
        return ""

    def __call__(self, raw: Tensor) -> Tensor:
        plain = raw if self.normalization.is_image else self.normalization.to_model(raw)
        return plain.flatten(1).float()

    def of_examples(self, values: Tensor, places: Tensor) -> References:
        return _Converted(values, places, self)


@dataclass(frozen=True, slots=True, eq=False)
class _Converted:
    """Some examples of the data in a space, converted in the pieces that are asked for."""

    values: Tensor
    indices: Tensor
    space: Values

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, places: Tensor, /) -> Tensor:
        return self.space(self.values[self.indices[places]])


def beside(raw: Tensor, values: Tensor, sides: Split, space: Space, *, mirrored: bool) -> Closeness:
    """How near samples, as the data hold them, lie to both sides of the examples `values` (N, *)."""
    forms = [space(raw), *([space(raw.flip(2))] if mirrored else [])]
    return closeness(forms, *(space.of_examples(values, places) for places in (sides.train, sides.held_out)))


def unshared(packed: Packed, parts: Split) -> Tensor:
    """The held-out examples that are not, value for value, training examples too: indices, in their order."""

    def digest(index: int) -> bytes:
        return hashlib.blake2b(packed.values[index].contiguous().numpy().tobytes(), digest_size=16).digest()

    trained = {digest(index) for index in parts.train.tolist()}
    fresh = [index for index in parts.held_out.tolist() if digest(index) not in trained]
    return torch.tensor(fresh, dtype=torch.int64)


def alternately(parts: Split, count: int) -> Tensor:
    """A training example, a held-out one, a training one …, each side evenly taken: `count` indices.

    What samples are told, so that what they are told favours neither side.
    """
    half = -(-count // 2)
    sides = [side[torch.arange(half) * len(side) // half] for side in (parts.train, parts.held_out)]
    return torch.stack(sides, 1).flatten()[:count]
