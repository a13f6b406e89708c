"""The way from noise to data: a strip of chosen moments, and an animation of all of them.

A trajectory is `Model.path(n)`: states x_t at decreasing times, the last of them the samples, and the x_0 that the
model expected at every time but the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sfumato.core import Schedule
from sfumato.errors import UsageError
from sfumato.experiment.model import Trajectory
from sfumato.figures.material import Material, Pictures, Points, material
from sfumato.figures.noising import rates_at
from sfumato.figures.sheets import fitting_scale, image_sheet, marker_area
from sfumato.figures.strips import Limits, PictureTile, PointTile, Row, Tile, limits_of, strip
from sfumato.figures.style import PALETTE, house_style, new_figure, number, panel, tenths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Animation", "animation", "check_trajectory", "moments", "pauses", "reverse", "tile_of"]

STATES, GUESSES = "$x_t$", r"predicted $x_0$"

TILE = 64  # pixels: animations are shown on pages and screens, and their size grows with every frame


@dataclass(frozen=True, slots=True, eq=False)
class Animation:
    """Frames of one size and mode, and how long each is shown, in milliseconds."""

    frames: tuple[Image.Image, ...]
    milliseconds: tuple[int, ...]


def reverse(
    path: Trajectory, *, schedule: Schedule | None = None, columns: int = 11, examples: int = 3, guesses: bool = True
) -> "Figure":
    """The reverse strip: `columns` moments spread evenly over the steps, noise first, the samples last.

    Pictures have two rows for each of the first `examples` trajectories, x_t and the predicted x_0; points have two
    rows of panels for all of them. `guesses=False` leaves the predictions out. With the schedule, log-SNR is written
    below. What a picture was asked to be stands beside it. Panels hold all x_t; how many predictions lie outside them
    is said. Raises UsageError for no steps.
    """
    check_trajectory(path, columns=columns, examples=examples)
    chosen = moments(len(path.states), columns)
    states = [material(path.states[index]) for index in chosen]
    expected: list[Material | None] = [
        material(path.guesses[index]) if guesses and index < len(path.guesses) else None for index in chosen
    ]
    clouds = [found.places for found in states if isinstance(found, Points)]
    limits = limits_of(clouds)
    missing = sum(limits.outside(found.places) for found in expected if isinstance(found, Points))
    count = 1 if clouds else min(examples, len(states[0]))
    rows: list[Row] = []
    for index in range(count):
        label = "" if path.labels is None or clouds else f" ({path.labels[index]})".replace("$", r"\$")
        rows.append(Row(STATES + label, [tile_of(found, index, limits) for found in states], apart=index > 0))
        if any(found is not None for found in expected):
            rows.append(Row(GUESSES, [tile_of(found, index, limits) for found in expected]))
    times = [path.times[index] for index in chosen]
    if schedule is not None:
        captions = [tenths(float(rates_at(schedule, t).log_snr)) for t in times]
        rows[-1] = Row(rows[-1].name, rows[-1].tiles, captions, rows[-1].apart)
    header = [number(t, 2) for t in times]
    notes = [states[0].note] if states[0].note else []
    notes += [f"{missing:,} predicted points lie outside the panels"] if missing else []
    return strip(rows, header=header, header_name="time t", caption_name="log SNR (nats)", note="; ".join(notes))


def moments(count: int, columns: int) -> list[int]:
    """At most `columns` of `count` moments, evenly spread, the first and the last among them."""
    return sorted({round(index) for index in np.linspace(0, count - 1, min(columns, count)).tolist()})


def animation(
    path: Trajectory, *, columns: int | None = None, frames: int = 60, seconds: float = 3.0, hold: float = 2.0
) -> Animation:
    """The sample grid, or the panel of points, on its way from noise to data in about `seconds`.

    At most `frames` moments are shown, the last of them, the samples, for `hold` seconds. Raises UsageError.
    """
    check_trajectory(path, columns=frames, examples=1)
    if columns is not None and columns < 1:
        raise UsageError(f"columns is {columns}", expected="1 or more", fix="leave it out")
    chosen = moments(len(path.states), frames)
    shown = [material(path.states[index]) for index in chosen]
    lasting = pauses(len(shown), seconds=seconds, hold=hold)
    clouds = [found for found in shown if isinstance(found, Points)]
    if clouds:
        return Animation(tuple(_scenes(clouds, [path.times[index] for index in chosen])), lasting)
    pictures = [found for found in shown if isinstance(found, Pictures)]
    height, width = pictures[0].pixels.shape[1:3]
    scale = fitting_scale(height, width, tile=TILE)
    sheets = [image_sheet(found, labels=path.labels, columns=columns, scale=scale) for found in pictures]
    return Animation(tuple(sheets), lasting)


def pauses(count: int, *, seconds: float, hold: float) -> tuple[int, ...]:
    """Milliseconds for each of `count` frames: about `seconds` in all, and `hold` seconds for the last."""
    pause = 10 * round(min(200.0, max(30.0, 1000 * seconds / count)) / 10)  # GIF counts in hundredths of a second
    return (*[pause] * (count - 1), max(10, 10 * round(100 * hold)))


def _scenes(clouds: Sequence[Points], times: Sequence[float]) -> list[Image.Image]:
    """One picture of a scatter panel for each moment; the same axes throughout."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    limits = limits_of([cloud.places for cloud in clouds], square=clouds[0].axes[1] != "index")
    pictures = []
    with house_style():
        figure = new_figure(2.8, 2.9)
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        panel(axes, "t = 0.000", *clouds[0].axes)
        axes.set(xlim=limits.x, ylim=limits.y)
        dots = axes.scatter([], [], s=marker_area(len(clouds[0]), 2.4 * 72), color=PALETTE[0], alpha=0.7, linewidths=0)
        canvas.draw()
        figure.set_layout_engine("none")  # laid out once: the frame must not move with the width of a label
        for cloud, t in zip(clouds, times, strict=True):
            dots.set_offsets(cloud.places)
            axes.set_title(f"t = {t:.3f}")
            canvas.draw()
            pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    return pictures


def tile_of(found: Material | None, index: int, limits: Limits) -> Tile | None:
    """The tile of one moment: picture `index`, or all points; nothing where there is nothing."""
    if found is None:
        return None
    return PointTile(found.places, limits) if isinstance(found, Points) else PictureTile(found.pixels[index])


def check_trajectory(path: Trajectory, *, columns: int, examples: int) -> None:
    """Refuse a trajectory without steps, and numbers that nobody can mean. Raises UsageError."""
    if len(path.states) < 2 or len(path.times) != len(path.states):
        raise UsageError(
            f"a trajectory of {len(path.states)} states at {len(path.times)} times",
            expected="two or more states, each with its time",
            fix="model.path(4) makes one",
        )
    if columns < 2 or examples < 1:
        raise UsageError(
            f"{columns} moments of {examples} examples were asked for",
            expected="two or more moments, one or more examples",
            fix="leave the numbers out",
        )
