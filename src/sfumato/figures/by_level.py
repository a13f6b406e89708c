"""Noise or image error by log-SNR, a curve for each point of a sweep: schedules at equal noise levels."""

from typing import TYPE_CHECKING

from sfumato.experiment.effects import LevelCurves
from sfumato.figures.style import DASHES, colours, house_style, log_axis, new_figure, panel, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["by_level"]

TITLES = {"noise": "noise error, |eps_hat − eps|² per value", "image": "image error, |x0_hat − x0|² per value"}


def by_level(found: LevelCurves) -> "Figure":
    """Points at the middle of the log-SNRs that were met, with their standard errors."""
    with house_style():
        figure = new_figure(7.0, 3.4)
        axes = figure.subplots()
        drawn = []
        for index, (curve, colour) in enumerate(zip(found.curves, colours(len(found.curves)), strict=True)):
            x = [(point.low + point.high) / 2 for point in curve.points]
            y = [point.value for point in curve.points]
            dashes = DASHES[index // 7 % len(DASHES)]  # the colours begin again after seven
            axes.plot(x, y, marker="o", linestyle=dashes, color=colour, markersize=2.8, label=shortened(curve.name, 48))
            axes.errorbar(x, y, [p.std_error for p in curve.points], fmt="none", ecolor=colour, elinewidth=0.8)
            drawn += [value for value in y if value > 0]
        panel(axes, TITLES[found.of], "log SNR (nats)", "")
        log_axis(axes, drawn)
        figure.legend(loc="outside lower center", ncols=2)
    return figure
