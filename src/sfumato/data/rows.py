"""Rows and columns from text: CSV, TSV and JSON lines, every cell with the place that it came from.

Cells of CSV are text; cells of JSON are what JSON says. Nothing is taken for a number, a class or a file here: what the
columns mean is decided in `columns`.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from sfumato.data.wording import counted
from sfumato.errors import DataError, printable

__all__ = ["Cells", "Table", "concatenated", "read_table"]

Cells = Sequence[object] | NDArray[Any]  # one for each row: text, numbers, lists, None for nothing; or numbers (N, ...)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Columns of as many cells each as there are rows.

    wheres, lines: the file and the line of it that each row comes from; `mark` stands between them in messages.
    class_names: what the file itself calls the classes of a column, by the column's name.
    """

    columns: Mapping[str, Cells]
    wheres: Sequence[str]
    lines: Sequence[int]
    mark: str = ":"
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def where(self) -> str:
        """The file, or the first of several, for messages about the whole."""
        return self.wheres[0] if self.wheres else "the table"

    def place(self, row: int) -> str:
        """Where a row stands: `labels.csv:7`."""
        return f"{self.wheres[row]}{self.mark}{self.lines[row]}"

    def first(self, names: Sequence[str]) -> str | None:
        """The first of `names`, without regard to case, that is a column."""
        known = {column.lower(): column for column in reversed(list(self.columns))}
        return next((known[name] for name in names if name in known), None)


def concatenated(tables: Sequence[Table]) -> Table:
    """The rows of several tables one after the other. Raises `DataError` where their columns differ."""
    first = tables[0]
    for other in tables[1:]:
        if set(other.columns) != set(first.columns):
            differ = sorted(set(other.columns) ^ set(first.columns))
            raise DataError(
                f"{other.where}: other columns than in {first.where} ({', '.join(map(printable, differ))})",
                expected="the same columns in all tables",
                fix="add or remove the columns, or put all rows into one table",
            )
    if len(tables) == 1:
        return first
    columns = {name: [cell for table in tables for cell in table.columns[name]] for name in first.columns}
    wheres = [where for table in tables for where in table.wheres]
    return Table(columns, wheres, [line for table in tables for line in table.lines], first.mark, first.class_names)


def read_table(where: str, content: bytes) -> Table:
    """The table of a `.csv`, `.tsv` or `.jsonl` file; `where` names it, in messages too.

    Raises `DataError` with the file and the line for what is no such text.
    """
    text = _text(where, content)
    records = _json_records(where, text) if where.lower().endswith(".jsonl") else _csv_records(where, text)
    lines: list[int] = []
    columns: dict[str, list[object]] = {}
    for line, record in records:
        for name, cell in record.items():
            if name not in columns:
                columns[name] = [None] * len(lines)
            columns[name].append(cell)
        lines.append(line)
        for cells in columns.values():
            if len(cells) < len(lines):
                cells.append(None)
    if not lines:
        raise DataError(f"{where}: there is no row", expected="a row for each example", fix="fill or remove the file")
    return Table(columns, [where] * len(lines), lines)


def _text(where: str, content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{where}: is UTF-16", expected="text in UTF-8", fix="save it as CSV UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{where}:{line}: byte {content[error.start]:#04x} is not UTF-8",
            expected="text in UTF-8",
            fix="save it as CSV UTF-8",
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"{where}:{line}: holds a NUL character", expected="text", fix="save or copy it again")
    return text


def _csv_records(where: str, text: str) -> Iterator[tuple[int, dict[str, object]]]:
    """(line, column → text or None) of each row; blank lines are passed over, and columns without a name left out."""
    start = next((line for line in text.splitlines() if line.strip()), "")
    tabs = where.lower().endswith(".tsv")
    separator = "\t" if tabs else max(",;\t", key=lambda mark: start.count(mark))  # of equals the first: the comma
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names: list[str] | None = None
    begun = 1
    try:
        for row in reader:
            line, begun = begun, reader.line_num + 1
            if not any(cell.strip() for cell in row):
                continue
            if names is None:
                names = _header(where, line, row)
            elif len(row) != len(names):
                wanted = counted(len(names), "column")
                raise DataError(
                    f"{where}:{line}: {counted(len(row), 'cell')}, but the first line names {wanted}",
                    expected=f"{counted(len(names), 'cell')}, separated by {separator!r}",
                    fix="mend the line, or put text that holds the separator in quotes",
                )
            else:
                yield line, {name: cell.strip() or None for name, cell in zip(names, row, strict=True) if name}
    except csv.Error as error:
        raise DataError(
            f"{where}:{begun}: {error}", expected="CSV", fix="mend the line, or put the text in quotes"
        ) from None


def _header(where: str, line: int, row: Sequence[str]) -> list[str]:
    names = [cell.strip() for cell in row]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        what = f"{where}:{line}: two columns are called {printable(twice)!r}"
        raise DataError(what, expected="a name of its own for each column", fix="rename one of them")
    return names


def _json_records(where: str, text: str) -> Iterator[tuple[int, dict[str, object]]]:
    for line, written in enumerate(text.split("\n"), start=1):
        if not written.strip():
            continue
        try:
            record = json.loads(written, parse_int=_whole)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise _no_object(where, line, reason) from None
        if not isinstance(record, dict):
            raise _no_object(where, line, f"is a {type(record).__name__}, not an object")
        yield line, record


def _whole(text: str) -> int | float:
    """A whole number; beyond what any label can be, its nearest float (Python refuses to read very long ones)."""
    return int(text) if len(text) < 20 else float(text) if len(text) < 400 else math.inf


def _no_object(where: str, line: int, reason: str) -> DataError:
    return DataError(
        f"{where}:{line}: {reason}",
        expected='one JSON object on each line, such as {"file_name": "1.png", "label": "cat"}',
        fix="mend the line",
    )
