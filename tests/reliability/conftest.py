"""Runs of a second: real data, every part switched on, small enough to be stopped at every step.

A reporter is called after each step, which makes it the place to stop a run from: `at_step(k, act)` acts there.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import sfumato
from sfumato.training import storage
from sfumato.training.checkpoint import CheckpointStore
from sfumato.training.record import MetricsLog
from sfumato.training.trainer import Progress

STEPS = 10
# Intervals without a common divisor: a stop falls before, on and after each of them.
EVERY = {
    "training.steps": STEPS,
    "training.batch_size": 8,
    "training.learning_rate": 1e-3,
    "training.warmup_steps": 4,
    "training.ema_decay": 0.9,
    "training.checkpoint_every": 4,
    "training.log_every": 3,
    "training.evaluate_every": 5,
    "training.preview_every": 7,
    "training.preview_count": 2,
    "sampling.steps": 2,
    "evaluation.count": 4,
    "evaluation.noise_levels": 2,
}
# The U-Net with batch norm on 54 digits: seven steps are an epoch.
DIGITS = {
    **EVERY,
    "data.limit": 60,
    "data.flip": True,
    "network.widths": (8, 16),
    "network.depth": 1,
    "network.embedding": 8,
    "training.decay": "constant",
}
POINTS = {
    **EVERY,
    "data.count": 60,
    "network.widths": (16, 16),
    "schedule.steps": 10,
    "times.steps": 10,
    "time_input.steps": 10,
    "sampling.micro_batch": 4,
}
TIMES = ("images_per_second",)  # all that two equal runs may differ in


@dataclass
class Watcher:
    """A reporter that keeps the notes and acts after chosen steps."""

    acts: dict[int, Callable[[], object]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def progress(self, progress: Progress) -> None:
        self.acts.get(progress.step, lambda: None)()

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def watcher() -> type[Watcher]:
    return Watcher


@pytest.fixture(scope="session")
def digits() -> dict[str, Any]:
    return dict(DIGITS)


@pytest.fixture(scope="session")
def points() -> dict[str, Any]:
    return dict(POINTS)


@pytest.fixture(scope="session")
def one_finished(points: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sfumato.train("swiss-roll", points, runs=tmp_path_factory.mktemp("finished"), name="run").folder


@pytest.fixture
def finished(one_finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run of the points: 10 steps, checkpoints 8 and 10."""
    return shutil.copytree(one_finished, tmp_path / "run")


@pytest.fixture
def unfinished(finished: Path) -> Path:
    """The same run as if it had been killed after step 8."""
    shutil.rmtree(finished / "checkpoints" / "step-00000010")
    return finished


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody cuts the power here (that is tested on a simulated store); syncing takes half of the time."""
    monkeypatch.setattr(storage, "_flush", lambda descriptor: None)


def remains_of(folder: Path) -> dict[str, Any]:
    """All that a run leaves behind, but the time it took and the checkpoints on the way: bytes, and logged figures."""
    newest = CheckpointStore(folder).find(pytest.fail)
    logged = MetricsLog.read(folder / "metrics.jsonl", pytest.fail)
    return {
        "last checkpoint": newest.name,
        "log": [json.dumps({k: v for k, v in line.items() if k not in TIMES}) for line in logged],
        **{path.name: path.read_bytes() for path in sorted(newest.iterdir())},
        **{f"samples/{path.name}": path.read_bytes() for path in sorted((folder / "samples").iterdir())},
        "config.yaml": (folder / "config.yaml").read_text(),
    }


@pytest.fixture(scope="session")
def remains() -> Callable[[Path], dict[str, Any]]:
    return remains_of


@pytest.fixture
def same_remains() -> Callable[[Path, Path], None]:
    """Two runs left the same behind, to the last bit; a difference is named before any bytes are shown."""

    def check(one: Path, other: Path) -> None:
        found, expected = remains_of(one), remains_of(other)
        different = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
        assert not different, f"{different}: {one} is not {other}"
        assert len(expected["log"]) >= 3  # the comparison compares something
        assert {"model.safetensors", "optimizer.safetensors", "ema-0.9.safetensors", "state.json"} <= set(expected)

    return check


def tree_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file with its bytes and the time of its last change."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], dict[str, tuple[bytes, int]]]:
    return tree_of
