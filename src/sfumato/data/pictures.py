"""From named picture files, wherever they lie, to one packed array: decoding on all cores, labels, quarantine.

A source of pictures lists their names and hands out what each is to be decoded from; what follows is the same for a
folder, an archive and a table that holds pictures. All files are looked at before a bad one is reported, so that one
run names them all.
"""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.data.columns import Told
from sfumato.data.decoding import BadPicture, Picture, Preparation, decode, decode_bytes, quiet, threads_for
from sfumato.data.labels import Classes, map_labels
from sfumato.data.listing import Listing
from sfumato.data.packed import Packed, pack
from sfumato.data.settings import DataConfig
from sfumato.data.wording import counted, leading_out
from sfumato.errors import DataError, printable

__all__ = [
    "PACKING_VERSION",
    "Content",
    "Pictures",
    "content_size",
    "decode_all",
    "notes_of",
    "pack_pictures",
    "settings_key",
    "unusable",
]

PACKING_VERSION = 2  # raise it when equal files and settings give other pixels, labels or conditions than before
NAMED = 10  # how many bad files an error names
AT_ONCE = 64  # pictures that a thread takes at once: handing over a small one costs as much as decoding it
CHUNK_BYTES = 16 << 20  # … or fewer, when they are large: what waits in memory stays small

Content = Path | bytes | BadPicture  # what a picture is decoded from, or why it cannot be


class Pictures(ABC):
    """Pictures that can be had by name."""

    noun: ClassVar[str]  # what people call such a place

    @property
    @abstractmethod
    def listing(self) -> Listing:
        """What pictures there are."""

    @abstractmethod
    def opened(self, names: Sequence[str]) -> Iterator[tuple[str, Content]]:
        """What each of `names` is to be decoded from, in whatever order is quickest."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of one of the listing's tables. Raises `DataError`."""


def settings_key(config: DataConfig, where: str, *, table: bool) -> "hashlib._Hash":
    """A digest of all that decides what is made of the files of `where`; the files' own state is to be added."""
    settings = {"version": PACKING_VERSION, "root": where, "bad_files": config.bad_files}
    told = {"label": config.label, "columns": config.columns, "limit": config.limit} if table else {}
    plain = json.dumps({**settings, **told, **asdict(Preparation.of(config))}, sort_keys=True)
    return hashlib.sha256(plain.encode("utf-8", "surrogateescape"))


