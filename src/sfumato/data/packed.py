"""A data set in memory: one tensor of values, one of labels, and the SHA-256 that says which data these are.

Images are uint8 with the channels last, (N, H, W, C): a gather followed by `permute` then gives a channels-first batch
in PyTorch's channels-last memory format without a copy. Everything else is float32, (N, *shape).
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.data.seeding import generator
from sfumato.errors import ConfigError, DataError

__all__ = [
    "Description",
    "Packed",
    "Split",
    "check_pad",
    "describe",
    "evenly",
    "evenly_from",
    "fingerprint_of",
    "pack",
    "shared_examples",
    "split",
]


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Examples ready for batching.

    values: uint8 (N, H, W, C) for images, float32 (N, *shape) for everything else.
    labels: int64 (N,) in 0..K-1, or None. Class k was written `label_values[k]` in the source and is called
        `class_names[k]` when the source names its classes; only classes that occur are counted.
    fingerprint: SHA-256 over values, labels and conditions; equal for equal content wherever it came from.
    report: sentences for the run's record: conversions, upscaled pictures, files that were left out.
    pad: (H, W) that batches are padded to, or None.
    test_count: how many examples at the end are the source's own test part, never trained on.
    conditions: float32 (N, V), V real numbers that belong to each example, as the source has them; or None.
    condition_names: what the source calls them, V names; or None.
    absent_classes: classes that the source names and has no example of.
    names: what the source calls each example, such as the path of its file; empty where it has no names for them.
    """

    values: Tensor
    labels: Tensor | None
    label_values: tuple[str | int, ...]
    class_names: tuple[str, ...] | None
    fingerprint: str
    report: tuple[str, ...] = ()
    pad: tuple[int, int] | None = None
    test_count: int = 0
    conditions: Tensor | None = None
    condition_names: tuple[str, ...] | None = None
    absent_classes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.values.shape[0])

    @property
    def is_image(self) -> bool:
        """Whether the examples are 8-bit pictures."""
        return self.values.dtype == torch.uint8

    @property
    def num_classes(self) -> int:
        """Number of classes that occur; 0 without labels."""
        return len(self.label_values)

    @property
    def num_conditions(self) -> int:
        """V, real numbers that belong to each example; 0 for none."""
        return 0 if self.conditions is None else int(self.conditions.shape[1])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example as a network sees it: channels first, after padding."""
        if not self.is_image:
            return tuple(self.values.shape[1:])
        _, height, width, channels = self.values.shape
        height, width = (height, width) if self.pad is None else self.pad
        return (channels, height, width)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Indices into a `Packed`, ascending, disjoint, together all examples that are used."""

    train: Tensor
    held_out: Tensor


@dataclass(frozen=True, slots=True)
class Description:
    """A data set in numbers, as `--dry-run` and `data inspect` print it. `bytes` counts the values in memory."""

    count: int
    shape: tuple[int, ...]
    is_image: bool
    num_classes: int
    class_names: tuple[str, ...] | None
    smallest_class: int | None
    largest_class: int | None
    test_count: int
    bytes: int
    fingerprint: str
    report: tuple[str, ...]


