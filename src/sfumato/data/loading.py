"""From settings to examples: `load_data` finds the source that the settings name and reads, draws or decodes it.

No connection is opened unless `data.download` is set.
"""

import os
from dataclasses import replace
from pathlib import Path

from sfumato.data.arrays import load_array_file
from sfumato.data.cache import Cache, default_folder
from sfumato.data.embedded import load_embedded
from sfumato.data.folder import load_folder
from sfumato.data.packed import Packed, check_pad
from sfumato.data.points import load_points
from sfumato.data.sets import declared_set, load_set
from sfumato.data.settings import EMBEDDED_SOURCES, POINT_SOURCES, SET_SOURCES, DataConfig
from sfumato.data.wording import counted
from sfumato.errors import ConfigError, DataError, printable

__all__ = ["declared_classes", "declared_shape", "load_data"]


def load_data(config: DataConfig, *, seed: int, cache: Path | None = None) -> Packed:
    """The examples that `config` describes. `seed` draws generated points; everything else does not depend on it.

    `cache` overrides `config.cache` as the folder for decoded pictures. Raises `ConfigError` for settings that do not
    fit the source, `DataError` for data that are missing or unusable.
    """
    packed = _load(config, seed, _cache_folder(config) if cache is None else cache)
    if config.test_part or not packed.test_count:
        return packed
    note = f"{counted(packed.test_count, 'example')} of the source's own test part pooled with the rest"
    return replace(packed, test_count=0, report=(*packed.report, note))


def _load(config: DataConfig, seed: int, cache: Path | None) -> Packed:
    if config.source in SET_SOURCES and (packed := load_set(config, cache)) is not None:
        return packed
    if config.path is not None:
        return _load_path(Path(config.path).expanduser(), config, cache)
    if config.source in EMBEDDED_SOURCES:
        return load_embedded(config.source, config)
    if config.source in POINT_SOURCES:
        _refuse_picture_settings(config)
        return load_points(config, seed=seed)
    raise ConfigError(
        f"data.source is {config.source!r} but data.path is not given",
        expected="a folder of images, an .npz or an .npy file",
        fix="--data.path path/to/images",
    )


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


def _load_path(path: Path, config: DataConfig, cache: Path | None) -> Packed:
    if os.path.isdir(path) or not os.path.exists(path):
        packed = load_folder(path, config, Cache(cache))
        check_pad(packed.values, config.pad_hw)
        return replace(packed, pad=config.pad_hw)
    if path.is_file() and path.suffix.lower() in (".npz", ".npy"):
        return load_array_file(path, config)
    raise DataError(
        f"{printable(str(path))}: neither a folder nor an .npz or .npy file",
        expected="a folder of images, an .npz or an .npy file",
        fix="for a single picture give the folder that it lies in",
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
