"""The one module that decodes pictures: file, bytes or array in, upright uint8 grey or RGB of the asked size out.

In order: the header is checked against the pixel cap before anything is decoded; the first frame is taken; the EXIF
orientation is applied; the centre is cropped to the target's aspect (offsets rounded down); transparency is composited
over the background, 16-bit grey is scaled as v / 257, palettes are resolved; the result is resized with Pillow's
BILINEAR, a triangle filter that is widened by the scale when it shrinks, that is, with antialiasing. Colour profiles
are ignored: values are taken as sRGB.

Only the six formats below are ever tried, whatever a file is called; the format is read from the file's first bytes.
"""

import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

# Pillow does not preload the TIFF and WebP plug-ins; importing them here keeps its lazy loading out of the threads.
from PIL import (
    Image,
    ImageColor,
    ImageOps,
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from sfumato.data.settings import DataConfig

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "BadPicture",
    "Picture",
    "Preparation",
    "decode",
    "decode_bytes",
    "prepare_pixels",
    "quiet",
]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

SIXTEEN_BIT = 65_535.0


class BadPicture(Exception):
    """Why one picture cannot be used: a clause that follows the file's name and a colon."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """The part of `DataConfig` that decides the pixels; equal preparations of equal files give equal pixels."""

    size: tuple[int, int] | None = None
    channels: int | None = None
    background: str = "white"
    value_range: tuple[float, float] | None = None
    min_size: int | None = None
    max_pixels: int = 50_000_000

    @classmethod
    def of(cls, config: DataConfig) -> "Preparation":
        """The preparation that `config` asks for."""
        return cls(
            size=config.size_hw,
            channels=config.channels,
            background=config.background,
            value_range=config.value_range,
            min_size=config.min_size,
            max_pixels=config.max_pixels,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """pixels uint8 (H, W, 1 or 3), and what happened on the way.

    frames: frames in the file, the first of which was taken. upscaled: whether the crop was smaller than the target.
    kept: share of the area that the crop kept. neutral: a palette picture that happens to use greys only, and may pass
    as grey or as colour.
    """

    pixels: NDArray[np.uint8]
    frames: int = 1
    upscaled: bool = False
    kept: float = 1.0
    neutral: bool = False


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings (broken EXIF, large pictures); not thread-safe, so it surrounds the thread pool."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def decode(path: Path, preparation: Preparation) -> Picture:
    """Decode and prepare one file. Raises `BadPicture`, and nothing else, for whatever may be wrong with it."""
    with _only_bad_pictures(preparation):
        _check_file(path)
        with path.open("rb") as stream:
            return _decoded(stream, preparation)


def decode_bytes(content: bytes, preparation: Preparation) -> Picture:
    """Decode and prepare a file that is in memory, as `decode` does one on disk."""
    with _only_bad_pictures(preparation):
        if not content:
            raise BadPicture("empty file")
        return _decoded(io.BytesIO(content), preparation)


@contextmanager
def _only_bad_pictures(preparation: Preparation) -> Iterator[None]:
    """Turn every exception of a decoder into a BadPicture that says why."""
    try:
        yield
    except BadPicture:
        raise
    except UnidentifiedImageError:
        raise BadPicture("not a JPEG, PNG, WEBP, BMP, GIF or TIFF picture") from None
    except Image.DecompressionBombError:
        raise BadPicture(f"its header announces more than {preparation.max_pixels:,} pixels") from None
    except Exception as error:  # decoders meet hostile bytes with any exception there is; one file must not end the run
        raise BadPicture(_reason(error)) from error


def _decoded(stream: IO[bytes], preparation: Preparation) -> Picture:
    with Image.open(stream, formats=FORMATS) as image:
        _check_header(image, preparation)
        return _prepare(image, preparation)


def prepare_pixels(pixels: NDArray[np.uint8], preparation: Preparation) -> Picture:
    """Prepare a decoded picture, uint8 (H, W) or (H, W, C) with C = 1, 2 (grey, alpha), 3 or 4 (RGB, alpha)."""
    flat = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    return _prepare(Image.fromarray(np.ascontiguousarray(flat)), preparation)


def _reason(error: Exception) -> str:
    if not isinstance(error, OSError):
        return f"cannot be decoded ({type(error).__name__})"
    return error.strerror or (str(error).strip().splitlines() or ["cannot be read"])[0]


def _check_file(path: Path) -> None:
    try:
        status = os.stat(path)
    except OSError as error:
        raise BadPicture("a broken link" if path.is_symlink() else (error.strerror or str(error))) from None
    if not stat.S_ISREG(status.st_mode):
        raise BadPicture("not a regular file")
    if status.st_size == 0:
        raise BadPicture("empty file")


def _check_header(image: Image.Image, preparation: Preparation) -> None:
    width, height = image.size
    if width * height > preparation.max_pixels:
        raise BadPicture(
            f"its header announces {width}x{height} pixels, more than data.max_pixels {preparation.max_pixels:,}"
        )
    if preparation.min_size is not None and min(width, height) < preparation.min_size:
        raise BadPicture(f"{width}x{height} pixels, shorter than data.min_size {preparation.min_size}")


def _prepare(image: Image.Image, preparation: Preparation) -> Picture:
    frames = int(getattr(image, "n_frames", 1))  # only formats with several frames define it
    source_format = image.format
    image.load()
    upright = _upright(image)
    box = _centre(upright.size, preparation.size)
    cropped = upright if box == (0, 0, *upright.size) else upright.crop(box)
    levels = _levels(cropped, source_format, preparation)
    neutral = upright.mode in ("P", "PA") and levels.mode == "L"
    size = cropped.size if preparation.size is None else (preparation.size[1], preparation.size[0])
    if size != cropped.size:
        levels = levels.resize(size, Image.Resampling.BILINEAR)
    return Picture(
        pixels=_pixels(levels, preparation.channels),
        frames=frames,
        upscaled=size[0] > cropped.size[0] or size[1] > cropped.size[1],
        kept=(cropped.size[0] * cropped.size[1]) / (upright.size[0] * upright.size[1]),
        neutral=neutral and preparation.channels is None,
    )


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF that cannot be parsed says nothing about the orientation
        return image


def _centre(size: tuple[int, int], target: tuple[int, int] | None) -> tuple[int, int, int, int]:
    """The largest centred box (left, upper, right, lower) of the aspect of `target` = (height, width)."""
    width, height = size
    if target is None:
        return (0, 0, width, height)
    crop_width, crop_height = width, height
    if height * target[1] > width * target[0]:
        crop_height = max(1, round(width * target[0] / target[1]))
    else:
        crop_width = max(1, round(height * target[1] / target[0]))
    left, upper = (width - crop_width) // 2, (height - crop_height) // 2
    return (left, upper, left + crop_width, upper + crop_height)


def _levels(image: Image.Image, source_format: str | None, preparation: Preparation) -> Image.Image:
    """The picture in mode L or RGB, or in mode F with values 0..255 where 8 bits would round before resizing."""
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        sixteen_bit = image.mode.startswith("I;16") or (image.mode == "I" and source_format == "PNG")
        return Image.fromarray(_scaled(np.asarray(image).astype(np.float64), sixteen_bit, preparation.value_range))
    if image.mode in ("RGB", "L") and not image.has_transparency_data:
        return image
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, (*ImageColor.getrgb(preparation.background)[:3], 255))
        canvas.alpha_composite(image.convert("RGBA"))
        colour = canvas.convert("RGB")
    else:
        colour = image.convert("RGB")
    may_be_grey = image.mode in ("1", "L", "LA", "La", "P", "PA")
    return colour.convert("L") if may_be_grey and _is_grey(colour) else colour


def _is_grey(colour: Image.Image) -> bool:
    values = np.asarray(colour)
    return bool((values[:, :, 0] == values[:, :, 1]).all() and (values[:, :, 1] == values[:, :, 2]).all())


def _scaled(
    values: NDArray[np.float64], sixteen_bit: bool, value_range: tuple[float, float] | None
) -> NDArray[np.float32]:
    """Values of `value_range` (16-bit: of 0..65535 unless given) as 0..255, unrounded."""
    if value_range is None and not sixteen_bit:
        raise BadPicture("float or 32-bit values have no known range; give data.value_range")
    low, high = (0.0, SIXTEEN_BIT) if value_range is None else value_range
    if not np.isfinite(values).all():
        raise BadPicture(f"{int((~np.isfinite(values)).sum())} values are NaN or infinite")
    if values.min() < low or values.max() > high:
        raise BadPicture(f"values {values.min():g} to {values.max():g} leave data.value_range {low:g} to {high:g}")
    return ((values - low) * (255.0 / (high - low))).astype(np.float32)


def _pixels(levels: Image.Image, channels: int | None) -> NDArray[np.uint8]:
    if levels.mode == "F":
        levels = Image.fromarray(np.rint(np.asarray(levels)).clip(0, 255).astype(np.uint8))
    if channels is not None:
        levels = levels.convert("L" if channels == 1 else "RGB")
    pixels = np.array(levels, dtype=np.uint8)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
