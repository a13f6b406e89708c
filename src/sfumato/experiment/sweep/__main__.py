"""What a sweep's processes run: `python -m sfumato.experiment.sweep arm SWEEP ARM`, or `pace`, which times arms."""

import contextlib
import os
import sys
from collections.abc import Sequence

from sfumato.experiment.sweep import timing, worker

__all__ = ["main"]


def main(words: Sequence[str]) -> int:
    """Do what the first word says; the exit code."""
    return timing.main() if words[0] == "pace" else worker.main(words[1:])


def leave(code: int) -> None:
    """End this process with `code`, and with nothing else: what it did is on the disk, its files are closed.

    Without the interpreter's own end, in which threads that still stand somewhere (the one that watches stdin, those
    of a library) can abort a process whose work is done, so that an arm that was saved would count as lost.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
