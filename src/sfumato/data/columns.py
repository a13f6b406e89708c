"""What the columns of a table mean: a class, real numbers, or nothing that a model could be told.

A column holds numbers when most of its cells that say something are numbers (or lists of numbers) of one shape; a cell
of such a column that is empty, another thing or not finite is refused with its line. Classes are whole numbers from 0,
or names; a column that mixes them is refused, because a misspelt number would become a class of its own.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data.labels import Classes, map_labels
from sfumato.data.rows import Cells, Table
from sfumato.data.wording import counted
from sfumato.errors import DataError, printable

__all__ = ["LABEL_COLUMNS", "Numbers", "Told", "label_column", "labels_of", "numbers_of"]

LABEL_COLUMNS = ("label", "class")
WHOLE = re.compile(r"[-+]?[0-9]{1,18}")
DECIMAL = re.compile(r"[-+]?([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][-+]?[0-9]{1,4})?")
NOT_FINITE = re.compile(r"[-+]?(nan|inf|infinity)", re.IGNORECASE)
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What a table says of N examples.

    labels: (N,) whole numbers or names, or None. class_names: what the table calls whole-numbered classes, or None.
    numbers: float64 (N, V), finite, or None; names: what the table calls the V numbers. where: the table, for messages.
    notes: columns that were left out.
    """

    where: str
    labels: NDArray[Any] | None = None
    class_names: tuple[str, ...] | None = None
    numbers: NDArray[np.float64] | None = None
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def at(self, rows: Sequence[int]) -> "Told":
        """What is said of the chosen examples, in their order."""
        chosen = np.asarray(rows, np.int64)
        labels, numbers = (None if part is None else part[chosen] for part in (self.labels, self.numbers))
        return replace(self, labels=labels, numbers=numbers)

    def classes(self) -> Classes:
        """The classes that the labels are."""
        assert self.labels is not None
        return map_labels(self.labels, len(self.labels), self.class_names, where=self.where)

    def conditions(self) -> Tensor | None:
        """The numbers as a model is told them: float32 (N, V)."""
        return None if self.numbers is None else torch.from_numpy(self.numbers.astype(np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """values float64 (N, V); names of the V numbers; shapes of the columns; left_out: columns that hold words."""

    values: NDArray[np.float64]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    left_out: tuple[str, ...]


def label_column(table: Table, wanted: str | None) -> str | None:
    """The column that names the class: the `wanted` one (data.label), or `label` or `class` where there is one.

    Raises `DataError` when there is no such column, or when both are there and none is asked for.
    """
    if wanted is not None:
        return _known(table, wanted, "label")
    found = [name for name in LABEL_COLUMNS if table.first((name,)) is not None]
    if len(found) > 1:
        raise DataError(
            f"{table.where}: the columns {' and '.join(found)} may both be the class",
            expected="one of them, or data.label to choose",
            fix=f"--data.label {found[0]}",
        )
    return table.first(found)


def labels_of(table: Table, column: str) -> NDArray[Any]:
    """The classes of a column, int64 or text, (N,). Raises `DataError` with the line of one that is missing, negative,
    fractional, beyond the names that the table itself gives, or a word among numbers (or the other way round)."""
    cells = table.columns[column]
    labels = [_label(cell) for cell in (cells.tolist() if isinstance(cells, np.ndarray) else cells)]
    words = sum(isinstance(label, str) for label in labels)
    numbers = sum(isinstance(label, int) for label in labels)
    names = table.class_names.get(column)
    allowed = "whole numbers from 0" if names is None else f"0..{len(names) - 1}, as the file names its classes"
    if words and numbers:
        kind: type = int if words >= numbers else str
        most = f"{counted(words, 'name')}" if words >= numbers else counted(numbers, "whole number")
        wrong = [row for row, label in enumerate(labels) if isinstance(label, kind)]
        raise _bad_label(table, column, wrong, f"names in all rows, or {allowed} in all rows", f" among {most}")
    bad = [row for row, label in enumerate(labels) if label is None]
    if bad:
        raise _bad_label(table, column, bad, allowed if numbers or names else "whole numbers from 0, or names")
    if words:
        return np.array(labels)
    beyond = len(names) if names is not None else 2**62
    bad = [row for row, label in enumerate(labels) if isinstance(label, int) and not 0 <= label < beyond]
    if bad:
        raise _bad_label(table, column, bad, allowed)
    return np.array(labels, np.int64)


def numbers_of(table: Table, chosen: Sequence[str] | None, *, without: Sequence[str | None]) -> Numbers:
    """The real numbers of the `chosen` columns (data.columns), or of all that hold numbers but those `without`.

    Raises `DataError` with the line of a cell that holds no finite number or another shape than the others.
    """
    if chosen is not None:
        columns = [_known(table, name, "columns") for name in chosen]
    else:
        columns = [name for name in table.columns if name not in without]
    parts: dict[str, NDArray[np.float64]] = {}
    left_out: list[str] = []
    for name in columns:
        cells = table.columns[name]
        parsed = cells if _is_array(cells) else [_parsed(cell) for cell in cells]
        shape = parsed.shape[1:] if isinstance(parsed, np.ndarray) else _usual_shape(parsed)
        if shape is None and chosen is None:
            left_out.append(printable(name))
        else:
            parts[name] = _matrix(table, name, parsed, () if shape is None else shape)
    names = [label for name, part in parts.items() for label in _names(printable(name), part.shape[1:])]
    flat = [part.reshape(len(table), -1) for part in parts.values()]
    values = np.concatenate(flat, axis=1) if flat else np.zeros((len(table), 0))
    return Numbers(values, tuple(names), tuple(part.shape[1:] for part in parts.values()), tuple(left_out))


def _is_array(cells: Cells) -> bool:
    return isinstance(cells, np.ndarray) and cells.dtype.kind in "biuf"


def _known(table: Table, wanted: str, setting: str) -> str:
    found = wanted if wanted in table.columns else table.first((wanted.lower(),))
    if found is None:
        raise DataError(
            f"{table.where}: there is no column {printable(wanted)!r} (data.{setting})",
            expected="one of " + ", ".join(map(printable, table.columns)),
            fix=f"--data.{setting} {printable(next(iter(table.columns), 'NAME'))}",
        )
    return found


def _label(cell: object) -> int | str | None:
    """A class as it is written: a whole number, a name, or None for what is neither."""
    if isinstance(cell, bool | np.bool_):
        return int(cell)
    if isinstance(cell, int):
        return cell
    if isinstance(cell, float):
        return int(cell) if cell.is_integer() and abs(cell) < 2**53 else None
    if not isinstance(cell, str) or not cell.strip():
        return None
    text = cell.strip()
    if WHOLE.fullmatch(text):
        return int(text)
    if NOT_FINITE.fullmatch(text):
        return None
    return _label(float(text)) if DECIMAL.fullmatch(text) else printable(text)


def _bad_label(table: Table, column: str, rows: Sequence[int], expected: str, among: str = "") -> DataError:
    cell = table.columns[column][rows[0]]
    said = "is missing" if cell is None or cell == "" else f"is {_shown(cell)}{among}"
    more = f" ({counted(len(rows), 'such row')})" if len(rows) > 1 else ""
    return DataError(
        f"{table.place(rows[0])}: {printable(column)} {said}{more}",
        expected=expected,
        fix="mend the rows, or remove the column for an unconditional model",
    )


def _parsed(cell: object) -> object:
    """A cell as a number, as a list, as None for nothing, or as the words that it is."""
    if isinstance(cell, bool | int | float):
        return float(cell)
    if not isinstance(cell, str):
        return cell
    text = cell.strip()
    if DECIMAL.fullmatch(text) or NOT_FINITE.fullmatch(text):
        return float(text)
    if text[:1] != "[":
        return text or None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _shape(value: object) -> tuple[int, ...] | None:
    """() of a number, (n,) of a list of n numbers, (m, n) of m such lists; None of anything else."""
    if isinstance(value, float | int):
        return ()
    if not isinstance(value, list | tuple | np.ndarray):
        return None
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):  # lists of different lengths within the cell
        return None
    return array.shape if array.dtype.kind in "biuf" and array.size else None


def _usual_shape(parsed: Sequence[object]) -> tuple[int, ...] | None:
    """The shape that most cells which say something have; None for a column of words."""
    found = [_shape(value) for value in parsed if value is not None]
    shape, count = Counter(found).most_common(1)[0] if found else (None, 0)
    return shape if 2 * count > len(found) else None


def _matrix(table: Table, name: str, parsed: Cells, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The numbers of a column, float64 (N, *shape), all of them within float32."""
    if not isinstance(parsed, np.ndarray):
        wrong = [row for row, value in enumerate(parsed) if value is None or _shape(value) != shape]
        if wrong:
            raise _bad_number(table, name, wrong, shape)
    values = np.asarray(parsed, np.float64).reshape(len(table), *shape)
    fits = (np.abs(values) <= LARGEST).reshape(len(values), -1).all(axis=1)  # not so for NaN
    if not fits.all():
        raise _bad_number(table, name, np.flatnonzero(~fits).tolist(), shape)
    return values


def _bad_number(table: Table, name: str, rows: Sequence[int], shape: tuple[int, ...]) -> DataError:
    cell = table.columns[name][rows[0]]
    said = "is missing" if cell is None else f"is {_shown(cell)}"
    more = f" ({counted(len(rows), 'such row')})" if len(rows) > 1 else ""
    wanted = "a finite number" if not shape else f"finite numbers, {' x '.join(map(str, shape))}"
    return DataError(
        f"{table.place(rows[0])}: {printable(name)} {said}{more}",
        expected=f"{wanted} in every row",
        fix="mend the rows, or name the columns that hold real values with --data.columns ([] for none)",
    )


def _names(column: str, shape: tuple[int, ...]) -> list[str]:
    """`angle`, or `box[0]`, `box[1]`, … of a list."""
    return [column + "".join(f"[{i}]" for i in index) for index in np.ndindex(shape)]


def _shown(cell: object) -> str:
    text = printable(repr(cell.tolist() if isinstance(cell, np.ndarray | np.generic) else cell))
    return text if len(text) <= 60 else text[:59] + "…"
