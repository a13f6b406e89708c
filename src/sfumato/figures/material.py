"""What can be shown: pictures, or points of the plane; everything that figures are given becomes one or the other.

Pictures are uint8, (N, H, W) or (N, H, W, C), with stored values shown unchanged: one channel is grey, three are red,
green and blue, and any other number is shown as that many grey pictures side by side, so that no colour is made up.
Points are everything else: the first two coordinates are shown, a single one against its index. What is not simply
"all of it" is said in `note`, which figures print below.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfumato.errors import UsageError

__all__ = ["Material", "Pictures", "Points", "material", "pictures", "points"]


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """`pixels` uint8 (N, H, W) grey or (N, H, W, 3); `note` says what is shown of other channel counts."""

    pixels: NDArray[np.uint8]
    note: str = ""

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """`places` float64 (N, 2) with the names of the two axes; `note` says what is shown of other shapes."""

    places: NDArray[np.float64]
    axes: tuple[str, str] = ("x₁", "x₂")
    note: str = ""

    def __len__(self) -> int:
        return len(self.places)


Material = Pictures | Points


def material(values: ArrayLike) -> Material:
    """Pictures for uint8 with three or four axes, points for floating-point numbers; tensors and arrays alike."""
    array = np.asarray(values)
    if array.ndim == 0 or array.size == 0:
        raise _refused(array, "nothing to show")
    if array.dtype == np.uint8:
        return pictures(array)
    return points(array)


def pictures(array: NDArray[np.generic]) -> Pictures:
    """Pictures of a uint8 array (N, H, W) or (N, H, W, C). Raises UsageError for other arrays."""
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        raise _refused(array, "no pictures")
    pixels = array.astype(np.uint8, copy=False)
    channels = pixels.shape[3] if pixels.ndim == 4 else 1
    if pixels.ndim == 3 or channels == 3:
        return Pictures(pixels)
    if channels == 1:
        return Pictures(pixels[..., 0])
    count, height, width, _ = pixels.shape
    beside = pixels.transpose(0, 1, 3, 2).reshape(count, height, channels * width)
    return Pictures(beside, f"{channels} channels, side by side")


def points(array: NDArray[np.generic]) -> Points:
    """Points of a floating-point array (N, *shape). Raises UsageError for other arrays, and for pictures in floats."""
    if array.dtype.kind != "f":
        raise _refused(array, "neither pictures nor points")
    flat = array.reshape(len(array), -1).astype(np.float64)
    dimensions = flat.shape[1]
    if dimensions == 1:
        index = np.arange(len(flat), dtype=np.float64)
        return Points(np.column_stack([flat[:, 0], index]), ("x", "index"), "")
    note = f"the first 2 of {dimensions} coordinates" if dimensions > 2 else ""
    return Points(flat[:, :2], note=note)


def _refused(array: NDArray[np.generic], why: str) -> UsageError:
    return UsageError(
        f"an array of shape {array.shape} and type {array.dtype}: {why}",
        expected="uint8 pictures (N, H, W) or (N, H, W, C), or floating-point points (N, 2)",
        fix="give data as they are stored; `normalization.to_data(x)` turns model values into them",
    )
