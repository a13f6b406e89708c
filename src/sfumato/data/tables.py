"""Tables of one's own: beside pictures, where a row says something of a file, or alone, where a row is an example.

Beside pictures a table is called `labels` or `metadata` (`.csv`, `.tsv`, `.jsonl`). Its column `file_name` (or `file`,
`filename`, `path`) names a picture relative to the table's own folder; `label` or `class` is its class, and all further
columns of numbers are real values that belong to it. Every picture has one row and every row its picture; what does not
is refused, or left out and recorded, as `data.bad_files` says. Files are only looked up among those that were found: a
row can lead nowhere else.
"""

import posixpath
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sfumato.data.arrays import ArrayFile, pack_arrays
from sfumato.data.columns import Numbers, Told, label_column, labels_of, numbers_of
from sfumato.data.listing import TABLES, Listing
from sfumato.data.packed import Packed, evenly
from sfumato.data.pictures import Pictures, pack_pictures
from sfumato.data.rows import Table, concatenated, read_table
from sfumato.data.settings import DataConfig
from sfumato.data.wording import counted
from sfumato.errors import ConfigError, DataError, printable

__all__ = ["FILE_COLUMNS", "TABLE_SUFFIXES", "as_examples", "load_table", "pack_listed", "require_table", "told_of"]

FILE_COLUMNS = ("file_name", "file", "filename", "path")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
NAMED = 10  # how many files an error names


def pack_listed(pictures: Pictures, config: DataConfig) -> Packed:
    """Pack the pictures of a folder or an archive, with the tables beside them where there are any."""
    listing = pictures.listing
    require_table(listing, config)
    if not listing.tables:
        files = listing.files
        return pack_pictures(pictures, [files[i] for i in evenly(len(files), config.limit)], config)
    table = concatenated([read_table(_called(listing, name), pictures.read(name)) for name in _one_each(listing)])
    folders = {_called(listing, name): posixpath.dirname(name) for name in listing.tables}
    told = told_of(table, config, without=_file_column(table))
    paired = _paired(listing, table, folders, config)
    chosen = evenly(len(paired.files), config.limit)
    about = told.at([paired.rows[i] for i in chosen])
    notes = [*told.notes, *(f"left out {line}" for line in paired.left_out)]
    return pack_pictures(pictures, [paired.files[i] for i in chosen], config, told=about, notes=notes)


def load_table(path: Path, config: DataConfig) -> Packed:
    """The examples of a table that stands alone: each row a point, or a sequence where a column holds lists."""
    where = printable(str(path))
    try:
        content = path.read_bytes()
    except OSError as error:
        what = f"{where}: {error.strerror or error}"
        raise DataError(what, expected="a readable file", fix="check --data.path") from None
    table = read_table(where, content)
    named = table.first(FILE_COLUMNS)
    if named is not None and path.name.lower() in TABLES:
        raise DataError(
            f"{where}: its column {printable(named)} names pictures",
            expected="a table of numbers, or the folder that the pictures lie in",
            fix=f"--data.path {printable(str(path.parent))}",
        )
    return as_examples(table, config)


def as_examples(table: Table, config: DataConfig) -> Packed:
    """Each row as an example: (V,) of the columns of numbers, or the shape of the one column of lists; with classes.

    Raises `DataError` when no column holds numbers.
    """
    column = label_column(table, config.label)
    numbers = numbers_of(table, config.columns, without=(column,))
    if not numbers.names:
        raise DataError(
            f"{table.where}: no column holds numbers (columns: {', '.join(map(printable, table.columns))})",
            expected="columns of finite numbers, or of lists of as many numbers each",
            fix="check --data.path, or name the columns with --data.columns",
        )
    values = numbers.values
    if len(numbers.shapes) == 1:
        values = values.reshape(len(table), *(numbers.shapes[0] or (1,)))
    labels = None if column is None else labels_of(table, column)
    names = None if column is None else table.class_names.get(column)
    return pack_arrays(ArrayFile(table.where, "values", values, labels, names), config)


def told_of(table: Table, config: DataConfig, *, without: str | None) -> Told:
    """What a table says of each of its rows; the column `without` names the files."""
    column = label_column(table, config.label)
    labels = None if column is None else labels_of(table, column)
    numbers = numbers_of(table, config.columns, without=(without, column))
    return Told(
        table.where,
        labels=labels,
        class_names=None if column is None else table.class_names.get(column),
        numbers=numbers.values if numbers.names else None,
        names=numbers.names,
        notes=_left_out(numbers),
    )


def _left_out(numbers: Numbers) -> tuple[str, ...]:
    columns = numbers.left_out
    return (f"ignored {counted(len(columns), 'column')} of words: {', '.join(columns)}",) if columns else ()


