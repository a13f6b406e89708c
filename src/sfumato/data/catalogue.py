"""Pictures that a set's own files list: decoded from a folder or straight from an archive, on all cores, and kept.

What is listed (names, classes, values, parts) is read each time; only the pixels are kept in the cache, under the names
of the pictures, so that another label or another choice of values decodes nothing again. The pixels are those of
`sfumato.data.decoding`, as for a folder of the same pictures.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data.cache import Cache
from sfumato.data.conditions import check_conditions
from sfumato.data.decoding import Picture, Preparation
from sfumato.data.labels import Classes
from sfumato.data.members import Members
from sfumato.data.packed import Packed, check_pad, evenly, fingerprint_of, pack
from sfumato.data.pictures import decode_all, notes_of, settings_key, unusable
from sfumato.data.settings import DataConfig
from sfumato.data.wording import counted
from sfumato.errors import DataError, printable

__all__ = ["Catalogue", "named_classes", "pack_catalogue"]


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """What a set says of its pictures, in its order; the last `test_count` are its test part.

    names: the files. labels: int64 (N,), classes as the set numbers them, with their names in `class_names`.
    conditions: real numbers (N, V), and condition_names, what they are called.
    """

    names: tuple[str, ...]
    test_count: int = 0
    labels: NDArray[np.int64] | None = None
    class_names: Mapping[int, str] | None = None
    conditions: NDArray[Any] | None = None
    condition_names: tuple[str, ...] | None = None

    def at(self, places: Sequence[int]) -> "Catalogue":
        """The pictures at ascending places."""
        own = len(self.names) - self.test_count
        return replace(
            self,
            names=tuple(self.names[i] for i in places),
            test_count=sum(i >= own for i in places),
            labels=None if self.labels is None else self.labels[list(places)],
            conditions=None if self.conditions is None else self.conditions[list(places)],
        )

    def limited(self, limit: int | None) -> "Catalogue":
        """At most `limit` pictures, and as many of the test part, evenly spaced."""
        own = len(self.names) - self.test_count
        if limit is None or own <= limit:
            return self
        return self.at([*evenly(own, limit), *(own + i for i in evenly(self.test_count, limit))])


def pack_catalogue(catalogue: Catalogue, members: Members, config: DataConfig, cache: Cache) -> Packed:
    """Decode, prepare and pack what is listed; the pixels from `cache` when nothing has changed since."""
    catalogue = catalogue.limited(config.limit)
    config = replace(config, channels=config.channels or 3)
    key = _key(catalogue, members, config)
    kept = cache.read(key)
    if kept is None:
        kept = _decode(catalogue, members, config)
        cache.write(key, kept)
    check_pad(kept.values, config.pad_hw)
    places = {name: place for place, name in enumerate(catalogue.names)}
    used = catalogue.at([places[name] for name in kept.names])
    where = printable(str(members.path))
    told = None
    if used.conditions is not None:
        told = check_conditions(used.conditions, len(used.names), used.condition_names, where=where, key="values")
    classes = None if used.labels is None else named_classes(used.labels, used.class_names)
    return pack(
        kept.values,
        labels=None if classes is None else classes.indices,
        label_values=() if classes is None else classes.values,
        class_names=None if classes is None else classes.names,
        report=kept.report,
        pad=config.pad_hw,
        test_count=used.test_count,
        conditions=None if told is None else told.values,
        condition_names=None if told is None else told.names,
        absent_classes=() if classes is None else classes.absent,
        names=used.names,
    )


def named_classes(numbers: NDArray[np.int64], names: Mapping[int, str] | None) -> Classes:
    """The classes that occur, numbered from 0 in ascending order of the set's own numbers, under their names."""
    found, indices = np.unique(numbers, return_inverse=True)
    values = tuple(int(v) for v in found)
    called = None if names is None else tuple(names[v] for v in values)
    absent = () if names is None else tuple(name for number, name in sorted(names.items()) if number not in values)
    return Classes(torch.from_numpy(indices.astype(np.int64)), values, called, absent)


def _key(catalogue: Catalogue, members: Members, config: DataConfig) -> str:
    digest = settings_key(config, "catalogue", table=False)
    digest.update(members.stamp(catalogue.names).encode())
    digest.update("\0".join(catalogue.names).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _decode(catalogue: Catalogue, members: Members, config: DataConfig) -> Packed:
    """The pixels of all usable pictures, with their names."""
    places = {name: place for place, name in enumerate(catalogue.names)}
    block, bad = _Block(len(places), where=printable(str(members.path))), dict[int, str]()
    for name, outcome in decode_all(members.read(places), len(places), Preparation.of(config)):
        if isinstance(outcome, Picture):
            block.put(places[name], name, outcome)
        else:
            bad[places[name]] = str(outcome)
    missing = [place for place in places.values() if place not in block.filled and place not in bad]
    lines = [f"{printable(catalogue.names[place])}: {bad[place]}" for place in sorted(bad)]
    if (bad or missing) and (config.bad_files == "error" or not block.filled):
        absent = [f"{printable(catalogue.names[place])}: listed and not there" for place in missing]
        raise unusable(block.where, [*lines, *absent], len(places))
    kept = sorted(block.filled)
    values = block.values(kept)
    return Packed(
        values=values,
        labels=None,
        label_values=(),
        class_names=None,
        fingerprint=fingerprint_of(values, None),
        report=(
            *notes_of(block.filled.values()),
            *(f"left out {line}" for line in lines),
            *_left_out(block.where, len(missing)),
        ),
        names=tuple(catalogue.names[place] for place in kept),
    )


class _Block:
    """The pixels of N pictures in one array, which grows with the first of them, and what happened to them."""

    def __init__(self, count: int, *, where: str) -> None:
        self.count, self.where = count, where
        self.pixels: NDArray[np.uint8] | None = None
        self.filled: dict[int, Picture] = {}  # without their pixels

    def put(self, place: int, name: str, picture: Picture) -> None:
        """Keep a picture. Raises DataError for one of another size than those before it."""
        if self.pixels is None:
            self.pixels = np.empty((self.count, *picture.pixels.shape), np.uint8)
        if picture.pixels.shape != self.pixels.shape[1:]:
            (height, width), (tall, wide) = picture.pixels.shape[:2], self.pixels.shape[1:3]
            raise DataError(
                f"{self.where}: {printable(name)} is {height}x{width} (height x width), others are {tall}x{wide}",
                expected="pictures of one size, or data.size to crop and resize them to",
                fix="--data.size 64",
            )
        self.pixels[place] = picture.pixels
        self.filled[place] = replace(picture, pixels=self.pixels[:0])

    def values(self, places: Sequence[int]) -> Tensor:
        """The pictures at ascending `places`, uint8 (n, H, W, C); without a copy when these are all."""
        assert self.pixels is not None
        values = torch.from_numpy(self.pixels)
        return values if len(places) == self.count else values[torch.tensor(places)]


def _left_out(where: str, missing: int) -> Iterator[str]:
    if missing:
        yield f"left out {counted(missing, 'picture')} listed and not in {where}"
