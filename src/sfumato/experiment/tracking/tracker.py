"""Trackers: programs that draw a run while it goes, beside `metrics.jsonl`, which stays the truth.

A tracker is told each line of the record and each preview, once, by the process that writes. It is never worth a run:
whatever goes wrong in one is a note, that tracker is told no more, and the others and the run go on. It is told numbers
after they were recorded, so nothing of it can change the run: weights and record are the same with it and without.
"""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray

from sfumato.data.decoding import Preparation, decode
from sfumato.errors import SfumatoError
from sfumato.experiment.tracking.histogram import Histogram, histogram_of
from sfumato.experiment.tracking.telling import told_by

__all__ = ["SAMPLES", "Report", "Tracker", "Trackers", "reason"]

SAMPLES = "samples"
MOST_COORDINATES = 8  # of samples that are no pictures: a histogram for each

Report = Callable[[str], None]


class Tracker(Protocol):
    """Who is told of a run. Steps never fall; what is told of one step comes together."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers after `step` steps, by name."""

    def images(self, step: int, name: str, pictures: NDArray[np.uint8]) -> None:
        """Pictures (N, H, W, C), C = 1 or 3."""

    def histogram(self, step: int, name: str, values: Histogram) -> None:
        """How much lies where."""

    def text(self, step: int, name: str, text: str) -> None:
        """Words in Markdown."""

    def close(self) -> None:
        """No more will come."""


@final
class Trackers:
    """The trackers of a run by name. `report` hears of one that fails, once; no method raises for it."""

    def __init__(self, named: Mapping[str, Tracker], report: Report) -> None:
        self._open = dict(named)
        self._report = report
        self.failed: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    def line(self, line: Mapping[str, Any]) -> None:
        """A line of the record."""
        if not self:
            return
        try:
            step, told = int(line["step"]), told_by(line)
        except Exception as error:  # a foreign line, in a record that is told again
            self._report(f"a line is told to no tracker: {reason(error)}")
            return
        if told.scalars:
            self._each(lambda tracker: tracker.scalars(step, told.scalars))
        for name, bars in told.histograms.items():
            self._bars(step, name, bars)

    def preview(self, step: int, path: Path) -> None:
        """A preview as it was saved: a sheet of pictures, or the values of samples, a histogram per coordinate."""
        if not self:
            return
        try:
            sheet = decode(path, Preparation()).pixels[None] if path.suffix == ".png" else None
            found = () if sheet is not None else tuple(map(histogram_of, coordinates(path)))
        except Exception as error:
            self._report(f"the preview {path} is shown to no tracker: {reason(error)}")
            return
        if sheet is not None:
            self._each(lambda tracker: tracker.images(step, SAMPLES, sheet))
        for number, bars in enumerate(found, start=1):
            if bars is not None:
                self._bars(step, f"{SAMPLES}/{number}", bars)

    def close(self) -> None:
        """Tell every tracker that the run ends here, for now."""
        self._each(lambda tracker: tracker.close())
        self._open.clear()

    def _bars(self, step: int, name: str, bars: Histogram) -> None:
        self._each(lambda tracker: tracker.histogram(step, name, bars))

    def _each(self, act: Callable[[Tracker], None]) -> None:
        """Let every tracker act. Foreign code fails in any way there is, and a tracker is not worth a run."""
        for name, tracker in list(self._open.items()):
            try:
                act(tracker)
            except Exception as error:
                del self._open[name]
                self.failed[name] = reason(error)
                self._report(f"{name} is told no more of this run: {self.failed[name]}. metrics.jsonl has everything")
                with contextlib.suppress(Exception):
                    tracker.close()


def coordinates(path: Path) -> tuple[NDArray[np.float64], ...]:
    """The first coordinates of samples that are no pictures, (N,) each, from the array file of a preview."""
    with np.load(path, allow_pickle=False) as arrays:
        values = np.asarray(arrays["values"], dtype=np.float64)
    return tuple(values.reshape(len(values), -1)[:, :MOST_COORDINATES].T)


def reason(error: Exception) -> str:
    """Why something failed, in one line."""
    if isinstance(error, SfumatoError):
        return error.what
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
