"""Two finished runs of a second each, shared by all tests that only read them, and what makes a run that small."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sfumato
from sfumato.training import storage

SHORT = {
    "training.steps": 6,
    "training.batch_size": 8,
    "training.learning_rate": 1e-3,
    "training.warmup_steps": 2,
    "training.ema_decay": 0.5,
    "training.preview_every": 0,
    "training.evaluate_every": 3,
    "training.checkpoint_every": 3,
    "training.precision": "float32",
    "sampling.steps": 4,
    "sampling.micro_batch": 16,
    "evaluation.count": 4,
    "evaluation.noise_levels": 2,
}
DIGITS = {**SHORT, "data.limit": 60, "network.widths": (8,), "network.depth": 1, "network.embedding": 8}
POINTS = {
    **SHORT,
    "data.count": 60,
    "network.widths": (16, 16),
    "schedule.steps": 10,
    "times.steps": 10,
    "time_input.steps": 10,
}


@pytest.fixture
def digits() -> dict[str, Any]:
    return dict(DIGITS)


@pytest.fixture
def points() -> dict[str, Any]:
    return dict(POINTS)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_flush", lambda descriptor: None)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sfumato.train("digits", DIGITS, runs=tmp_path_factory.mktemp("digits"), name="run").folder


@pytest.fixture(scope="session")
def points_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sfumato.train("swiss-roll", POINTS, runs=tmp_path_factory.mktemp("points"), name="run").folder


@pytest.fixture
def mnist_in() -> Callable[[Path], Path]:
    """Writes forty digits in MNIST's format and under its names, ten of them to test with, into a new folder."""

    def write(folder: Path) -> Path:
        folder.mkdir(parents=True)
        rng = np.random.default_rng(0)
        for part, count in (("train", 30), ("t10k", 10)):
            pictures = rng.integers(0, 256, (count, 28, 28), np.uint8)
            for kind, array in (("images-idx3", pictures), ("labels-idx1", np.arange(count) % 10)):
                head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
                content = gzip.compress(head + array.astype(np.uint8).tobytes())
                (folder / f"{part}-{kind}-ubyte.gz").write_bytes(content)
        return folder

    return write
