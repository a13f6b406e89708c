"""Real numbers that belong to an example: an angle, an age, a temperature; what a model can be told besides a class.

They are kept as the source has them, float32 (N, V). Whoever trains on them normalises them by the training part.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data.wording import counted
from sfumato.errors import DataError

__all__ = ["Conditions", "check_conditions"]


@dataclass(frozen=True, slots=True, eq=False)
class Conditions:
    """values float32 (N, V), finite; names of the V numbers, or None."""

    values: Tensor
    names: tuple[str, ...] | None


def check_conditions(
    raw: NDArray[Any], count: int, names: tuple[str, ...] | None, *, where: str, key: str
) -> Conditions:
    """The numbers of `count` examples from an array (N,) or (N, V).

    Raises `DataError` naming `where`, `key` and the place of a number that is missing, infinite or not one; for another
    length; for names that are not V different ones.
    """
    if raw.ndim not in (1, 2) or len(raw) != count or 0 in raw.shape:
        raise DataError(
            f"{where}: {key} has shape {raw.shape}, but there are {counted(count, 'example')}",
            expected=f"({count},) or ({count}, V): one number or V numbers for each example",
            fix=f"store {key} in the order of the examples, or leave it out",
        )
    if raw.dtype.kind not in "biuf":
        raise DataError(
            f"{where}: {key} has type {raw.dtype}",
            expected="numbers",
            fix="store classes as labels, numbers as float32",
        )
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(raw.reshape(count, -1), dtype=np.float32)
    bad = ~np.isfinite(values)
    if bad.any():
        row, column = (int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
        place = f"{key}[{row}]" if raw.ndim == 1 else f"{key}[{row}, {column}]"
        raise DataError(
            f"{where}: {place} is {raw.reshape(count, -1)[row, column]!s} ({counted(int(bad.sum()), 'such value')})",
            expected="finite numbers",
            fix=f"mend or remove example {row} and the others like it",
        )
    if names is not None and (len(names) != values.shape[1] or len(set(names)) != len(names)):
        raise DataError(
            f"{where}: there are {values.shape[1]} numbers for each example and the condition_names are {list(names)}",
            expected="a name of its own for each of them",
            fix=f"give {counted(values.shape[1], 'name')}, or leave condition_names out",
        )
    return Conditions(torch.from_numpy(values), names)
