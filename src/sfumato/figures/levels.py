"""Loss by noise level: the held-out and the training part, and what a model would have that knows the latter by heart.

A model learns its examples by heart where the two curves part, and the training one goes down to the attainable.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sfumato.errors import DataError
from sfumato.experiment.evaluation.levels import BinLosses
from sfumato.figures.style import PALETTE, house_style, log_axis, new_figure, panel
from sfumato.metrics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["levels"]

LEAST = 1e-3  # of the largest loss: what an attainable loss of next to nothing is drawn at


def levels(found: Sequence[BinLosses]) -> "Figure":
    """|eps_hat - eps|² per value over log-SNR, a point with its error for each bin. Raises DataError for no bin."""
    if not found:
        raise DataError("there is no bin to draw", expected="one or more", fix="measure a run first")
    floor = LEAST * max(one.training.value for one in found)
    with house_style():
        figure = new_figure(4.6, 3.1)
        axes = figure.subplots()
        _curve(axes, found, [one.held_out for one in found], "held out", PALETTE[1], "o--", floor)
        _curve(axes, found, [one.training for one in found], "training", PALETTE[0], "o-", floor)
        _curve(axes, found, [one.attainable for one in found], "known by heart", PALETTE[2], ":", floor)
        panel(axes, "noise error by noise level", "log SNR (nats)", "")
        drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.lines])
        log_axis(axes, drawn[np.isfinite(drawn)].tolist())
        axes.legend(loc="best")
    return figure


def _curve(
    axes: "Axes",
    found: Sequence[BinLosses],
    each: Sequence[Estimate | None],
    name: str,
    colour: str,
    style: str,
    floor: float,
) -> None:
    """One kind of loss at the middle of its bins; nothing where it was not measured."""
    known = [((one.span.low + one.span.high) / 2, e) for one, e in zip(found, each, strict=True) if e is not None]
    if not known:
        return
    x, y = [place for place, _ in known], [max(e.value, floor) for _, e in known]
    axes.plot(x, y, style, color=colour, markersize=2.8, label=name)
    axes.errorbar(x, y, [e.std_error for _, e in known], fmt="none", ecolor=colour, elinewidth=0.8)
