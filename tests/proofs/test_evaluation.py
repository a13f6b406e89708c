"""A small network learns a mixture, and its evaluation says how well: against the exact law, with errors."""

import math
from pathlib import Path

import pytest

import sfumato

SETTINGS = {
    "name": "mixture",
    "data": {"source": "mixture", "count": 20_000, "normalize": "standardize"},
    "network": {"kind": "FourierMlp"},
    "schedule": {"kind": "LogSnrLinear"},
    "time_input": {"kind": "LogSnrInput"},
    "training": {
        "steps": 6000,
        "batch_size": 512,
        "learning_rate": 2e-3,
        "weight_decay": 0.0,
        "decay": "cosine",
        "ema_decay": 0.995,
        "preview_every": 0,
        "precision": "float32",
    },
    "sampling": {"sampler": "Ancestral", "steps": 100, "micro_batch": 1000, "clip": False},
}


@pytest.mark.proof
@pytest.mark.timeout(600)
def test_a_small_network_comes_close_to_the_law(tmp_path: Path) -> None:
    """Loss within 5 % of the smallest; bound above the truth less 3 errors; flow within 0.05 bits/dim; samples near
    the floor: within 1.5 times of it.
    """
    run = sfumato.train(sfumato.load_experiment(sfumato.Experiment(), SETTINGS), runs=tmp_path)
    found = sfumato.evaluate(run, tolerance=1e-4).metrics
    smallest = found["loss[law]"].value
    assert smallest - 3 * found["loss[held-out]"].std_error < found["loss[held-out]"].value < 1.05 * smallest
    assert found["nll[bound-true]"].value > -3 * found["nll[bound-true]"].std_error
    assert abs(found["nll[flow-true]"].value) / math.log(2) < 0.05
    for name in ("sliced_wasserstein", "energy_distance"):
        assert found[name].value < 1.5 * found[f"{name}[floor]"].value
