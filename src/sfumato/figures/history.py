"""Loss curves of runs, from their records (`metrics.jsonl`).

The training loss is noisy: its raw values stand faintly behind a running fit of straight lines, which is a running mean
everywhere but at the ends. The held-out loss is measured with fixed noise and carries its standard error over examples;
a panel for each run splits it by noise level.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sfumato.errors import DataError
from sfumato.figures.style import (
    FAINT,
    INK,
    SMALL,
    colours,
    count_axis,
    house_style,
    log_axis,
    new_figure,
    panel,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Curve", "Levels", "Record", "curve", "levels", "losses", "smoothed"]

Record = Sequence[Mapping[str, Any]]
HELD_OUT = "o--"


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One figure of a record: `steps` and `values` (K,), where logged and finite; `errors` (K,), NaN where unknown."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]
    errors: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """Held-out loss by noise level: `steps` (K,), `log_snr` (L,) in nats, `losses` (K, L)."""

    steps: NDArray[np.float64]
    log_snr: NDArray[np.float64]
    losses: NDArray[np.float64]


def losses(records: Mapping[str, Record]) -> "Figure":
    """Training and held-out loss over steps of one or more runs, and a panel of the latter by noise level for each.

    `records` maps a run's name to its lines, as `MetricsLog.read` gives them. Raises DataError when nothing was logged.
    """
    trained = {name: curve(record, "loss") for name, record in records.items()}
    held_out = {name: curve(record, "held_out_loss", error="held_out_std_error") for name, record in records.items()}
    split = {name: found for name, record in records.items() if (found := levels(record)) is not None}
    if not any(len(found.steps) for found in (*trained.values(), *held_out.values())):
        raise DataError(
            f"no loss was logged yet by {', '.join(records) or 'no run'}",
            expected="records with `loss` or `held_out_loss`",
            fix="wait for the first log line, or name another run",
        )
    with house_style():
        count = 1 + len(split)
        columns = count if count < 4 else 2 if count == 4 else 3
        rows = math.ceil(count / columns)
        figure = new_figure(3.5 * columns if columns < 3 else 9.6, 2.6 * rows)
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        _totals(panels[0], trained, held_out)
        span = _span(list(split.values()))
        for axes, (name, found) in zip(panels[1:], split.items(), strict=False):
            title = "held-out loss by noise level"
            _by_level(axes, found, f"{shortened(name)}\n{title}" if len(records) > 1 else title, span)
        for axes in panels[1 + len(split) :]:
            axes.remove()
    return figure


def curve(record: Record, key: str, *, error: str | None = None) -> Curve:
    """The finite values of one figure, with their errors where the record has them."""
    found = [(line["step"], line[key], line.get(error) if error else None) for line in record if _finite(line.get(key))]
    table = np.array([[step, value, e if _finite(e) else math.nan] for step, value, e in found], dtype=np.float64)
    return Curve(*table.reshape(-1, 3).T)


def levels(record: Record) -> Levels | None:
    """The held-out loss by noise level, at the levels of the last line that has any; None when it was never logged."""
    lines = [line for line in record if line.get("held_out_by_level")]
    if not lines:
        return None
    log_snr = lines[-1]["held_out_by_level"]["log_snr"]
    same = [line for line in lines if line["held_out_by_level"]["log_snr"] == log_snr]
    values = [[math.nan if v is None else v for v in line["held_out_by_level"]["loss"]] for line in same]
    steps = np.array([line["step"] for line in same], dtype=np.float64)
    return Levels(steps, np.array(log_snr, dtype=np.float64), np.array(values, dtype=np.float64))


def smoothed(values: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """At each value the line fitted to it and its neighbours, `reach` on either side as far as they go; (K,) -> (K,).

    In the middle that is the mean of 2 reach + 1 values; near the ends, where a mean would lag, it keeps to the slope.
    """
    index = np.arange(len(values), dtype=np.float64)
    first = np.maximum(np.arange(len(values)) - reach, 0)
    beyond = np.minimum(np.arange(len(values)) + reach + 1, len(values))
    count = beyond - first

    def mean(of: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.concatenate([[0.0], np.cumsum(of)])
        return np.asarray((sums[beyond] - sums[first]) / count)

    middle = (first + beyond - 1) / 2
    spread = (count**2 - 1) / 12  # the variance of the indices first … beyond - 1
    slope = (mean(index * values) - middle * mean(values)) / np.maximum(spread, 1e-9)
    return mean(values) + np.where(count > 1, slope * (index - middle), 0.0)


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _totals(axes: "Axes", trained: Mapping[str, Curve], held_out: Mapping[str, Curve]) -> None:
    """The panel of training and held-out loss; a colour for each run, or for each of the two when there is one run."""
    alone = len(trained) == 1
    shades = colours(2 * len(trained))
    for index, name in enumerate(trained):
        run, test = trained[name], held_out[name]
        first, second = (shades[0], shades[1]) if alone else (shades[index], shades[index])
        axes.plot(run.steps, run.values, color=first, alpha=0.25, linewidth=0.7)
        axes.plot(run.steps, smoothed(run.values, len(run.values) // 30), color=first)
        axes.plot(test.steps, test.values, HELD_OUT, color=second, markersize=2.6, linewidth=0.9)
        bars = np.nan_to_num(test.errors)
        axes.errorbar(test.steps, test.values, bars, fmt="none", ecolor=second, elinewidth=0.8)
        if not alone:
            axes.plot([], [], color=first, label=shortened(name))
    axes.plot([], [], color=shades[0] if alone else FAINT, label="training")
    axes.plot(
        [], [], HELD_OUT, color=shades[1] if alone else FAINT, label="held-out ± s.e.", markersize=2.6, linewidth=0.9
    )
    panel(axes, "loss", "training step", "")
    _scales(axes, np.concatenate([c.values for c in (*trained.values(), *held_out.values())]))
    axes.legend(loc="upper right")  # losses fall; "best" looks at every point


@dataclass(frozen=True, slots=True)
class _Span:
    """What the panels by noise level share: least and largest log-SNR, and all losses."""

    low: float
    high: float
    losses: NDArray[np.float64]


def _span(found: Sequence[Levels]) -> _Span:
    if not found:
        return _Span(0.0, 1.0, np.ones(1))
    log_snr = np.concatenate([item.log_snr for item in found])
    return _Span(float(log_snr.min()), float(log_snr.max()), np.concatenate([i.losses.flatten() for i in found]))


def _by_level(axes: "Axes", found: Levels, title: str, span: _Span) -> None:
    """A line for each noise level, from dark (noisy) to light (clean), with a bar of log-SNR beside."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    shades = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.88, 256)))
    scale = Normalize(span.low, span.high if span.high > span.low else span.low + 1)
    marker = "o" if len(found.steps) < 12 else None
    for level, log_snr in enumerate(found.log_snr.tolist()):
        colour = shades(scale(log_snr))
        axes.plot(found.steps, found.losses[:, level], color=colour, linewidth=1.1, marker=marker, markersize=2.2)
    panel(axes, title, "training step", "")
    _scales(axes, span.losses)
    bar = axes.figure.colorbar(ScalarMappable(scale, shades), ax=axes, aspect=24, pad=0.02)
    bar.set_label("log SNR (nats)", size=SMALL, color=INK)
    bar.ax.tick_params(labelsize=SMALL, length=2, color=FAINT, labelcolor=INK)
    bar.outline.set_visible(False)


def _scales(axes: "Axes", values: NDArray[np.float64]) -> None:
    """Logarithmic losses where all are positive, with room for all `values`; steps as counts, from 0."""
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0:
        log_axis(axes, finite.tolist())
        room = (finite.max() / finite.min()) ** 0.05
        axes.set_ylim(finite.min() / max(room, 1.01), finite.max() * max(room, 1.01))
    axes.set_xlim(left=0)
    count_axis(axes.xaxis)
