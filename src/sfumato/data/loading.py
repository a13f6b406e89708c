"""From settings to examples: `load_data` finds the source that the settings name and reads, draws or decodes it.

No connection is opened unless `data.download` is set.
"""

import os
from dataclasses import replace
from pathlib import Path

from sfumato.data.archives import is_archive, load_archive
from sfumato.data.arrays import load_array_file
from sfumato.data.cache import Cache, default_folder
from sfumato.data.embedded import load_embedded
from sfumato.data.folder import load_folder
from sfumato.data.hub import is_hub, load_hub
from sfumato.data.packed import Packed, check_pad
from sfumato.data.packed_file import SUFFIX as PACKED_SUFFIX
from sfumato.data.parquet import load_parquet
from sfumato.data.points import load_points
from sfumato.data.prepacked import load_packed_file
from sfumato.data.sets import declared_set, known_as, load_set, require_set
from sfumato.data.settings import EMBEDDED_SOURCES, POINT_SOURCES, SET_SOURCES, DataConfig
from sfumato.data.tables import TABLE_SUFFIXES, load_table
from sfumato.data.wording import READABLE, counted
from sfumato.errors import ConfigError, DataError, printable

__all__ = ["declared_classes", "declared_shape", "load_data", "require_there"]


def load_data(config: DataConfig, *, seed: int, cache: Path | None = None, remember: bool = True) -> Packed:
    """The examples that `config` describes. `seed` draws generated points; everything else does not depend on it.

    `cache` overrides `config.cache` as the folder for decoded pictures and fetched files; without `remember` no decoded
    pictures are put there or taken from there. Raises `ConfigError` for settings that do not fit the source and
    `DataError` for data that are missing or unusable.
    """
    folder = _cache_folder(config) if cache is None else cache
    packed = _load(config, seed, Cache(folder, remembers=remember))
    if config.test_part or not packed.test_count:
        return packed
    note = f"{counted(packed.test_count, 'example')} of the source's own test part pooled with the rest"
    return replace(packed, test_count=0, report=(*packed.report, note))


def _load(config: DataConfig, seed: int, cache: Cache) -> Packed:
    if config.source in SET_SOURCES and (packed := load_set(config, cache)) is not None:
        return packed
    if config.path is not None:
        return _load_path(config.path, config, cache)
    if config.source in EMBEDDED_SOURCES:
        _refuse_table_settings(config, f"data.source {config.source!r} has no columns")
        return load_embedded(config.source, config)
    if config.source in POINT_SOURCES:
        _refuse_table_settings(config, f"data.source {config.source!r} draws points")
        _refuse_picture_settings(config)
        return load_points(config, seed=seed)
    raise ConfigError(
        f"data.source is {config.source!r} but data.path is not given",
        expected=READABLE,
        fix="--data.path path/to/images",
    )


def require_there(config: DataConfig) -> None:
    """Raise what `load_data` would where the data are not on this machine and nothing may fetch them; reads nothing."""
    cache = Cache(_cache_folder(config))
    if config.source in SET_SOURCES:
        if config.download:
            return
        require_set(config, cache)
    path = config.path
    gone = path is not None and not is_hub(path) and not os.path.exists(Path(path).expanduser())
    if gone or (path is None and config.source == "folder"):
        _load(config, 0, cache)


def declared_shape(config: DataConfig) -> tuple[int, ...] | None:
    """Shape of one example, channels first and padded, as far as the settings alone tell; None when they do not.

    Lets a configuration be checked where its data are not. Pictures whose `channels` are not set count as colour.
    """
    if config.path is None and config.source in POINT_SOURCES:
        return (2,)
    named = declared_set(config)
    own = {"digits": (1, 8, 8), "sprites": (3, 32, 32)}.get(config.source) if config.path is None else None
    own = own if named is None else named.shape
    height_width = config.pad_hw or config.size_hw or (own[1:] if own else None)
    if height_width is None:
        return None
    channels = config.channels or (own[0] if own else 3)
    return (channels, *height_width)


def declared_classes(config: DataConfig) -> int | None:
    """How many classes the examples have, as far as the settings alone tell; None when they do not."""
    named = declared_set(config)
    if named is None or not named.labels:
        return None
    return named.labels.get(config.label or next(iter(named.labels)))


def _cache_folder(config: DataConfig) -> Path | None:
    """Where decoded pictures and fetched files are kept; None for nowhere."""
    if config.cache == "off":
        return None
    return default_folder() if config.cache is None else Path(config.cache).expanduser()


def _load_path(given: str, config: DataConfig, cache: Cache) -> Packed:
    packed = load_hub(config, cache) if is_hub(given) else _load_known(Path(given).expanduser(), config, cache)
    check_pad(packed.values, config.pad_hw)
    return replace(packed, pad=config.pad_hw)


def _load_known(path: Path, config: DataConfig, cache: Cache) -> Packed:
    """What lies at a path; where it cannot be used and goes by the names of a set, the refusal says so."""
    try:
        return _load_file(path, config, cache)
    except DataError as error:
        if not (sets := known_as(path)):
            raise
        fix = f"{error.fix}; if this is {' or '.join(sets)}: --data.source {sets[0]}"
        raise DataError(error.what, expected=error.expected, fix=fix) from error


def _load_file(path: Path, config: DataConfig, cache: Cache) -> Packed:
    if path.suffix.lower() == PACKED_SUFFIX and not os.path.isdir(path):
        _refuse_table_settings(config, f"{printable(str(path))} is not a table")
        return load_packed_file(path, config)
    if os.path.isdir(path) or not os.path.exists(path):
        return load_folder(path, config, cache)
    suffix = path.suffix.lower() if path.is_file() else ""  # reading a pipe would wait for ever
    if suffix and is_archive(path):
        return load_archive(path, config, cache)
    if suffix == ".parquet":
        return load_parquet(path, config, cache)
    if suffix in TABLE_SUFFIXES:
        return load_table(path, config)
    if suffix in (".npz", ".npy"):
        _refuse_table_settings(config, f"{printable(str(path))} is not a table")
        return load_array_file(path, config)
    raise DataError(
        f"{printable(str(path))}: neither a folder nor a file of data",
        expected=READABLE,
        fix="for a single picture give the folder that it lies in",
    )


def _refuse_table_settings(config: DataConfig, why: str) -> None:
    given = [name for name in ("label", "columns") if getattr(config, name) is not None]
    if given:
        raise ConfigError(
            f"data.{given[0]} is set, but {why}",
            expected="a table: labels.csv or metadata.jsonl beside pictures, a .csv, .jsonl or .parquet file",
            fix=f"drop data.{given[0]}",
        )


def _refuse_picture_settings(config: DataConfig) -> None:
    given = [n for n in ("size", "channels", "pad", "min_size", "value_range") if getattr(config, n) is not None]
    given += ["flip"] if config.flip else []
    if given:
        raise ConfigError(
            f"data.{given[0]} is set, but data.source {config.source!r} draws points, not images",
            expected="settings of points: count, noise, limit, normalize, held_out",
            fix=f"drop data.{given[0]}",
        )
