"""A schedule and where it began: log-SNR over time, its slope, and the loss that each noise level costs.

Training draws t uniformly, so log_snr is seen with density 1/|dlog_snr/dt|: a schedule that is learned goes slowly,
with a small slope, through the noise levels that it finds worth the time (Kingma et al. 2021, section 5; their gamma is
-log_snr).
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from sfumato.core import Schedule
from sfumato.figures.history import Levels
from sfumato.figures.style import FAINT, PALETTE, SMALL, house_style, log_axis, new_figure, panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["gamma"]

POINTS = 501


def gamma(schedule: Schedule, *, start: Schedule | None = None, losses: Levels | None = None) -> "Figure":
    """Panels of log_snr(t) and of -dlog_snr/dt, of the schedule and of the one that it started from, if another.

    With `losses`, a third panel: the held-out loss at each noise level, when it was last measured. A table's slope is
    drawn in steps; a schedule of one step has none, and its panel says so.
    """
    shown = [(schedule, "learned" if start is not None else "", PALETTE[0], "-")]
    shown += [(start, "at the start", FAINT, "--")] if start is not None else []
    with house_style():
        figure = new_figure(7.0 if losses is not None else 5.0, 2.5)
        panels = figure.subplots(1, 2 if losses is None else 3)
        slopes: list[float] = []
        for item, name, colour, dashes in shown:
            t = _times(item)
            marked = dashes if len(t) > 1 else "o"
            panels[0].plot(t, item.log_snr(t).detach().numpy(), marked, color=colour, label=name, clip_on=len(t) > 1)
            if len(t) > 1:
                steep = -item.slope(t).detach().numpy()
                panels[1].plot(t, steep, dashes, color=colour, label=name)
                slopes += steep.tolist()
        panel(panels[0], "log SNR (nats)", "time t", "")
        panel(panels[1], "slope, −d log SNR/dt", "time t", "")
        _slopes(panels[1], slopes)
        for axes in panels[:2]:
            axes.set_xlim(0, 1)
            axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        if start is not None:
            panels[0].legend(loc="lower left")
        if losses is not None:
            _by_level(panels[2], losses)
    return figure


def _times(schedule: Schedule) -> torch.Tensor:
    """Where a schedule is drawn: its grid points for a table, evenly spread times otherwise."""
    steps = POINTS if schedule.num_steps is None else schedule.num_steps
    if steps == 1:
        return torch.ones(1, dtype=torch.float64)
    return torch.linspace(schedule.t_min, 1.0, steps, dtype=torch.float64)


def _slopes(axes: "Axes", slopes: list[float]) -> None:
    """A logarithmic axis: slopes at the ends of a schedule are many times those amid it."""
    finite = [value for value in slopes if math.isfinite(value) and value > 0]
    if finite:
        log_axis(axes, finite)
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "one step: no slope", transform=axes.transAxes, ha="center", size=SMALL, color=FAINT)


def _by_level(axes: "Axes", losses: Levels) -> None:
    """The last measured loss against log-SNR."""
    last = losses.losses[-1]
    held = np.isfinite(last)
    axes.plot(losses.log_snr[held], last[held], "o-", color=PALETTE[1], markersize=2.8, linewidth=1.0)
    panel(axes, f"held-out loss at step {losses.steps[-1]:,.0f}", "log SNR (nats)", "")
    axes.set_ylim(bottom=min(0.0, float(last[held].min(initial=0.0))))
