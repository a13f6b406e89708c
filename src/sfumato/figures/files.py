"""Figures as files: the suffix says the format, a file is written whole or not at all, and none is replaced unasked.

    figures, sheets     .png .pdf .svg        animations     .gif .webp

Equal drawings give equal bytes: no dates, no versions, no random names. Sheets keep their pixels in every format;
animations do in WebP, which is lossless here, while GIF has at most 256 colours in a frame.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sfumato.errors import PlatformError, UsageError
from sfumato.figures.reversing import Animation
from sfumato.figures.style import house_style
from sfumato.training.storage import LocalStorage, explained, make_folders, replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MOVING", "STILL", "check_target", "is_moving", "save"]

STILL = (".png", ".pdf", ".svg")
MOVING = (".gif", ".webp")
SHEET_DPI = 200  # physical size of sheets in PDF and SVG


def is_moving(path: str | Path) -> bool:
    """Whether the suffix is that of an animation."""
    return Path(path).suffix.lower() in MOVING


def check_target(path: str | Path, *, suffixes: tuple[str, ...] = STILL, force: bool = False) -> Path:
    """The path, refused with UsageError for another suffix, for a folder, and for a file that is there already.

    Commands call this before they compute anything.
    """
    target = Path(path)
    if target.suffix.lower() not in suffixes:
        others = ", ".join(suffixes)
        raise UsageError(
            f"{target} ends in {target.suffix!r}" if target.suffix else f"{target} has no suffix",
            expected=f"a file ending in one of {others}",
            fix=f"choose {target.with_suffix(suffixes[0]) if target.name else 'figure' + suffixes[0]}",
        )
    if target.is_dir():
        inside = target / f"figure{target.suffix}"
        raise UsageError(f"{target} is a folder", expected="the name of a file", fix=f"choose {inside}")
    if target.exists() and not force:
        raise UsageError(f"{target} exists already", expected="a new file", fix="choose another name, or add --force")
    return target


def save(drawing: "Figure | Image.Image | Animation", path: str | Path, *, force: bool = False) -> Path:
    """Write a figure, sheet or animation in the format of the suffix; missing folders are made.

    Raises UsageError as `check_target`, ResourceError when the disk refuses.
    """
    suffixes = MOVING if isinstance(drawing, Animation) else STILL
    target = check_target(path, suffixes=suffixes, force=force)
    kind = target.suffix.lower()
    if isinstance(drawing, Animation):
        content = _animated(drawing, kind)
    elif isinstance(drawing, Image.Image):
        content = _sheet(drawing, kind)
    else:
        content = _figure(drawing, kind)
    storage = LocalStorage()
    try:
        make_folders(target.parent, storage)
        replace_file(target, [content], storage)
    except OSError as error:
        raise explained(error, f"writing {target}", path=target, storage=storage) from None
    return target


def _figure(figure: "Figure", kind: str) -> bytes:
    """The bytes of a figure, without the time and the versions that matplotlib would put in."""
    silent: dict[str, dict[str, object]] = {
        ".png": {"Software": None},
        ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
        ".svg": {"Creator": None, "Date": None},
    }
    file = io.BytesIO()
    with house_style():
        figure.savefig(file, format=kind.removeprefix("."), metadata=silent[kind])
    return file.getvalue()


def _sheet(image: Image.Image, kind: str) -> bytes:
    """The bytes of a sheet: a PNG, or its pixels as they are in a page of their size."""
    if kind == ".png":
        file = io.BytesIO()
        image.save(file, format="PNG", optimize=True)
        return file.getvalue()
    from matplotlib.figure import Figure

    with house_style():
        page = Figure(figsize=(image.width / SHEET_DPI, image.height / SHEET_DPI), dpi=SHEET_DPI)
        axes = page.add_axes((0, 0, 1, 1))
        axes.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=255, interpolation="none", aspect="auto")
        axes.set_axis_off()
    return _figure(page, kind)


def _animated(animation: Animation, kind: str) -> bytes:
    """The bytes of an animation that repeats for ever."""
    from PIL import features

    if kind == ".webp" and not features.check("webp"):
        raise PlatformError(
            "this Pillow was built without WebP",
            expected="a Pillow that writes WebP",
            fix="choose a name ending in .gif",
        )
    file = io.BytesIO()
    lasting = list(animation.milliseconds)
    if kind == ".webp":
        first, *rest = animation.frames
        first.save(file, "WEBP", save_all=True, append_images=rest, duration=lasting, loop=0, lossless=True, method=4)
    else:
        first, *rest = [_few_colours(frame) for frame in animation.frames]
        first.save(file, "GIF", save_all=True, append_images=rest, duration=lasting, loop=0, disposal=1)
    return file.getvalue()


def _few_colours(frame: Image.Image) -> Image.Image:
    """The frame in at most 256 colours; grey frames have no more."""
    if frame.mode == "L":
        return frame
    return frame.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
