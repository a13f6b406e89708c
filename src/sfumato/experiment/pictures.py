"""Pictures that people bring to a trained model: read as its own data were, at the size that it goes by.

Pictures of the model's size, or of the size that its degradation leaves, are taken as they are; all others are cropped
and resized to the model's size as training would do it.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.data import DataConfig, load_data
from sfumato.data.decoding import SUFFIXES, BadPicture, Preparation, decode
from sfumato.errors import DataError, UsageError, printable
from sfumato.experiment.build import DataRecord
from sfumato.guidance import Degradation

__all__ = ["degraded_shape", "read_at", "read_pictures", "stored_shape"]


def stored_shape(record: DataRecord) -> tuple[int, int, int]:
    """(H, W, C) of a picture as it is stored, without padding. Raises UsageError for data that are no pictures."""
    size = record.normalization.size
    if size is None:
        raise UsageError(
            "pictures were given to a model of points",
            expected="a model of pictures",
            fix="leave out the pictures (--pictures)",
        )
    return (*size, len(record.normalization.mean))


def degraded_shape(record: DataRecord, degradation: Degradation) -> tuple[int, int, int]:
    """(H, W, C) of what a degradation leaves of a picture, padding included."""
    uniforms = torch.full((1, degradation.num_uniforms), 0.5, dtype=torch.float64)
    operator = degradation.operator(record.shape, uniforms)
    channels, height, width = operator.apply(torch.zeros(1, *record.shape)).shape[1:]
    return height, width, channels


def read_pictures(
    path: Path, record: DataRecord, data: DataConfig, degradation: Degradation | None = None
) -> NDArray[np.uint8]:
    """The pictures of a folder, an array file or one file, uint8 (n, H, W, C), as a model can take them.

    `data` are the settings of the model's own data. Raises DataError for what cannot be read, UsageError for a model of
    points.
    """
    whole = stored_shape(record)
    accepted = [whole] if degradation is None else [whole, degraded_shape(record, degradation)]
    return read_at(path, data, whole, accepted)


def read_at(
    path: Path, data: DataConfig, whole: tuple[int, int, int], accepted: Sequence[tuple[int, int, int]] = ()
) -> NDArray[np.uint8]:
    """The pictures of a path, uint8 (n, H, W, C), of a shape in `accepted` as they are, or cropped and resized to
    `whole`. Raises DataError.
    """
    plain = replace(
        data,
        source="folder",
        path=str(path),
        size=None,
        channels=None,
        pad=None,
        limit=None,
        flip=False,
        cache="off",
        label=None,
        columns=None,
    )
    with suppress(DataError):  # pictures of many sizes, grey and colour: prepared below
        found = _load(path, plain)
        if found.shape[1:] in (whole, *accepted):
            return found
    channels = whole[2] if whole[2] in (1, 3) else None
    return _load(path, replace(plain, size=whole[:2], channels=channels))


def _load(path: Path, config: DataConfig) -> NDArray[np.uint8]:
    if not path.exists():
        raise DataError(
            f"{printable(path)}: there is no such file or folder",
            expected="a folder of pictures, one picture, an .npz or an .npy file",
            fix="name pictures that are there",
        )
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        try:
            return decode(path, Preparation.of(config)).pixels[None]
        except BadPicture as error:
            what = f"{printable(path)}: {error}"
            raise DataError(what, expected="a picture", fix="give another file, or a folder of them") from None
    packed = load_data(config, seed=0)
    if not packed.is_image:
        raise DataError(
            f"{printable(path)} holds no pictures", expected="uint8 images", fix="name the array images (n, H, W, C)"
        )
    return packed.values.numpy()
