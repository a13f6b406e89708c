"""A data set looked over before anything is trained on it: its values, classes, numbers, copies and its split.

Statistics of values are over the training part, as those that the data are scaled by; counts are over all examples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.data.copies import Copies, Leakage, find_copies, leakage
from sfumato.data.normalization import level_shares
from sfumato.data.packed import Packed, Split
from sfumato.errors import printable

__all__ = ["ChannelFacts", "ClassFacts", "DataFacts", "NumberFacts", "inspect_packed"]

MOST_CHANNELS = 64  # coordinates of a vector that are told apart
CHUNK = 1 << 24  # values per piece of a pass over the data
SHOWN = 20  # groups and pairs of copies in a document


@dataclass(frozen=True, slots=True)
class ChannelFacts:
    """Values of one channel or coordinate: mean, standard deviation, least and largest.

    black, white: shares of the values that are 0 and 255; None for what is no picture.
    """

    mean: float
    std: float
    low: float
    high: float
    black: float | None = None
    white: float | None = None


@dataclass(frozen=True, slots=True)
class NumberFacts:
    """One of the real numbers that belong to examples."""

    name: str
    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ClassFacts:
    """The classes of a labelled set, in the order of their indices.

    counts, train_counts: examples of each in all and in the training part. gaps: whole numbers between the smallest and
    the largest label that no example has. absent: classes that the source names and has no example of.
    """

    names: tuple[str, ...]
    values: tuple[str | int, ...]
    counts: tuple[int, ...]
    train_counts: tuple[int, ...]
    gaps: tuple[int, ...]
    absent: tuple[str, ...]

    @property
    def empty(self) -> tuple[str, ...]:
        """Classes without a training example."""
        return (*(n for n, count in zip(self.names, self.train_counts, strict=True) if count == 0), *self.absent)

    @property
    def imbalance(self) -> float:
        """Examples of the largest class over those of the smallest."""
        return max(self.counts) / min(self.counts)


@dataclass(frozen=True, slots=True, eq=False)
class DataFacts:
    """What `inspect_packed` found.

    shape: of an example, channels first, padded. bytes: of the values in memory. grey: whether all pictures of three
    channels are grey, None where there are not three. blank: examples that are one value throughout. conflicts: groups
    of exact copies with different labels. names: what the source calls the examples; empty where it has no names.
    """

    count: int
    shape: tuple[int, ...]
    is_image: bool
    bytes: int
    fingerprint: str
    train: int
    held_out: int
    test_count: int
    channels: tuple[ChannelFacts, ...]
    grey: bool | None
    blank: tuple[int, ...]
    classes: ClassFacts | None
    numbers: tuple[NumberFacts, ...]
    copies: Copies
    conflicts: int
    leakage: Leakage
    names: tuple[str, ...]

    def called(self, index: int) -> str:
        """What an example is called: its file, or its number."""
        return printable(self.names[index]) if self.names else f"example {index}"

    def document(self) -> dict[str, Any]:
        """As JSON data; of copies the first twenty groups and the twenty closest pairs."""
        return {
            "count": self.count,
            "shape": list(self.shape),
            "is_image": self.is_image,
            "bytes": self.bytes,
            "fingerprint": self.fingerprint,
            "train": self.train,
            "held_out": self.held_out,
            "test_count": self.test_count,
            "channels": [_plain(channel) for channel in self.channels],
            "grey": self.grey,
            "blank": {"count": len(self.blank), "examples": [self.called(i) for i in self.blank[:SHOWN]]},
            "classes": None if self.classes is None else {**_plain(self.classes), "empty": list(self.classes.empty)},
            "numbers": [_plain(number) for number in self.numbers],
            "copies": self._copies(),
            "leakage": _plain(self.leakage),
        }

    def _copies(self) -> dict[str, Any]:
        found = self.copies
        closest = zip(found.pairs[:SHOWN].tolist(), found.distances[:SHOWN].tolist(), strict=True)
        return {
            "exact": found.num_exact,
            "exact_groups": len(found.exact),
            "conflicting_groups": self.conflicts,
            "groups": [[self.called(i) for i in group] for group in found.exact[:SHOWN]],
            "near": found.num_near,
            "near_pairs": len(found.pairs),
            "mirrored_pairs": found.num_mirrored,
            "pairs": [{"first": self.called(i), "second": self.called(j), "distance": d} for (i, j), d in closest],
            "compared": found.compared,
            "complete": found.complete,
        }


def _plain(facts: ChannelFacts | NumberFacts | ClassFacts | Leakage) -> dict[str, Any]:
    found = {name: getattr(facts, name) for name in facts.__slots__}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def inspect_packed(packed: Packed, parts: Split, *, mirrored: bool = False) -> DataFacts:
    """Look over all examples of a packed set and its split; nothing is drawn, nothing is changed.

    `mirrored`: whether training mirrors pictures, so that mirrored copies are copies too.
    """
    copies = find_copies(packed, mirrored=mirrored)
    return DataFacts(
        count=len(packed),
        shape=packed.shape,
        is_image=packed.is_image,
        bytes=packed.values.numel() * packed.values.element_size(),
        fingerprint=packed.fingerprint,
        train=len(parts.train),
        held_out=len(parts.held_out),
        test_count=packed.test_count,
        channels=_picture_channels(packed, parts.train) if packed.is_image else _channels(packed.values[parts.train]),
        grey=_all_grey(packed.values) if packed.is_image and packed.values.shape[3] == 3 else None,
        blank=tuple(_blank(packed.values)),
        classes=_classes(packed, parts.train),
        numbers=_numbers(packed, parts.train),
        copies=copies,
        conflicts=_conflicts(copies, packed.labels),
        leakage=leakage(copies, parts),
        names=packed.names,
    )


def _picture_channels(packed: Packed, train: Tensor) -> tuple[ChannelFacts, ...]:
    """From the exact histogram of each channel."""
    levels = torch.arange(256, dtype=torch.float64)
    found = []
    for share in level_shares(packed, train, None):
        mean = float(share @ levels)
        there = share.nonzero()
        found.append(
            ChannelFacts(
                mean=mean,
                std=float(share @ (levels - mean) ** 2) ** 0.5,
                low=float(there[0]),
                high=float(there[-1]),
                black=float(share[0]),
                white=float(share[255]),
            )
        )
    return tuple(found)


def _channels(values: Tensor) -> tuple[ChannelFacts, ...]:
    """Of values (N, C, …), each of the C; all together where there are too many to tell apart."""
    columns = values.double().transpose(0, 1).flatten(1) if values.ndim > 1 else values.double()[None]
    if len(columns) > MOST_CHANNELS:
        columns = columns.reshape(1, -1)
    return tuple(
        ChannelFacts(float(c.mean()), float(c.std(correction=0)), float(c.min()), float(c.max())) for c in columns
    )


def _chunks(values: Tensor) -> Iterator[Tensor]:
    length = max(1, CHUNK // max(1, values[0].numel()))
    return (values[start : start + length] for start in range(0, len(values), length))


def _all_grey(values: Tensor) -> bool:
    return all(bool((v[..., 0] == v[..., 1]).all() and (v[..., 1] == v[..., 2]).all()) for v in _chunks(values))


def _blank(values: Tensor) -> Iterator[int]:
    """Examples of several values, or pictures of several pixels, that are the same throughout, in each channel."""
    flat_axis, start = (-2 if values.dtype == torch.uint8 else -1), 0
    for piece in _chunks(values):
        pixels = piece.flatten(1, 2) if piece.dtype == torch.uint8 else piece.flatten(1)
        if pixels.shape[flat_axis] > 1:
            same = (pixels.amax(flat_axis) == pixels.amin(flat_axis)).reshape(len(piece), -1).all(dim=1)
            yield from (start + i for i in same.nonzero().flatten().tolist())
        start += len(piece)


def _classes(packed: Packed, train: Tensor) -> ClassFacts | None:
    if packed.labels is None:
        return None
    counts, trained = (torch.bincount(x, minlength=packed.num_classes) for x in (packed.labels, packed.labels[train]))
    whole = sorted(v for v in packed.label_values if isinstance(v, int))
    between = range(whole[0], whole[-1] + 1) if whole and whole[-1] - whole[0] < 100_000 else range(0)
    there = set(whole)
    return ClassFacts(
        names=packed.class_names or tuple(map(str, packed.label_values)),
        values=packed.label_values,
        counts=tuple(counts.tolist()),
        train_counts=tuple(trained.tolist()),
        gaps=tuple(v for v in between if v not in there),
        absent=packed.absent_classes,
    )


def _numbers(packed: Packed, train: Tensor) -> tuple[NumberFacts, ...]:
    if packed.conditions is None:
        return ()
    names = packed.condition_names or tuple(f"number {i}" for i in range(packed.num_conditions))
    columns = packed.conditions[train].double().unbind(1)
    return tuple(
        NumberFacts(name, float(c.mean()), float(c.std(correction=0)), float(c.min()), float(c.max()))
        for name, c in zip(names, columns, strict=True)
    )


def _conflicts(copies: Copies, labels: Tensor | None) -> int:
    if labels is None:
        return 0
    return sum(len(set(labels[list(group)].tolist())) > 1 for group in copies.exact)
