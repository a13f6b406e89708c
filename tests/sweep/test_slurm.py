"""Arms as jobs of submitit: its local executor stands for Slurm, which starts the same jobs."""

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfumato.errors import PlatformError, UsageError
from sfumato.experiment.sweep import Sweep, sweep
from sfumato.experiment.sweep.slurm import ArmJob, Submitit, slurm_options

needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="the extra slurm is not installed"
)


def test_options_of_the_executor() -> None:
    found = slurm_options({"slurm_partition": "gpu", "timeout_min": "90", "cluster": "local"})
    assert found == {"slurm_partition": "gpu", "timeout_min": 90, "cluster": "local"}
    with pytest.raises(UsageError, match="cluster=pbs"):
        slurm_options({"cluster": "pbs"})


def test_without_the_package_the_extra_is_named(whole: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(PlatformError, match="needs the package submitit") as refusal:
        Submitit(whole, {})
    assert "sfumato[slurm]" in refusal.value.fix


def test_a_job_hands_on_that_it_is_to_stop(tmp_path: Path) -> None:
    """The arm's process is asked by SIGTERM and has the time to save; its exit code is the job's."""
    saved = tmp_path / "saved"
    program = (
        "import pathlib, signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *a: (time.sleep(0.2), pathlib.Path({str(saved)!r}).touch(), sys.exit(75)))\n"
        "print('ready', file=sys.stderr, flush=True)\n"
        "time.sleep(60)\n"
    )
    job = ArmJob([sys.executable, "-c", program], {})
    job.child = subprocess.Popen(job.command, stderr=subprocess.PIPE)
    assert job.child.stderr is not None
    assert job.child.stderr.readline() == b"ready\n"
    began = time.monotonic()
    job._hand_on(15, None)
    assert job.child.wait(timeout=10) == 75
    assert saved.exists()
    assert time.monotonic() - began < 10


@needs_submitit
@pytest.mark.slow
def test_the_local_executor_runs_the_same_sweep(
    whole: Sweep, points: dict[str, Any], tmp_path: Path, remains: Callable[[Sweep], dict[str, Any]]
) -> None:
    found = sweep(
        "swiss-roll",
        {"objective.distance": ["mse", "mae"], "parameterization": ["noise", "velocity"]},
        overrides=points,
        runs=tmp_path,
        name="whole",
        launcher="slurm",
        slurm={"cluster": "local"},
        workers=2,
    )
    assert remains(found) == remains(whole)
