"""How much faster do two workers finish a sweep of equal arms than one? On points, whose arms leave a core idle.

    python benchmarks/sweep.py [--arms 4] [--steps 3000] [--pairs 3]

Both sweeps are carried out as `sfumato sweep` does it, each arm a process of its own with one thread, in turn: one
worker, two workers, and again. The time is that of the whole command, processes starting included. On a machine with
one core nothing is to be gained, and it says so.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from _pairs import machine

from sfumato.experiment.sweep import sweep
from sfumato.experiment.sweep.machine import cores

SETTINGS = {
    "data.count": 5000,
    "training.checkpoint_every": 0,
    "training.evaluate_every": 0,
    "training.preview_every": 0,
}


def seconds(folder: Path, *, arms: int, steps: int, workers: int) -> float:
    """Wall-clock seconds of a sweep of equal arms."""
    began = time.perf_counter()
    found = sweep(
        "swiss-roll",
        seeds=arms,
        overrides={**SETTINGS, "training.steps": steps},
        workers=workers,
        threads=1,
        runs=folder,
        name=f"{workers}-workers",
        forecast=False,
    )
    taken = time.perf_counter() - began
    assert all(found.state(arm) == "done" for arm in found.arms)
    return taken


def main() -> None:
    """Print the ratio with the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    print(machine())
    if cores() < 2:
        print("one core: two workers can gain nothing")
        return
    ratios = []
    for _ in range(options.pairs):
        with tempfile.TemporaryDirectory() as name:
            one, two = (
                seconds(Path(name), arms=options.arms, steps=options.steps, workers=workers) for workers in (1, 2)
            )
        ratios.append(one / two)
        what = f"{options.arms} arms of {options.steps:,} steps"
        print(f"{what}: one worker {one:.1f} s, two {two:.1f} s, ratio {one / two:.2f}")
    print(f"two workers: {statistics.median(ratios):.2f} times as fast (median of {len(ratios)}); wanted 1.6 or more")


if __name__ == "__main__":
    main()
