"""Schedules side by side: alpha, sigma and log-SNR over time, each schedule in one colour throughout."""

import math
from typing import TYPE_CHECKING

import torch

from sfumato.figures.named import Schedules, named_schedules
from sfumato.figures.style import DASHES, SMALL, colours, house_style, log_axis, new_figure, panel, text_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["schedules"]

POINTS = 501
WIDTH = 7.0  # inches
PANELS = (r"signal rate $\alpha$", r"noise rate $\sigma$", "log SNR (nats)")


def schedules(items: Schedules) -> "Figure":
    """Three panels of curves over t in [t_min, 1]; `items` are schedules, kinds, recipes, or named ones in a mapping.

    Variance-exploding schedules make the axis of sigma logarithmic. Raises ConfigError for names that mean nothing.
    """
    named = named_schedules(items)
    with house_style():
        widest = max(text_width(item.name, SMALL) for item in named)
        lines = math.ceil(len(named) / max(1, min(4, int(WIDTH / (widest + 0.55)))))
        figure = new_figure(WIDTH, 2.35 + 0.17 * lines)
        panels = figure.subplots(1, 3)
        noise: list[float] = []
        for index, (item, colour) in enumerate(zip(named, colours(len(named)), strict=True)):
            t = torch.linspace(item.schedule.t_min, 1.0, POINTS, dtype=torch.float64)
            rates = item.schedule.rates(t)
            noise += rates.sigma[[0, -1]].tolist()
            for axes, values in zip(panels, (rates.alpha, rates.sigma, rates.log_snr), strict=True):
                dashes = DASHES[index % len(DASHES)]
                axes.plot(t.numpy(), values.numpy(), color=colour, linestyle=dashes, label=item.name)
        for axes, title in zip(panels, PANELS, strict=True):
            panel(axes, title, "time t", "")
            axes.set_xlim(0, 1)
            axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        if max(noise) > 2:
            log_axis(panels[1], noise)
        for axes in panels[:1] if max(noise) > 2 else panels[:2]:
            axes.set_ylim(-0.03, 1.03)
        if len(named) > 1 or not isinstance(items, str):
            handles, names = panels[0].get_legend_handles_labels()
            figure.legend(
                handles, names, loc="outside lower center", ncols=math.ceil(len(named) / lines), handlelength=2.6
            )
    return figure
