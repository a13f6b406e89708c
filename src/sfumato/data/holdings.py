"""Where the files of a named set lie: in the folder that the user names, in the cache, or nowhere yet.

A set is described by its items; each is accepted as the published file, unpacked, or under the other names and in the
subfolders that people keep it in. All items come from one place: the first of `data.path` and the cache that has them.
Only with `data.download` are missing ones fetched, into `data.path` where it is given and into the cache otherwise.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sfumato.data.cache import Cache
from sfumato.data.fetch import Published, fetch, megabytes
from sfumato.data.folder import holds_picture
from sfumato.data.hub import is_hub
from sfumato.data.packed import Packed
from sfumato.data.settings import DataConfig
from sfumato.errors import DataError, printable

__all__ = ["Holdings", "Item", "NamedSet", "find", "is_replaced"]


@dataclass(frozen=True, slots=True)
class Item:
    """One part of a set, called `key`.

    names: the files or folders that it is taken from, best first, below any folder of the set.
    published: the file that is fetched for it; None where it has to be got by hand.
    required: whether the set cannot be read without it.
    """

    key: str
    names: tuple[str, ...]
    published: Published | None = None
    required: bool = True


@dataclass(frozen=True, slots=True)
class NamedSet:
    """A data set that people know by its name.

    page: the address of its authors' page. items: what it consists of. read: how they become examples.
    folders: where below a given folder the items may lie, besides the folder itself.
    shape: channels, height and width of a picture; None where they differ, so that data.size is needed.
    labels: what `data.label` may name, with the number of classes; the first is the default. Empty for none.
    has_columns: whether its pictures have real values, from which data.columns chooses.
    refused: files under which the set goes too and which are never read, for they run what they hold.
    """

    name: str
    page: str
    items: tuple[Item, ...]
    read: "Reader"
    folders: tuple[str, ...] = ()
    shape: tuple[int, int, int] | None = None
    labels: Mapping[str, int] = field(default_factory=dict)
    has_columns: bool = False
    refused: tuple[str, ...] = ()

    @property
    def required(self) -> tuple[Item, ...]:
        """The items without which it cannot be read."""
        return tuple(item for item in self.items if item.required)

    def places(self, root: Path) -> tuple[Path, ...]:
        """The folders below `root` in which items are looked for."""
        return (root, *(root / folder for folder in self.folders))

    def found_in(self, root: Path) -> dict[str, Path]:
        """The items that lie below `root`, by their key."""
        places = self.places(root)
        found = {}
        for item in self.items:
            paths = [place / name for name in item.names for place in places]
            here = next((path for path in paths if os.path.isfile(path) or os.path.isdir(path)), None)
            if here is not None:
                inner = here / here.name  # some programs unpack a file into a folder of its own name
                found[item.key] = inner if os.path.isfile(inner) else here
        return found

    def misses(self, found: Mapping[str, Path]) -> tuple[Item, ...]:
        """The required items that are not among those found."""
        return tuple(item for item in self.required if item.key not in found)


@dataclass(frozen=True, slots=True, eq=False)
class Holdings:
    """The items of a set where they were found, by key, and sentences for the run's record."""

    named: NamedSet
    paths: Mapping[str, Path]
    notes: tuple[str, ...] = ()

    def path(self, key: str) -> Path:
        """Where a required item lies."""
        return self.paths[key]

    def optional(self, key: str) -> Path | None:
        """Where an item lies that the set can be read without, if it is there."""
        return self.paths.get(key)


Reader = Callable[[Holdings, DataConfig, Cache], Packed]


def find(named: NamedSet, config: DataConfig, kept: Path | None) -> Holdings | None:
    """Where the set lies; `kept` is its folder in the cache, None without one. Fetches only with `config.download`.

    None when data.path leads to something else: a file of another kind, or a folder of the user's own pictures. Raises
    DataError naming the files that are missing and where to put them.
    """
    if is_replaced(named, config):
        return None
    given = _given(named, config)[0]
    here = {} if given is None else named.found_in(given)
    if given is not None and not named.misses(here):
        return Holdings(named, here, _remarks(named, here))
    there = {} if kept is None else named.found_in(kept)
    if kept is not None and not here and not named.misses(there):
        notes = (
            () if given is None else (f"{printable(str(given))} holds no file of {named.name}: read from the cache",)
        )
        return Holdings(named, there, (*notes, *_remarks(named, there)))
    if config.download:
        folder, found = (kept, there) if given is None else (given, here)
        return _fetched(named, found, folder)
    raise _missing(named, here if given is not None else there, given, kept)


