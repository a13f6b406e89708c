"""Examples as the page shows them: pictures pixel by pixel, points of the plane and curves as SVG.

    uint8 (n, H, W, C)        pictures: one channel grey, three red, green and blue, others side by side in grey
    float (n, C, L), L >= 8   curves: the first channel over its index
    float (n, *)              points: the first two coordinates, all n in one panel; a single one over its index

A picture is a PNG of its own pixels, which the browser enlarges in blocks. On paper it would smooth them, so that very
small pictures are enlarged in the file. One that is larger than `side` is averaged down to it.
"""

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.experiment.report.axes import Axis
from sfumato.experiment.report.markup import Html, tag

__all__ = [
    "Frame",
    "averaged",
    "data_uri",
    "displayed",
    "frame_of",
    "kind_of",
    "picture",
    "png",
    "scatter",
    "span_of",
    "wave",
]

TILE = 72  # pixels of the page that a picture's longer side is near
TINY = 20  # pixels of the longer side below which a picture is enlarged in the file: it costs next to nothing
LEAST_LENGTH = 8  # of a curve
MOST_OF_A_CURVE = 400  # points
COLOURS = 7  # in the style sheet
PANEL = 100.0  # units of a panel's side


def kind_of(values: NDArray[np.generic]) -> str:
    """What examples are shown as: "pictures", "curves" or "points"."""
    if values.dtype == np.uint8 and values.ndim == 4:
        return "pictures"
    return "curves" if values.ndim == 3 and values.shape[2] >= LEAST_LENGTH else "points"


# -------------------------------------------------------------------------------------------------------- pictures


def displayed(height: int, width: int) -> tuple[int, int]:
    """Height and width on the page: a whole multiple of the picture's own, near TILE."""
    scale = max(1, round(TILE / max(height, width)))
    return height * scale, width * scale


