"""The learning-rate curve: the loss after each step while the rate rises, with the rates that are read from it."""

import math
from typing import TYPE_CHECKING

import numpy as np

from sfumato.errors import DataError
from sfumato.experiment.doctor.rates import RateCurve, smoothed
from sfumato.figures.style import FAINT, INK, SMALL, colours, house_style, new_figure, number, panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["learning_rates"]

ROOM = 1.2  # of the fall that is shown above the first loss: what lies beyond is only large


def learning_rates(curve: RateCurve, chosen: float | None = None) -> "Figure":
    """Loss over learning rate, raw and smoothed; upright lines at what is recommended, best, and `chosen`.

    Raises DataError for a curve without a finite loss.
    """
    losses = np.array([loss if math.isfinite(loss) else math.nan for loss in curve.losses])
    if not np.isfinite(losses).any():
        raise DataError(
            "no loss of the learning-rate test is finite",
            expected="a curve with finite losses",
            fix="see what `sfumato doctor` finds without --lr",
        )
    smooth = [loss if math.isfinite(loss) else math.nan for loss in smoothed(curve.losses)]
    with house_style():
        figure = new_figure(5.0, 3.0)
        axes = figure.subplots()
        line, *marks = colours(4)
        axes.set_xscale("log")
        axes.plot(curve.rates, losses, color=FAINT, linewidth=0.6, alpha=0.6)
        axes.plot(curve.rates, smooth, color=line, linewidth=1.4)
        axes.axhline(curve.start, color=FAINT, linewidth=0.6, linestyle=":")
        for (name, rate), colour in zip(
            (("recommended", curve.recommended), ("lowest", curve.best), ("settings", chosen)), marks, strict=True
        ):
            if rate is not None and rate > 0:
                axes.axvline(rate, color=colour, linewidth=1.0, linestyle="--", label=f"{name} {number(rate, 2)}")
        panel(axes, f"loss on a fixed batch, {len(curve.rates)} steps", "learning rate", "loss")
        low = float(np.nanmin(losses))
        fall = max(curve.start - low, 0.01 * abs(curve.start), 1e-12)
        axes.set_ylim(low - 0.1 * fall, curve.start + ROOM * fall)
        axes.legend(fontsize=SMALL, frameon=False, labelcolor=INK)
    return figure