def decode_all(
    opened: Iterable[tuple[str, Content]], count: int, preparation: Preparation
) -> Iterator[tuple[str, Picture | BadPicture]]:
    """Decode up to `count` pictures by name, in threads where that helps, in the order that they are opened."""

    def attempt(name: str, content: Content) -> tuple[str, Picture | BadPicture]:
        try:
            if isinstance(content, bytes):
                return name, decode_bytes(content, preparation)
            return name, content if isinstance(content, BadPicture) else decode(content, preparation)
        except BadPicture as reason:
            return name, reason

    def attempt_each(chunk: list[tuple[str, Content]]) -> list[tuple[str, Picture | BadPicture]]:
        return [attempt(name, content) for name, content in chunk]

    rest = iter(opened)
    first = list(islice(rest, AT_ONCE))
    workers = threads_for(sum(content_size(content) for _, content in first) / max(1, len(first)))
    every = chain(first, rest)
    if workers == 1:
        with quiet():
            yield from (attempt(name, content) for name, content in every)
        return
    with quiet(), ThreadPoolExecutor(max_workers=workers) as pool:
        pending: deque[Future[list[tuple[str, Picture | BadPicture]]]] = deque()
        for chunk in _chunks(every, max(1, min(AT_ONCE, count // (4 * workers)))):
            pending.append(pool.submit(attempt_each, chunk))
            if len(pending) > 2 * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def content_size(content: Content) -> int:
    """Bytes of a picture's file; 0 for one that is gone."""
    if isinstance(content, bytes):
        return len(content)
    with suppress(OSError):
        return 0 if isinstance(content, BadPicture) else os.stat(content).st_size
    return 0


def _chunks(opened: Iterable[tuple[str, Content]], length: int) -> Iterator[list[tuple[str, Content]]]:
    chunk: list[tuple[str, Content]] = []
    held = 0
    for name, content in opened:
        chunk.append((name, content))
        held += len(content) if isinstance(content, bytes) else 0
        if len(chunk) == length or held > CHUNK_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def pack_pictures(
    pictures: Pictures, names: Sequence[str], config: DataConfig, *, told: Told | None = None, notes: Sequence[str] = ()
) -> Packed:
    """Decode, prepare and pack the pictures `names`; `told` says of each, in this order, what a table says of it.

    Labels come from the table, otherwise from the folders. Raises `DataError` naming the pictures that cannot be used,
    or leaves them out and records them, as `config.bad_files` says.
    """
    outcomes = dict(decode_all(pictures.opened(names), len(names), Preparation.of(config)))
    listing = pictures.listing
    good: list[int] = []
    found: list[Picture] = []
    bad: list[str] = []
    for position, name in enumerate(names):
        outcome = outcomes.pop(name)
        if isinstance(outcome, Picture):
            good.append(position)
            found.append(outcome)
        else:
            bad.append(f"{printable(name)}: {outcome}")
    if bad and (config.bad_files == "error" or not good):
        raise unusable(listing.where, bad, len(names))
    report = [*_notes(pictures, found), *notes]
    report += [_how_many(bad, len(names)), *(f"left out {line}" for line in bad)] if bad else []
    kept = [names[position] for position in good]
    values = _stack(listing, kept, found)
    about = None if told is None else told.at(good)
    classes = _from_folders(listing, kept, report) if about is None or about.labels is None else about.classes()
    return pack(
        values,
        labels=None if classes is None else classes.indices,
        label_values=() if classes is None else classes.values,
        class_names=None if classes is None else classes.names,
        report=report,
        conditions=None if about is None else about.conditions(),
        condition_names=None if about is None or about.numbers is None else about.names,
        absent_classes=_absent(listing, classes, told=about is not None and about.labels is not None),
        names=kept,
    )


def _from_folders(listing: Listing, names: Sequence[str], report: list[str]) -> Classes | None:
    """The classes that the folders of the pictures are; None, with a note where only some lie in a folder."""
    folders = [listing.class_of(name) for name in names]
    named = [folder for folder in folders if folder is not None]
    if len(named) < len(folders):
        report += ["some pictures lie outside the class folders: no labels"] if named else []
        return None
    return map_labels(np.array(named), len(named), None, where=listing.where)


def _absent(listing: Listing, classes: Classes | None, *, told: bool) -> tuple[str, ...]:
    """Classes that the source names and has no picture of."""
    if classes is None or told:
        return () if classes is None else classes.absent
    return tuple(name for name in map(printable, listing.folders) if name not in (classes.names or ()))


def _stack(listing: Listing, names: Sequence[str], pictures: list[Picture]) -> torch.Tensor:
    """One uint8 array (N, H, W, C); consumes `pictures`, so that the data are never held twice."""
    colour = [p.pixels.shape[2] == 3 for p in pictures]
    definite = {is_colour for is_colour, p in zip(colour, pictures, strict=True) if not p.neutral}
    if len(definite) == 2:
        grey = next(i for i, p in enumerate(pictures) if not colour[i] and not p.neutral)
        raise DataError(
            f"{listing.where}: {len(colour) - sum(colour)} grey and {sum(colour)} colour pictures (grey: "
            f"{printable(names[grey])}; colour: {printable(names[colour.index(True)])})",
            expected="only grey or only colour pictures, or data.channels",
            fix="--data.channels 3 (or 1)",
        )
    sizes = Counter(p.pixels.shape[:2] for p in pictures)
    if len(sizes) > 1:
        some = ", ".join(f"{n} of {h}x{w}" for (h, w), n in sizes.most_common(3)) + ", ..." * (len(sizes) > 3)
        raise DataError(
            f"{listing.where}: the pictures have {len(sizes)} different sizes, height x width ({some})",
            expected="pictures of one size, or data.size to crop and resize them to",
            fix="--data.size 64",
        )
    stacked: NDArray[np.uint8] = np.empty(
        (len(pictures), *pictures[0].pixels.shape[:2], 3 if True in definite or any(colour) else 1), np.uint8
    )
    for i in reversed(range(len(pictures))):
        stacked[i] = pictures.pop().pixels
    return torch.from_numpy(stacked)


def _notes(source: Pictures, pictures: Sequence[Picture]) -> Iterator[str]:
    listing = source.listing
    yield from notes_of(pictures)
    if listing.outside:
        yield f"ignored {leading_out(listing.outside, source.noun)}"
    if listing.loops:
        yield f"ignored {counted(listing.loops, 'link')} to a folder above"
    if listing.ignored:
        yield "ignored files that are not pictures: " + ", ".join(f"{n} {suffix}" for suffix, n in listing.ignored)


def notes_of(pictures: Iterable[Picture]) -> Iterator[str]:
    """Sentences for the run's record on what happened to pictures as they were prepared."""
    seen: Counter[str] = Counter()
    for p in pictures:
        seen.update(all=1, upscaled=int(p.upscaled), animated=int(p.frames > 1), narrow=int(p.kept < 0.5))
    if seen["upscaled"]:
        yield f"{seen['upscaled']} of {counted(seen['all'], 'picture')} smaller than the target, enlarged"
    if seen["animated"]:
        yield f"the first frame was taken of {counted(seen['animated'], 'file')} with several"
    if seen["narrow"]:
        yield f"the centre crop kept less than half of {counted(seen['narrow'], 'picture')}"


def _how_many(bad: Sequence[str], count: int) -> str:
    return f"{len(bad)} of {counted(count, 'picture')} cannot be used"


def unusable(where: str, lines: Sequence[str], count: int) -> DataError:
    """The refusal of `count` pictures; `lines` say what is wrong, one for each that cannot be used."""
    named = "; ".join(lines[:NAMED]) + (f"; and {len(lines) - NAMED} more" if len(lines) > NAMED else "")
    fix = "repair or remove them, or leave them out with --data.bad_files skip"
    return DataError(
        f"{where}: {_how_many(lines, count)}: {named}",
        expected="pictures that can be decoded (JPEG, PNG, WEBP, BMP, GIF, TIFF)",
        fix="check --data.path: not one picture can be used" if len(lines) == count else fix,
    )