def is_replaced(named: NamedSet, config: DataConfig) -> bool:
    """Whether data.path leads to something else than the set: a file of another kind, or pictures of the user's own."""
    given, whole = _given(named, config)
    if given is None:
        return config.path is not None
    here = named.found_in(given)
    if whole or not named.misses(here) or (here and config.download):
        return False
    return os.path.isdir(given) and holds_picture(given)


def _given(named: NamedSet, config: DataConfig) -> tuple[Path | None, bool]:
    """The folder that data.path leads to, and whether the path names a file of the set; None: to something else."""
    if config.path is None or is_hub(config.path):
        return None, False
    path = Path(config.path).expanduser()
    if os.path.isdir(path):
        return path, False
    if os.path.isfile(path):
        known = {Path(name).name for item in named.items for name in item.names} | set(named.refused)
        return (path.parent, True) if path.name in known else (None, False)
    to_be_made = config.download and not path.suffix and not os.path.lexists(path)
    return (path, False) if to_be_made else (None, False)


def _remarks(named: NamedSet, found: Mapping[str, Path]) -> tuple[str, ...]:
    """Files that go by a published name and have another length; their contents are taken as they are."""
    notes = []
    for item in named.items:
        path, published = found.get(item.key), item.published
        if path is None or published is None or path.name != published.name:
            continue
        size = path.stat().st_size
        if size != published.size:
            notes.append(f"{path.name} has {size:,} bytes, the published file of {named.name} {published.size:,}")
    return tuple(notes)


def _fetched(named: NamedSet, found: Mapping[str, Path], folder: Path | None) -> Holdings:
    if folder is None:
        raise DataError(
            f"there is no folder to put the files of {named.name} into: neither data.path nor a cache",
            expected="a folder for them",
            fix="--data.path FOLDER, or --data.cache FOLDER",
        )
    wanted = [item.published for item in named.misses(found)]
    by_hand = any(file is None for file in wanted)
    if by_hand:
        raise _missing(named, found, folder, None)
    paths = {item.key: fetch(item.published, folder) for item in named.misses(found) if item.published is not None}
    return Holdings(named, {**found, **paths})


def _missing(named: NamedSet, found: Mapping[str, Path], given: Path | None, kept: Path | None) -> DataError:
    """Which files are missing, where they were looked for, and where to put them."""
    items = named.misses(found)
    places = [printable(str(place)) for place in (given, kept) if place is not None]
    names = ", ".join(item.names[0] for item in items)
    looked = " and ".join(places) or "data.path, which is not given"
    files = [item.published for item in items if item.published is not None]
    fetchable = len(files) == len(items)
    listed = ", ".join(f"{file.name} ({megabytes(file.size)})" for file in files) if fetchable else names
    folder = places[0] if places else "a folder, with --data.path FOLDER"
    put = f"put {'them' if len(items) > 1 else 'it'} into {folder} yourself, from {named.page}"
    total = megabytes(sum(file.size for file in files))
    return DataError(
        f"data.source is {named.name!r}, and {names} {'are' if len(items) > 1 else 'is'} not in {looked}"
        + _refused_files(named, [place for place in (given, kept) if place is not None]),
        expected=f"{listed} as published, or unpacked",
        fix=f"--data.download (with train, resume or data) fetches {total}; or {put}" if fetchable else put,
    )


def _refused_files(named: NamedSet, roots: list[Path]) -> str:
    there = [
        name for root in roots for place in named.places(root) for name in named.refused if (place / name).exists()
    ]
    return f"; {there[0]} is the pickled version, which is never loaded" if there else ""
