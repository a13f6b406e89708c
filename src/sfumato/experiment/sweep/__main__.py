"""What a sweep's processes run: `python -m sfumato.experiment.sweep arm SWEEP ARM`, or `pace`, which times arms."""

import sys
from collections.abc import Sequence

from sfumato.experiment.sweep import timing, worker

__all__ = ["main"]


def main(words: Sequence[str]) -> int:
    """Do what the first word says; the exit code."""
    return timing.main() if words[0] == "pace" else worker.main(words[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
