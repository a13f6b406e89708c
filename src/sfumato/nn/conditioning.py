"""From a condition to what a network computes with: rows for labels, a small perceptron for values, joined planes.

    class      row k of a (K+1) × width table; row K is the null row, learned from the examples that were dropped
    values     W_2 silu(W_1 a + b_1) + b_2, or a learned null row for an example that was dropped
    image      joined to x_t along the channels

A network adds the embeddings of class and values to that of the time. Row K for "no class" is the convention of DiT and
of diffusers' `num_class_embeds` = K + 1. A part of a condition that the network has no input for is refused, never
ignored: whoever asked for it would take what comes out for an answer.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from sfumato.condition import Condition, ConditionShape
from sfumato.errors import ConfigError

__all__ = ["ClassEmbedding", "ConditionEmbedding", "ValueEmbedding", "joined", "require_understood"]


class ClassEmbedding(nn.Module):
    """A row per class and one for no class: `weight` (K+1, width)."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.weight = nn.Parameter(torch.empty(num_classes + 1, width))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, cond: Condition | None, batch: int) -> Tensor:
        """The rows of a batch, (B, width); without a condition, or without labels in it, the null row."""
        null = torch.full((batch,), self.num_classes, dtype=torch.int64, device=self.weight.device)
        if cond is None or cond.labels is None:
            return functional.embedding(null, self.weight)
        rows = cond.labels if cond.dropped is None else torch.where(cond.dropped, null, cond.labels)
        return functional.embedding(rows, self.weight)


class ValueEmbedding(nn.Module):
    """A perceptron of one hidden layer for V values, and a row `null` (width,) for none."""

    def __init__(self, num_values: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(num_values, width)
        self.linear_2 = nn.Linear(width, width)
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, cond: Condition | None, batch: int) -> Tensor:
        """(B, width); without a condition, or without values in it, the null row.

        The values of a dropped example may be anything, NaN too.
        """
        if cond is None or cond.values is None:
            return self.null.expand(batch, -1)
        values = cond.values.to(self.null.dtype)
        if cond.dropped is None:
            return self._embedded(values)
        dropped = cond.dropped[:, None]
        # filled before, not only replaced after: the gradient of a NaN is NaN even where its value is thrown away
        embedded = self._embedded(values.masked_fill(dropped, 0))
        return torch.where(dropped, self.null.to(embedded.dtype), embedded)

    def _embedded(self, values: Tensor) -> Tensor:
        """W_2 silu(W_1 a + b_1) + b_2."""
        return self.linear_2(functional.silu(self.linear_1(values)))


class ConditionEmbedding(nn.Module):
    """The sum of the embeddings of class and values, whichever the shape asks for; (B, width), to be added to others.

    It has no parameters where the shape asks for neither, and then gives None.
    """

    def __init__(self, condition: ConditionShape, width: int) -> None:
        super().__init__()
        self.class_embedding = ClassEmbedding(condition.num_classes, width) if condition.num_classes else None
        self.value_embedding = ValueEmbedding(condition.num_values, width) if condition.num_values else None

    def forward(self, cond: Condition | None, batch: int) -> Tensor | None:
        """The embedding of a batch, or None."""
        found = [part(cond, batch) for part in (self.class_embedding, self.value_embedding) if part is not None]
        return sum(found[1:], found[0]) if found else None


def joined(x: Tensor, cond: Condition | None, image_channels: int) -> Tensor:
    """x (B, C, *space) with the condition's image behind its channels, (B, C + C', *space).

    Raises ConfigError when the network was built for an image and none is there, or it has another shape.
    """
    if not image_channels:
        return x
    image = None if cond is None else cond.image
    wanted = (len(x), image_channels, *x.shape[2:])
    if image is None or tuple(image.shape) != wanted:
        raise ConfigError(
            "the network was given " + ("no picture to go by" if image is None else f"a picture {tuple(image.shape)}"),
            expected=f"a condition whose image has the shape {wanted}",
            fix="give the picture that the model was trained to go by",
        )
    return torch.cat([x, image.to(x.dtype)], dim=1)


def require_understood(network: nn.Module, cond: Condition | None, takes: ConditionShape, batch: int) -> None:
    """Raise ConfigError when a batch is told what the network has no input for, or in other shapes than it has.

    Looks at shapes only, so that nothing waits for a GPU and compilers see no branch; labels are held to be below K
    where they are made. The image of a network that has one is checked by `joined`.
    """
    if cond is None:
        return
    wanted = {
        "labels": (cond.labels, (batch,), takes.num_classes > 0),
        "values": (cond.values, (batch, takes.num_values), takes.num_values > 0),
        "image": (cond.image, None, takes.image_channels > 0),
        "dropped": (cond.dropped, (batch,), True),
    }
    for name, (given, shape, known) in wanted.items():
        if given is None:
            continue
        if not known:
            raise ConfigError(
                f"{type(network).__name__} was given a condition ({name}) but has no input for one",
                expected=f"no {name} (this network was built without)",
                fix=f"leave out the {name}, or train a network that is told them",
            )
        if shape is not None and tuple(given.shape) != shape:
            raise ConfigError(
                f"{type(network).__name__} was given {name} of shape {tuple(given.shape)} for {batch} examples",
                expected=f"{name} of shape {shape}",
                fix="give one of them for each example of the batch",
            )
