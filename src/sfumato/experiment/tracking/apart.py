"""A tracker on a thread of its own, so that a run never waits for one: what it is told stands in a queue.

Foreign code may hang as well as fail: a server that does not answer, a disk that is far away, a question at the
terminal. Everything a tracker does is done on one thread, from its start to its end (some keep their run by thread),
and what it raises is raised at the next thing it is told. One that lies `MOST_WAITING` behind, or does not end within
`CLOSE_SECONDS`, is given up; its thread ends with the process.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Mapping
from typing import final

import numpy as np
from numpy.typing import NDArray

from sfumato.errors import ResourceError
from sfumato.experiment.tracking.histogram import Histogram
from sfumato.experiment.tracking.tracker import Report, Tracker

__all__ = ["Apart"]

MOST_WAITING = 1000  # things told that wait: some hours of a run, a few MB but for its previews
CLOSE_SECONDS = 60.0  # for what it has still to send when the run ends
SILENT_SECONDS = 2.0  # of these, before a person is told what is waited for

Act = Callable[[Tracker], None]


@final
class Apart:
    """The tracker that `start` makes, which is told everything on another thread. `report` hears of a wait at the end.

    Its methods raise what the tracker raised before, and ResourceError where it has stopped listening.
    """

    def __init__(self, name: str, start: Callable[[], Tracker], report: Report) -> None:
        self._name, self._start, self._report = name, start, report
        self._told: queue.Queue[Act | None] = queue.Queue(MOST_WAITING)
        self._error: BaseException | None = None
        self._left = threading.Event()  # nobody is told through this any more
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step."""
        kept = dict(values)
        self._tell(lambda tracker: tracker.scalars(step, kept))

    def images(self, step: int, name: str, pictures: NDArray[np.uint8]) -> None:
        """Pictures of a step."""
        self._tell(lambda tracker: tracker.images(step, name, pictures))

    def histogram(self, step: int, name: str, values: Histogram) -> None:
        """Bars of a step."""
        self._tell(lambda tracker: tracker.histogram(step, name, values))

    def text(self, step: int, name: str, text: str) -> None:
        """Words of a step."""
        self._tell(lambda tracker: tracker.text(step, name, text))

    def close(self) -> None:
        """Wait until it has heard everything and has ended, for a while. One that was given up is not waited for."""
        if self._left.is_set():
            return
        self._tell(None)
        self._thread.join(SILENT_SECONDS)
        if self._thread.is_alive():
            self._report(f"waiting for {self._name} to send the rest, at most {CLOSE_SECONDS:.0f} s")
            self._thread.join(CLOSE_SECONDS - SILENT_SECONDS)
        if self._thread.is_alive():
            raise self._deaf(f"it did not end within {CLOSE_SECONDS:.0f} s")
        self._raise()
        self._left.set()

    def _tell(self, act: Act | None) -> None:
        """Put something into the queue; None is the end."""
        self._raise()
        try:
            self._told.put_nowait(act)
        except queue.Full:
            raise self._deaf(f"it does not answer, and {MOST_WAITING:,} messages wait") from None

    def _raise(self) -> None:
        """Raise what the tracker raised; SystemExit and its like as an error, because a tracker ends no run."""
        if self._error is None:
            return
        if not isinstance(self._error, Exception):
            raise self._deaf(f"it ended with {type(self._error).__name__}: {self._error}")
        self._left.set()
        raise self._error

    def _deaf(self, what: str) -> ResourceError:
        """Give it up."""
        self._left.set()
        return ResourceError(what, expected="a tracker that answers", fix=f"sfumato track RUN --tracker {self._name}")

    def _work(self) -> None:
        """Everything that the tracker does, on its thread."""
        try:
            tracker = self._start()
            try:
                while (act := self._told.get()) is not None and not self._left.is_set():
                    act(tracker)
            except BaseException as error:
                self._error = error
                with contextlib.suppress(BaseException):
                    tracker.close()
                return
            tracker.close()
        except BaseException as error:
            self._error = error
