"""Samples and a reference from files: read, brought to one size, and cut into what is compared and what is beside it.

A reference is a path, the name of a set, or a run, whose data are meant. Where it says what a model was trained on and
what not, one part is compared with and the other serves for floors: a test part of its own, the split of a run, or one
by `data.held_out` where that is given. Of any other a share is kept aside for floors, as many pictures as there are
samples and at most a third, unless all of it is asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sfumato.data import SOURCES, DataConfig, Packed, Split, evenly_from, load_data, split
from sfumato.errors import ConfigError, DataError, printable
from sfumato.experiment.config import Overrides, flag_nodes
from sfumato.experiment.evaluation.document import Notebook
from sfumato.experiment.evaluation.pictures import scattered
from sfumato.experiment.load import read_run_config
from sfumato.experiment.schema import read, to_plain
from sfumato.experiment.tree import Branch, assign, overrides_of, tree_of
from sfumato.metrics import Fact, require_enough

__all__ = ["ReferencePart", "Sides", "sides_of"]

ReferencePart = Literal["held-out", "training", "all"]


@dataclass(frozen=True, slots=True, eq=False)
class Sides:
    """Samples and real data, which examples of each are taken, and where both are from.

    chosen: of the samples. reference, others: of the real data. parts: which of these are trained on and which held
    out; None where that is not known. config: how those were read. reference_name: the part, in words.
    """

    samples: Packed
    real: Packed
    chosen: Tensor
    reference: Tensor
    others: Tensor
    parts: Split | None
    config: DataConfig
    facts: dict[str, Fact]
    reference_name: str
    seed: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a reference is read: its settings, and the seed of its points and of its split."""

    config: DataConfig
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class Parted:
    """Indices of what is compared with, and of the others in an order of which any run is spread; what that is."""

    reference: Tensor
    others: Tensor
    name: str


def sides_of(
    samples: str | Path,
    reference: str | Path,
    *,
    n: int | None,
    part: ReferencePart,
    data: Overrides | None,
    seed: int,
    runs: Path,
    book: Notebook,
) -> Sides:
    """Both sides, read and brought to one size. Raises DataError where they do not fit together."""
    given = {} if data is None else data
    base = data_with(DataConfig(held_out=0.0), given)
    made = load_data(replace(base, path=str(samples), held_out=0.0), seed=seed)
    wanted = reference_of(str(reference), base, given, seed, runs)
    config = fitted_to(wanted.config, made) if made.is_image else wanted.config
    real = real_side(config, made, wanted.seed)
    require_alike(made, real)
    require_enough(len(made))
    if n is not None:
        require_enough(n)
    chosen = evenly_from(torch.arange(len(made)), len(made) if n is None else n)
    parts = parts_of(real, config, wanted.seed)
    found = parted(real, part, len(chosen), parts, book)
    tell(book, f"{len(chosen):,} samples of {printable(str(samples))}", found, str(reference), real)
    facts: dict[str, Fact] = {
        "samples": str(samples),
        "samples_digest": made.fingerprint[:12],
        "data": real.fingerprint,
        "part": part,
        "seed": seed,
    }
    return Sides(made, real, chosen, found.reference, found.others, parts, config, facts, found.name, seed)


def tell(book: Notebook, samples: str, found: Parted, reference: str, real: Packed) -> None:
    """Note what is compared with what."""
    size = f", all at {real.values.shape[1]}x{real.values.shape[2]}" if real.is_image else ""
    book.add(f"{samples} against {len(found.reference):,} of {printable(reference)} ({found.name}){size}")
    for text in real.report:
        book.add(f"reference: {text}")


def require_alike(made: Packed, real: Packed) -> None:
    """Refuse sides of two kinds or shapes. Raises DataError."""
    shapes = tuple(made.values.shape[1:]), tuple(real.values.shape[1:])
    if shapes[0] == shapes[1] and made.is_image == real.is_image:
        return
    fix = "--data.size 64 brings pictures of both to one size"
    if made.is_image and real.is_image and shapes[0][:2] == shapes[1][:2]:
        fix = "--data.channels 1 compares both in grey, --data.channels 3 in colour"
    raise DataError(
        f"samples of shape {shapes[0]} ({kind_of(made)}) cannot be compared with a reference "
        f"of shape {shapes[1]} ({kind_of(real)})",
        expected="samples and a reference of one kind and shape",
        fix=fix,
    )


def fitted_to(config: DataConfig, made: Packed) -> DataConfig:
    """The settings that bring pictures to the size of samples, and to colour for such in colour.

    Colour is not taken from a reference because samples are grey: what they lack would not be seen.
    """
    height, width, channels = (int(side) for side in made.values.shape[1:])
    channels_given = config.channels or (3 if channels == 3 else None)
    return replace(config, size=(height, width), channels=channels_given, pad=None)


def real_side(config: DataConfig, made: Packed, seed: int) -> Packed:
    """The reference; values, which take no size, as they are: they do not fit pictures, as will be said."""
    try:
        return load_data(config, seed=seed)
    except ConfigError:
        if not made.is_image:
            raise
        return load_data(replace(config, size=None, channels=None), seed=seed)


def kind_of(packed: Packed) -> str:
    """What the examples are."""
    return "pictures" if packed.is_image else "values"


def parts_of(real: Packed, config: DataConfig, seed: int) -> Split | None:
    """What of a reference is trained on and what is held out; None where nothing says so."""
    if real.test_count:
        own = len(real) - real.test_count
        return Split(torch.arange(own), torch.arange(own, len(real)))
    found = split(real, config.held_out, seed) if config.held_out > 0 else None
    return found if found is not None and len(found.held_out) else None


def parted(real: Packed, part: ReferencePart, count: int, parts: Split | None, book: Notebook) -> Parted:
    """What `count` samples are compared with, and what else there is."""
    every = torch.arange(len(real))
    if part == "all":
        return Parted(every, every[:0], "all")
    if parts is not None:
        held_out = "its test part" if real.test_count else "its held-out part"
        if part == "held-out":
            return Parted(parts.held_out, scattered(parts.train), held_out)
        return Parted(parts.train, scattered(parts.held_out), "its training part")
    drawn = split(real, min(count, len(real) // 3) / len(real), 0)  # at random: taken evenly they would be too alike
    book.add(
        f"{len(drawn.held_out):,} of the {len(real):,} reference examples are kept aside for floors; --part all "
        "compares with all of them, and has no floors"
    )
    return Parted(drawn.train, scattered(drawn.held_out), "all but those kept aside")


def reference_of(reference: str, base: DataConfig, given: Overrides, seed: int, runs: Path) -> Wanted:
    """How a reference is read: the data of a run, a set by its name, or a path."""
    path = Path(reference).expanduser()
    named = reference in SOURCES and reference != "folder"
    for folder in (path, *([] if named or path.exists() else [runs / reference])):
        if (folder / "config.yaml").is_file():
            experiment = read_run_config(folder)
            return Wanted(data_with(experiment.data, given), experiment.seed)
    if named and not path.exists():
        return Wanted(replace(base, source=reference, path=None), seed)
    return Wanted(replace(base, path=reference), seed)


def data_with(data: DataConfig, overrides: Overrides) -> DataConfig:
    """`data` with settings laid over it, by keys below `data`: `size`, `background`, …"""
    base = Branch({"data": tree_of(to_plain(data), "data")})
    pairs = overrides_of(overrides, "overrides") if isinstance(overrides, Mapping) else flag_nodes(overrides)
    for path, node in sorted(pairs, key=lambda pair: len(pair[0])):
        base = assign(base, ("data", *path), node)
    return read(DataConfig, base.items["data"], origin="data")
