"""The score of a model beside the exact one: arrows on a grid over the data, a row for each noise level.

    score(x) = ∇ log p_t(x)

An arrow points where the score does; its length grows as log(1 + |score|), on one scale in all panels, since scores
between and outside the data differ by orders of magnitude. The last panel holds learned minus exact. How much they
differ where it matters is the root of E|learned - exact|² over noisy points x_t of the exact law.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core import Denoise, Schedule, batch_noise
from sfumato.errors import UsageError
from sfumato.figures.plane import Plane, lattice
from sfumato.figures.strips import Limits
from sfumato.figures.style import FAINT, INK, PALETTE, SMALL, house_style, new_figure, number, panel, percent, tenths
from sfumato.figures.truth import Truth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Score",
    "ScoreField",
    "arrows",
    "longest_of",
    "measured_field",
    "score_fields",
    "score_of",
    "shade",
    "square",
]

Array = NDArray[np.float64]
Score = Callable[[Tensor], Tensor]

SIDE = 24  # arrows along each axis
FINE = 96  # places along each axis where the density is shaded
SHADES = ("#edf3f9", "#dbe8f3", "#c3d9ec", "#a6c7e3")
DRAWS = 4000  # noisy points that the difference is averaged over


@dataclass(frozen=True, slots=True, eq=False)
class ScoreField:
    """Scores of one noise level on a square grid, in the units of the axes.

    t, log_snr: the noise level, time and nats. limits: what the grid covers. places (N, 2): the middles of the arrows.
    learned, exact (N, 2): the scores there. log_density (FINE, FINE): of the exact noisy points, nats, evenly over the
    limits, rows from below. difference, size: root mean squares over noisy points of |learned - exact| and of |exact|.
    """

    t: float
    log_snr: float
    limits: Limits
    places: Array
    learned: Array
    exact: Array
    log_density: Array
    difference: float
    size: float


def score_of(d: Denoise, t: float, *, like: Tensor) -> Score:
    """The learned score at time t as a function of x (N, 2), float64 in and out, computed as `like` is."""

    @torch.no_grad()
    def score(x: Tensor) -> Tensor:
        return d(x.to(like), torch.tensor(t, dtype=torch.float64)).score.double().cpu()

    return score


def measured_field(
    learned: Score, truth: Truth, plane: Plane, *, schedule: Schedule, t: float, limits: Limits, side: int = SIDE
) -> ScoreField:
    """Learned and exact scores at time t of a schedule on the grid, and their difference over `DRAWS` noisy points."""
    if side < 2:
        raise UsageError(f"a grid of {side} x {side} arrows", expected="2 or more a side", fix=f"leave it at {SIDE}")
    r = schedule.rates(t)
    places = lattice(limits, side)
    x, fine = plane.inside(places, r), plane.inside(lattice(limits, FINE, edges=True), r)
    x0 = truth.draws()
    x0 = x0[torch.linspace(0, len(x0) - 1, min(len(x0), DRAWS)).round().long()]
    noisy = float(r.alpha) * x0 + float(r.sigma) * batch_noise(tuple(x0.shape), 0, "score-figure").double()
    true = plane.score(truth.score(noisy, r), r)
    apart = plane.score(learned(noisy), r) - true
    return ScoreField(
        t=t,
        log_snr=float(r.log_snr),
        limits=limits,
        places=places.numpy(),
        learned=plane.score(learned(x), r).numpy(),
        exact=plane.score(truth.score(x, r), r).numpy(),
        log_density=plane.log_density(truth.log_density(fine, r), r).reshape(FINE, FINE).numpy(),
        difference=float(apart.square().sum(1).mean().sqrt()),
        size=float(true.square().sum(1).mean().sqrt()),
    )


def score_fields(fields: Sequence[ScoreField], *, truth: str, note: str = "") -> "Figure":
    """Learned score, exact score and their difference, a row for each noise level; `truth` names what is exact."""
    if not fields:
        raise UsageError("no noise level was given", expected="one or more", fix="leave the times out")
    with house_style():
        figure = new_figure(7.0, 2.45 * len(fields) + 0.35)
        panels = figure.subplots(len(fields), 3, squeeze=False, sharex=True, sharey=True)
        for row, found in zip(panels, fields, strict=True):
            _row(row, found)
        for axes in panels[-1]:
            axes.set_xlabel("x₁")
        for axes in panels[:, 0]:
            axes.set_ylabel("x₂")
        told = f"exact: {truth}; arrows as long as log(1 + |score|)" + (f"; {note}" if note else "")
        figure.supxlabel(told, fontsize=SMALL, color=FAINT, x=0.01, ha="left")
    return figure


def _row(panels: Sequence["Axes"], found: ScoreField) -> None:
    """The three panels of one noise level, all arrows on one scale."""
    share = f" ({percent(found.difference / found.size)})" if found.size > 0 else ""
    titles = (
        f"learned, t = {number(found.t)}, log SNR {tenths(found.log_snr)}",
        "exact",
        f"difference: rms {number(found.difference, 2)} of {number(found.size, 2)}{share}",
    )
    values = (found.learned, found.exact, found.learned - found.exact)
    for axes, title, vectors, colour in zip(panels, titles, values, (INK, INK, PALETTE[1]), strict=True):
        square(axes, title, found.limits)
        shade(axes, found)
        arrows(axes, found, vectors, longest=longest_of(found), colour=colour)


def longest_of(found: ScoreField) -> float:
    """The largest of the field's scores, which sets the scale of its arrows."""
    return max(float(_sizes(values).max()) for values in (found.learned, found.exact))


def square(axes: "Axes", title: str, limits: Limits) -> None:
    """An empty square panel of the plane."""
    from matplotlib.ticker import MaxNLocator

    panel(axes, title, "", "")
    axes.title.set_fontsize(8.0)
    axes.set(xlim=limits.x, ylim=limits.y, aspect="equal")
    axes.grid(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))


def arrows(
    axes: "Axes", field: ScoreField, vectors: Array, *, longest: float, colour: str, width: float = 0.004
) -> None:
    """The vectors (N, 2) at the field's places, log(1 + |v|) long; one of size `longest` spans one and a half cells."""
    sizes = _sizes(vectors)
    drawn = vectors * (np.log1p(sizes) / np.maximum(sizes, 1e-300))[:, None]
    cell = (field.limits.x[1] - field.limits.x[0]) / len(vectors) ** 0.5
    axes.quiver(
        *field.places.T,
        *drawn.T,
        angles="xy",
        scale_units="xy",
        scale=max(float(np.log1p(longest)), 1e-12) / (1.5 * cell),
        color=colour,
        width=width,
        headwidth=3.6,
        headlength=4.2,
        headaxislength=3.8,
        minlength=0.4,
        pivot="middle",
    )


def shade(axes: "Axes", field: ScoreField) -> None:
    """The density of the exact noisy points, pale, within five nats of its largest value."""
    top = float(field.log_density.max())
    axes.contourf(
        np.linspace(*field.limits.x, FINE),
        np.linspace(*field.limits.y, FINE),
        field.log_density,
        levels=[top - 5, top - 3, top - 2, top - 1, top + 1e-9],
        colors=SHADES,
    )


def _sizes(vectors: Array) -> Array:
    return np.asarray(np.hypot(*vectors.T), dtype=np.float64)
