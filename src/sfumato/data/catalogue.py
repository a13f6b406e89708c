"""Pictures that a set's own files list: decoded from a folder or straight from an archive, on all cores, and kept.

What is listed (names, classes, values, parts) is read each time; only the pixels are kept in the cache, with the place
of each picture in the list, so that another label or another choice of values decodes nothing again. The pixels are
those of `sfumato.data.decoding`, as for a folder of the same pictures.
"""

import hashlib
import json
import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data.cache import Cache
from sfumato.data.conditions import check_conditions
from sfumato.data.decoding import BadPicture, Picture, Preparation, decode_bytes, quiet
from sfumato.data.labels import Classes
from sfumato.data.members import Members
from sfumato.data.packed import Packed, check_pad, evenly, fingerprint_of, pack
from sfumato.data.settings import DataConfig
from sfumato.data.wording import counted
from sfumato.errors import DataError, printable

__all__ = ["Catalogue", "named_classes", "pack_catalogue"]

PIXELS_VERSION = 1  # raise it when equal files and settings give other pixels than before
NAMED = 10  # how many bad files an error names


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
    preparation = replace(Preparation.of(config), channels=config.channels or 3)
    key = _key(catalogue, members, preparation, config.bad_files)
    kept = cache.read(key)
    if kept is None or kept.labels is None:
        kept = _decode(catalogue, members, preparation, config.bad_files)
        cache.write(key, kept)
    assert kept.labels is not None
    check_pad(kept.values, config.pad_hw)
    used = catalogue.at(kept.labels.tolist())
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
    )


def named_classes(numbers: NDArray[np.int64], names: Mapping[int, str] | None) -> Classes:
    """The classes that occur, numbered from 0 in ascending order of the set's own numbers, under their names."""
    found, indices = np.unique(numbers, return_inverse=True)
    values = tuple(int(v) for v in found)
    called = None if names is None else tuple(names[v] for v in values)
    absent = () if names is None else tuple(name for number, name in sorted(names.items()) if number not in values)
    return Classes(torch.from_numpy(indices.astype(np.int64)), values, called, absent)


def _key(catalogue: Catalogue, members: Members, preparation: Preparation, bad_files: str) -> str:
    settings = {"version": PIXELS_VERSION, "kind": "catalogue", "bad_files": bad_files, **asdict(preparation)}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(members.stamp(catalogue.names).encode())
    digest.update("\0".join(catalogue.names).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _decode(catalogue: Catalogue, members: Members, preparation: Preparation, bad_files: str) -> Packed:
    """The pixels of all usable pictures; as their labels, their places in the list."""
    block, bad = _Block(len(catalogue.names), where=printable(str(members.path))), {}
    for place, outcome in _outcomes(catalogue.names, members, preparation):
        if isinstance(outcome, Picture):
            block.put(place, catalogue.names[place], outcome)
        else:
            bad[place] = str(outcome)
    missing = [place for place in range(len(catalogue.names)) if place not in block.filled and place not in bad]
    lines = [f"{printable(catalogue.names[place])}: {bad[place]}" for place in sorted(bad)]
    absent = [f"{printable(catalogue.names[place])}: listed and not there" for place in missing]
    if (bad or missing) and (bad_files == "error" or not block.filled):
        raise _bad_files(block.where, [*lines, *absent], len(catalogue.names))
    places = torch.tensor(sorted(block.filled))
    values = block.values(places)
    return Packed(
        values=values,
        labels=places,
        label_values=(),
        class_names=None,
        fingerprint=fingerprint_of(values, places),
        report=(*block.notes(), *(f"left out {line}" for line in lines), *_left_out(block.where, len(missing))),
    )


class _Block:
    """The pixels of N pictures in one array, which grows with the first of them, and what happened to them."""

    def __init__(self, count: int, *, where: str) -> None:
        self.count, self.where = count, where
        self.pixels: NDArray[np.uint8] | None = None
        self.filled: set[int] = set()
        self.seen: Counter[str] = Counter()

    def put(self, place: int, name: str, picture: Picture) -> None:
        """Keep a picture. Raises DataError for one of another size than those before it."""
        if self.pixels is None:
            self.pixels = np.empty((self.count, *picture.pixels.shape), np.uint8)
        if picture.pixels.shape != self.pixels.shape[1:]:
            (height, width), (tall, wide) = picture.pixels.shape[:2], self.pixels.shape[1:3]
            raise DataError(
                f"{self.where}: {printable(name)} has {width}x{height} pixels, others have {wide}x{tall}",
                expected="pictures of one size, or data.size to crop and resize them to",
                fix="--data.size 64",
            )
        self.pixels[place] = picture.pixels
        self.filled.add(place)
        self.seen.update(upscaled=int(picture.upscaled), animated=int(picture.frames > 1))
        self.seen.update(narrow=int(picture.kept < 0.5))

    def values(self, places: Tensor) -> Tensor:
        """The pictures at `places`, uint8 (n, H, W, C); without a copy when these are all."""
        assert self.pixels is not None
        values = torch.from_numpy(self.pixels)
        return values if len(places) == self.count else values[places]

    def notes(self) -> Iterator[str]:
        """Sentences for the run's record, as for a folder of pictures."""
        if self.seen["upscaled"]:
            yield f"{self.seen['upscaled']} of {counted(len(self.filled), 'picture')} smaller than the target, enlarged"
        if self.seen["animated"]:
            yield f"the first frame was taken of {counted(self.seen['animated'], 'file')} with several"
        if self.seen["narrow"]:
            yield f"the centre crop kept less than half of {counted(self.seen['narrow'], 'picture')}"


def _outcomes(
    names: Sequence[str], members: Members, preparation: Preparation
) -> Iterator[tuple[int, Picture | BadPicture]]:
    """Decode in threads while the archive is read on; few files are in memory at once."""
    places = {name: place for place, name in enumerate(names)}
    workers = min(32, os.cpu_count() or 1)
    waiting: deque[tuple[int, Future[Picture | BadPicture]]] = deque()
    with quiet(), ThreadPoolExecutor(max_workers=workers) as pool:
        for name, content in members.read(places):
            waiting.append((places[name], pool.submit(_attempt, content, preparation)))
            if len(waiting) > 4 * workers:
                place, future = waiting.popleft()
                yield place, future.result()
        for place, future in waiting:
            yield place, future.result()


def _attempt(content: bytes, preparation: Preparation) -> Picture | BadPicture:
    try:
        return decode_bytes(content, preparation)
    except BadPicture as reason:
        return reason


def _left_out(where: str, missing: int) -> Iterator[str]:
    if missing:
        yield f"left out {counted(missing, 'picture')} listed and not in {where}"


def _bad_files(where: str, lines: Sequence[str], count: int) -> DataError:
    named = "; ".join(lines[:NAMED]) + (f"; and {len(lines) - NAMED} more" if len(lines) > NAMED else "")
    fix = "get the set again, or leave them out with --data.bad_files skip"
    if len(lines) == count:
        fix = "get the set again: not one picture can be used"
    return DataError(
        f"{where}: {len(lines)} of {counted(count, 'picture')} cannot be used: {named}",
        expected="the pictures as published",
        fix=fix,
    )
