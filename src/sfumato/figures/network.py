"""A network from top to bottom: each stage with the shape of what it gives and its number of parameters.

Bars on the left are as wide as the logarithm of the number of places (pixels, tokens) that a stage gives: a U-Net is an
hourglass. Bars on the right are the parameters, and their numbers add up to that of the model, above.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sfumato.experiment.anatomy import Anatomy, Stage
from sfumato.figures.style import FAINT, INK, PALETTE, SMALL, house_style, new_figure, panel, percent, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["network"]

ROW, MARGIN = 0.21, 0.75  # inches
LEAST = 0.3  # the narrowest bar, as a share of the widest: its shape stands in it


def network(found: Anatomy) -> "Figure":
    """The stages as rows, the input as the first and the output as the last."""
    rows = [Stage("x_t", "input", found.shape, 0), *found.stages]
    with house_style():
        figure = new_figure(7.0, len(rows) * ROW + MARGIN)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.0, 0.8])
        _shapes(left, rows)
        _parameters(right, rows, found.parameters)
        left.set_yticks(range(len(rows)), [_told(stage) for stage in rows])
        left.set_ylim(len(rows) - 0.4, -0.6)
        title = f"{found.network}: {found.parameters:,} parameters, {_shape(found.shape)} → {_shape(found.output)}"
        figure.suptitle(title, x=0.01, ha="left", size=9)
    return figure


def _shapes(axes: "Axes", rows: Sequence[Stage]) -> None:
    """Bars around the middle, with the shape in each."""
    tokens = len(rows[0].shape or ()) == 3  # of pictures two axes are tokens and their width; of sequences (C, L)
    places = [math.log2(1 + _places(stage, tokens=tokens)) for stage in rows]
    widest = max(places)
    for row, (stage, size) in enumerate(zip(rows, places, strict=True)):
        if stage.shape is None:
            axes.text(0, row, "·", ha="center", va="center", color=FAINT, size=SMALL)
            continue
        width = LEAST + (1 - LEAST) * size / widest if widest > 1 else 1.0
        axes.barh(row, width, left=-width / 2, height=0.72, color=PALETTE[5], alpha=0.45, linewidth=0)
        axes.text(0, row, _shape(stage.shape), ha="center", va="center", color=INK, size=SMALL)
    panel(axes, "shape of one example", "", "")
    axes.set_xlim(-0.52, 0.52)
    axes.set_xticks([])
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _places(stage: Stage, *, tokens: bool) -> int:
    """Pixels or tokens: all axes but the channels, which come first (of tokens last)."""
    if stage.shape is None or len(stage.shape) == 1:
        return 0
    return stage.shape[0] if tokens and len(stage.shape) == 2 else math.prod(stage.shape[1:])


def _parameters(axes: "Axes", rows: Sequence[Stage], total: int) -> None:
    """Bars from the left, with number and share at their ends."""
    most = max(stage.parameters for stage in rows)
    for row, stage in enumerate(rows):
        if stage.parameters == 0:
            continue
        axes.barh(row, stage.parameters, height=0.72, color=PALETTE[0], linewidth=0)
        share = stage.parameters / total
        text = f" {stage.parameters:,}  ({percent(share) if share >= 0.001 else '< 0.1 %'})"
        axes.text(stage.parameters, row, text, ha="left", va="center", color=INK, size=SMALL)
    panel(axes, "parameters", "", "")
    axes.set_xlim(0, 1.75 * most if most else 1)
    axes.set_xticks([])
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelleft=False)


def _told(stage: Stage) -> str:
    """Its name and what it is, and how often."""
    often = f"{stage.count} × " if stage.count > 1 else ""
    return shortened(f"{stage.name}   {often}{stage.kind}".rstrip(), 46)


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(f"{size:,}" for size in shape)
