"""What the processes of a sweep run: `python -m sfumato.experiment.sweep arm SWEEP ARM`, or `pace`, which times arms."""

import sys

from sfumato.experiment.sweep import timing, worker

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(timing.main() if sys.argv[1:2] == ["pace"] else worker.main(sys.argv[2:4]))
