"""Arms as jobs of submitit: its local executor stands for Slurm, which starts the same jobs."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfumato.errors import PlatformError, UsageError
from sfumato.experiment.records import newest_checkpoint
from sfumato.experiment.sweep import Sweep, Wish, axes_of, load_sweep, open_sweep, sweep
from sfumato.experiment.sweep.slurm import ArmJob, Submitit, Submitted, slurm_options
from sfumato.experiment.sweep.stored import store_plan

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
        f"saved = pathlib.Path({str(saved)!r})\n"
        "signal.signal(signal.SIGTERM, lambda *a: (time.sleep(0.2), saved.touch(), sys.exit(75)))\n"
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


LOCAL = ("--launcher", "slurm", "--slurm", "cluster=local")
LONG = ("--training.steps", "100000", "--training.checkpoint_every", "100000")


@needs_submitit
@pytest.mark.slow
@pytest.mark.parametrize("at_a_terminal", [False, True], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_cancels_the_jobs_and_their_arms_save(at_a_terminal: bool, flags: list[str], tmp_path: Path) -> None:
    """SIGTERM of the command; or Ctrl-C, which the local executor's processes hear too."""
    words = ["swiss-roll", "--axis", "objective.distance=mse,mae", *flags, *LONG, *LOCAL, "--runs", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "sfumato", "sweep", *words],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    )
    arms = tmp_path / "swiss-roll-sweep-1" / "arms"
    wait_for(lambda: len(list(arms.glob("*/checkpoints/step-00000000"))) == 2)
    time.sleep(0.5)
    if at_a_terminal:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    errors = process.communicate(timeout=90)[1]
    assert process.returncode == 75, errors
    left = load_sweep(tmp_path / "swiss-roll-sweep-1")
    assert [left.state(arm) for arm in left.arms] == ["half-done", "half-done"]
    steps = [record.step for record in map(left.record, left.arms) if record is not None]
    assert all(step is not None and 0 < step < 100_000 for step in steps)


@needs_submitit
@pytest.mark.slow
def test_a_preempted_arm_saves_and_its_job_is_queued_again(points: dict[str, Any], tmp_path: Path) -> None:
    """Twice started, at the step where it was; it ends with all its steps, each logged once."""
    steps = {**points, "training.steps": 4000, "training.checkpoint_every": 100_000, "training.evaluate_every": 1000}
    wish = Wish("swiss-roll", axes_of(["objective.distance=mse"]), steps, runs=tmp_path, name="x")
    found = open_sweep(wish, lambda text: None)
    store_plan(found.plan, found.folder)
    [arm] = found.arms
    job = Submitit(found, {"cluster": "local"}).start(found, arm, 0, lambda name, step: None)
    assert isinstance(job, Submitted)
    wait_for(lambda: (arm.folder / "metrics.jsonl").is_file())
    task = task_of(job.job._process.pid)
    if task is None:
        job.kill()
        pytest.skip("this system does not list the children of a process")
    os.kill(task, signal.SIGUSR2)  # what submitit asks Slurm for before the time is up
    wait_for(lambda: len(list((arm.folder / "checkpoints").glob("step-*"))) == 2)
    saved = newest_checkpoint(arm.folder / "checkpoints")
    assert saved is not None
    assert 0 < saved < 4000
    wait_for(lambda: job.poll() is not None)
    assert job.poll() == 0
    assert found.state(arm) == "done"
    logged = [json.loads(line)["step"] for line in (arm.folder / "metrics.jsonl").read_text().splitlines()]
    assert logged == sorted(set(logged))
    assert logged[-1] == 4000


def task_of(process: int) -> int | None:
    """The process below another that runs submitit's job."""
    listed = Path(f"/proc/{process}/task/{process}/children")
    for child in map(int, listed.read_text().split() if listed.exists() else ()):
        if b"submitit.core._submit" in Path(f"/proc/{child}/cmdline").read_bytes():
            return child
        if (below := task_of(child)) is not None:
            return below
    return None


def wait_for(true: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


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
