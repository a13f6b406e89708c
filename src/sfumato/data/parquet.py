"""Parquet files: a column of pictures with what the other columns say of them, or columns of numbers alone.

A picture is a file's bytes, or a struct with a field `bytes`, as Hugging Face data sets store them. Where the schema
says what a class is called (a `ClassLabel`), labels outside 0 … K-1 are refused; -1 is how such sets write "unknown".
A file called `…-00000-of-00005.parquet` stands for all five. Rows are counted from 0. Needs the extra `data`.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from sfumato.data.cache import Cache
from sfumato.data.decoding import BadPicture
from sfumato.data.listing import Listing
from sfumato.data.packed import Packed, evenly
from sfumato.data.pictures import Content, Pictures, pack_pictures, settings_key
from sfumato.data.rows import Cells, Table
from sfumato.data.settings import DataConfig
from sfumato.data.tables import as_examples, told_of
from sfumato.errors import DataError, PlatformError, SfumatoError, printable

__all__ = ["ParquetPictures", "load_parquet", "parquet_pictures"]

SHARD = re.compile(r"(?P<stem>.*)-[0-9]{5}-of-(?P<count>[0-9]{5})\.parquet")
IMAGE_COLUMNS = ("image", "img")  # which of several columns of files holds the pictures
BATCH = 64  # rows of pictures in memory at once


def load_parquet(path: Path, config: DataConfig, cache: Cache) -> Packed:
    """The examples of a parquet file; pictures from `cache` when nothing has changed since.

    Raises `PlatformError` where pyarrow is not installed, `DataError` for files that are damaged or of no use.
    """
    shards = _shards(path)
    digest = settings_key(config, os.path.realpath(path), table=True)
    for shard in shards:
        status = os.stat(shard)
        digest.update(f"\0{status.st_size} {status.st_mtime_ns} {shard.name}".encode("utf-8", "surrogateescape"))
    packed = cache.read(digest.hexdigest())
    if packed is not None:
        return packed
    with _explained(path):
        schema = _schema(shards)
        column = _image_column(schema, path)
        table = _table(shards, schema, without=column)
        if column is None:
            return as_examples(table, config)
        packed = _pack(_pictures(path, shards, column), table, config)
    cache.write(digest.hexdigest(), packed)
    return packed


def parquet_pictures(path: Path) -> "ParquetPictures | None":
    """The pictures of a parquet file, None where no column holds any. Raises as `load_parquet` does."""
    shards = _shards(path)
    with _explained(path):
        column = _image_column(_schema(shards), path)
        return None if column is None else _pictures(path, shards, column)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Whatever goes wrong, as DataError: damaged files are reported with any exception there is."""
    try:
        yield
    except SfumatoError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{printable(str(path))}: cannot be read ({printable(reason)})",
            expected="an intact .parquet file",
            fix="save or copy it again",
        ) from error


@final
@dataclass(frozen=True, slots=True)
class ParquetPictures(Pictures):
    """The pictures in a column of parquet files, called by their rows."""

    noun: ClassVar[str] = "file"
    found: Listing
    shards: tuple[Path, ...]
    column: str

    @property
    def listing(self) -> Listing:
        return self.found

    def opened(self, names: Sequence[str]) -> Iterator[tuple[str, Content]]:
        """The bytes of each picture, row after row."""
        wanted, position = frozenset(names), 0
        for shard in self.shards:
            with _explained(self.found.root), _parquet().ParquetFile(shard) as file:
                for batch in file.iter_batches(batch_size=BATCH, columns=[self.column]):
                    for cell in batch.column(0).to_pylist():
                        name = self.found.files[position]
                        position += 1
                        if name in wanted:
                            yield name, _content(cell)

    def read(self, name: str) -> bytes:
        """There are no tables beside a table."""
        raise NotImplementedError(name)


def _content(cell: object) -> bytes | BadPicture:
    if isinstance(cell, dict):
        inside = cell.get("bytes")
        if inside is None and cell.get("path"):
            return BadPicture(f"holds only the name of a file ({printable(cell['path'])}), not its bytes")
        cell = inside
    return cell if isinstance(cell, bytes) else BadPicture("no picture in this row")


def _pictures(path: Path, shards: Sequence[Path], column: str) -> ParquetPictures:
    """The pictures of a column, called by their rows. Raises `DataError` when there is none."""
    names: list[str] = []
    for shard in shards:
        prefix = f"{shard.name} " if len(shards) > 1 else ""
        with _parquet().ParquetFile(shard) as file:
            names += (f"{prefix}row {line}" for line in range(file.metadata.num_rows))
    if not names:
        raise DataError(f"{printable(str(path))}: holds no row", expected="a row for each example", fix="check it")
    return ParquetPictures(Listing(path, tuple(names), (), 0, 0), tuple(shards), column)


