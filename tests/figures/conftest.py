"""Real material for figures: the embedded pictures, the swiss roll, and trajectories that are known exactly."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from sfumato.core import Rates, Schedule, batch_noise
from sfumato.data import DataConfig, Normalization, Packed, load_data, measure, split
from sfumato.experiment.model import Trajectory


def prepared(source: str, normalize: str) -> tuple[Packed, Normalization]:
    config = DataConfig(source=source, normalize=normalize, count=4000)
    packed = load_data(config, seed=0)
    return packed, measure(packed, split(packed, 0.1, 0), config)


@pytest.fixture(scope="session")
def digits() -> tuple[Packed, Normalization]:
    return prepared("digits", "range")


@pytest.fixture(scope="session")
def sprites() -> tuple[Packed, Normalization]:
    return prepared("sprites", "range")


@pytest.fixture(scope="session")
def roll() -> tuple[Packed, Normalization]:
    return prepared("swiss-roll", "standardize")


@pytest.fixture(scope="session")
def trajectory() -> Callable[[torch.Tensor, Normalization, Schedule, int], Trajectory]:
    """A function that makes the path of a perfect model to given examples in a number of steps."""
    return perfect_path


def perfect_path(raw: torch.Tensor, normalization: Normalization, schedule: Schedule, steps: int) -> Trajectory:
    """x_t = alpha x_0 + sigma eps at every time, one eps throughout; the guesses are the examples themselves."""
    x0 = normalization.to_model(raw)
    eps = batch_noise(tuple(x0.shape), 0, "test")
    times = [1 - k / steps for k in range(steps)] + [0.0]
    levels = [(schedule.rates(t) if t else Rates.data()).like(x0) for t in times]
    states = tuple(np.asarray(normalization.to_data(r.alpha * x0 + r.sigma * eps)) for r in levels)
    return Trajectory(tuple(times), states, (np.asarray(raw),) * steps)
