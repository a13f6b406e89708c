"""The one module that decodes pictures: file, bytes or array in, upright uint8 grey or RGB of the asked size out.

In order: the header is checked against the pixel cap before anything is decoded; the first frame is taken; the EXIF
orientation is applied; the centre is cropped to the target's aspect (offsets rounded down); transparency is composited
over the background, 16-bit grey is scaled as v / 257 and 12-bit grey as 255 v / 4095 (the other way round where a TIFF
says that zero is white), palettes are resolved; the result is resized with Pillow's BILINEAR, a triangle filter that is
widened by the scale when it shrinks, that is, with antialiasing. Colour profiles are ignored: values are taken as sRGB.

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

# Pillow does not preload these plug-ins; importing them here keeps its lazy loading out of the threads.
from PIL import (
    ExifTags,
    Image,
    ImageColor,
    ImageFile,
    ImageOps,
    MpoImagePlugin,  # noqa: F401
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from sfumato.data.settings import DataConfig

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "BadPicture",
    "Header",
    "Picture",
    "Preparation",
    "decode",
    "decode_bytes",
    "look",
    "prepare_pixels",
    "quiet",
    "threads_for",
]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # tags of a TIFF
GREY_MODES = ("1", "L", "LA", "La", "P", "PA")  # a picture in one of these may turn out to be grey
WIDENED = {"L;2": 85, "L;4": 17}  # what Pillow multiplies grey samples of few bits by, and the key colour not
SMALL_FILE = 8 << 10  # bytes; below, most of the work on a file holds the interpreter's lock
TURNED = range(2, 9)  # EXIF orientations other than upright
SIDEWAYS = (5, 6, 7, 8)  # those by a quarter turn


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


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its picture before anything is decoded.

    format, mode: Pillow's names of them. height, width: of the picture set upright. transparent: some of it may be seen
    through. turned: whether it is stored in another orientation than it is meant to be seen in. deep: more than 8 bits
    for each value.
    """

    format: str
    mode: str
    height: int
    width: int
    transparent: bool = False
    turned: bool = False
    deep: bool = False

    @property
    def grey(self) -> bool | None:
        """Whether the picture is grey; None for a palette, which may be either."""
        if self.mode in ("P", "PA"):
            return None
        return self.mode in ("1", "L", "LA", "La", "I", "F") or self.mode.startswith("I;")


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


def prepare_pixels(pixels: NDArray[np.uint8], preparation: Preparation) -> Picture:
    """Prepare a decoded picture, uint8 (H, W) or (H, W, C) with C = 1, 2 (grey, alpha), 3 or 4 (RGB, alpha)."""
    flat = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    return _prepare(Image.fromarray(np.ascontiguousarray(flat)), preparation, _Stored())


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
        stored = _stored(image, preparation.value_range)
        return _prepare(image, preparation, stored)


@dataclass(frozen=True, slots=True)
class _Stored:
    """What a file says of its samples and Pillow does not keep.

    span: the samples that are black and white, of a picture with more than 8 bits; None where nobody knows them.
    grey: whether the file stores a grey picture whatever mode Pillow chose for it.
    """

    span: tuple[float, float] | None = None
    grey: bool = False


def _stored(image: ImageFile.ImageFile, value_range: tuple[float, float] | None) -> _Stored:
    """The facts of an opened picture; mends the key colour of a PNG, which Pillow leaves in the units of the file."""
    layout = image.tile[0].args if image.tile else None
    key = image.info.get("transparency")
    if isinstance(key, int) and layout in WIDENED:
        image.info["transparency"] = (key * WIDENED[layout]) & 255
    elif isinstance(key, tuple) and layout == "RGB;16B":
        image.info["transparency"] = tuple(level >> 8 for level in key)  # as Pillow cuts the samples to 8 bits
    bits, zero_is_white = 16, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = int(image.tag_v2.get(BITS_PER_SAMPLE, (16,))[0])
        zero_is_white = image.tag_v2.get(PHOTOMETRIC) == 0
    whole_range = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    span = value_range if value_range is not None else (0.0, 2.0**bits - 1) if whole_range else None
    if span is not None and zero_is_white:
        span = (span[1], span[0])
    return _Stored(span, grey=layout == "LA;16B")


def threads_for(mean_bytes: float) -> int:
    """How many threads decode files of such a size fastest: one, or one for each core, up to 32.

    Pillow's codecs release the interpreter's lock, everything around them holds it. Of small pictures that is nearly
    all: handing the lock to and fro costs more than further cores bring, several times as much on a busy machine.
    """
    return 1 if mean_bytes < SMALL_FILE else min(32, os.cpu_count() or 1)


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