def _pack(pictures: ParquetPictures, table: Table, config: DataConfig) -> Packed:
    names = pictures.listing.files
    chosen = evenly(len(names), config.limit)
    told = told_of(table, config, without=None).at(chosen)
    return pack_pictures(pictures, [names[i] for i in chosen], config, told=told, notes=told.notes)


def _parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise PlatformError(
            "reading .parquet files needs the package pyarrow, which is not installed",
            expected="the extra `data`",
            fix="pip install 'sfumato[data]'",
        ) from None
    return parquet


def _shards(path: Path) -> tuple[Path, ...]:
    """All parts of the data set that a file is a part of, in order. Raises `DataError` when some are missing."""
    named = SHARD.fullmatch(path.name)
    if named is None:
        return (path,)
    count = int(named["count"])
    parts = tuple(path.with_name(f"{named['stem']}-{i:05d}-of-{count:05d}.parquet") for i in range(count))
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise DataError(
            f"{printable(str(path))}: {len(missing)} of its {count} parts are missing, {printable(missing[0])} first",
            expected="all parts in one folder",
            fix="copy the missing files, or rename the one that should be used alone",
        )
    return parts


def _schema(shards: Sequence[Path]) -> Any:
    """The schema that all parts have."""
    schemas = [_parquet().read_schema(shard) for shard in shards]
    for shard, schema in zip(shards, schemas, strict=True):
        if not schema.equals(schemas[0], check_metadata=False):
            raise DataError(
                f"{printable(str(shard))}: other columns than in {printable(shards[0].name)}",
                expected="parts of one data set",
                fix="keep other files out of the folder",
            )
    return schemas[0]


def _image_column(schema: Any, path: Path) -> str | None:
    """The column that holds files; None for a table without. Raises `DataError` where several might be meant."""
    from pyarrow import types

    def is_file(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(kind.field(i).name == "bytes" and is_file(kind.field(i).type) for i in range(kind.num_fields))
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    found = [field.name for field in schema if is_file(field.type)]
    usual = [name for name in found if name.lower() in IMAGE_COLUMNS]
    if len(found) <= 1 or len(usual) == 1:
        return next(iter(usual or found), None)
    raise DataError(
        f"{printable(str(path))}: the columns {', '.join(map(printable, found))} may all hold the pictures",
        expected="one column of pictures, or one that is called image",
        fix="save the file without the others",
    )


def _table(shards: Sequence[Path], schema: Any, *, without: str | None) -> Table:
    """Every column but the pictures, and where each row stands."""
    import pyarrow

    columns = [name for name in schema.names if name != without]
    parts, wheres, lines = [], list[str](), list[int]()
    for shard in shards:
        with _parquet().ParquetFile(shard) as file:
            count = file.metadata.num_rows
            if columns:
                parts.append(file.read(columns=columns))
        wheres += [shard.name] * count
        lines += range(count)
    found = pyarrow.concat_tables(parts) if parts else None
    cells: dict[str, Cells] = {} if found is None else {name: _cells(found.column(name)) for name in columns}
    return Table(cells, wheres, lines, ": row ", _class_names(schema))


def _cells(column: Any) -> Cells:
    """A column as numbers (N, ...) where it holds as many in each row, otherwise as Python values."""
    import pyarrow
    from pyarrow import compute, types

    array = column.combine_chunks()
    if isinstance(array, pyarrow.ExtensionArray):
        array = array.storage
    kind = array.type
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        numbers = array.to_numpy(zero_copy_only=False)
        return numbers if numbers.dtype.kind in "biuf" else array.to_pylist()
    if (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)) and not array.null_count:
        lengths = np.unique(compute.list_value_length(array).to_numpy(zero_copy_only=False))
        if len(lengths) == 1 and lengths[0] > 0:
            inner = _cells(pyarrow.chunked_array([array.flatten()]))
            if isinstance(inner, np.ndarray):
                return inner.reshape(len(array), int(lengths[0]), *inner.shape[1:])
    return array.to_pylist()


def _class_names(schema: Any) -> dict[str, tuple[str, ...]]:
    """What the schema calls the classes of its columns, where the library `datasets` wrote it."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        listed = {name: feature["names"] for name, feature in features.items() if "names" in feature}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}
    return {name: tuple(map(printable, names)) for name, names in listed.items() if isinstance(names, list) and names}
