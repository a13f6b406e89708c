"""How training went: losses, noise levels, gradients and the learning rate, from metrics.jsonl.

Of a sweep the held-out loss alone is drawn. Losses of another schedule, target or distance are other quantities: arms
share a panel only where everything that makes the loss is the same, and every panel has a scale of its own.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sfumato.experiment.comparability import LOSS, LOSS_ERROR, loss_settings
from sfumato.experiment.evaluations import Fact
from sfumato.experiment.report.elements import aside
from sfumato.experiment.report.entries import Entry, is_finite
from sfumato.experiment.report.markup import tag
from sfumato.experiment.report.naming import arm_name
from sfumato.experiment.report.page import Page, Section, section
from sfumato.experiment.report.plots import CROWD, NAMED, Line, Plot, crowded, plot
from sfumato.experiment.report.wording import number

__all__ = ["curves", "series", "smoothed"]

MOST_PANELS = 24  # of a sweep
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
    """Steps, values and errors of one figure of a log; NaN for a value that was not finite, and for no error."""
    found = [line for line in log if key in line]
    errors = [_number(line.get(error)) if error else math.nan for line in found]
    return [float(line["step"]) for line in found], [_number(line[key]) for line in found], errors


def _number(value: Any) -> float:
    return float(value) if is_finite(value) else math.nan


def smoothed(values: Sequence[float], reach: int) -> list[float]:
    """The mean of each value and its neighbours, as many on either side: up to `reach`, fewer near the ends.

    What is not finite is left out, and stays a gap.
    """
    sums, counts = [0.0], [0]
    for value in values:
        known = math.isfinite(value)
        sums.append(sums[-1] + (value if known else 0.0))
        counts.append(counts[-1] + known)
    found = []
    for index, value in enumerate(values):
        near = min(reach, index, len(values) - 1 - index)
        low, high = index - near, index + near + 1
        found.append((sums[high] - sums[low]) / (counts[high] - counts[low]) if math.isfinite(value) else math.nan)
    return found


def _gaps(name: str, steps: Sequence[float], values: Sequence[float]) -> str:
    """Where a curve has gaps, in words."""
    gone = [step for step, value in zip(steps, values, strict=True) if not math.isfinite(value)]
    if not gone:
        return ""
    return (
        f"The {name} is not finite at {len(gone):,} of {len(steps):,} steps of the log, first at step {gone[0]:,.0f}."
    )


def _of_run(entry: Entry) -> Iterator[Plot]:
    """The panels of one run."""
    steps, loss, _ = series(entry.log, "loss")
    held_steps, held, errors = series(entry.log, LOSS, LOSS_ERROR)
    lines: list[Line] = []
    if len(steps) > 1:
        lines.append(Line("training, each value", steps, loss, look="faint", named=False))
        lines.append(Line("training", steps, smoothed(loss, len(loss) // 30)))
    if held:
        lines.append(Line("held out", held_steps, held, errors, colour=1, dash=1, look="dots"))
    if lines:
        gaps = f"{_gaps('training loss', steps, loss)} {_gaps('held-out loss', held_steps, held)}".strip()
        end = max([*steps, *held_steps])
        yield Plot("loss", STEP, tuple(lines), x_range=(0.0, end), caption=gaps, wide=True)
    levels = _levels(entry.log)
    if levels is not None:
        yield levels
    for key, name in (("grad_norm", "gradient norm"), ("learning_rate", "learning rate")):
        x, y, _ = series(entry.log, key)
        if len({value for value in y if math.isfinite(value)}) > 1:
            log = False if key == "learning_rate" else None
            caption = _gaps(name, x, y)
            yield Plot(name, STEP, (Line(name, x, y),), log=log, x_range=(0.0, max(x)), caption=caption)
    copies, shares, _ = series(entry.log, "copies")
    if copies:
        floor = series(entry.log, "copies_floor")
        both = (Line("copies", copies, shares, look="dots"), Line("by chance", floor[0], floor[1], colour=1, dash=3))
        yield Plot(
            "share of samples that are copies", STEP, both, log=False, x_range=(0.0, max(copies)), holds=(0.0, 0.02)
        )


def _levels(log: Sequence[Mapping[str, Any]]) -> Plot | None:
    """The held-out loss by noise level, at the levels of the last line that has any."""
    found = [(float(line["step"]), *_by_level(line.get("held_out_by_level"))) for line in log]
    levels = next((levels for _, levels, _ in reversed(found) if levels), [])
    same = [(step, losses) for step, own, losses in found if levels and own == levels]
    if not same:
        return None
    steps = [step for step, _ in same]
    drawn, look = [], "dots" if len(steps) < 3 else "line"
    for index, level in enumerate(levels):
        shade = sorted(levels).index(level) / max(len(levels) - 1, 1)
        y = [losses[index] for _, losses in same]
        drawn.append(Line(f"log SNR {number(level, 2)}", steps, y, shade=shade, look=look))
    return Plot("held-out loss by noise level", STEP, tuple(drawn), x_range=(0.0, max(steps)))


def _by_level(found: object) -> tuple[list[float], list[float]]:
    """The log-SNRs and the losses there; two empty lists for what is no such record."""
    levels, losses = (found.get(key) for key in ("log_snr", "loss")) if isinstance(found, Mapping) else (None, None)
    if not isinstance(levels, list) or not isinstance(losses, list) or len(levels) != len(losses):
        return [], []
    return ([float(v) for v in levels], [_number(v) for v in losses]) if all(map(is_finite, levels)) else ([], [])


def _of_arms(entries: Sequence[Entry]) -> Iterator[Plot]:
    """A panel for each loss, with the arms that have it."""
    groups: dict[tuple[tuple[str, Fact], ...], list[Entry]] = {}
    for entry in entries:
        if series(entry.log, LOSS)[0]:
            groups.setdefault(tuple(loss_settings(entry.settings).items()), []).append(entry)
    shared = len(groups) > 1
    for members in list(groups.values())[:MOST_PANELS]:
        common = _common(members) if shared else {}
        lines, gaps = [], ""
        for index, entry in enumerate(members):
            steps, values, errors = series(entry.log, LOSS, LOSS_ERROR)
            name = arm_name(_without(entry, common), members)
            lines.append(Line(name, steps, values, errors, colour=index, dash=index, look="dots"))
            gaps = gaps or _gaps(f"loss of {name}", steps, values)
        heading = arm_name(_only(members[0], common)) if common else "all arms"
        heading += f". {gaps}" if gaps else ""
        if len(lines) > CROWD:
            heading += f". Of {len(lines)} arms the {NAMED} that end lowest are named, the others faint."
        end = max(x for line in lines for x in line.x)
        wide = len(lines) > CROWD
        yield Plot("held-out loss", STEP, tuple(crowded(lines)), x_range=(0.0, end), caption=heading, wide=wide)


def _common(members: Sequence[Entry]) -> dict[str, str]:
    """The values of the axes that all members share."""
    first = members[0].axes
    return {axis: value for axis, value in first.items() if all(e.axes.get(axis) == value for e in members)}


def _only(entry: Entry, axes: Mapping[str, str]) -> Entry:
    return Entry(entry.name, None, axes=dict(axes), seed=None)


def _without(entry: Entry, axes: Mapping[str, str]) -> Entry:
    rest = {axis: value for axis, value in entry.axes.items() if axis not in axes}
    return Entry(f"seed {entry.seed}", None, axes=rest, seed=entry.seed)
