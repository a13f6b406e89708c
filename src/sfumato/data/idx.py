"""IDX files, in which MNIST and Fashion-MNIST are published: a header of 4 (1 + d) bytes, then one array.

    0 0 c d | n_1 | … | n_d | values        all numbers big-endian, n_k unsigned 32-bit

c says the type of the values (8: uint8, 9: int8, 11: int16, 12: int32, 13: float32, 14: float64), d the number of
dimensions; the last dimension varies fastest (Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten
digits", section "File formats"). The counts are those of the header, whatever the file is called.
"""

import gzip
import math
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sfumato.data.arrays import ArrayFile, pack_arrays
from sfumato.data.cache import Cache
from sfumato.data.holdings import Holdings
from sfumato.data.packed import Packed
from sfumato.data.settings import DataConfig
from sfumato.errors import DataError, SfumatoError, printable

__all__ = ["DIGITS", "GARMENTS", "PARTS", "load_idx", "read_idx"]

PARTS = ("train-images", "train-labels", "t10k-images", "t10k-labels")
DIGITS = tuple("0123456789")
GARMENTS = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag"),
    "Ankle boot",
)

_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_GZIP = b"\x1f\x8b"
_DEEPEST = 1032  # deflate packs at most so many bytes into one


def load_idx(holdings: Holdings, config: DataConfig, cache: Cache) -> Packed:
    """The pictures and classes of a set in four IDX files; the t10k files are its test part."""
    train, train_labels, test, test_labels = (_read(holdings, part) for part in PARTS)
    if train.shape[1:] != test.shape[1:]:
        raise _refuse(
            holdings.path("t10k-images"),
            f"its pictures are {test.shape[1]}x{test.shape[2]}, those to train on {train.shape[1]}x{train.shape[2]}",
            "pictures of one size in both files",
        )
    file = ArrayFile(
        str(holdings.path("train-images").parent),
        "images",
        np.concatenate([train, test]),
        np.concatenate([train_labels, test_labels]),
        {"mnist": DIGITS, "fashion-mnist": GARMENTS}[holdings.named.name],
        test_count=len(test),
    )
    return pack_arrays(file, config)


def _read(holdings: Holdings, part: str) -> NDArray[Any]:
    """The pictures (N, H, W) or the labels (N,) of a part, checked against each other's number."""
    path = holdings.path(part)
    array = read_idx(path)
    dimensions = 3 if part.endswith("images") else 1
    if array.ndim != dimensions or array.dtype != np.uint8:
        kind = "pictures, uint8 (N, H, W)" if dimensions == 3 else "classes, uint8 (N,)"
        raise _refuse(path, f"it holds {array.dtype} {array.shape}", f"the {kind}: {part}-idx{dimensions}-ubyte")
    other = part.replace("labels", "images")
    if other != part and len(array) != (pictures := len(read_idx(holdings.path(other), header_only=True))):
        raise _refuse(path, f"it has {len(array):,} labels for {pictures:,} pictures", "a label for each picture")
    return array


def read_idx(path: Path, *, header_only: bool = False) -> NDArray[Any]:
    """The array of an IDX file, gzip-compressed or not, in the machine's byte order.

    `header_only` gives an array of the same type and shape whose values mean nothing and take no memory. Raises
    DataError for anything that is not one whole array.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP
            size = raw.seek(0, 2)
            raw.seek(0)
            if not packed:
                return _array(path, raw, size, header_only)
            with gzip.open(raw) as stream:
                return _array(path, stream, size * _DEEPEST, header_only)
    except SfumatoError:
        raise
    except Exception as error:  # gzip and zlib report damage with any exception there is
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _refuse(path, f"it cannot be read ({reason})", "an intact IDX file") from error


def _array(path: Path, stream: "IO[bytes] | gzip.GzipFile", most: int, header_only: bool) -> NDArray[Any]:
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _TYPES or start[3] == 0:
        raise _refuse(path, f"it begins with {start!r}, which is not how IDX files begin", "an IDX file")
    dimensions = stream.read(4 * start[3])
    if len(dimensions) < 4 * start[3]:
        raise _refuse(path, "it ends within its header", "an intact IDX file")
    shape = tuple(int(n) for n in np.frombuffer(dimensions, ">u4"))
    kind = np.dtype(_TYPES[start[2]])
    length = math.prod(shape) * kind.itemsize
    if 0 in shape or length > most:
        raise _refuse(path, f"its header announces {shape}, more than it can hold or nothing", "an intact IDX file")
    if header_only:
        return np.broadcast_to(np.zeros((), kind.newbyteorder("=")), shape)
    values = stream.read(length + 1)
    if len(values) != length:
        more = "more" if len(values) > length else f"only {len(values):,}"
        raise _refuse(path, f"its header announces {length:,} bytes of values and there are {more}", "one whole array")
    return np.frombuffer(values, kind).reshape(shape).astype(kind.newbyteorder("="))


def _refuse(path: Path, what: str, expected: str) -> DataError:
    return DataError(f"{printable(str(path))}: {what}", expected=expected, fix="get the published file again")
