"""CIFAR-10 and CIFAR-100 in their binary version: records of one or two class bytes and 3,072 pixels.

CIFAR-10: <class><1024 red><1024 green><1024 blue>; CIFAR-100: <coarse class><fine class> and the same 3,072 bytes. Rows
of a plane follow each other from the top (A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009,
and the page of the data set). The number of pictures is that of the file's length. The version for Python is a pickle,
which runs what it holds, and is never read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.data.arrays import ArrayFile, pack_arrays
from sfumato.data.cache import Cache
from sfumato.data.holdings import Holdings
from sfumato.data.members import open_members, require_all
from sfumato.data.packed import Packed
from sfumato.data.settings import DataConfig
from sfumato.errors import DataError, printable

__all__ = ["CIFAR10", "CIFAR100", "Layout", "load_cifar10", "load_cifar100"]

PIXELS = 3 * 32 * 32


@dataclass(frozen=True, slots=True)
class Layout:
    """Which files hold what.

    train, test: files of records. columns: for each class byte of a record, in order, what it is called, how many
    classes it tells apart and the file of their names.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    columns: tuple["Column", ...]

    @property
    def record(self) -> int:
        """Bytes of a record."""
        return len(self.columns) + PIXELS


@dataclass(frozen=True, slots=True)
class Column:
    """One class byte: `name`, from 0 to `classes` - 1, named line by line in the file `names`."""

    name: str
    classes: int
    names: str


CIFAR10 = Layout(
    tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",), (Column("class", 10, "batches.meta.txt"),)
)
CIFAR100 = Layout(
    ("train.bin",),
    ("test.bin",),
    (Column("coarse", 20, "coarse_label_names.txt"), Column("fine", 100, "fine_label_names.txt")),
)


def load_cifar10(holdings: Holdings, config: DataConfig, cache: Cache) -> Packed:
    """The 10 classes; the test batch is the test part."""
    return _load(CIFAR10, "class", holdings, config)


def load_cifar100(holdings: Holdings, config: DataConfig, cache: Cache) -> Packed:
    """The 100 fine classes, or with data.label `coarse` the 20 coarse ones."""
    return _load(CIFAR100, config.label or "fine", holdings, config)


def _load(layout: Layout, label: str, holdings: Holdings, config: DataConfig) -> Packed:
    path = holdings.path("batches")
    members = open_members(path if path.suffix != ".bin" else path.parent)
    records = (*layout.train, *layout.test)
    columns = layout.columns
    found = members.whole({*records, *(column.names for column in columns)})
    require_all(members.path, records, found)
    place = [column.name for column in columns].index(label)
    parts = [_records(layout, name, found[name], str(members.path)) for name in records]
    labels = np.concatenate([part[:, place] for part in parts])
    planes = np.concatenate([part[:, len(columns) :] for part in parts])
    file = ArrayFile(
        str(members.path),
        "images",
        np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)),
        labels,
        _names(columns[place], found, str(members.path)),
        test_count=sum(len(part) for part in parts[len(layout.train) :]),
    )
    return pack_arrays(file, config)


def _records(layout: Layout, name: str, content: bytes, where: str) -> NDArray[np.uint8]:
    """The records (N, bytes) of one file, its classes checked."""
    if not content or len(content) % layout.record:
        raise DataError(
            f"{printable(where)}: {name} has {len(content):,} bytes, no whole number of records of {layout.record:,}",
            expected="the binary version as published",
            fix="get it again: it is damaged, cut off or of another set",
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, layout.record)
    for place, column in enumerate(layout.columns):
        bad = np.flatnonzero(records[:, place] >= column.classes)
        if len(bad):
            raise DataError(
                f"{printable(where)}: {name}: record {bad[0]:,} says {column.name} {records[bad[0], place]}",
                expected=f"classes 0..{column.classes - 1}",
                fix="get it again: it is damaged or of another set",
            )
    return records


def _names(column: Column, found: Mapping[str, bytes], where: str) -> tuple[str, ...] | None:
    """The names of the classes; None where their file is not there."""
    content: Any = found.get(column.names)
    if content is None:
        return None
    names = tuple(line.strip() for line in content.decode("utf-8", "replace").splitlines() if line.strip())
    if len(names) != column.classes or len(set(names)) != len(names):
        raise DataError(
            f"{printable(where)}: {column.names} has {len(names)} names",
            expected=f"{column.classes} different names, one a line",
            fix="get it again, or remove it: the classes then have no names",
        )
    return names
