"""The sinusoidal embedding as a picture: one row for each channel, the noise variance from left to right.

The fastest channel turns a thousand times over the axis, more often than a figure has columns. Sampled evenly it would
show slow bands that are not there; so each column is sampled at its own place within its cell (the
fractions of k² times the golden ratio), and what is too fast to be drawn looks like what it is, noise.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.figures.style import FAINT, INK, SMALL, house_style, new_figure, number, panel
from sfumato.nn.embeddings import log_spaced_frequencies, sinusoidal_embedding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["embedding", "sampled_variances"]

COLUMNS = 500
MOST_CHANNELS = 4096  # a row each: no figure has more pixels
GOLDEN = (5**0.5 - 1) / 2


def embedding(channels: int = 32, *, lowest: float = 1.0, highest: float = 1000.0) -> "Figure":
    """Heat map of the embedding of noise variances in [0, 1]: sines above, cosines below, slow channels first.

    `channels` is even, at most MOST_CHANNELS; frequencies run from `lowest` to `highest` turns per unit. The defaults
    are falbel's. Raises UsageError.
    """
    if not 2 <= channels <= MOST_CHANNELS or channels % 2 or not 0 < lowest <= highest:
        raise UsageError(
            f"an embedding of {channels} channels with frequencies from {lowest:g} to {highest:g}",
            expected=f"an even number of channels from 2 to {MOST_CHANNELS}, and frequencies above 0 in rising order",
            fix="leave them out: 32 channels from 1 to 1000 turns",
        )
    half = channels // 2
    frequencies = log_spaced_frequencies(half, lowest=lowest, highest=highest, like=torch.zeros(0, dtype=torch.float64))
    values = sinusoidal_embedding(sampled_variances(), frequencies).T.numpy()
    with house_style():
        figure = new_figure(5.2, 3.0)
        axes = figure.add_subplot()
        extent = (0.0, 1.0, channels - 0.5, -0.5)
        image = axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", extent=extent, interpolation="none")
        panel(axes, "", r"noise variance $\sigma^2$", "channel")
        axes.grid(False)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        axes.set_yticks([0, half, channels - 1])
        axes.axhline(half - 0.5, color="white", linewidth=1.2)
        bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=28, ticks=[-1, 0, 1])
        bar.ax.set_yticklabels(["−1", "0", "1"])
        bar.ax.tick_params(labelsize=SMALL, length=2, color=FAINT, labelcolor=INK)
        bar.outline.set_visible(False)
        for middle, name in ((half / 2 - 0.5, "sin"), (1.5 * half - 0.5, "cos")):
            text = f"{name}\n{number(lowest)} to {number(highest, 4)}\nturns"
            axes.text(1.015, middle, text, transform=axes.get_yaxis_transform(), size=SMALL, va="center", color=INK)
    return figure


def sampled_variances() -> Tensor:
    """One noise variance within each of the COLUMNS cells of [0, 1], (COLUMNS,) float64; the module says why."""
    index = torch.arange(COLUMNS, dtype=torch.float64)
    return (index + (index**2 * GOLDEN).frac()) / COLUMNS
