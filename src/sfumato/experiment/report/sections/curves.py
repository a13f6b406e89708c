"""How training went: losses, noise levels, gradients and the learning rate, from metrics.jsonl.

Of a sweep the held-out loss alone is drawn. Losses of another schedule, target or distance are other quantities: arms
share a panel only where everything that makes the loss is the same, and every panel has a scale of its own.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sfumato.experiment.report.elements import aside
from sfumato.experiment.report.entries import Entry
from sfumato.experiment.report.markup import tag
from sfumato.experiment.report.naming import arm_name
from sfumato.experiment.report.page import Page, Section, section
from sfumato.experiment.report.plots import Line, Plot, plot
from sfumato.experiment.report.wording import number

__all__ = ["curves", "loss_of", "series", "smoothed"]

# What makes a loss the loss that it is; where examples lie and how fast they are read does not.
MAKES_THE_LOSS = ("objective", "parameterization", "schedule", "times", "condition", "data")
SAYS_NOTHING = frozenset({"data.cache", "data.download", "data.flip", "data.workers"})
STEP = "training step"


def curves(page: Page) -> Section | None:
    """The curves of one run, or the held-out losses of the arms."""
    plots = list(_of_run(page.shown[0].entry)) if page.alone else list(_of_arms([s.entry for s in page.shown]))
    if not plots:
        return None
    words = "The held-out loss is that of the averaged weights, always on the same examples with the same noise. "
    words += (
        "Faint: every value of the training loss; above it the running mean. Whiskers are one standard error."
        if page.alone
        else "Arms share a panel only where they have the same loss: losses of different schedules, targets or "
        "distances are different quantities, and no panel's scale says anything about another's."
    )
    return section("training", "Training", aside(words), tag("div", map(plot, plots), cls="plots"))


def series(log: Sequence[Mapping[str, Any]], key: str, error: str | None = None) -> tuple[list[float], ...]:
    """Steps, values and errors of one figure of a log, where it is a finite number; NaN for an unknown error."""
    found = [line for line in log if _finite(line.get(key))]
    errors = [float(line[error]) if error and _finite(line.get(error)) else math.nan for line in found]
    return [float(line["step"]) for line in found], [float(line[key]) for line in found], errors


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def smoothed(values: Sequence[float], reach: int) -> list[float]:
    """The mean of each value and its neighbours, as many on either side: up to `reach`, fewer near the ends."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    found = []
    for index in range(len(values)):
        near = min(reach, index, len(values) - 1 - index)
        found.append((sums[index + near + 1] - sums[index - near]) / (2 * near + 1))
    return found


def _of_run(entry: Entry) -> Iterator[Plot]:
    """The panels of one run."""
    steps, loss, _ = series(entry.log, "loss")
    held_steps, held, errors = series(entry.log, "held_out_loss", "held_out_std_error")
    lines: list[Line] = []
    if len(steps) > 1:
        lines.append(Line("training, each value", steps, loss, look="faint", named=False))
        lines.append(Line("training", steps, smoothed(loss, len(loss) // 30)))
    if held:
        lines.append(Line("held out", held_steps, held, errors, colour=1, dash=1, look="dots"))
    if lines:
        yield Plot("loss", STEP, tuple(lines), x_range=(0.0, max([*steps, *held_steps])), wide=True)
    levels = _levels(entry.log)
    if levels is not None:
        yield levels
    for key, name in (("grad_norm", "gradient norm"), ("learning_rate", "learning rate")):
        x, y, _ = series(entry.log, key)
        if len(set(y)) > 1:
            log = False if key == "learning_rate" else None
            yield Plot(name, STEP, (Line(name, x, y),), log=log, x_range=(0.0, max(x)))
    copies, shares, _ = series(entry.log, "copies")
    if copies:
        floor = series(entry.log, "copies_floor")
        both = (Line("copies", copies, shares, look="dots"), Line("by chance", floor[0], floor[1], colour=1, dash=3))
        yield Plot(
            "share of samples that are copies", STEP, both, log=False, x_range=(0.0, max(copies)), holds=(0.0, 0.02)
        )


def _levels(log: Sequence[Mapping[str, Any]]) -> Plot | None:
    """The held-out loss by noise level, at the levels of the last line that has any."""
    lines = [line for line in log if isinstance(line.get("held_out_by_level"), dict)]
    if not lines:
        return None
    levels = lines[-1]["held_out_by_level"].get("log_snr", [])
    same = [line for line in lines if line["held_out_by_level"].get("log_snr") == levels]
    steps = [float(line["step"]) for line in same]
    drawn, look = [], "dots" if len(steps) < 3 else "line"
    for index, level in enumerate(levels):
        values = [line["held_out_by_level"]["loss"][index] for line in same]
        y = [float(v) if _finite(v) else math.nan for v in values]
        shade = index / max(len(levels) - 1, 1)
        rank = sorted(levels).index(level) / max(len(levels) - 1, 1) if _finite(level) else shade
        drawn.append(Line(f"log SNR {number(float(level), 2)}", steps, y, shade=rank, look=look))
    return Plot("held-out loss by noise level", STEP, tuple(drawn), x_range=(0.0, max(steps)))


def loss_of(entry: Entry) -> tuple[tuple[str, str], ...]:
    """The settings that make a run's loss: two losses are one quantity where these are the same."""
    return tuple(
        sorted(
            (key, repr(value))
            for key, value in entry.settings.items()
            if key.split(".")[0] in MAKES_THE_LOSS and key not in SAYS_NOTHING
        )
    )


def _of_arms(entries: Sequence[Entry]) -> Iterator[Plot]:
    """A panel for each loss, with the arms that have it."""
    groups: dict[tuple[tuple[str, str], ...], list[Entry]] = {}
    for entry in entries:
        if series(entry.log, "held_out_loss")[0]:
            groups.setdefault(loss_of(entry), []).append(entry)
    shared = len(groups) > 1
    for members in groups.values():
        common = _common(members) if shared else {}
        lines = []
        for index, entry in enumerate(members):
            steps, values, errors = series(entry.log, "held_out_loss", "held_out_std_error")
            name = arm_name(_without(entry, common), members) or f"seed {entry.seed}"
            lines.append(Line(name, steps, values, errors, colour=index, dash=index, look="dots"))
        heading = arm_name(_only(members[0], common)) if common else "all arms"
        end = max(x for line in lines for x in line.x)
        yield Plot("held-out loss", STEP, tuple(lines), x_range=(0.0, end), caption=heading)


def _common(members: Sequence[Entry]) -> dict[str, str]:
    """The values of the axes that all members share."""
    first = members[0].axes
    return {axis: value for axis, value in first.items() if all(e.axes.get(axis) == value for e in members)}


def _only(entry: Entry, axes: Mapping[str, str]) -> Entry:
    return Entry(entry.name, None, axes=dict(axes), seed=None)


def _without(entry: Entry, axes: Mapping[str, str]) -> Entry:
    rest = {axis: value for axis, value in entry.axes.items() if axis not in axes}
    return Entry(f"seed {entry.seed}", None, axes=rest, seed=entry.seed)
