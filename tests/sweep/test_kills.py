"""A sweep that is killed with SIGKILL, twice, ends as one that nobody disturbed, bit for bit.

This process imports, never computes, and forks a child for every attempt; ten kills of real process groups are in
tests/proofs/test_sweeps.py.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfumato.experiment.sweep import Sweep, load_sweep, sweep
from sfumato.training import storage

AXES = {"objective.distance": ["mse", "mae"], "parameterization": ["noise", "velocity"]}
CHANGING = ("mkdir", "write", "fsync", "fsync_dir", "rename", "remove", "append")


def die_at(operation: int) -> None:
    """This process dies at its n-th change of the storage, which it does by half where it has halves."""
    left = operation

    def armed(name: str) -> Callable[..., Any]:
        real = getattr(storage.LocalStorage, name)

        def changed(self: Any, path: Path, *rest: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                if name == "write":
                    data = b"".join(bytes(chunk) for chunk in rest[0])
                    real(self, path, [data[: len(data) // 2]])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, path, *rest)

        return changed

    for name in CHANGING:
        setattr(storage.LocalStorage, name, armed(name))


def attempt(points: dict[str, Any], folder: Path, at: int | None) -> int:
    """The exit code of a child that carries the sweep out."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if at is not None:
                die_at(at)
            sweep("swiss-roll", AXES, overrides=points, launcher="inline", runs=folder, name="whole", forecast=False)
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail("the child hung")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_two_kills_change_nothing(
    whole: Sweep, points: dict[str, Any], tmp_path: Path, remains: Callable[[Sweep], dict[str, Any]]
) -> None:
    """Row H3. The second child goes on from what the first left, and the third finishes."""
    chosen = random.Random(0)
    for _ in range(2):
        assert attempt(points, tmp_path, chosen.randint(20, 90)) == -signal.SIGKILL
    assert attempt(points, tmp_path, None) == 0
    found = load_sweep(tmp_path / "whole")
    assert remains(found) == remains(whole)
    logs = [(arm.folder / "metrics.jsonl").read_text().count("\n") for arm in found.arms]
    assert logs == [(arm.folder / "metrics.jsonl").read_text().count("\n") for arm in whole.arms]
