"""The log-density of a model beside the true one: filled contours at the same levels, on one scale of colours.

    KL(truth ‖ model) = ∫ p log(p/q) dx,    mass = ∫ q dx

are sums over the cells of the lattice; a mass near 1 says that the lattice holds and resolves the density.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sfumato.errors import NumericsError, UsageError
from sfumato.figures.field import square
from sfumato.figures.sheets import marker_area
from sfumato.figures.strips import Limits
from sfumato.figures.style import FAINT, INK, PALETTE, SMALL, house_style, new_figure, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.contour import QuadContourSet
    from matplotlib.figure import Figure

__all__ = ["Densities", "densities", "kl_on", "levels_of", "mass_on"]

Array = NDArray[np.float64]

DEPTH = 10.0  # nats below the largest density that the contours go
MOST_NATS = 1e6  # beyond it neighbouring contours would be one number


@dataclass(frozen=True, slots=True, eq=False)
class Densities:
    """Log-densities in nats at the centres of side x side equal cells of `limits`, rows from below.

    model (side, side): that of the model. truth (side, side): the true one, None where no law is known.
    """

    limits: Limits
    model: Array
    truth: Array | None

    def __post_init__(self) -> None:
        fits = self.model.ndim == 2 and self.model.shape[0] == self.model.shape[1] >= 2
        if not fits or (self.truth is not None and self.truth.shape != self.model.shape):
            other = "" if self.truth is None else f" and {self.truth.shape}"
            raise UsageError(
                f"log-densities of shape {self.model.shape}{other}",
                expected="two squares of equal shape, (side, side)",
                fix="evaluate both on the same lattice",
            )
        if np.isnan(self.model).any() or not (self.model > -math.inf).any():
            raise NumericsError(
                "the model's log-density is not a number in places",
                expected="numbers everywhere on the lattice",
                fix="train on; `sfumato figures score RUN` shows what was learned",
            )

    @property
    def cell(self) -> float:
        """The area of one cell."""
        (left, right), (low, high) = self.limits.x, self.limits.y
        return (right - left) * (high - low) / self.model.size


def mass_on(log_density: Array, cell: float) -> float:
    """∫ exp(log_density) over the lattice."""
    return math.fsum(np.exp(log_density).flatten().tolist()) * cell


def kl_on(truth: Array, model: Array, cell: float) -> float:
    """∫ p log(p/q) over the lattice, in nats; cells without true mass add nothing."""
    held = np.isfinite(truth)
    terms = np.exp(truth[held]) * (truth[held] - model[held])
    return math.fsum(terms.tolist()) * cell


def levels_of(found: Densities, count: int = 10) -> Array:
    """`count` + 1 rising contour levels that both panels share, from DEPTH below the top of the truth (or model).

    Raises NumericsError where the top is no height that can be drawn.
    """
    judge = found.model if found.truth is None else found.truth
    highest = float(judge.max())
    if not abs(highest) < MOST_NATS:
        raise NumericsError(
            f"no density can be drawn: the highest log-density on the plane is {highest:.3g} nats",
            expected="some mass where the data lie",
            fix="train on; `sfumato figures score RUN` shows what was learned",
        )
    top = math.ceil(2 * highest) / 2
    return np.linspace(top - DEPTH, top, count + 1)


def densities(found: Densities, *, points: Array | None = None, truth: str, note: str = "") -> "Figure":
    """Two panels of filled contours, the model and the truth; or the model and `points` (N, 2) where no law is known.

    `truth` names the law, or the points. Raises UsageError when there is neither law nor points.
    """
    if found.truth is None and points is None:
        raise UsageError("there is nothing to compare with", expected="a true density, or points", fix="give points")
    levels = levels_of(found)
    with house_style():
        figure = new_figure(7.0, 3.35)
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        mass = f"mass on the grid {number(mass_on(found.model, found.cell), 4)}"
        square(left, f"model: {mass}", found.limits)
        square(right, _second_title(found, truth), found.limits)
        filled = _contours(left, found.limits, found.model, levels)
        if found.truth is not None:
            _contours(right, found.limits, found.truth, levels)
        elif points is not None:
            area = marker_area(len(points), 2.8 * 72)
            right.scatter(*points.T, s=area, color=PALETTE[0], alpha=0.7, linewidths=0, rasterized=len(points) > 1000)
        for axes in (left, right):
            axes.set_xlabel("x₁")
        left.set_ylabel("x₂")
        bar = figure.colorbar(filled, ax=[left, right], aspect=24, pad=0.02, ticks=levels[::2])
        bar.set_label("log-density (nats)", size=SMALL, color=INK)
        bar.ax.tick_params(labelsize=SMALL, length=2, color=FAINT, labelcolor=INK)
        bar.outline.set_visible(False)
        told = [] if found.truth is None else [_difference(found)]
        figure.supxlabel("; ".join([*told, *([note] if note else [])]), fontsize=SMALL, color=FAINT, x=0.01, ha="left")
    return figure


def _second_title(found: Densities, truth: str) -> str:
    if found.truth is None:
        return f"no law is known: {truth}"
    return f"{truth}: mass on the grid {number(mass_on(found.truth, found.cell), 4)}"


def _difference(found: Densities) -> str:
    assert found.truth is not None
    return f"KL(truth ‖ model) = {number(kl_on(found.truth, found.model, found.cell))} nats, by quadrature on the grid"


def _contours(axes: "Axes", limits: Limits, heights: Array, levels: Array) -> "QuadContourSet":
    """Filled contours with thin lines between; below the lowest level nothing is drawn."""
    middles = (np.arange(len(heights)) + 0.5) / len(heights)
    x, y = (low + (high - low) * middles for low, high in (limits.x, limits.y))
    shown = np.maximum(heights, levels[0] - 1e3)  # -inf would leave holes
    axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))  # between the outermost centres: beyond them nothing is known
    filled = axes.contourf(x, y, shown, levels=levels, cmap=_ramp(), extend="max")
    axes.contour(x, y, shown, levels=levels, colors="white", linewidths=0.3, linestyles="solid")
    return filled


def _ramp() -> "Colormap":
    """From white to the blue of the palette, dark at the top."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("density", ["#f4f8fc", "#9cc3e4", PALETTE[0], "#08264d"])