def fingerprint_of(values: Tensor, labels: Tensor | None, conditions: Tensor | None = None) -> str:
    """SHA-256 (hex) over type, shape and bytes of the values, of the labels and of the conditions."""
    digest = hashlib.sha256()
    for name, tensor in (("values", values), ("labels", labels), ("conditions", conditions)):
        if tensor is None:
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def evenly(count: int, limit: int | None) -> list[int]:
    """Which of `count` ordered examples to use: all, or `limit` of them evenly spaced, so that all classes are met."""
    return list(range(count)) if limit is None or limit >= count else [i * count // limit for i in range(limit)]


def evenly_from(indices: Tensor, most: int) -> Tensor:
    """At most `most` of the indices, evenly spaced over them."""
    return indices if most >= len(indices) else indices[torch.tensor(evenly(len(indices), most))]


def pack(
    values: Tensor,
    *,
    labels: Tensor | None = None,
    label_values: Sequence[str | int] = (),
    class_names: Sequence[str] | None = None,
    report: Sequence[str] = (),
    pad: tuple[int, int] | None = None,
    test_count: int = 0,
    conditions: Tensor | None = None,
    condition_names: Sequence[str] | None = None,
    absent_classes: Sequence[str] = (),
    names: Sequence[str] = (),
) -> Packed:
    """A `Packed` of checked tensors with its fingerprint. Raises `DataError` on an empty set, `ConfigError` on a
    padding that does not fit."""
    if values.shape[0] - test_count < 1:
        raise DataError(
            "the data set holds no training example",
            expected="at least one example",
            fix="check --data.path and --data.limit",
        )
    assert values.dtype in (torch.uint8, torch.float32)
    assert labels is None or (labels.dtype == torch.int64 and labels.shape == values.shape[:1])
    assert conditions is None or (conditions.dtype == torch.float32 and len(conditions) == len(values))
    assert len(names) in (0, len(values))
    check_pad(values, pad)
    return Packed(
        values,
        labels,
        label_values=tuple(label_values),
        class_names=None if class_names is None else tuple(class_names),
        fingerprint=fingerprint_of(values, labels, conditions),
        report=tuple(report),
        pad=pad,
        test_count=test_count,
        conditions=conditions,
        condition_names=None if condition_names is None else tuple(condition_names),
        absent_classes=tuple(absent_classes),
        names=tuple(names),
    )


def check_pad(values: Tensor, pad: tuple[int, int] | None) -> None:
    if pad is None:
        return
    if values.dtype != torch.uint8:
        raise ConfigError("data.pad is set but the data are not images", expected="no data.pad", fix="drop data.pad")
    height, width = values.shape[1], values.shape[2]
    if pad[0] < height or pad[1] < width:
        raise ConfigError(
            f"data.pad is {pad[0]}x{pad[1]}, smaller than the {height}x{width} pictures",
            expected="a padded size of at least the picture's own",
            fix=f"--data.pad {max(height, width)}",
        )


def split(packed: Packed, held_out: float, seed: int) -> Split:
    """The training and the held-out part, a pure function of the number of examples, the share and the seed.

    The source's own test part is the held-out part where it has one. Otherwise round(share · N) examples are drawn
    without replacement, never all of them: a single picture is trained on. A share of 0 holds nothing out.
    """
    if not 0.0 <= held_out < 1.0 or math.isnan(held_out):
        raise ConfigError(f"data.held_out is {held_out}", expected="a share in [0, 1)", fix="--data.held_out 0.1")
    count = len(packed)
    own = count - packed.test_count
    if packed.test_count:
        test = torch.arange(own, count if held_out > 0 else own)
        return Split(torch.arange(own), test)
    num_held_out = min(round(held_out * count), count - 1)
    order = torch.randperm(count, generator=generator(seed, "split"))
    return Split(order[num_held_out:].sort().values, order[:num_held_out].sort().values)


def shared_examples(packed: Packed, parts: Split) -> int:
    """How many held-out examples also occur, value for value, in the training part.

    Such copies flatter every held-out number; callers warn about them.
    """
    train = {_digest(packed.values[i]) for i in parts.train.tolist()}
    return sum(_digest(packed.values[i]) in train for i in parts.held_out.tolist())


def _digest(example: Tensor) -> bytes:
    return hashlib.blake2b(example.contiguous().numpy().tobytes(), digest_size=16).digest()


def describe(packed: Packed) -> Description:
    """The numbers of a data set that people ask for first."""
    counts = None if packed.labels is None else torch.bincount(packed.labels, minlength=packed.num_classes)
    return Description(
        count=len(packed),
        shape=packed.shape,
        is_image=packed.is_image,
        num_classes=packed.num_classes,
        class_names=packed.class_names,
        smallest_class=None if counts is None else int(counts.min()),
        largest_class=None if counts is None else int(counts.max()),
        test_count=packed.test_count,
        bytes=packed.values.numel() * packed.values.element_size(),
        fingerprint=packed.fingerprint,
        report=packed.report,
    )
