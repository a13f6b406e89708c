"""A1: SIGKILL at random moments, and half-way through the operations of a save. Nothing is lost, no bit differs.

What the kernel has accepted survives a kill; what a power cut adds is in tests/training/test_storage_crashes.py,
where every operation is enumerated. Thirty kills bound the rate of loss by 10 % only (95 % confidence), two hundred by
1.5 %: they support the enumeration, they do not replace it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the campaign forks")


@pytest.mark.timeout(900)  # ten seconds when nothing else runs
@pytest.mark.parametrize("kills", [30, pytest.param(200, marks=pytest.mark.proof)])
def test_killed_runs_end_as_if_nothing_had_happened(kills: int, tmp_path: Path) -> None:
    seed = 0
    command = [sys.executable, str(Path(__file__).with_name("kill.py")), str(tmp_path), "--kills", str(kills)]
    found = subprocess.run([*command, "--seed", str(seed)], capture_output=True, text=True, timeout=800, check=False)
    assert found.stdout, found.stderr
    tally = json.loads(found.stdout)
    print(f"seed {seed}:", {name: value for name, value in tally.items() if value != []})
    assert tally["failures"] == []
    assert tally["different"] == []
    assert tally["checkpoints_lost"] == 0
    assert tally["kills"] == kills
    assert tally["inside_a_save"] >= max(5, kills // 20)
    assert tally["after_a_checkpoint"] >= 15
    assert tally["completed"] >= max(2, kills // 10)
    assert found.returncode == 0
