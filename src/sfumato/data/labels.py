"""From the labels that a source happens to use to 0..K-1.

Sources number their classes from 0 or from 1, skip some, or write names. Training sees only the classes that occur,
numbered in ascending order of the source's own values (names in natural order, 2 before 10); the original values are
kept beside them.
"""

import re
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data.wording import counted
from sfumato.errors import DataError

__all__ = ["Classes", "map_labels", "natural"]


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """indices int64 (N,) in 0..K-1; class k was written `values[k]` and is called `names[k]` (None: unnamed).

    absent: names that no example has.
    """

    indices: Tensor
    values: tuple[str | int, ...]
    names: tuple[str, ...] | None
    absent: tuple[str, ...] = ()


def natural(text: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key: runs of digits of any length compare as numbers, the rest as text; the plain text breaks ties."""
    parts = re.split(r"([0-9]+)", text)
    digits = [p.lstrip("0") for p in parts]
    return [(len(d), d) if i % 2 else (-1, p) for i, (p, d) in enumerate(zip(parts, digits, strict=True))], text


def map_labels(
    raw: NDArray[np.generic],
    count: int,
    class_names: tuple[str, ...] | None,
    *,
    where: str,
    whole: NDArray[np.generic] | None = None,
) -> Classes:
    """Number the classes that occur in `raw`, (N,) integers or strings, from 0.

    With `class_names`, label k is called class_names[k]; when the labels are 1-based, that is, when none is below 1 and
    the largest equals the number of names, it is called class_names[k - 1]. `whole` are all labels of the source where
    `raw` is a part of them, which alone need not show that they are 1-based. Raises `DataError` naming `where`, the
    position and the value of a label that is missing, fractional, negative or beyond the names.
    """
    if raw.shape != (count,):
        raise DataError(
            f"{where}: the labels have shape {raw.shape}, but there are {count} examples",
            expected=f"one label for each example, shape ({count},)",
            fix="store the labels in the order of the examples, or leave them out",
        )
    if raw.dtype.kind in "US":
        texts = np.array([t.decode("utf-8", "replace") if isinstance(t, bytes) else t for t in raw.tolist()])
        found, indices = np.unique(texts, return_inverse=True)
        words = sorted((str(v) for v in found), key=natural)
        rank = {word: k for k, word in enumerate(words)}
        place = np.array([rank[str(v)] for v in found], np.int64)
        return Classes(torch.from_numpy(place[indices]), tuple(words), tuple(words))
    numbers = _whole_numbers(raw, where)
    found, indices = np.unique(numbers, return_inverse=True)
    values = tuple(int(v) for v in found)
    everything = numbers if whole is None else _whole_numbers(whole, where)
    names = None if class_names is None else _names(numbers, values, class_names, where, everything)
    absent = [] if class_names is None or names is None else [name for name in class_names if name not in names]
    return Classes(torch.from_numpy(indices.astype(np.int64)), values, names, tuple(absent))


def _whole_numbers(raw: NDArray[np.generic], where: str) -> NDArray[np.int64]:
    if raw.dtype.kind not in "biuf":
        raise DataError(
            f"{where}: the labels have type {raw.dtype}",
            expected="whole numbers or strings",
            fix="convert the labels, for example with labels.astype(int)",
        )
    floats = raw.astype(np.float64)
    with np.errstate(invalid="ignore"):
        bad = ~(np.isfinite(floats) & (floats == np.rint(floats)) & (np.abs(floats) < 2**53))
    if bad.any():
        raise _refuse(where, raw, bad, "whole numbers")
    return raw.astype(np.int64)


def _names(
    numbers: NDArray[np.int64],
    values: tuple[int, ...],
    class_names: tuple[str, ...],
    where: str,
    whole: NDArray[np.int64],
) -> tuple[str, ...]:
    one_based = whole.min() >= 1 and whole.max() == len(class_names)
    first = 1 if one_based else 0
    bad = (numbers < first) | (numbers >= first + len(class_names))
    if bad.any():
        raise _refuse(where, numbers, bad, f"0..{len(class_names) - 1}, one for each of the class_names")
    return tuple(class_names[v - first] for v in values)


def _refuse(where: str, raw: NDArray[np.generic], bad: NDArray[np.bool_], allowed: str) -> DataError:
    position = int(np.flatnonzero(bad)[0])
    return DataError(
        f"{where}: label {position} is {raw[position]!s} ({counted(int(bad.sum()), 'such label')})",
        expected=f"labels in {allowed}" if allowed[0].isdigit() else f"labels that are {allowed}",
        fix="mend the labels, or leave them out for an unconditional model",
    )
