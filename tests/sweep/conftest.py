"""Sweeps of a second: points, six steps an arm, everything in this process unless a test says otherwise."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from sfumato.experiment.sweep import Sweep, sweep, table_of
from sfumato.training import storage
from sfumato.training.checkpoint import CheckpointStore

POINTS: dict[str, Any] = {
    "training.steps": 6,
    "training.batch_size": 8,
    "training.learning_rate": 1e-3,
    "training.warmup_steps": 2,
    "training.ema_decay": 0.5,
    "training.preview_every": 0,
    "training.evaluate_every": 3,
    "training.checkpoint_every": 3,
    "sampling.steps": 4,
    "sampling.micro_batch": 16,
    "evaluation.count": 4,
    "evaluation.noise_levels": 2,
    "data.count": 60,
    "network.widths": (16, 16),
    "schedule.steps": 10,
    "times.steps": 10,
    "time_input.steps": 10,
}
AXES = {"objective.distance": ["mse", "mae"], "parameterization": ["noise", "velocity"]}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_flush", lambda descriptor: None)


@pytest.fixture(scope="session")
def points() -> dict[str, Any]:
    return dict(POINTS)


@pytest.fixture(scope="session")
def flags() -> list[str]:
    """The same settings as words of a command line."""
    texts = {key: ",".join(map(str, value)) if isinstance(value, tuple) else value for key, value in POINTS.items()}
    return [word for key, value in texts.items() for word in (f"--{key}", str(value))]


def remains_of(found: Sweep) -> dict[str, Any]:
    """All that a sweep leaves behind but times: its table, and the last weights of each arm, bit by bit."""
    weights = {}
    for arm in found.arms:
        if (arm.folder / "checkpoints").is_dir():
            newest = CheckpointStore(arm.folder).find(pytest.fail)
            weights |= {f"{arm.name}/{path.name}": path.read_bytes() for path in sorted(newest.glob("*.safetensors"))}
            weights[arm.name] = newest.name.encode()
    return {"table": json.dumps(table_of(found).document()), **weights}


@pytest.fixture(scope="session")
def remains() -> Callable[[Sweep], dict[str, Any]]:
    return remains_of


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two distances and two targets, trained undisturbed in this process; for tests that only read it."""
    runs = tmp_path_factory.mktemp("whole")
    return sweep("swiss-roll", AXES, overrides=POINTS, launcher="inline", runs=runs, name="whole", forecast=False)
