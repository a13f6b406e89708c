"""A sweep of eight arms that is killed ten times at random ends as one that nobody disturbed, bit for bit."""

import json
import os
import random
import shutil
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
    """Whenever it reaches its end between two kills what is left is compared, and it begins anew."""
    began = time.monotonic()
    process = start(tmp_path / "whole")
    document = process.communicate()[0]
    assert process.returncode == 0
    expected, seconds = remains(tmp_path / "whole", document), time.monotonic() - began
    chosen, kills, places = random.Random(0), 0, set[tuple[str, ...]]()
    while kills < KILLS:
        process = start(tmp_path / "killed")
        time.sleep(chosen.uniform(0.15, 0.6) * seconds)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
            there = (tmp_path / "killed").glob("killed/arms/*/checkpoints/step-*")
            places.add(tuple(sorted(str(path.relative_to(tmp_path)) for path in there)))
        else:
            compare(tmp_path / "killed", process.communicate()[0], process.returncode, expected)
            shutil.rmtree(tmp_path / "killed")
    process = start(tmp_path / "killed")
    compare(tmp_path / "killed", process.communicate()[0], process.returncode, expected)
    assert len(places) >= KILLS // 2  # the kills fell at different places
    print(f"{kills} kills at {len(places)} places; the table and {len(expected) - 1} files are the same; "
          f"undisturbed it takes {seconds:.0f} s")  # fmt: skip


def compare(runs: Path, document: bytes, code: int, expected: dict[str, object]) -> None:
    """What a disturbed sweep left is what the undisturbed one left; a difference is named before bytes are shown."""
    assert code == 0
    found = remains(runs, document)
    assert [name for name in expected if found.get(name) != expected[name]] == []
