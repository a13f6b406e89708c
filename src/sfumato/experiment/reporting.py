"""Who tells people how a run goes: nobody, plain lines, or a live bar."""

import sys
import time
from types import TracebackType
from typing import Any, Self, TextIO

from sfumato.training.trainer import Progress

__all__ = ["Bar", "Lines", "Silent"]


class Silent:
    """Says nothing."""

    def progress(self, progress: Progress) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def describe(progress: Progress) -> str:
    """One line: steps, loss, speed, time to go."""
    loss = "" if progress.loss is None else f"  loss {progress.loss:.4f}"
    left = int(progress.seconds_left)
    clock = f"{left // 3600}:{left % 3600 // 60:02d}:{left % 60:02d}"
    return f"step {progress.step:,}/{progress.steps:,}{loss}  {progress.images_per_second:,.0f} images/s  {clock} left"


class Lines:
    """A plain line every few seconds, for logs and pipes; the first after one, so that people see it is alive."""

    def __init__(self, stream: TextIO | None = None, *, seconds: float = 10.0, first: float = 1.0) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.seconds = seconds
        self.wait = first
        self.last = time.monotonic()

    def progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self.last >= self.wait or progress.step == progress.steps:
            self.last, self.wait = now, self.seconds
            self.note(describe(progress))

    def note(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


class Bar:
    """A live bar on a terminal; a context manager, so that the terminal is always given back."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self.bar: Any = RichProgress(
            BarColumn(bar_width=None),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self.task: Any = None

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def progress(self, progress: Progress) -> None:
        if self.task is None:
            self.task = self.bar.add_task("", total=progress.steps)
        self.bar.update(self.task, completed=progress.step, description=describe(progress))

    def note(self, text: str) -> None:
        self.bar.console.print(text, markup=False, highlight=False)
