"""Quality against the width of the average: the held-out loss of averages put together after training.

All were scored on the same examples and noise, so the band around the curve is the standard error of the difference to
the plain EMA, which lies at the width of its own profile.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sfumato.experiment.widths import Scored, WidthCurve
from sfumato.figures.style import FAINT, INK, PALETTE, SMALL, house_style, new_figure, number, panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ema"]

TICKS = (0.01, 0.02, 0.05, 0.1, 0.2)
ROOM = 3.0  # how far beyond the curve's own span the loss of the weights themselves may be and still be drawn


def ema(curve: WidthCurve) -> "Figure":
    """Loss over sigma_rel, with the widths that training kept, the plain EMA and the weights themselves."""
    averages = curve.averages
    x = np.array([scored.width for scored in averages])
    y = np.array([scored.loss for scored in averages])
    error = np.array([scored.difference_error for scored in averages])
    with house_style():
        figure = new_figure(4.6, 3.1)
        axes = figure.subplots()
        axes.fill_between(x, y - error, y + error, color=PALETTE[0], alpha=0.18, linewidth=0)
        axes.plot(x, y, "o-", color=PALETTE[0], markersize=2.8, label="put together after training")
        kept = [scored for scored in averages if scored.width in curve.stored]
        (rings,) = axes.plot(*_points(kept), "o", color=PALETTE[0], markersize=5.5, label="kept while training")
        rings.set(markerfacecolor="white", markeredgewidth=1.2)
        _plain(axes, curve, low=float(x.min()), high=float(x.max()))
        if curve.live is not None:
            _live(axes, curve.live, y)
        panel(axes, "held-out loss by width of the average", r"width $\sigma_\mathrm{rel}$ (share of training)", "")
        _scale(axes, x)
        below = f"±: s.e. of the difference to the plain EMA; of the loss itself ± {number(curve.ema.std_error, 2)}"
        axes.legend(loc="best")
        figure.supxlabel(below, size=SMALL, color=FAINT, x=0.98, ha="right")
    return figure


def _points(scored: list[Scored]) -> tuple[list[float], list[float]]:
    return [one.width for one in scored], [one.loss for one in scored]


def _plain(axes: "Axes", curve: WidthCurve, *, low: float, high: float) -> None:
    """The plain EMA: a level across, and a mark at its own width where that is in sight."""
    found = curve.ema
    label = f"plain EMA, width {number(found.width, 2)}"
    axes.axhline(found.loss, color=PALETTE[1], linestyle="--", linewidth=0.9)
    inside = low / 1.2 <= found.width <= high * 1.2
    place = found.width if inside else low if found.width < low else high
    mark = "D" if inside else "None"
    axes.plot([place], [found.loss], marker=mark, color=PALETTE[1], markersize=4, linestyle="--", label=label)


def _live(axes: "Axes", live: Scored, losses: NDArray[np.float64]) -> None:
    """The weights themselves: a level, or its number alone where it would flatten the curve."""
    span = max(float(losses.max() - losses.min()), 1e-12)
    near = losses.min() - ROOM * span <= live.loss <= losses.max() + ROOM * span
    if near:
        axes.axhline(live.loss, color=FAINT, linestyle=":", linewidth=1.1)
    axes.plot([], [], color=FAINT, linestyle=":" if near else "None", label=f"no average: {number(live.loss, 4)}")


def _scale(axes: "Axes", x: NDArray[np.float64]) -> None:
    """A logarithmic axis of widths with plain numbers on it."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(float(x.min()) / 1.12, float(x.max()) * 1.12)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if x.min() / 1.12 <= tick <= x.max() * 1.12]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 4)))
    axes.tick_params(labelsize=SMALL, labelcolor=INK)