def averaged(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Pictures (n, H, W, C) whose longer side is at most `side`, averaged down where they are larger."""
    height, width, channels = pixels.shape[1:]
    longest = max(height, width)
    if longest <= side:
        return pixels
    size = max(1, round(width * side / longest)), max(1, round(height * side / longest))
    planes = [
        [np.asarray(Image.fromarray(one[..., c]).resize(size, Image.Resampling.BOX)) for c in range(channels)]
        for one in pixels
    ]
    return np.stack([np.stack(each, axis=-1) for each in planes])


def png(pixels: NDArray[np.uint8]) -> bytes:
    """The PNG of one picture (H, W, C); channels that are neither one nor three side by side."""
    height, width, channels = pixels.shape
    if channels not in (1, 3):
        pixels = pixels.transpose(0, 2, 1).reshape(height, channels * width, 1)
    file = io.BytesIO()
    shown = pixels if pixels.shape[2] == 3 else pixels[..., 0]
    Image.fromarray(np.ascontiguousarray(shown)).save(file, "PNG", optimize=True)
    return file.getvalue()


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """A file as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def picture(pixels: NDArray[np.uint8], *, said: str, scale: float = 1.0) -> Html:
    """An <img> of one picture (H, W, C)."""
    height, width, channels = pixels.shape
    high, wide = displayed(height, width * (1 if channels in (1, 3) else channels))
    block = high // height if max(height, width) < TINY else 1
    pixels = pixels.repeat(block, axis=0).repeat(block, axis=1)
    return tag(
        "img",
        src=data_uri(png(pixels)),
        alt=said,
        width=round(wide * scale),
        height=round(high * scale),
        cls="pixels",
        decoding="async",
    )


# ------------------------------------------------------------------------------------------------- points and curves


@dataclass(frozen=True, slots=True)
class Frame:
    """The part of the plane that a panel shows."""

    x: Axis
    y: Axis


def places(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Points of the plane (n, 2) for examples (n, *): the first two coordinates, a single one over its index."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    if flat.shape[1] == 1:
        return np.column_stack([flat[:, 0], np.arange(len(flat)) / max(len(flat) - 1, 1)])
    return flat[:, :2]


def frame_of(clouds: Sequence[NDArray[np.generic]]) -> Frame:
    """A frame that holds all but the outermost of the points of all clouds (n, *), with equal units along both axes."""
    every = np.concatenate([places(cloud) for cloud in clouds])
    every = every[np.isfinite(every).all(axis=1)]
    if len(every) == 0:
        every = np.zeros((1, 2))
    low, high = np.quantile(every, [0.002, 0.998], axis=0)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 1e-9) * 1.1
    if clouds[0].reshape(len(clouds[0]), -1).shape[1] > 1:
        half = np.full(2, half.max())
    start, stop = (middle - half).tolist(), (middle + half).tolist()
    return Frame(Axis(start[0], stop[0], 0.0, PANEL), Axis(start[1], stop[1], PANEL, 0.0))


def scatter(
    values: NDArray[np.generic],
    frame: Frame,
    *,
    said: str | None,
    behind: NDArray[np.generic] | None = None,
    labels: Sequence[str] | None = None,
) -> Html:
    """A panel of points, coloured by `labels` (n,); those of `behind` stand faintly below them.

    said: what it shows; None where what stands around it says that. Points outside the frame are left out.
    """
    drawn = [] if behind is None else [tag("path", d=_dots(behind, frame), cls="cloud behind")]
    kinds = list(dict.fromkeys(labels or ()))
    if labels is None or len(kinds) > COLOURS:
        drawn.append(tag("path", d=_dots(values, frame), cls="cloud c0"))
    else:
        for index, kind in enumerate(kinds):
            chosen = np.array([label == kind for label in labels])
            named = tag("title", kind)
            drawn.append(tag("path", named, d=_dots(values[chosen], frame), cls=f"cloud c{index}"))
    size = math.sqrt(0.16 * PANEL**2 / max(len(values), 1))
    return tag(
        "svg",
        drawn,
        viewBox=f"0 0 {PANEL:g} {PANEL:g}",
        cls="panel",
        role=None if said is None else "img",
        aria_label=said,
        aria_hidden="true" if said is None else None,
        style=f"--dot:{min(3.2, max(0.7, size)):.2f}",
    )


def _dots(values: NDArray[np.generic], frame: Frame) -> str:
    """A path of strokes without length, which round caps make dots of."""
    parts = []
    for a, b in places(values).tolist():
        if frame.x.low <= a <= frame.x.high and frame.y.low <= b <= frame.y.high:
            parts.append(f"M{frame.x.at(a):.1f} {frame.y.at(b):.1f}h0")
    return "".join(parts)


def span_of(values: NDArray[np.generic]) -> tuple[float, float]:
    """The least and the largest of the finite values; 0 and 1 of none."""
    finite = values.astype(np.float64)
    finite = finite[np.isfinite(finite)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def wave(values: NDArray[np.generic], low: float, high: float, *, said: str) -> Html:
    """One curve (C, L): its first channel between `low` and `high`; of a long one the peaks."""
    heights = values[0].astype(np.float64)
    across = Axis(0.0, max(len(heights) - 1.0, 1.0), 0.0, PANEL)
    up = Axis(low, high if high > low else low + 1.0, 48.0, 2.0)
    size = math.ceil(2 * len(heights) / MOST_OF_A_CURVE)
    points = [f"{across.at(i):.1f} {up.at(v):.1f}" for i, v in _peaks(heights.tolist(), size) if math.isfinite(v)]
    path = tag("path", d=f"M{'L'.join(points)}" if points else "", cls="line")
    return tag("svg", path, viewBox="0 0 100 50", cls="wave c0", role="img", aria_label=said)


def _peaks(heights: Sequence[float], size: int) -> Iterator[tuple[int, float]]:
    """The least and the largest of every `size` values, with their places; all of them for a size below 3."""
    for start in range(0, len(heights), size):
        part = list(enumerate(heights[start : start + size], start))
        yield from part if size < 3 else sorted({min(part, key=_height), max(part, key=_height)})


def _height(point: tuple[int, float]) -> float:
    return point[1]
