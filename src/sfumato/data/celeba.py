"""CelebA as its authors lay it out: 202,599 faces of 178x218 in img_align_celeba, and lists beside them.

list_attr_celeba.txt has the number of pictures, the names of 40 attributes, and a line `NAME v_1 … v_40` with values of
1 (has it) and -1 for each picture; identity_CelebA.txt a line `NAME PERSON`; list_eval_partition.txt a line `NAME PART`
with 0 (training), 1 (validation) or 2 (test) (Z. Liu, P. Luo, X. Wang, X. Tang, "Deep learning face attributes in the
wild", 2015). The same tables with commas and a header, under names ending in .csv, are read as well. Attributes are the
real values of a picture, the persons or one attribute its class where data.label asks for it; part 2 is the test part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfumato.data.cache import Cache
from sfumato.data.catalogue import Catalogue, pack_catalogue
from sfumato.data.decoding import SUFFIXES
from sfumato.data.holdings import Holdings
from sfumato.data.labels import natural
from sfumato.data.members import open_members
from sfumato.data.packed import Packed
from sfumato.data.settings import DataConfig
from sfumato.errors import ConfigError, DataError, printable

__all__ = ["Table", "load_celeba", "read_table"]

PERSON = "identity"
TEST = 2


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A list of pictures with whole numbers: values int64 (N, V), row i of `names[i]`; columns None: unnamed."""

    path: Path
    names: tuple[str, ...]
    columns: tuple[str, ...] | None
    values: NDArray[np.int64]


def load_celeba(holdings: Holdings, config: DataConfig, cache: Cache) -> Packed:
    """The faces with the attributes, persons and parts of the lists that are there."""
    path = holdings.path("pictures")
    inner = path / "img_align_celeba"  # as one well-known archive unpacks
    members = open_members(inner if inner.is_dir() else path)
    attributes, persons, parts = (_optional(holdings, key) for key in ("attributes", "persons", "parts"))
    first = next((table for table in (attributes, persons, parts) if table is not None), None)
    names = _pictures(members.names(), path) if first is None else first.names
    for table in (persons, parts):
        if table is not None and table.names != names:
            assert first is not None
            raise _refuse(table.path, f"it lists other pictures, or in another order, than {first.path.name}")
    order = np.arange(len(names))
    test_count = 0
    if parts is not None:
        is_test = parts.values[:, 0] == TEST
        order = np.concatenate([np.flatnonzero(~is_test), np.flatnonzero(is_test)])
        test_count = int(is_test.sum())
    labels, class_names = _labels(config, attributes, persons)
    chosen = _columns(config, attributes)
    catalogue = Catalogue(
        names=tuple(names[i] for i in order),
        test_count=test_count,
        labels=None if labels is None else labels[order],
        class_names=class_names,
        conditions=None if attributes is None or not chosen else attributes.values[order][:, list(chosen.values())],
        condition_names=tuple(chosen) if chosen else None,
    )
    return pack_catalogue(catalogue, members, config, cache)


def _optional(holdings: Holdings, key: str) -> Table | None:
    path = holdings.optional(key)
    return None if path is None else read_table(path, columns=None if key == "attributes" else 1)


def _pictures(found: list[str], path: Path) -> tuple[str, ...]:
    names = tuple(sorted((name for name in found if Path(name).suffix.lower() in SUFFIXES), key=natural))
    if not names:
        raise _refuse(path, "there is no picture in it")
    return names


def _labels(
    config: DataConfig, attributes: Table | None, persons: Table | None
) -> tuple[NDArray[np.int64] | None, Mapping[int, str] | None]:
    """The class of each picture that data.label asks for, and the names of the classes."""
    label = config.label
    if label is None:
        return None, None
    if label == PERSON and persons is not None:
        return persons.values[:, 0], None
    columns = () if attributes is None else attributes.columns or ()
    if attributes is None or label not in columns:
        known = [*([PERSON] if persons is not None else []), *columns]
        raise _unknown("label", label, known)
    return attributes.values[:, columns.index(label)], {-1: f"not {label}", 1: label}


def _columns(config: DataConfig, attributes: Table | None) -> dict[str, int]:
    """The attributes that become values, by name, with their place in the table: all, or those of data.columns."""
    known = () if attributes is None else attributes.columns or ()
    wanted = known if config.columns is None else config.columns
    for name in wanted:
        if name not in known:
            raise _unknown("columns", name, list(known))
    return {name: known.index(name) for name in wanted}


def _unknown(key: str, name: str, known: list[str]) -> ConfigError:
    return ConfigError(
        f"data.{key} is {name!r}, and celeba has no such column",
        expected="one of " + ", ".join(known)
        if known
        else "list_attr_celeba.txt or identity_CelebA.txt beside the faces",
        fix=f"--data.{key} {known[0]}" if known else f"drop data.{key}, or put the list there",
    )


def read_table(path: Path, *, columns: int | None) -> Table:
    """A list with `columns` unnamed columns of whole numbers; None: with a line of their names, of values 1 and -1.

    Raises DataError naming file and line.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _refuse(path, f"it cannot be read ({error})") from None
    comma = path.suffix.lower() == ".csv"
    start, named = 0, None
    if comma and lines:
        start, named = 1, tuple(lines[0].split(","))[1:]
    elif columns is None and len(lines) > 1:
        start, named = 2, tuple(lines[1].split())
    width = len(named or ()) if columns is None else columns
    if width == 0 or (columns is None and len(set(named or ())) != width):
        raise _refuse(path, "its columns have no names, or the same ones")
    rows = _rows(path, lines[start:], start, width, comma=comma)
    if columns is None and not comma and lines[0].strip() != str(len(rows)):
        raise _refuse(path, f"line 1 says {printable(lines[0].strip()[:40])!r}, and {len(rows):,} pictures follow")
    values = np.array([row[1] for row in rows], np.int64)
    if columns is None and (bad := np.argwhere(np.abs(values) != 1)).size:
        row, column = (int(i) for i in bad[0])
        raise _refuse(path, f"line {start + row + 1}: {(named or ())[column]} is {values[row, column]}, not 1 or -1")
    names = tuple(row[0] for row in rows)
    if len(set(names)) != len(names):
        raise _refuse(path, "it lists a picture twice")
    return Table(path, names, named if columns is None else None, values)


def _rows(path: Path, lines: list[str], start: int, width: int, *, comma: bool) -> list[tuple[str, list[int]]]:
    rows = []
    for number, line in enumerate(lines, start=start + 1):
        if not line.strip():
            continue
        name, *texts = line.split(",") if comma else line.split()
        try:
            values = [int(text) for text in texts]
        except ValueError:
            values = []
        if len(values) != width or not name or "/" in name or name.startswith("."):
            raise _refuse(
                path, f"line {number} is {printable(line.strip()[:80])!r}, not NAME and {width} whole numbers"
            )
        rows.append((name, values))
    if not rows:
        raise _refuse(path, "it lists no picture")
    return rows


def _refuse(path: Path, what: str) -> DataError:
    return DataError(f"{printable(str(path))}: {what}", expected="the list as published", fix="get the list again")
