"""Sweeps in processes of their own, as people start them: workers, signals, and a scheduler that dies alone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sfumato.cli import main as cli
from sfumato.experiment.sweep import Sweep, load_sweep, sweep
from sfumato.experiment.sweep.launching import arm_environment

AXES = ("--axis", "objective.distance=mse,mae", "--axis", "parameterization=noise,velocity")
slow = pytest.mark.slow


def command(flags: list[str], runs: Path, *words: str, name: str = "whole") -> list[str]:
    given = ["swiss-roll", *AXES, *flags, "--runs", str(runs), "--name", name, "--no-forecast", *words]
    return [sys.executable, "-m", "sfumato", "sweep", *given]


def test_the_environment_of_an_arm(whole: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own threads, nothing of torchrun, and this package, wherever it was imported from."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    found = arm_environment(whole, whole.arms[0])
    assert found["OMP_NUM_THREADS"] == "1"
    assert not {"RANK", "WORLD_SIZE"} & set(found)
    import sfumato

    assert found["PYTHONPATH"].split(os.pathsep)[0] == str(Path(sfumato.__file__).resolve().parents[1])


@pytest.mark.parametrize(
    ("visible", "count", "devices"),
    [
        (None, 2, ["0", "1"]),
        ("3,5", 2, ["3", "5"]),
        ("GPU-a, GPU-b", 2, ["GPU-a", "GPU-b"]),
        ("", 0, []),
        (None, 0, []),
    ],
)
def test_gpus_are_shared_out_over_the_workers(
    visible: str | None,
    count: int,
    devices: list[str],
    whole: Sweep,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Five slots on two GPUs: each worker sees one, the slots in turn; on none of them nothing is set."""
    import torch

    from sfumato.experiment.sweep import launching, machine

    seen: list[str | None] = []

    class Popen:
        def __init__(self, words: list[str], env: dict[str, str], **rest: Any) -> None:
            self.stdout: list[bytes] = []
            seen.append(env.get("CUDA_VISIBLE_DEVICES"))

    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(launching.subprocess, "Popen", Popen)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    base, here = whole.plan.base, replace(whole, folder=tmp_path)
    assert machine.gpus(base) == devices
    assert machine.usual_workers(base) == (len(devices) or machine.cores())
    launcher = launching.Processes(machine.gpus(base))
    for slot in range(5):
        launcher.start(here, here.arms[0], slot, lambda name, step: None)
    assert seen == ([devices[slot % 2] for slot in range(5)] if devices else [visible] * 5)
    on_one = replace(base, training=replace(base.training, device="cuda:1"))
    assert machine.gpus(on_one) == []  # the settings name it
    monkeypatch.setattr(machine, "cores", lambda: 16)
    assert machine.threads_for(base, 8) == (8 if devices else 1)


