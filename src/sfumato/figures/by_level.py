"""Noise or image error by log-SNR, a curve for each point of a sweep: schedules at equal noise levels."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sfumato.experiment.effects import LevelCurve, LevelCurves
from sfumato.figures.style import DASHES, PALETTE, house_style, log_axis, new_figure, panel, shortened

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
        for curve, (colour, dashes) in zip(found.curves, _looks(found.curves), strict=True):
            x = [(point.low + point.high) / 2 for point in curve.points]
            y = [point.value for point in curve.points]
            axes.plot(x, y, marker="o", linestyle=dashes, color=colour, markersize=2.8, label=shortened(curve.name, 48))
            axes.errorbar(x, y, [p.std_error for p in curve.points], fmt="none", ecolor=colour, elinewidth=0.8)
            drawn += [value for value in y if value > 0]
        panel(axes, TITLES[found.of], "log SNR (nats)", "")
        log_axis(axes, drawn)
        figure.legend(loc="outside lower center", ncols=2, handlelength=3)
    return figure


def _looks(curves: Sequence[LevelCurve]) -> Iterator[tuple[str, str]]:
    """Colour and dashes of each: the first axis has dashes and the others colours, where there are enough of both.

    So two curves of one colour are a pair that differs in the first axis alone.
    """
    places = [tuple(curve.settings.values()) for curve in curves]
    firsts, others = (list(dict.fromkeys(parts)) for parts in ([p[:1] for p in places], [p[1:] for p in places]))
    paired = len(others) > 1 and len(firsts) <= len(DASHES) and len(others) <= len(PALETTE)
    for index, place in enumerate(places):
        if paired:
            yield PALETTE[others.index(place[1:])], DASHES[firsts.index(place[:1])]
        else:  # the colours begin again after seven
            yield PALETTE[index % len(PALETTE)], DASHES[index // len(PALETTE) % len(DASHES)]
