"""How a sweep stands, and who tells people: nobody, plain lines, or live bars."""

import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

__all__ = ["Bars", "Lines", "Moving", "Quiet", "Standing", "SweepReporter", "duration"]


@dataclass(frozen=True, slots=True)
class Moving:
    """An arm that is being trained: steps done, of how many."""

    arm: str
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class Standing:
    """All arms at a glance. `seconds_left` is None while nothing tells it."""

    arms: int
    done: int
    failed: int
    moving: tuple[Moving, ...]
    seconds_left: float | None

    def in_words(self) -> str:
        """One line: how many are done, what is running, how long it will take."""
        failed = f", {self.failed} failed" if self.failed else ""
        left = "" if self.seconds_left is None else f"; about {duration(self.seconds_left)} left"
        running = ", ".join(f"{one.arm} {one.step:,}/{one.steps:,}" for one in self.moving[:4])
        more = f" and {len(self.moving) - 4} more" if len(self.moving) > 4 else ""
        return f"{self.done}/{self.arms} arms done{failed}" + (f": {running}{more}" if running else "") + left


class SweepReporter(Protocol):
    """Who tells people how a sweep is going."""

    def progress(self, standing: Standing) -> None:
        """Called several times a second; cheap."""

    def note(self, text: str) -> None:
        """A sentence worth reading."""


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 5 min`, `2 d 4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h" if hours % 24 else f"{hours // 24} d"


class Quiet:
    """Says nothing."""

    def progress(self, standing: Standing) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Lines:
    """A plain line every few seconds, for logs and pipes, and whenever an arm is done."""

    def __init__(self, stream: TextIO | None = None, *, seconds: float = 10.0, first: float = 2.0) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.seconds, self.wait, self.last, self.ended = seconds, first, time.monotonic(), -1

    def progress(self, standing: Standing) -> None:
        now, ended = time.monotonic(), standing.done + standing.failed
        if now - self.last >= self.wait or ended > self.ended:
            self.last, self.wait, self.ended = now, self.seconds, ended
            self.note(standing.in_words())

    def note(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


class Bars:
    """A live bar for all arms and one for each that runs; a context manager, which gives the terminal back."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.bar: Any = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self.all: Any = None
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def progress(self, standing: Standing) -> None:
        if self.all is None:
            self.all = self.bar.add_task("", total=None)
        failed = f", {standing.failed} failed" if standing.failed else ""
        left = "" if standing.seconds_left is None else f", about {duration(standing.seconds_left)} left"
        words = f"{standing.done}/{standing.arms} arms{failed}{left}"
        self.bar.update(self.all, completed=standing.done + standing.failed, total=standing.arms, description=words)
        moving = {one.arm: one for one in standing.moving}
        for name in [name for name in self.tasks if name not in moving]:
            self.bar.remove_task(self.tasks.pop(name))
        for name, one in moving.items():
            if name not in self.tasks:
                self.tasks[name] = self.bar.add_task("")
            words = f"{name}  {one.step:,}/{one.steps:,}"
            self.bar.update(self.tasks[name], completed=one.step, total=one.steps, description=words)

    def note(self, text: str) -> None:
        self.bar.console.print(text, markup=False, highlight=False)
