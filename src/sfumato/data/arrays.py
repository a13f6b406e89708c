"""Array files: `.npz` and `.npy`, never unpickled.

Keys: `images`, or `x_train` with an optional `x_test`, or `values`; `labels`, or `y_train` with `y_test`;
`class_names`; `conditions`, or `conditions_train` with `conditions_test`; `condition_names`. Images are (N, H, W) or
(N, H, W, C), C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA. `values` are points or anything else, (N, *shape), and stay
float32. `x_train` and a bare `.npy` count as images when they have three or four dimensions, otherwise as values.
`x_test` becomes the held-out part. `conditions` are real numbers that belong to the examples, (N,) or (N, V).

Images of any type end as uint8: 16-bit values are divided by 257, floats are taken from [0, 1] or [-1, 1] (whichever
holds them) and rounded, everything else needs `data.value_range`.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.data.conditions import Conditions, check_conditions
from sfumato.data.decoding import Preparation, prepare_pixels
from sfumato.data.labels import map_labels
from sfumato.data.packed import Packed, evenly, pack
from sfumato.data.settings import DataConfig
from sfumato.data.wording import counted
from sfumato.errors import ConfigError, DataError

__all__ = ["ArrayFile", "load_array_file", "pack_arrays", "read_array_file"]

_ZIP, _NPY, _PICKLE = b"PK", b"\x93NUMPY", b"\x80"  # how an .npz, an .npy and a pickle of protocol 2 or later begin

ROUNDING = 1e-6  # how far beyond its range a float value may lie: float32 arithmetic on the way into the file


@dataclass(frozen=True, slots=True, eq=False)
class ArrayFile:
    """The arrays of one file. The last `test_count` examples are its test part; `key` names `data` in messages.

    conditions: (N,) or (N, V) real numbers that belong to the examples, and condition_names, what they are called.
    """

    where: str
    key: str
    data: NDArray[Any]
    labels: NDArray[Any] | None = None
    class_names: tuple[str, ...] | None = None
    test_count: int = 0
    conditions: NDArray[Any] | None = None
    condition_names: tuple[str, ...] | None = None

    @property
    def is_image(self) -> bool:
        """Whether the examples are pictures: by their key, otherwise by their shape."""
        if self.key in ("images", "values"):
            return self.key == "images"
        return self.data.ndim in (3, 4)


def load_array_file(path: Path, config: DataConfig) -> Packed:
    """Read, check and pack one `.npz` or `.npy` file."""
    return pack_arrays(read_array_file(path), config)


def read_array_file(path: Path) -> ArrayFile:
    """The arrays of a file under their known keys. Raises `DataError` for pickles, damage and unknown layouts."""
    try:
        _require_array_file(path)
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return ArrayFile(str(path), "array", loaded)
        with loaded:
            return _from_keys(str(path), loaded)
    except DataError:
        raise
    except Exception as error:  # numpy, zipfile and zlib report damaged files with any exception there is
        raise _unreadable(path, error) from error


def pack_arrays(file: ArrayFile, config: DataConfig) -> Packed:
    """Check, prepare and pack arrays: images to uint8, everything else to float32."""
    whole, file = file.labels, _limited(file, config.limit)
    if file.data.ndim < 1 or 0 in file.data.shape:
        raise _error(f"{_name(file)} has shape {file.data.shape}", "at least one example, (N, ...)", "check the file")
    if file.test_count == len(file.data):
        raise _error(f"{_name(file)} is empty beside x_test", "at least one training example", "check the file")
    values, notes = _images(file, config) if file.is_image else (_values(file, config), [])
    told = _conditions(file)
    classes = None
    if file.labels is not None:
        classes = map_labels(file.labels, len(file.data), file.class_names, where=file.where, whole=whole)
    return pack(
        values,
        labels=None if classes is None else classes.indices,
        label_values=() if classes is None else classes.values,
        class_names=None if classes is None else classes.names,
        report=notes,
        pad=config.pad_hw,
        test_count=file.test_count,
        conditions=None if told is None else told.values,
        condition_names=None if told is None else told.names,
        absent_classes=() if classes is None else classes.absent,
    )


def _conditions(file: ArrayFile) -> Conditions | None:
    if file.conditions is None:
        return None
    key = "conditions_train" if file.key == "x_train" else "conditions"
    return check_conditions(file.conditions, len(file.data), file.condition_names, where=file.where, key=key)


def _error(what: str, expected: str, fix: str) -> DataError:
    return DataError(what, expected=expected, fix=fix)


def _name(file: ArrayFile) -> str:
    return f"{file.where}: {file.key}"


def _require_array_file(path: Path) -> None:
    """Refuse what NumPy would take for a pickle only because it is nothing that it knows."""
    with path.open("rb") as file:
        start = file.read(len(_NPY))
    if start.startswith((_ZIP, _NPY, _PICKLE)):
        return
    begins = f"it begins with {start!r}" if start else "it is empty"
    raise _error(
        f"{path}: is neither an .npz nor an .npy file ({begins})",
        "a file made by np.savez or np.save",
        "save the arrays with np.savez(path, images=images, labels=labels)",
    )


def _unreadable(path: Path, error: Exception) -> DataError:
    if "max_header_size" in str(error):  # NumPy's advice would be to trust the file with everything
        return _error(f"{path}: its header is longer than that of any array", "plain arrays", "save or copy it again")
    if "allow_pickle" in str(error) or "pickle" in type(error).__name__.lower():
        what = f"{path}: holds pickled Python objects, which are never loaded"
        return _error(what, "plain arrays", "save them with np.savez(path, images=images, labels=labels)")
    if isinstance(error, MemoryError):
        return _error(f"{path}: its arrays do not fit in memory", "a smaller file", "store uint8, or fewer examples")
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return _error(f"{path}: cannot be read ({reason})", "an intact .npz or .npy file", "save or copy it again")


def _from_keys(where: str, arrays: Any) -> ArrayFile:
    keys = set(arrays.files)
    main = [key for key in ("images", "x_train", "values") if key in keys]
    if len(main) != 1:
        found = ", ".join(sorted(keys)) or "nothing"
        expected = (
            "exactly one of images, x_train (with x_test) and values; labels or y_train; class_names; "
            "conditions or conditions_train; condition_names"
        )
        raise _error(f"{where}: the file holds {found}", expected, "rename the arrays")
    key = main[0]
    data, labels, conditions, test_count = arrays[key], None, None, 0
    if key == "x_train":
        if "x_test" in keys:
            data, test_count = _join(where, data, arrays["x_test"])
        labels = _both_parts(where, arrays, "y_train", "y_test")
        conditions = _both_parts(where, arrays, "conditions_train", "conditions_test")
    else:
        labels = _column(arrays["labels"]) if "labels" in keys else None
        conditions = arrays["conditions"] if "conditions" in keys else None
    _refuse_other_spelling(where, key, keys)
    return ArrayFile(
        where,
        key,
        data,
        labels,
        _names(where, arrays, "class_names"),
        test_count,
        conditions,
        _names(where, arrays, "condition_names"),
    )


def _both_parts(where: str, arrays: Any, train: str, test: str) -> NDArray[Any] | None:
    """What belongs to the examples of x_train, followed by what belongs to those of x_test where there are any."""
    keys = set(arrays.files)
    if train not in keys:
        return None
    first = _column(arrays[train])
    if "x_test" not in keys:
        return first
    if test not in keys:
        raise _error(f"{where}: there is {train} and x_test but no {test}", test, f"add {test}")
    second = _column(arrays[test])
    if first.shape[1:] != second.shape[1:]:
        what = f"{where}: {train} has shape {first.shape} and {test} has shape {second.shape}"
        raise _error(what, "as much for each example of either part", "save both alike")
    return np.concatenate([first, second])


def _refuse_other_spelling(where: str, key: str, keys: set[str]) -> None:
    """Conditions under the name that belongs to another layout would be left out without a word."""
    meant = "conditions_train" if key == "x_train" else "conditions"
    other = {"conditions", "conditions_train", "conditions_test"} - (
        {"conditions_train", "conditions_test"} if key == "x_train" else {"conditions"}
    )
    if found := sorted(other & keys):
        raise _error(f"{where}: there is {found[0]} beside {key}", meant, f"rename {found[0]} to {meant}")


def _join(where: str, train: NDArray[Any], test: NDArray[Any]) -> tuple[NDArray[Any], int]:
    if train.ndim < 1 or train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        what = f"{where}: x_train is {train.dtype} {train.shape}, x_test is {test.dtype} {test.shape}"
        raise _error(what, "examples of one type and shape", "save both parts alike, or leave x_test out")
    return np.concatenate([train, test]), len(test)


def _column(labels: NDArray[Any]) -> NDArray[Any]:
    """(N, 1) as (N,); some libraries store labels as a column."""
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _names(where: str, arrays: Any, key: str) -> tuple[str, ...] | None:
    """The list of strings under `key`, or None where there is none."""
    if key not in arrays.files:
        return None
    names = arrays[key]
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise _error(f"{where}: {key} is {names.dtype} {names.shape}", "a list of strings", "save strings")
    return tuple(n.decode("utf-8", "replace") if isinstance(n, bytes) else str(n) for n in names.tolist())


def _limited(file: ArrayFile, limit: int | None) -> ArrayFile:
    own = (len(file.data) if file.data.ndim else 0) - file.test_count
    if limit is None or own <= limit:
        return file
    chosen = evenly(own, limit) + [own + i for i in evenly(file.test_count, limit)]
    beside = (file.labels, file.conditions)
    if any(column is not None and (column.ndim < 1 or len(column) != len(file.data)) for column in beside):
        return file  # what checks them will refuse it, naming both numbers
    labels, conditions = (None if column is None else column[chosen] for column in beside)
    return replace(file, data=file.data[chosen], labels=labels, conditions=conditions, test_count=len(chosen) - limit)


def _values(file: ArrayFile, config: DataConfig) -> torch.Tensor:
    given = [name for name in ("size", "channels", "min_size", "value_range") if getattr(config, name) is not None]
    given += ["flip"] if config.flip else []
    if given:
        what = f"data.{given[0]} is set, but {_name(file)} {file.data.shape} are not images"
        fix = f"drop data.{given[0]}, or store pictures under the key images"
        raise ConfigError(what, expected="images (N, H, W) or (N, H, W, C) for this setting", fix=fix)
    if file.data.dtype.kind not in "biuf":
        raise _error(f"{_name(file)} has type {file.data.dtype}", "numbers", "convert them to float32")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(file.data, dtype=np.float32)
    _refuse_where(file, ~np.isfinite(values), "NaN, infinite or beyond float32", "finite values")
    return torch.from_numpy(values.reshape(-1, 1) if values.ndim == 1 else values)


def _refuse_where(file: ArrayFile, bad: NDArray[np.bool_], problem: str, expected: str) -> None:
    if not bad.any():
        return
    index = np.unravel_index(int(np.argmax(bad)), bad.shape)
    place = ", ".join(str(int(i)) for i in index)
    what = f"{_name(file)}[{place}] is {file.data[index]!s}: {counted(int(bad.sum()), 'value')} {problem}"
    raise _error(what, expected, f"remove or mend example {int(index[0])} and the others like it")


def _images(file: ArrayFile, config: DataConfig) -> tuple[torch.Tensor, list[str]]:
    data = file.data[..., None] if file.data.ndim == 3 else file.data
    if data.ndim != 4 or data.shape[3] not in (1, 2, 3, 4):
        channels_first = data.ndim == 4 and data.shape[1] in (1, 3, 4)
        fix = "transpose them: images.transpose(0, 2, 3, 1)" if channels_first else "store them so, or as values"
        raise _error(f"{_name(file)} has shape {file.data.shape}", "(N, H, W) or (N, H, W, C), C = 1..4", fix)
    if config.min_size is not None and min(data.shape[1:3]) < config.min_size:
        what = f"{_name(file)} are {data.shape[1]}x{data.shape[2]}, shorter than data.min_size {config.min_size}"
        raise _error(what, "larger pictures", "lower data.min_size")
    pixels, notes = _to_bytes(file, data, config.value_range)
    height, width, channels = pixels.shape[1:]
    keeps_size = config.size_hw in (None, (height, width))
    if keeps_size and channels in (1, 3) and config.channels in (None, channels):
        return torch.from_numpy(np.ascontiguousarray(pixels)), notes
    return torch.from_numpy(_prepared(pixels, Preparation.of(config), notes)), notes


def _prepared(pixels: NDArray[np.uint8], preparation: Preparation, notes: list[str]) -> NDArray[np.uint8]:
    """Every picture through `prepare_pixels`, in threads; adds what happened to `notes`."""
    with ThreadPoolExecutor() as pool:
        pictures = list(pool.map(lambda p: prepare_pixels(p, preparation), pixels))
    if pixels.shape[3] in (2, 4):
        notes.append(f"transparent pixels were composited over {preparation.background}")
    if pictures[0].upscaled:
        notes.append(f"{len(pictures)} of {counted(len(pictures), 'picture')} smaller than the target, enlarged")
    widest = max(p.pixels.shape[2] for p in pictures)  # grey with alpha over a colour is grey where it is opaque
    shape = (len(pictures), *pictures[0].pixels.shape[:2], widest)
    return np.stack([np.broadcast_to(p.pixels, shape[1:]) for p in pictures])


def _to_bytes(
    file: ArrayFile, data: NDArray[Any], value_range: tuple[float, float] | None
) -> tuple[NDArray[np.uint8], list[str]]:
    """Pixels as uint8 and a note on how; raises `DataError` when the range cannot be known or is left."""
    if data.dtype.kind not in "biuf":
        raise _error(f"{_name(file)} has type {data.dtype}", "uint8 or float pixels", "convert them to uint8")
    if data.dtype == np.uint8 and value_range is None:
        return data, []
    if data.dtype.kind == "f":
        _refuse_where(file, ~np.isfinite(file.data), "NaN or infinite", "finite values")
    low, high = _detected(file, data) if value_range is None else value_range
    slack = ROUNDING * (high - low)
    outside = (file.data < low - slack) | (file.data > high + slack)
    _refuse_where(file, outside, f"outside {low:g} to {high:g}", f"pixels from {low:g} to {high:g}")
    pixels = np.empty(data.shape, np.uint8)
    for i in range(0, len(data), 1024):  # in pieces, so that the float64 copy stays small
        level = (data[i : i + 1024].astype(np.float64) - low) * (255.0 / (high - low))
        pixels[i : i + 1024] = np.rint(level).clip(0, 255)
    if (low, high) == (0.0, 255.0):
        return pixels, []
    return pixels, [f"{data.dtype} pixels from {low:g} to {high:g} were rounded to 8 bits"]


def _detected(file: ArrayFile, data: NDArray[Any]) -> tuple[float, float]:
    """The range of pixels that state none: their type's own, or the first usual one that holds them all."""
    if data.dtype.kind == "b":
        return 0.0, 1.0
    if data.dtype == np.uint16:
        return 0.0, 65_535.0
    least, largest = float(data.min()), float(data.max())
    usual = [(0.0, 255.0)] if data.dtype.kind in "iu" else [(0.0, 1.0), (-1.0, 1.0)]
    for low, high in usual:
        if low - ROUNDING <= least and largest <= high + ROUNDING:
            return low, high
    low, high = usual[0]
    outside = (file.data < low) | (file.data > high)
    place = ", ".join(str(int(i)) for i in np.unravel_index(int(np.argmax(outside)), outside.shape))
    leave = "value leaves" if (count := int(outside.sum())) == 1 else "values leave"
    what = (
        f"{_name(file)} ({data.dtype}) run from {least:g} to {largest:g}: which values are black and white? "
        f"{count:,} {leave} {low:g} to {high:g}, the first at [{place}]"
    )
    raise _error(
        what, "floats in [0, 1] or [-1, 1], integers in 0..255, or data.value_range", "data.value_range: [a, b]"
    )
