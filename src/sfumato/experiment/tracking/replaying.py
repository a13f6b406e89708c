"""A run told again, from what lies in its folder: the lines of `metrics.jsonl` and the previews in samples/, by step.

`track` does it for a run that was trained where a tracker was not installed, or whose tracker failed on the way. When a
step was taken stands in no file; it follows from the speeds in the record:

    time of a line = start of the run + Σ (images since the line before) / (images per second)
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, final

from sfumato.experiment.tracking.tracker import SAMPLES, Trackers
from sfumato.training.record import METRICS, MetricsLog

__all__ = ["Clock", "Replayed", "previews", "replay", "started", "times_of"]

_PREVIEW = re.compile(r"step-([0-9]{8,18})\.(png|npz)")

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Replayed:
    """How much was told: lines of the record, and previews."""

    lines: int
    previews: int


@final
class Clock:
    """A clock that stands where it is put, in seconds since 1970."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def replay(
    folder: Path, trackers: Trackers, *, upto: int | None = None, report: Report, clock: Clock | None = None
) -> Replayed:
    """Tell trackers of a run in the order of its steps, up to a step. Torn lines are noted and passed over.

    clock: is put to when each step was taken, as far as that is known.
    """
    lines = [line for line in MetricsLog.read(folder / METRICS, report) if upto is None or line["step"] <= upto]
    shown = [(step, path) for step, path in previews(folder) if upto is None or step <= upto]
    times = times_of(lines, clock.now) if clock is not None else {}
    by_step = {line["step"]: line for line in lines}
    for step in sorted({*by_step, *(step for step, _ in shown)}):
        if clock is not None:
            clock.now = times.get(step, clock.now)
        for at, path in shown:
            if at == step:
                trackers.preview(step, path)
        if step in by_step:
            trackers.line(by_step[step])
    return Replayed(len(by_step), len(shown))


def previews(folder: Path) -> Iterator[tuple[int, Path]]:
    """The previews of a run with their steps, in order."""
    for path in sorted((folder / SAMPLES).glob("step-*")):
        found = _PREVIEW.fullmatch(path.name)
        if found is not None and path.is_file():
            yield int(found[1]), path


def times_of(lines: Sequence[dict[str, Any]], start: float) -> dict[int, float]:
    """When each step of a record was taken, in seconds since 1970, from the speeds in it."""
    found, now, seen = {}, start, 0
    for line in lines:
        images, speed = line.get("images_seen"), line.get("images_per_second")
        if isinstance(images, int) and isinstance(speed, int | float) and speed > 0 and images >= seen:
            now, seen = now + (images - seen) / speed, images
        found[line["step"]] = now
    return found


def started(folder: Path) -> float | None:
    """When a run was started, by its environment.json; None where that does not say."""
    try:
        return datetime.fromisoformat(json.loads((folder / "environment.json").read_bytes())["started"]).timestamp()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
