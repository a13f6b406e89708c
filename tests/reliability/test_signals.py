"""A4, A5, A6: SIGTERM and Ctrl-C stop a run at the next step, saved, exit code 75; a second Ctrl-C stops at once."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sfumato
import sfumato.cli.train
from sfumato.cli import main as cli
from sfumato.errors import Interrupted
from sfumato.training.checkpoint import CheckpointStore
from sfumato.training.signals import ECHO
from sfumato.training.storage import LocalStorage


@pytest.fixture
def train(points: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], int]:
    """`sfumato train`, told by a reporter of the test's own; gives the exit code."""

    def command(reporter: Any) -> int:
        monkeypatch.setattr(sfumato.cli.train, "reporting", lambda: contextlib.nullcontext(reporter))
        lists = {key: list(value) if isinstance(value, tuple) else value for key, value in points.items()}
        settings = [f"--{key}={value}" for key, value in lists.items()]
        return cli.main(["train", "swiss-roll", "--runs", str(tmp_path / "my runs"), "--name", "run", *settings])

    return command


def on(*signals: signal.Signals) -> Callable[[], None]:
    def send() -> None:
        for number in signals:
            signal.raise_signal(number)
            if len(signals) > 1:
                time.sleep(1.2 * ECHO)  # two requests, not one that arrives twice

    return send


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_at_the_next_step(
    number: signal.Signals, train: Callable[[Any], int], watcher: Any, tmp_path: Path, capsys: Any
) -> None:
    folder = tmp_path / "my runs" / "run"
    before = signal.getsignal(signal.SIGINT)  # ignored, where the tests run in a shell's background
    assert train(watcher({3: on(number)})) == 75
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == f"error[INTERRUPTED]: stopped by {number.name} after step 3 of 10; saved"
    assert shown[2] == f"fix: sfumato resume '{folder}'"  # as a shell takes it
    assert CheckpointStore(folder).steps() == [0, 3]
    assert not (folder / "LOCK").exists()
    assert signal.getsignal(signal.SIGINT) is before  # given back
    assert cli.main(["resume", str(folder)]) == 0


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_a_second_ctrl_c_stops_at_once(
    signals: tuple[signal.Signals, ...], train: Callable[[Any], int], watcher: Any, tmp_path: Path
) -> None:
    assert train(watcher({6: on(*signals)})) == 130
    store = CheckpointStore(tmp_path / "my runs" / "run")
    assert store.steps() == [0, 4]
    assert store.find(pytest.fail).name == "step-00000004"
    assert sfumato.resume(store.run_folder).steps == 10


def test_terminating_twice_is_terminating_once(train: Callable[[Any], int], watcher: Any, tmp_path: Path) -> None:
    """A batch system may repeat itself; only a person at a keyboard means it more the second time."""
    assert train(watcher({6: on(signal.SIGTERM, signal.SIGTERM)})) == 75
    assert CheckpointStore(tmp_path / "my runs" / "run").steps() == [4, 6]


def test_a_signal_after_the_last_step_changes_nothing(train: Callable[[Any], int], watcher: Any) -> None:
    assert train(watcher({10: on(signal.SIGTERM)})) == 0


@pytest.mark.parametrize("operation", ["mkdir", "write", "rename"])
def test_a_signal_during_a_save(
    operation: str, points: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The save of step 4 completes, once, and the run stops there; nothing is saved by a handler."""
    real, saved = getattr(LocalStorage, operation), []
    save = CheckpointStore.save

    def interrupted(self: LocalStorage, path: Path, *rest: Any) -> None:
        if "step-00000004" in str(path):
            signal.raise_signal(signal.SIGTERM)
        real(self, path, *rest)

    def counted(self: CheckpointStore, snapshot: Any, **options: Any) -> Path:
        saved.append(snapshot.step)
        return save(self, snapshot, **options)

    monkeypatch.setattr(LocalStorage, operation, interrupted)
    monkeypatch.setattr(CheckpointStore, "save", counted)
    with pytest.raises(Interrupted, match="SIGTERM after step 4 of 10; saved"):
        sfumato.train("swiss-roll", points, runs=tmp_path, name="run")
    assert saved == [0, 4]
    assert CheckpointStore(tmp_path / "run").find(pytest.fail).name == "step-00000004"


@contextlib.contextmanager
def running(*words: str, until: Path) -> Iterator[subprocess.Popen[str]]:
    """`sfumato …` in a process of its own, once it has written a file; it does not outlive the test."""
    process = subprocess.Popen([sys.executable, "-m", "sfumato", *words], stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 60
        while not until.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_command_as_a_process(points: dict[str, Any], tmp_path: Path) -> None:
    """Real signals to real processes, both at once: one is asked to stop, one loses its keyboard's patience."""
    endless = ["--training.steps=1000000", "--training.checkpoint_every=0", "--training.log_every=1"]
    endless += ["--runs", str(tmp_path)]
    long = "--training.batch_size=60000"  # steps much longer than the moment between one Ctrl-C and the next
    asked, hurried = (tmp_path / name for name in ("asked", "hurried"))
    with (
        running("train", "swiss-roll", *endless, "--name", "asked", until=asked / "metrics.jsonl") as first,
        running("train", "swiss-roll", *endless, long, "--name", "hurried", until=hurried / "metrics.jsonl") as second,
    ):
        os.kill(first.pid, signal.SIGTERM)
        os.kill(second.pid, signal.SIGINT)
        time.sleep(1.5 * ECHO)
        os.kill(second.pid, signal.SIGINT)
        assert first.wait(30) == 75
        assert second.wait(30) == 130
        assert first.stderr is not None
        assert f"sfumato resume {asked}" in first.stderr.read()
    assert CheckpointStore(asked).steps()[-1] >= 1
    CheckpointStore(hurried).find(pytest.fail)
