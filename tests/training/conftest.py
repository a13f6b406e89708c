"""A training session of a second: points for what needs exact arithmetic, digits for what needs images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfumato.experiment.build import prepare_data
from sfumato.experiment.config import load_experiment
from sfumato.experiment.reporting import Silent
from sfumato.experiment.session import Session

POINTS = {
    "training.steps": 6,
    "training.batch_size": 8,
    "training.learning_rate": 1e-3,
    "training.warmup_steps": 2,
    "training.ema_decay": 0.9,
    "training.device": "cpu",
    "training.precision": "float32",
    "training.compile": "off",
    "training.threads": 1,
    "training.preview_every": 0,
    "evaluation.count": 4,
    "evaluation.noise_levels": 2,
    "data.count": 60,
    "network.widths": (16, 16),
    "schedule.steps": 10,
    "times.steps": 10,
    "time_input.steps": 10,
    "sampling.steps": 2,
}
SMALL_UNET = {"network.widths": (8,), "network.depth": 1, "network.embedding": 8, "data.limit": 60, "data.flip": True}
POINTS_ONLY = ("data.count", "network.widths", "schedule.steps", "times.steps", "time_input.steps")


@pytest.fixture
def session(tmp_path: Path) -> Callable[..., Session]:
    """`session("points" | "digits", {…})`: everything of a run in memory, before its first step."""

    def make(data: str = "points", settings: dict[str, Any] | None = None) -> Session:
        if data == "points":
            chosen: dict[str, Any] = dict(POINTS)
        else:
            chosen = {key: value for key, value in POINTS.items() if key not in POINTS_ONLY} | SMALL_UNET
        if "times" in (settings or {}):
            chosen.pop("times.steps", None)
        recipe = "swiss-roll" if data == "points" else "digits"
        experiment = load_experiment(recipe, {**chosen, **(settings or {})})
        return Session(experiment, prepare_data(experiment), folder=tmp_path / "run", reporter=Silent())

    return make
