"""Effects of a sweep's axes: a panel for each metric, a row for each change, with its 95 % interval.

A filled mark is an effect that is significant after the correction for all that were told; a hollow one is not.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sfumato.errors import DataError
from sfumato.experiment.difference import LEVEL
from sfumato.experiment.effects import Effect, Effects
from sfumato.figures.style import FAINT, PALETTE, SMALL, house_style, new_figure, panel, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["effects"]

ROW, MARGIN = 0.29, 0.75  # inches


def effects(found: Effects) -> "Figure":
    """Main effects in one colour, interactions in another, 0 as a line. Raises DataError for none."""
    if not found.effects:
        raise DataError("there is no effect to draw", expected="one or more", fix="measure the sweep first")
    groups = [found.of(metric) for metric in found.metrics]
    heights = [len(group) * ROW + MARGIN for group in groups]
    with house_style():
        figure = new_figure(7.0, sum(heights) + 0.2)
        panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, metric, group in zip(panels, found.metrics, groups, strict=True):
            _rows(axes, found, group)
            panel(axes, metric, "", "")
        figure.supxlabel(
            "change of the metric, alone (blue) and what two add together (orange); 95 % intervals, each for itself; "
            f"filled: p < {LEVEL} after correction for {len(found.effects)}",
            size=SMALL,
            color=FAINT,
        )
    return figure


def _rows(axes: "Axes", found: Effects, group: Sequence[Effect]) -> None:
    """One row for each effect, the first on top."""
    axes.axvline(0, color=FAINT, linewidth=0.8)
    for row, effect in enumerate(group):
        colour = PALETTE[0] if len(effect.axes) == 1 else PALETTE[1]
        low, high = effect.interval
        axes.plot([low, high], [row, row], color=colour, linewidth=1.2)
        fill = colour if effect.corrected < LEVEL else "white"
        axes.plot([effect.value], [row], "o", color=colour, markerfacecolor=fill, markersize=4)
    axes.set_yticks(range(len(group)), [_in_lines(found.label(effect)) for effect in group])
    axes.set_ylim(len(group) - 0.5, -0.5)


def _in_lines(label: str) -> str:
    """The name of an effect: what an interaction is of, one below the other."""
    return "\n× ".join(shortened(change, 60) for change in label.split(" × "))
