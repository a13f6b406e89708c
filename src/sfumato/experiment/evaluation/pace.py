"""How fast something slow goes: what is left is said once, early, and progress is handed on."""

import time
from collections.abc import Callable

from sfumato.experiment.evaluation.subject import SLOW

__all__ = ["Pace", "Progress", "clocked"]

Progress = Callable[[str, int, int], None]  # what, done, total
EARLY = 1.0  # seconds after which there is something to go by


def clocked(seconds: float) -> str:
    """A time for people: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Pace:
    """Called with (done, total); says after the first second how long the rest will take, where that is long.

    what: is going on. left: a sentence for the part of the work that is left, as a share of the whole.
    """

    def __init__(
        self, what: str, left: Callable[[float], str], *, report: Callable[[str], None], progress: Progress | None
    ) -> None:
        self.what, self.left, self.report, self.progress = what, left, report, progress
        self.began, self.said = time.perf_counter(), False

    def __call__(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(self.what, done, total)
        spent = time.perf_counter() - self.began
        if self.said or spent < EARLY or done == 0:
            return
        self.said = True
        rest = spent / done * (total - done)
        if rest > SLOW:
            self.report(f"{self.what}: {self.left((total - done) / total)} to go, about {clocked(rest)}")
