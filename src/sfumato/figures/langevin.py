"""Langevin paths in the plane: where a walk along the score leads from chosen starts.

    x ← x + (step_size/2) ∇ log p(x) + sqrt(step_size) · temperature · z,   step_size ← decay · step_size

with z ~ N(0, I) (Welling & Teh 2011; Song & Ermon 2019, eq. 4). Steps are taken by `sfumato.samplers`; here they are
drawn: an arrow for each step, over the exact density at the noise level of the score.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.errors import ConfigError, UsageError
from sfumato.figures.field import ScoreField, arrows, longest_of, shade, square
from sfumato.figures.reversing import Animation, moments, pauses
from sfumato.figures.strips import Limits
from sfumato.figures.style import FAINT, PALETTE, SMALL, colours, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ESLING_START", "LangevinWalk", "langevin_animation", "langevin_paths", "usual_starts"]

Array = NDArray[np.float64]

ESLING_START = (1.5, -1.5)
HALO = "#ffffff"


@dataclass(frozen=True, slots=True)
class LangevinWalk:
    """How a walk is taken. Esling's is 10 steps of 1e-3, decay 0.9.

    steps: how many.
    step_size: the first, in squared units of the data. null takes a tenth of the noise variance of the score.
    decay: what each step multiplies the step size by.
    temperature: what the noise is multiplied by; 0 climbs the density without noise.
    """

    steps: int = 100
    step_size: float | None = None
    decay: float = 0.98
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 100_000:
            raise ConfigError(f"steps is {self.steps}", expected="from 1 to 100,000 steps", fix="--steps 100")
        if self.step_size is not None and not (0 < self.step_size < math.inf):
            raise ConfigError(
                f"step_size is {self.step_size}", expected="a number above 0, or null", fix="--step_size 1e-3"
            )
        if not 0 < self.decay <= 1:
            raise ConfigError(f"decay is {self.decay}", expected="a factor above 0, at most 1", fix="--decay 0.98")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(
                f"temperature is {self.temperature}", expected="a number of at least 0", fix="--temperature 1"
            )

    def first_step(self, noise_std: float) -> float:
        """The first step size for a score at a noise of standard deviation `noise_std`, in units of the data."""
        return 0.1 * noise_std**2 if self.step_size is None else self.step_size


def usual_starts(limits: Limits) -> Array:
    """Eight places near the border of the limits, (8, 2); the lower right one is esling's where the limits hold it."""
    (left, right), (low, high) = limits.x, limits.y
    inset = 0.08 * (right - left)
    across, up = (left + inset, (left + right) / 2, right - inset), (low + inset, (low + high) / 2, high - inset)
    places = [(x, y) for y in up for x in across if (x, y) != (across[1], up[1])]
    x, y = ESLING_START
    if left < x < right and low < y < high and x > across[1] and y < up[1]:
        places[2] = ESLING_START
    return np.array(places, dtype=np.float64)


def langevin_paths(paths: Array, field: ScoreField, *, title: str, truth: str, note: str = "") -> "Figure":
    """Paths (S + 1, K, 2) in the units of the axes, an arrow for each step, over the learned score of the field.

    Rings mark the starts, dots the ends. `truth` names the law whose density is shaded. Raises UsageError.
    """
    _check(paths)
    with house_style():
        figure = new_figure(4.6, 4.9)
        axes = figure.add_subplot()
        _ground(axes, field, title)
        for index, colour in zip(range(paths.shape[1]), colours(paths.shape[1]), strict=True):
            _path(axes, paths[:, index], colour)
        outside = sum(field.limits.outside(paths[-1:, index]) for index in range(paths.shape[1]))
        told = f"shaded: {truth}; grey arrows: learned score" + (f"; {note}" if note else "")
        told += f"; {outside} of {paths.shape[1]} paths end outside" if outside else ""
        figure.supxlabel(told, fontsize=SMALL, color=FAINT, x=0.01, ha="left")
    return figure


def langevin_animation(
    paths: Array,
    swarm: Array,
    field: ScoreField,
    *,
    title: str,
    frames: int = 40,
    seconds: float = 3.0,
    hold: float = 2.0,
) -> Animation:
    """Paths (S + 1, K, 2) growing and a swarm (S + 1, M, 2) walking beside them; the step is counted in the title."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    _check(paths)
    _check(swarm)
    chosen = moments(len(paths), frames)
    pictures = []
    with house_style():
        figure = new_figure(2.8, 3.0)
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _ground(axes, field, f"{title}, step {len(paths) - 1}")
        dots = axes.scatter([], [], s=2.2, color=PALETTE[0], alpha=0.6, linewidths=0, zorder=3)
        lines = [axes.plot([], [], color=c, linewidth=1.2, zorder=4)[0] for c in colours(1 + paths.shape[1])[1:]]
        heads = [axes.plot([], [], "o", color=line.get_color(), markersize=3.5, zorder=5)[0] for line in lines]
        canvas.draw()
        figure.set_layout_engine("none")  # laid out once: the frame must not move with the width of a label
        for step in chosen:
            dots.set_offsets(swarm[step])
            for index, (line, head) in enumerate(zip(lines, heads, strict=True)):
                line.set_data(*paths[: step + 1, index].T)
                head.set_data(*paths[step : step + 1, index].T)
            axes.set_title(f"{title}, step {step}")
            canvas.draw()
            pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    return Animation(tuple(pictures), pauses(len(pictures), seconds=seconds, hold=hold))


def _ground(axes: "Axes", field: ScoreField, title: str) -> None:
    """What the paths are drawn over: the exact density, pale, and the learned score in grey."""
    square(axes, title, field.limits)
    axes.set(xlabel="x₁", ylabel="x₂")
    shade(axes, field)
    arrows(axes, field, field.learned, longest=longest_of(field), colour="#b8bcc2", width=0.0028)


def _path(axes: "Axes", places: Array, colour: str) -> None:
    """One path (S + 1, 2): an arrow from each place to the next, a ring at the start, a dot at the end."""
    moves = np.diff(places, axis=0)
    axes.quiver(
        *places[:-1].T,
        *moves.T,
        angles="xy",
        scale_units="xy",
        scale=1.0,
        color=colour,
        width=0.0032,
        headwidth=3.4,
        headlength=3.8,
        headaxislength=3.4,
        minlength=0.1,
        zorder=4,
    )
    axes.plot(*places[0], "o", markersize=5, markerfacecolor=HALO, markeredgecolor=colour, zorder=5)
    axes.plot(*places[-1], "o", markersize=4.5, markerfacecolor=colour, markeredgecolor=HALO, zorder=6)


def _check(paths: Array) -> None:
    if paths.ndim != 3 or paths.shape[2] != 2 or len(paths) < 2 or paths.shape[1] < 1:
        raise UsageError(
            f"paths of shape {paths.shape}",
            expected="places (steps + 1, paths, 2) of one step or more",
            fix="stack the states of a walk, the start first",
        )