def _prepare(image: Image.Image, preparation: Preparation, stored: _Stored) -> Picture:
    frames = int(getattr(image, "n_frames", 1))  # only formats with several frames define it
    image.load()
    upright = _upright(image)
    box = _centre(upright.size, preparation.size)
    cropped = upright if box == (0, 0, *upright.size) else upright.crop(box)
    levels = _levels(cropped, stored, preparation.background)
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
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in TURNED
        return ImageOps.exif_transpose(image) if turned else image
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


def _levels(image: Image.Image, stored: _Stored, background: str) -> Image.Image:
    """The picture in mode L or RGB, or in mode F with values 0..255 where 8 bits would round before resizing."""
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        return _deep_levels(image, stored, background)
    if image.mode in ("RGB", "L") and not image.has_transparency_data:
        return image
    colour = _composited(image, background) if image.has_transparency_data else image.convert("RGB")
    return colour.convert("L") if (stored.grey or image.mode in GREY_MODES) and _is_grey(colour) else colour


def _deep_levels(image: Image.Image, stored: _Stored, background: str) -> Image.Image:
    """A grey picture of more than 8 bits, in mode F; with a key colour that occurs, composited in 8 bits."""
    with np.errstate(invalid="ignore"):  # a damaged file may hold NaNs that complain
        samples = np.asarray(image).astype(np.float64)
    levels = _scaled(samples, stored.span)
    key = image.info.get("transparency")
    hidden = samples == key if isinstance(key, int) else np.zeros(samples.shape, np.bool_)
    if not hidden.any():
        return Image.fromarray(levels)
    alpha = np.where(hidden, 0, 255).astype(np.uint8)
    colour = _composited(Image.fromarray(np.stack([_rounded(levels), alpha], axis=2)), background)
    return colour.convert("L") if _is_grey(colour) else colour


def _composited(image: Image.Image, background: str) -> Image.Image:
    """The picture in mode RGB over the background: hidden colours do not show through."""
    canvas = Image.new("RGBA", image.size, (*ImageColor.getrgb(background)[:3], 255))
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas.convert("RGB")


def _is_grey(colour: Image.Image) -> bool:
    values = np.asarray(colour)
    return bool((values[:, :, 0] == values[:, :, 1]).all() and (values[:, :, 1] == values[:, :, 2]).all())


def _scaled(values: NDArray[np.float64], span: tuple[float, float] | None) -> NDArray[np.float32]:
    """Values as 0..255, unrounded: 255 (v - black) / (white - black) of `span` = (black, white)."""
    if span is None:
        raise BadPicture("float or 32-bit values have no known range; give data.value_range")
    black, white = span
    low, high = min(span), max(span)
    if not np.isfinite(values).all():
        raise BadPicture(f"{int((~np.isfinite(values)).sum())} values are NaN or infinite")
    if values.min() < low or values.max() > high:
        raise BadPicture(f"values {values.min():g} to {values.max():g} leave data.value_range {low:g} to {high:g}")
    return ((values - black) * (255.0 / (white - black))).astype(np.float32)


def _rounded(levels: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(levels).clip(0, 255).astype(np.uint8)


def _pixels(levels: Image.Image, channels: int | None) -> NDArray[np.uint8]:
    if levels.mode == "F":
        levels = Image.fromarray(_rounded(np.asarray(levels)))
    if channels is not None:
        levels = levels.convert("L" if channels == 1 else "RGB")
    pixels = np.array(levels, dtype=np.uint8)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def look(content: Path | bytes, preparation: Preparation) -> Header:
    """The header of one file, on disk or in memory, nothing decoded. Raises `BadPicture` as `decode` does."""
    with _only_bad_pictures(preparation):
        if isinstance(content, Path):
            _check_file(content)
        elif not content:
            raise BadPicture("empty file")
        opened: IO[bytes] = content.open("rb") if isinstance(content, Path) else io.BytesIO(content)
        with opened as stream, Image.open(stream, formats=FORMATS) as image:
            _check_header(image, preparation)
            return _header(image)


def _header(image: ImageFile.ImageFile) -> Header:
    try:  # the base class's own: that of PNG would decode the picture first
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # EXIF that cannot be parsed says nothing about the orientation
        orientation = 1
    width, height = image.size
    if orientation in SIDEWAYS:
        width, height = height, width
    raw = [str(tile[3]) for tile in image.tile]  # how the file stores its values: `RGB;16B`
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16") or any(";16" in text for text in raw)
    transparent = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    return Header(str(image.format), image.mode, height, width, transparent, orientation in TURNED, deep)