def test_a_worker_ends_though_threads_stand_anywhere() -> None:
    """A daemon thread within a lock that the interpreter wants at its end would abort it (-6); another never ends."""
    program = (
        "import sys, threading, time\n"
        "from sfumato.experiment.sweep.__main__ import leave\n"
        "threading.Thread(target=sys.stdin.buffer.read, daemon=True).start()\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "time.sleep(0.2)\n"
        "print('said', end='')\n"
    )
    for end, code in (("leave(75)", 75), ("leave(0)", 0)):
        process = subprocess.Popen(
            [sys.executable, "-c", program + end], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.wait(timeout=60) == code
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.read() == b"said"  # nothing that was said is lost
        process.stdin.close()


@slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(
    workers: int, whole: Sweep, points: dict[str, Any], tmp_path: Path, remains: Callable[[Sweep], dict[str, Any]]
) -> None:
    """Bit for bit what one process computed, one arm after another."""
    axes = {"objective.distance": ["mse", "mae"], "parameterization": ["noise", "velocity"]}
    found = sweep("swiss-roll", axes, overrides=points, runs=tmp_path, name="whole", workers=workers, forecast=False)
    assert not (found.folder / "failures").exists()  # every process ended with 0
    assert remains(found) == remains(whole)
    command = json.loads((found.arms[0].folder / "environment.json").read_bytes())["command"]
    assert command == ["sfumato", "sweep", str(found.folder), "--only", found.arms[0].name]


@slow
@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_running_arms(
    asked: signal.Signals, flags: list[str], tmp_path: Path, points: dict[str, Any]
) -> None:
    """Exit code 75, arms saved, and the command that goes on is printed; it ends as an undisturbed one."""
    long = ["--training.steps", "100000", "--training.checkpoint_every", "100000"]
    process = subprocess.Popen(
        command([*flags, *long], tmp_path, "--workers", "2"), stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    wait_for(lambda: len(list((tmp_path / "whole" / "arms").glob("*/checkpoints/step-00000000"))) == 2)
    time.sleep(0.5)
    process.send_signal(asked)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 75, errors
    assert f"fix: sfumato sweep {tmp_path / 'whole'}" in errors
    left = load_sweep(tmp_path / "whole")
    assert [left.state(arm) for arm in left.arms].count("half-done") == 2
    steps = [record.step for record in map(left.record, left.arms) if record is not None]
    assert len(steps) == 2
    assert all(step is not None and 0 < step < 100_000 for step in steps)


@slow
@pytest.mark.parametrize("first", [0.5, None])
def test_ctrl_c_at_a_terminal_reaches_everybody(first: float | None, flags: list[str], tmp_path: Path) -> None:
    """SIGINT of the whole process group, while arms train and while their processes begin: nothing counts as failed."""
    long = ["--training.steps", "100000", "--training.checkpoint_every", "100000"]
    process = subprocess.Popen(
        command([*flags, *long], tmp_path, "--workers", "2", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    )
    if first is None:
        wait_for(lambda: len(list((tmp_path / "whole" / "logs").glob("*.log"))) == 2)
    else:
        wait_for(lambda: len(list((tmp_path / "whole" / "arms").glob("*/checkpoints/step-00000000"))) == 2)
        time.sleep(first)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    states = [arm["state"] for arm in json.loads(out)["arms"]]
    assert "failed" not in states
    assert not list((tmp_path / "whole").glob("failures/*"))
    if first is not None:
        assert states.count("half-done") == 2


@slow
def test_workers_stop_when_nobody_is_left(flags: list[str], tmp_path: Path) -> None:
    """SIGKILL of the scheduler alone: its arms notice, save and end; the next command goes on."""
    long = ["--training.steps", "100000", "--training.checkpoint_every", "100000"]
    process = subprocess.Popen(command([*flags, *long], tmp_path, "--workers", "2"), stderr=subprocess.DEVNULL)
    arms = tmp_path / "whole" / "arms"
    wait_for(lambda: len(list(arms.glob("*/checkpoints/step-00000000"))) == 2)
    process.kill()
    process.wait()
    wait_for(lambda: not list(arms.glob("*/LOCK")))
    left = load_sweep(tmp_path / "whole")
    assert [left.state(arm) for arm in left.arms].count("half-done") == 2


@slow
def test_an_arm_that_is_killed_alone_is_a_failure_with_a_reason(flags: list[str], tmp_path: Path) -> None:
    """As the system does when memory runs out: the others go on, exit code 1, and the same command mends it."""
    process = subprocess.Popen(
        command(flags, tmp_path, "--workers", "1", "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    logs = tmp_path / "whole" / "logs"
    wait_for(lambda: logs.is_dir() and any(logs.iterdir()))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("this system does not list the children of a process")
    wait_for(lambda: bool(children.read_text().split()))
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    document = json.loads(out)
    states = [arm["state"] for arm in document["arms"]]
    assert sorted(states) == ["done", "done", "done", "failed"]
    failed = next(arm for arm in document["arms"] if arm["state"] == "failed")
    assert "SIGKILL" in failed["error"]
    assert "memory" in failed["error"]
    again = subprocess.run(command(flags, tmp_path, "--json"), capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0, again.stderr
    assert [arm["state"] for arm in json.loads(again.stdout)["arms"]] == ["done"] * 4


@slow
def test_the_forecast_of_a_process(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--dry-run` writes nothing, times one arm of a kind, and tells of all."""
    words = ["sweep", "swiss-roll", *AXES, *flags, "--runs", str(tmp_path), "--dry-run", "--json"]
    assert cli.main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["arms"]) == 4
    assert document["forecast"]["seconds"] > 0
    assert not list(tmp_path.iterdir())


def wait_for(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)
