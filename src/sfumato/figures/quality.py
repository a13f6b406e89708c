"""Quality against the number of steps: a metric of samples for each sampler, drawn from the same noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfumato.errors import DataError
from sfumato.figures.style import DASHES, colours, house_style, log_axis, new_figure, panel
from sfumato.metrics import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["StepCurve", "steps"]


@dataclass(frozen=True, slots=True)
class StepCurve:
    """One sampler: numbers of steps, in order, and the metric with that many."""

    sampler: str
    steps: tuple[int, ...]
    found: tuple[Estimate, ...]


def steps(metric: str, curves: Sequence[StepCurve]) -> "Figure":
    """The metric with its standard error over the number of steps, both logarithmic where all values are positive."""
    if not curves:
        raise DataError("there is no sampler to draw", expected="one or more", fix="--samplers ddim,heun")
    with house_style():
        figure = new_figure(4.6, 3.1)
        axes = figure.subplots()
        for index, (curve, colour) in enumerate(zip(curves, colours(len(curves)), strict=True)):
            y = [estimate.value for estimate in curve.found]
            dashes = DASHES[index % len(DASHES)]
            axes.plot(curve.steps, y, marker="o", linestyle=dashes, color=colour, markersize=2.8, label=_told(curve))
            errors = [estimate.std_error for estimate in curve.found]
            axes.errorbar(curve.steps, y, errors, fmt="none", ecolor=colour, elinewidth=0.8)
        panel(axes, metric, "steps", "")
        axes.set_xscale("log")
        ticks = sorted({count for curve in curves for count in curve.steps})
        axes.set_xticks(ticks, [f"{count:,}" for count in ticks])
        axes.minorticks_off()
        values = [estimate.value for curve in curves for estimate in curve.found]
        if min(values) > 0:
            log_axis(axes, values)
        axes.legend(loc="best")
    return figure


def _told(curve: StepCurve) -> str:
    """The sampler; and how often it calls the network, where that is not once a step: such steps cost more."""
    calls = [estimate.provenance.get("calls") for estimate in curve.found]
    if list(curve.steps) == calls or None in calls:
        return curve.sampler
    span = f"{calls[0]:,}" if len(calls) == 1 else f"{calls[0]:,}–{calls[-1]:,}"
    return f"{curve.sampler} ({span} network calls)"
