"""A sweep of eight arms that is killed ten times at random ends as one that nobody disturbed, bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sfumato.experiment.sweep import load_sweep
from sfumato.training.checkpoint import CheckpointStore

pytestmark = [pytest.mark.proof, pytest.mark.timeout(1800)]

WORDS = [
    *("swiss-roll", "--axis", "objective.distance=mse,mae", "--axis", "parameterization=noise,velocity"),
    *("--seeds", "2", "--workers", "2", "--no-forecast", "--name", "killed"),
    *("--training.steps", "1500", "--training.checkpoint_every", "100", "--training.evaluate_every", "250"),
    *("--training.log_every", "50", "--training.preview_every", "0", "--training.batch_size", "64"),
    *("--data.count", "500", "--network.widths", "32,32", "--evaluation.count", "50", "--sampling.micro_batch", "64"),
    *("--metrics", "energy_distance", "-n", "50"),
]
KILLS = 10


def start(runs: Path) -> "subprocess.Popen[bytes]":
    """The command in a process group of its own, as a shell starts it."""
    words = [sys.executable, "-m", "sfumato", "sweep", *WORDS, "--runs", str(runs), "--json"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)


def remains(runs: Path, document: bytes) -> dict[str, object]:
    """The table, and the last weights of every arm."""
    table = json.loads(document)
    table.pop("sweep")
    found: dict[str, object] = {"table": table}
    for arm in load_sweep(runs / "killed").arms:
        newest = CheckpointStore(arm.folder).find(pytest.fail)
        found |= {f"{arm.name}/{path.name}": path.read_bytes() for path in sorted(newest.glob("*.safetensors"))}
    return found


def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    whole = start(tmp_path / "whole")
    document = whole.communicate()[0]
    assert whole.returncode == 0
    expected, seconds = remains(tmp_path / "whole", document), time.monotonic() - began
    chosen, kills, progressed = random.Random(0), 0, set()
    while kills < KILLS:
        process = start(tmp_path / "killed")
        time.sleep(chosen.uniform(0.15, 0.45) * seconds)  # a quarter of the work at a time, and often less than that
        if process.poll() is not None:  # done before its time: again from the start, which is no kill
            assert process.returncode == 0
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        steps = sorted(path.name for path in (tmp_path / "killed").glob("killed/arms/*/checkpoints/step-*"))
        progressed.add(tuple(steps))
    last = start(tmp_path / "killed")
    document = last.communicate()[0]
    assert last.returncode == 0
    assert kills >= 3
    assert len(progressed) >= 3  # the kills fell at different places
    found = remains(tmp_path / "killed", document)
    assert [name for name in expected if found.get(name) != expected[name]] == []
    print(f"{kills} kills, {len(expected) - 1} files of weights and the table are the same, {seconds:.0f} s undisturbed")
