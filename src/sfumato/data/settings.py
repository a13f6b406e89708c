"""The `data:` section of an experiment: where examples come from and how they are prepared.

A `DataConfig` is plain scalars, checked on construction; nothing is read from disk here, so that a configuration can be
written, compared and printed on a machine that does not hold the data.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from sfumato.errors import ConfigError

__all__ = ["EMBEDDED_SOURCES", "NORMALIZATIONS", "POINT_SOURCES", "SET_SOURCES", "SOURCES", "DataConfig"]

EMBEDDED_SOURCES = ("digits", "sprites")
POINT_SOURCES = ("swiss-roll", "moons", "circles", "checkerboard", "mixture", "pinwheel")
SET_SOURCES = ("mnist", "fashion-mnist", "cifar10", "cifar100", "oxford-flowers", "oxford-pets", "celeba")
SOURCES = (*EMBEDDED_SOURCES, *POINT_SOURCES, *SET_SOURCES, "folder")
NORMALIZATIONS = ("range", "standardize", "none")

# Pillow itself refuses twice its own limit of 89,478,485 pixels; a larger cap of ours would promise what it forbids.
LARGEST_MAX_PIXELS = 178_956_970


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What to learn from, and how it is prepared. Every field is validated; errors are `ConfigError`.

    source: an embedded set (`digits`, `sprites`), a generated 2-D set, a set known by name (`mnist` …) whose published
        files lie at `path` or in the cache folder, or `folder`: whatever lies at `path`.
    path: a folder or an archive (`.tar`, `.tgz`, `.zip`, …) of images, an `.npz` or `.npy` file, a `.csv` or `.jsonl`
        table of numbers, a `.parquet` file, or `hf:owner/name[:split]`; it replaces any other source.
    size: height (and width) of the examples in pixels: centre crop to that aspect, then an antialiased triangle
        filter. null keeps the pictures as they are; they must then agree in size.
    channels: 1 (grey) or 3 (colour). null keeps what the pictures have; a mixture is then an error.
    normalize: `range` maps 0..255 to [-1, 1] (points: the training part's least and largest value to -1 and 1),
        `standardize` subtracts the training part's mean and divides by its standard deviation, per channel or
        coordinate, `none` leaves points as they are (for images: values 0..255, rarely wanted).
    flip: mirror each training picture left to right with probability 1/2.
    pad: height and width that pictures are padded to by repeating their border; samples are cropped back.
    held_out: share of the examples kept out of training. A source with a test part of its own (`x_test`) holds out
        exactly that part instead (0 still turns it off), and never trains on it.
    test_part: false pools that part with the rest, so that `held_out` is drawn from all.
    limit: use at most this many examples (and at most as many of a source's own test part), evenly spaced over the
        ordered whole, so that all classes are met.
    count: number of points of a generated 2-D set.
    noise: standard deviation of a generated 2-D set's noise, in its own formula. null takes the set's default.
    background: colour behind transparent pixels, a name or `#rrggbb`.
    value_range: the two values that become black and white, for images in array files and for 16-bit, 32-bit and
        float picture files (for example `[0, 4095]`); 8-bit picture files are taken as they are.
    bad_files: `error` lists unreadable files and stops, `skip` leaves them out and records them.
    min_size: pictures whose shorter side is below this many pixels count as bad files.
    max_pixels: pictures whose header announces more pixels are refused before they are decoded.
    cache: folder for decoded pictures and for what was downloaded; null: `$XDG_CACHE_HOME/sfumato` or
        `~/.cache/sfumato`; `off`: none.
    download: open a connection for data that are named and not on this machine. Nothing else ever does.
    label: the column of a table that is the class. null takes `label` or `class` where there is one.
    columns: the columns of a table that hold real values. null takes all columns of numbers, `[]` none.
    """

    source: str = "folder"
    path: str | None = None
    size: int | tuple[int, int] | None = None
    channels: int | None = None
    normalize: str = "range"
    flip: bool = False
    pad: int | tuple[int, int] | None = None
    held_out: float = 0.1
    test_part: bool = True
    limit: int | None = None
    count: int = 10_000
    noise: float | None = None
    background: str = "white"
    value_range: tuple[float, float] | None = None
    bad_files: str = "error"
    min_size: int | None = None
    max_pixels: int = 50_000_000
    cache: str | None = None
    download: bool = False
    label: str | None = None
    columns: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _one_of("source", self.source, SOURCES)
        _one_of("normalize", self.normalize, NORMALIZATIONS)
        _one_of("bad_files", self.bad_files, ("error", "skip"))
        _text_or_none("path", self.path)
        _text_or_none("cache", self.cache)
        _flag("flip", self.flip)
        _flag("test_part", self.test_part)
        _flag("download", self.download)
        _columns(self.label, self.columns)
        _extent("size", self.size)
        _extent("pad", self.pad)
        if self.channels not in (None, 1, 3):
            raise _refuse("channels", self.channels, "1 (grey), 3 (colour) or null", "--data.channels 3")
        _number("held_out", self.held_out, 0.0, 1.0, "a share in [0, 1)", "--data.held_out 0.1", below=True)
        for name, value in (("limit", self.limit), ("min_size", self.min_size)):
            if value is not None:
                _whole(name, value, 1_000_000_000)
        _whole("count", self.count, 100_000_000)
        _whole("max_pixels", self.max_pixels, LARGEST_MAX_PIXELS)
        if self.noise is not None:
            _number("noise", self.noise, 0.0, 1e6, "a standard deviation of at least 0", "--data.noise 0.1")
        _range(self.value_range)
        _colour(self.background)
        if self.pad_hw is not None and self.size_hw is not None and _smaller(self.pad_hw, self.size_hw):
            raise ConfigError(
                f"data.pad is {self.pad!r}, smaller than data.size {self.size!r}",
                expected="a padded size of at least the picture's own",
                fix=f"--data.pad {max(self.size_hw)}, or leave data.pad out",
            )

    @property
    def size_hw(self) -> tuple[int, int] | None:
        """`size` as (height, width), or None."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def pad_hw(self) -> tuple[int, int] | None:
        """`pad` as (height, width), or None."""
        return (self.pad, self.pad) if isinstance(self.pad, int) else self.pad


def _smaller(outer: tuple[int, int], inner: tuple[int, int]) -> bool:
    return outer[0] < inner[0] or outer[1] < inner[1]


def _refuse(name: str, value: object, expected: str, fix: str) -> ConfigError:
    return ConfigError(f"data.{name} is {value!r}", expected=expected, fix=fix)


def _one_of(name: str, value: object, allowed: Iterable[str]) -> None:
    names = tuple(allowed)
    if value in names:
        return
    near = get_close_matches(str(value).lower().replace("_", "-").replace(" ", "-"), names, n=1, cutoff=0.5)
    fix = f"did you mean {near[0]}? (--data.{name} {near[0]})" if near else f"--data.{name} {names[0]}"
    if name == "source" and not near:
        fix = f"for your own files: --data.source folder --data.path {value}"
    raise _refuse(name, value, "one of " + ", ".join(names), fix)


def _text_or_none(name: str, value: object) -> None:
    if value is not None and (not isinstance(value, str) or not value or "\0" in value):
        raise _refuse(name, value, "a path, or null", f"--data.{name} some/folder")


def _flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise _refuse(name, value, "true or false", f"--data.{name} true")


_USUAL = {"limit": 1000, "min_size": 16, "count": 10_000, "max_pixels": 50_000_000}


def _whole(name: str, value: object, largest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise _refuse(name, value, f"a whole number from 1 to {largest:,}", f"--data.{name} {_USUAL[name]}")


def _number(name: str, value: object, low: float, high: float, expected: str, fix: str, *, below: bool = False) -> None:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not low <= float(value) <= high or (below and value == high):  # type: ignore[arg-type]
        raise _refuse(name, value, expected, fix)


def _extent(name: str, value: object) -> None:
    if value is None:
        return
    sides = value if isinstance(value, tuple) and len(value) == 2 else (value,)
    for side in sides:
        if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= 16_384:
            expected = "pixels from 1 to 16384: one number, or height and width"
            raise _refuse(name, value, expected, f"--data.{name} 64")


def _range(value: object) -> None:
    if value is None:
        return
    good = (
        isinstance(value, tuple)
        and len(value) == 2
        and all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in value)
        and value[0] < value[1]
    )
    if not good:
        raise _refuse("value_range", value, "two finite numbers, the smaller first", "data.value_range: [0, 1]")


def _colour(value: object) -> None:
    from PIL import ImageColor

    try:
        rgb = ImageColor.getrgb(value) if isinstance(value, str) else ()
    except ValueError:
        rgb = ()
    if len(rgb) != 3:
        raise _refuse("background", value, "a colour name or #rrggbb, without alpha", "--data.background white")


def _columns(label: object, columns: object) -> None:
    if label is not None and (not isinstance(label, str) or not label.strip()):
        raise _refuse("label", label, "the name of a column, or null", "--data.label class")
    if columns is None:
        return
    names = columns if isinstance(columns, tuple) else (None,)
    if len(set(names)) < len(names) or not all(isinstance(name, str) and name.strip() for name in names):
        expected = "names of different columns, [] for none, or null"
        raise _refuse("columns", columns, expected, "--data.columns age,angle")
