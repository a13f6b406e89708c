"""Arrays of numbers from MATLAB files of level 5 (`save -v5`, `-v6` and `-v7`), without SciPy.

    header   116 bytes of text, 8 that mean nothing here, version 0x0100, "IM" or "MI" (little- or big-endian)
    element  type (4 bytes), length (4 bytes), contents, padded to 8 bytes unless compressed; or, for up to 4 bytes of
             contents, length (2 bytes), type (2 bytes), contents (4 bytes)

An element of type 15 is a zlib stream of another one; one of type 14 is an array: flags, dimensions, name and values,
each an element, the values column by column and in the smallest type that holds them (The MathWorks, "MAT-File Format",
chapter "Level 5 MAT-file format"). Arrays of anything but real numbers are passed over.
"""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.errors import DataError, printable

__all__ = ["read_matlab"]

HEADER, MATRIX, COMPRESSED = 128, 14, 15
LARGEST = 64_000_000  # bytes of an array, unpacked
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {
    6: np.float64,
    7: np.float32,
    8: np.int8,
    9: np.uint8,
    10: np.int16,
    11: np.uint16,
    12: np.int32,
    13: np.uint32,
    14: np.int64,
    15: np.uint64,
}
_COMPLEX = 0x08  # among the flags


class _Damaged(Exception):
    """What is wrong with the bytes: a clause that follows the file's name and a colon."""


def read_matlab(path: Path) -> dict[str, NDArray[Any]]:
    """The real arrays of a MATLAB file by their names. Raises DataError for damage and for other formats."""
    try:
        content = path.read_bytes() if path.stat().st_size <= LARGEST else b""
        return dict(_arrays(content))
    except OSError as error:
        reason = error.strerror or str(error)
    except (_Damaged, zlib.error) as error:
        reason = str(error)
    raise DataError(
        f"{printable(str(path))}: cannot be read ({reason})",
        expected="a MATLAB file of level 5, as published",
        fix="get the published file again, or save it with -v7",
    )


def _arrays(content: bytes) -> Iterator[tuple[str, NDArray[Any]]]:
    if content[:10] == b"MATLAB 7.3" or content[:8] == b"\x89HDF\r\n\x1a\n":
        raise _Damaged("it is of version 7.3")
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or int.from_bytes(content[124:126], "little" if order == "<" else "big") != 0x0100:
        raise _Damaged("it does not begin as one")
    for element in _elements(content[HEADER:], order):
        matrix = _unpacked(element, order) if element.kind == COMPRESSED else element
        if matrix.kind == MATRIX and (found := _matrix(matrix.content, order)) is not None:
            yield found


@dataclass(frozen=True, slots=True)
class _Element:
    kind: int
    content: bytes


def _elements(content: bytes, order: str) -> Iterator[_Element]:
    """The elements that follow each other in `content`."""
    at = 0
    while at < len(content):
        tag = content[at : at + 8]
        if len(tag) < 8:
            raise _Damaged("it ends within an element")
        kind, length = (int(n) for n in np.frombuffer(tag, f"{order}u4"))
        if kind >> 16:  # the short form
            kind, length, start, step = kind & 0xFFFF, kind >> 16, at + 4, 8
        else:
            start = at + 8
            step = 8 + (length if kind == COMPRESSED else -(-length // 8) * 8)
        if start + length > len(content) or (start == at + 4 and length > 4):
            raise _Damaged("an element is longer than what is left of it")
        yield _Element(kind, content[start : start + length])
        at += step


def _unpacked(element: _Element, order: str) -> _Element:
    stream = zlib.decompressobj()
    content = stream.decompress(element.content, LARGEST)
    if not stream.eof:
        raise _Damaged("a compressed element is cut off or too long")
    found = next(_elements(content, order), None)
    if found is None:
        raise _Damaged("a compressed element is empty")
    return found


def _matrix(content: bytes, order: str) -> tuple[str, NDArray[Any]] | None:
    """Name and values of an array; None for one that does not hold real numbers."""
    parts = list(_elements(content, order))
    if len(parts) < 3 or len(parts[0].content) < 4:
        raise _Damaged("an array has no head")
    flags = int(np.frombuffer(parts[0].content[:4], f"{order}u4")[0])
    if flags & 0xFF not in _CLASSES or (flags >> 8) & _COMPLEX:
        return None
    if parts[1].kind != 5 or len(parts[1].content) % 4:
        raise _Damaged("an array has no dimensions")
    shape = tuple(int(n) for n in np.frombuffer(parts[1].content, f"{order}i4"))
    name = parts[2].content.decode("latin-1")
    stored = parts[3] if len(parts) > 3 else _Element(2, b"")
    if stored.kind not in _STORED:
        raise _Damaged(f"the values of {printable(name)} are of type {stored.kind}")
    kind = np.dtype(order + _STORED[stored.kind])
    if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != len(stored.content):
        raise _Damaged(f"{printable(name)} is said to have shape {shape} and has {len(stored.content):,} bytes")
    values = np.frombuffer(stored.content, kind).reshape(shape, order="F")
    return name, np.ascontiguousarray(values, dtype=_CLASSES[flags & 0xFF])
