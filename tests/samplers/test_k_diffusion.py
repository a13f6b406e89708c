"""Our samplers and grids against k-diffusion's on the same denoiser; tests/golden/make_k_diffusion.py kept its runs."""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core import Denoise, NoiseSource, Schedule, Ve
from sfumato.samplers import Ddim, Dpm2, Dpmpp2M, Dpmpp2S, Heun, Karras, Sampler, TimeGrid, UniformLogSnr, sample
from sfumato.verify.oracles import MixtureOracle, Oracle

SIGMA_MIN, SIGMA_MAX = 0.02, 80.0
FIRST = 1e-5  # t_min, where the noise level is to be their sigma_min
SCHEDULE = Ve(math.exp((math.log(SIGMA_MIN) - FIRST * math.log(SIGMA_MAX)) / (1 - FIRST)), SIGMA_MAX)
STEPS = 30
TWINS: dict[str, Sampler[Any]] = {
    "sample_euler": Ddim(),
    "sample_heun": Heun(),
    "sample_dpm_2": Dpm2(),
    "sample_dpmpp_2s_ancestral": Dpmpp2S(),
    "sample_dpmpp_2m": Dpmpp2M(),
}
Arrays = Mapping[str, NDArray[np.float64]]
MakeIdeal = Callable[[Oracle, Schedule], Denoise]


@pytest.fixture(scope="module")
def golden() -> Arrays:
    with np.load(Path(__file__).parents[1] / "golden" / "k_diffusion.npz") as arrays:
        return {name: arrays[name] for name in arrays.files if name != "made_by"}


def mixture(golden: Arrays) -> MixtureOracle:
    return MixtureOracle(golden["weights"], golden["means"], golden["covs"])


def assert_same(ours: Tensor, theirs: NDArray[np.float64]) -> None:
    scale = max(1.0, float(np.abs(theirs).max()))  # they start at 80 times the size of data
    torch.testing.assert_close(ours / scale, torch.from_numpy(theirs) / scale, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("grid", "name"), [(Karras(7), "karras"), (UniformLogSnr(), "exponential")], ids=str)
def test_noise_levels_of_the_grids(grid: TimeGrid, name: str, golden: Arrays) -> None:
    """To 1e-12 of each level: t is a float64 in [0, 1], and ln u runs over 8 nats of it."""
    times = grid.times(SCHEDULE, STEPS)
    levels = [float(SCHEDULE.rates(t).noise_level) for t in times[:-1]]
    assert levels == pytest.approx(golden[f"sigmas_{name}"][:-1].tolist(), rel=1e-12)


@pytest.mark.parametrize("name", TWINS)
def test_every_state_along_karras_sigmas(name: str, golden: Arrays, ideal: MakeIdeal) -> None:
    d = ideal(mixture(golden), SCHEDULE)
    times = Karras().times(SCHEDULE, STEPS)
    x = torch.from_numpy(golden["x"])
    states = [x, *(step.x for step in sample(TWINS[name], d, x, times, noise=NoiseSource.of(seed=0, count=len(x))))]
    assert len(states) == len(golden[name]) == STEPS + 1
    for ours, theirs in zip(states, golden[name], strict=True):
        assert_same(ours, theirs)


def test_heun_with_churn(golden: Arrays, ideal: MakeIdeal, given: Callable[..., NoiseSource]) -> None:
    """Their gamma = S_churn/S at equal steps h of ln u is our churn ln(1 + gamma)/h, on the noise that they drew.

    Between churn_min and churn_max, which leave out the first step, whose noise level ours never raises, and the last.
    """
    s_churn, low, high, churn_noise = golden["churn_settings"].tolist()
    times = UniformLogSnr().times(SCHEDULE, STEPS)
    h = math.log(SIGMA_MAX / SIGMA_MIN) / (STEPS - 1)
    sampler = Heun(math.log1p(s_churn / STEPS) / h, churn_min=low, churn_max=high, churn_noise=churn_noise)
    levels = [float(SCHEDULE.rates(t).noise_level) for t in times[:-1]]
    churned = [k for k, level in enumerate(levels) if low <= level <= high]
    assert not {0, STEPS - 1} & set(churned)
    assert len(churned) > 20
    source = given(lambda k, x: torch.from_numpy(golden["normals"][churned[k]]))
    d = ideal(mixture(golden), SCHEDULE)
    *_, end = sample(sampler, d, torch.from_numpy(golden["x"]), times, noise=source)
    assert_same(end.x, golden["sample_heun_churn"])
    steps = list(pairwise(times))
    assert source.intervals == [steps[k] for k in churned]  # type: ignore[attr-defined]
