"""Numbers that others printed, or that were computed once without this library, held as they stand.

alpha-bar: Ho et al. 2020 (linear), Nichol & Dhariwal 2021 (cosine), Chen et al. 2020 (WaveGrad), Esling (chains
of 100 steps). Sampling: the constants in the unit tests of diffusers.
"""

import math

import pytest
import torch
from torch import Tensor

from sfumato.core import (
    Betas,
    ConstantBetas,
    CosineBetas,
    Denoiser,
    Gaussian,
    LinearBetas,
    Noise,
    NoiseSource,
    Parameterization,
    QuadraticBetas,
    SigmoidBetas,
    StepInput,
    Tabulated,
    Velocity,
    derived_seed,
    marginal,
)
from sfumato.samplers import Ddim, Leading, sample

# (betas, T, alpha-bar at T, relative tolerance: half a unit of the last printed digit)
LAST = {
    "linear 1000": (LinearBetas(), 1000, 4.035829765375676e-5, 1e-12),
    "linear 200, unscaled": (LinearBetas(rescale=False), 200, 0.13218, 5e-5),
    "linear 200, rescaled": (LinearBetas(), 200, 3.03e-5, 2e-3),
    "sigmoid 100": (SigmoidBetas(1e-5, 1e-2), 100, 0.604954, 1e-6),
    "linear 100": (LinearBetas(1e-5, 1e-2, False), 100, 0.605207, 1e-6),
    "quadratic 100": (QuadraticBetas(1e-5, 1e-2), 100, 0.706919, 1e-6),
    "linear 1e-5 to 1e-2, 1000": (LinearBetas(1e-5, 1e-2), 1000, 0.0065928, 1e-5),
    "constant 100": (ConstantBetas(0.035), 100, 0.0283616, 2e-6),
    "WaveGrad": (LinearBetas(1e-6, 1e-2), 1000, 0.0066226, 1e-5),
    "cosine 200": (CosineBetas(), 200, 6.07e-8, 1e-3),
    "cosine 1000": (CosineBetas(), 1000, 2.42877e-9, 2e-6),
    "cosine 4000": (CosineBetas(), 4000, 1.52e-10, 4e-3),
}


@pytest.mark.parametrize("name", LAST)
def test_last_alpha_bar(name: str) -> None:
    betas, steps, expected, tolerance = LAST[name]
    assert float(Tabulated(betas, steps).rates(1.0).alpha ** 2) == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize(("betas", "expected"), [(LinearBetas(), 0.9999), (CosineBetas(), 0.99995872)], ids=repr)
def test_first_alpha_bar(betas: Betas, expected: float) -> None:
    assert float(Tabulated(betas, 1000).rates(1 / 1000).alpha ** 2) == pytest.approx(expected, abs=5e-9)


def test_cosine_has_exactly_one_clipped_beta() -> None:
    betas = CosineBetas().values(1000)
    assert CosineBetas().num_clipped(1000) == 1
    assert (betas == 0.999).nonzero().flatten().tolist() == [999]


def test_counts_over_the_linear_table() -> None:
    """380 of 1,000 alpha-bars lie under 0.02, the first at step 621; 67 lie over 0.95."""
    bars = Tabulated().rates(torch.arange(1, 1001, dtype=torch.float64) / 1000).alpha ** 2
    assert int((bars < 0.02).sum()) == 380
    assert int((bars < 0.02).nonzero()[0]) + 1 == 621
    assert int((bars > 0.95).sum()) == 67


def test_prior_term_of_the_bound() -> None:
    """|x0| = 1, linear T = 1000: 2.91129e-5 bits per dimension."""
    schedule = Tabulated()
    kl = marginal(torch.ones((), dtype=torch.float64), schedule.rates(1.0)).kl(schedule.prior)
    assert float(kl) / math.log(2) == pytest.approx(2.91129e-5, rel=2e-6)


def test_prior_is_a_gaussian() -> None:
    assert isinstance(Tabulated().prior, Gaussian)


class Fraction(torch.nn.Module):
    """diffusers' stand-in for a model: x t/(t + 1), t the index of the step."""

    def forward(self, x: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
        return x * (time / (time + 1)).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize(
    ("parameterization", "total", "mean"), [(Noise(), 172.0067, 0.223967), (Velocity(), 52.5302, 0.0684)], ids=repr
)
def test_ddim_of_diffusers_unit_tests(parameterization: Parameterization, total: float, mean: float) -> None:
    """Ten leading steps of DDIM from arange(768)/768: sum and mean of absolute values, to their printed digits."""
    schedule = Tabulated()
    d = Denoiser(Fraction(), schedule, parameterization, time_input=StepInput(1000), data_std=1.0)
    x = (torch.arange(4 * 3 * 8 * 8, dtype=torch.float64).reshape(3, 8, 8, 4) / 768).permute(3, 0, 1, 2)
    *_, end = sample(Ddim(), d, x, Leading().times(schedule, 10), noise=NoiseSource.of(seed=0, count=4))
    assert float(end.x.abs().sum()) == pytest.approx(total, rel=1e-5)  # its tables are float32
    assert float(end.x.abs().mean()) == pytest.approx(mean, abs=5e-5)


KEPT = [
    [0.2942095, 0.0944280, -0.4385247, 0.2462755],
    [0.1604334, 0.6905147, -0.4581486, -0.0204768],
    [-1.1317458, 1.2255255, -0.4422957, -0.4291885],
]
KEPT_SEED = 3419898061587642890


def test_noise_of_a_seed_never_changes() -> None:
    """A stored seed must give the same picture in every later version: printed once by this library, kept since.

    Bits of the hash are exact; the logarithm and cosine after it may differ in the last place between machines.
    """
    source = NoiseSource.of(seed=42, count=1)
    like = torch.zeros(1, 4)
    t, s = Tabulated().rates(0.9), Tabulated().rates(0.3)
    drawn = torch.cat([source.initial((1, 4), like=like), source.normal(like, draw=1), source.increment(t, s, like)])
    torch.testing.assert_close(drawn, torch.tensor(KEPT), rtol=0, atol=2e-6)
    assert derived_seed(42, "times", 7) == KEPT_SEED
