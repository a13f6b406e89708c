"""Stopping on request: a signal only sets a flag, and the loop stops at the next step boundary.

SIGTERM and the first Ctrl-C ask for a stop; a second Ctrl-C stops at once. Saving never happens inside a handler.
One request can arrive twice: `timeout -s INT`, say, signals the process and then its whole group. What follows within
`ECHO` is the same Ctrl-C.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["ECHO", "StopRequest", "listening"]

ECHO = 0.1  # seconds: longer than a program takes to send twice, shorter than a finger


class StopRequest:
    """Whether somebody asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._asked = 0.0  # when, by the clock that never goes back

    def __bool__(self) -> bool:
        return self.signal_name is not None

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """The signal handler: the first request sets the flag, a second Ctrl-C interrupts."""
        name, now = signal.Signals(number).name, time.monotonic()
        is_echo = name == self.signal_name and now - self._asked < ECHO
        if self.signal_name is not None and number == signal.SIGINT and not is_echo:
            raise KeyboardInterrupt
        if not is_echo:
            self._asked = now
        self.signal_name = name


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Listen for SIGTERM and SIGINT; outside the main thread, where Python has no signals, nothing is ever asked."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
