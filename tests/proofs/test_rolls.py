"""The swiss roll learned as far as it can be: L_simple at its exact optimum, samples at the distance of fresh points.

The optima are those of esling's own schedules, which end with 60 % of alpha-bar left: about 0.647 (sigmoid) and 0.615
(linear) for one draw of 10,000 points. No network can be below on its training points, and a good one is close.
"""

from pathlib import Path
from typing import Any

import pytest

import sfumato

ESLING: dict[str, dict[str, Any]] = {
    "sigmoid": {"kind": "SigmoidBetas", "start": 1e-5, "end": 1e-2},
    "linear": {"kind": "LinearBetas", "start": 1e-5, "end": 1e-2, "rescale": False},
}
OPTIMA = {"sigmoid": 0.647, "linear": 0.615}
STILL = {"training.preview_every": 0, "training.threads": 1}


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.parametrize("betas", ESLING)
def test_l_simple_reaches_the_optimum_of_these_points_and_stays_above(betas: str, tmp_path: Path) -> None:
    """Within 5 % of the smallest loss that the posterior of the training points allows, and not below it."""
    overrides = {"schedule.betas": ESLING[betas], "allow_terminal_signal": True, **STILL}
    run = sfumato.train("roll-ddpm", overrides, runs=tmp_path)
    found = sfumato.evaluate(run, "loss", n=9000).metrics
    smallest, reached = found["loss[attainable]"], found["loss[training]"]
    assert smallest.value == pytest.approx(OPTIMA[betas], abs=0.016)  # two errors of the published draw of points
    assert reached.value < 1.05 * smallest.value
    assert reached.value > smallest.value - 3 * (reached.std_error**2 + smallest.std_error**2) ** 0.5


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_samples_of_the_roll_are_near_the_floor(tmp_path: Path) -> None:
    """Both distances within 1.5 times that of two independent draws of the law."""
    run = sfumato.train("swiss-roll", STILL, runs=tmp_path)
    found = sfumato.evaluate(run, "sliced_wasserstein,energy_distance", n=1000).metrics
    for name in ("sliced_wasserstein", "energy_distance"):
        assert found[name].value < 1.5 * found[f"{name}[floor]"].value