def require_table(listing: Listing, config: DataConfig) -> None:
    """Refuse settings of a table where none lies beside the pictures. Raises `ConfigError`."""
    given = [name for name in ("label", "columns") if getattr(config, name) is not None]
    if given and not listing.tables:
        raise ConfigError(
            f"data.{given[0]} is set, but {listing.where} holds no table",
            expected="labels.csv or metadata.jsonl beside the pictures for this setting",
            fix=f"drop data.{given[0]}, or add a table",
        )


def _called(listing: Listing, name: str) -> str:
    return f"{listing.where}/{printable(name)}"


def _one_each(listing: Listing) -> tuple[str, ...]:
    """The tables, one in each folder. Raises `DataError` for two in one: which of them counts?"""
    seen: dict[str, str] = {}
    for name in listing.tables:
        other = seen.setdefault(posixpath.dirname(name), name)
        if other != name:
            raise DataError(
                f"{listing.where}: {printable(other)} and {printable(name)} lie in the same folder",
                expected="one table for the pictures of a folder",
                fix="put all columns into one of them, and rename or remove the other",
            )
    return listing.tables


def _file_column(table: Table) -> str:
    column = table.first(FILE_COLUMNS)
    if column is None:
        raise DataError(
            f"{table.where}: no column names the pictures (columns: {', '.join(map(printable, table.columns))})",
            expected="a column " + ", ".join(FILE_COLUMNS[:-1]) + f" or {FILE_COLUMNS[-1]}",
            fix="rename the column to file_name, or rename the table if it is about something else",
        )
    return column


@dataclass(frozen=True, slots=True)
class _Paired:
    """Files that have a row, in the order of the listing, the rows, and what had no counterpart."""

    files: tuple[str, ...]
    rows: tuple[int, ...]
    left_out: tuple[str, ...]


def _paired(listing: Listing, table: Table, folders: dict[str, str], config: DataConfig) -> _Paired:
    """Give every picture its row. Raises `DataError` for rows and pictures without one another, and for two rows of one
    picture; with `data.bad_files: skip` those that have no counterpart are left out.
    """
    column = _file_column(table)
    known = _Names(listing.files)
    row_of: dict[str, int] = {}
    lost: list[int] = []
    for row, cell in enumerate(table.columns[column]):
        name = known.find(folders[table.wheres[row]], cell)
        if name is None:
            lost.append(row)
        elif name in row_of:
            raise DataError(
                f"{table.place(row)}: {printable(name)} has a row already ({table.place(row_of[name])})",
                expected="one row for each picture",
                fix="remove one of the two rows",
            )
        else:
            row_of[name] = row
    unsaid = [name for name in listing.files if name not in row_of]
    if config.bad_files == "error" or not row_of:
        _refuse_unpaired(listing, table, column, lost, unsaid)
    places = [table.place(row).removeprefix(f"{listing.where}/") for row in lost]
    left_out = [
        f"{place}: there is no picture {_named(table.columns[column][row])}"
        for place, row in zip(places, lost, strict=True)
    ]
    left_out += [f"{printable(name)}: no row in the table" for name in unsaid]
    files = tuple(name for name in listing.files if name in row_of)
    return _Paired(files, tuple(row_of[name] for name in files), tuple(left_out))


def _refuse_unpaired(listing: Listing, table: Table, column: str, lost: Sequence[int], unsaid: Sequence[str]) -> None:
    skip = "or leave them out with --data.bad_files skip"
    if lost:
        more = f" ({counted(len(lost), 'such row')})" if len(lost) > 1 else ""
        raise DataError(
            f"{table.place(lost[0])}: there is no picture {_named(table.columns[column][lost[0]])}{more}",
            expected="a picture for each row, named relative to the table's folder",
            fix=f"mend or remove the rows, {skip}",
        )
    if unsaid:
        named = ", ".join(map(printable, unsaid[:NAMED])) + (", …" if len(unsaid) > NAMED else "")
        raise DataError(
            f"{listing.where}: {len(unsaid)} of {counted(len(listing.files), 'picture')} have no row in "
            f"{printable(Path(table.where).name)}: {named}",
            expected="a row for each picture",
            fix=f"add the rows or remove the pictures, {skip}",
        )


def _named(cell: object) -> str:
    return "in this row" if cell is None else repr(printable(cell))


class _Names:
    """Pictures by name as tables write them: `./a.png`, `a\\b.png`, accents composed or not."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = frozenset(files)
        self.composed = {unicodedata.normalize("NFC", name): name for name in files}

    def find(self, folder: str, cell: object) -> str | None:
        """The picture that a cell of the table in `folder` names; None when there is none below the root."""
        if not isinstance(cell, str):
            return None
        for written in (cell, cell.replace("\\", "/")):
            name = posixpath.normpath(posixpath.join(folder, written))
            if name in self.files:
                return name
            if (composed := unicodedata.normalize("NFC", name)) in self.composed:
                return self.composed[composed]
        return None
