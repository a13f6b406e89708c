"""The lower bound of memory, against counts by hand, and that nothing which fits is refused."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from sfumato.errors import ResourceError
from sfumato.experiment import memory
from sfumato.experiment.config import load_experiment
from sfumato.experiment.forecast import forecast

POINTS = {"network.widths": (4,), "training.batch_size": 12, "training.compile": "off", "training.device": "cpu"}


def test_the_sum_by_hand() -> None:
    """One hidden layer of 4 units for points, T = 100 rows of gains: every stored number can be counted."""
    experiment = load_experiment("swiss-roll", POINTS)
    parameters = (2 * 4 + 4) + 100 * 4 + (4 * 2 + 2)
    noise = 4 * 12 * 2
    # kept: x (2) and gains (4), W x + b (4), their product (4), softplus of it (4) as float32; the index as int64
    kept = 12 * (4 * (2 + 4 + 4 + 4 + 4) + 8)
    assert memory.least_bytes(experiment, (2,)) == 4 * 6 * parameters + noise + kept // 2
    split = load_experiment("swiss-roll", {**POINTS, "training.accumulate": 3})
    assert memory.least_bytes(split, (2,)) == 4 * 6 * parameters + noise + kept // 3 // 2
    compiled = replace(experiment, training=replace(experiment.training, compile="on"))
    assert memory.least_bytes(compiled, (2,)) == 4 * 6 * parameters + noise


def test_it_is_below_what_a_run_takes(digits: dict[str, Any]) -> None:
    """The forecast counts what a real step keeps; a bound above it would refuse runs that fit."""
    found = forecast("digits", {**digits, "data.size": 8, "data.channels": 1})
    least = memory.least_bytes(found.experiment, found.shape)
    assert found.memory_bytes / 4 < least < found.memory_bytes


def test_what_cannot_fit_is_refused_and_what_fits_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load_experiment("swiss-roll", POINTS)
    least = memory.least_bytes(experiment, (2,))
    for there in (least, None):
        monkeypatch.setattr(memory, "total_memory", lambda device, there=there: there)
        memory.require_memory(experiment, (2,))
    monkeypatch.setattr(memory, "total_memory", lambda device: least - 1)
    with pytest.raises(ResourceError, match=r"training\.batch_size 12"):
        memory.require_memory(experiment, (2,))


def test_the_memory_of_this_machine() -> None:
    found = memory.total_memory(torch.device("cpu"))
    assert found is None or 2**27 < found < 2**50
    assert found is None or not math.isnan(found)
