"""The smallest attainable loss: against the exact posterior, closed forms, and the figures of esling's experiment."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.core import (
    CosineAngle,
    GridTimes,
    LinearBetas,
    LogNormalTimes,
    Noise,
    Parameterization,
    Schedule,
    SigmoidBetas,
    Tabulated,
    UniformTimes,
    Velocity,
)
from sfumato.core.tables import Betas
from sfumato.data import DataConfig, load_data
from sfumato.errors import ConfigError, DataError
from sfumato.objectives import DenoisingLoss, EdmLogNormal, Mae, MinSnr, NoiseError, Weighting
from sfumato.objectives.attainable import attainable_loss, attainable_noise_loss, least_losses, posterior_mean
from sfumato.verify.oracles.worlds import DatasetOracle


def points(count: int, *shape: int) -> Tensor:
    return torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("t", [0.02, 0.3, 0.9])
def test_the_posterior_is_the_oracles(t: float) -> None:
    x, noisy, r = points(30, 2, 3), points(50, 2, 3).flip(1), CosineAngle(max_signal_rate=0.999).rates(t)
    oracle, level = DatasetOracle(x.numpy()), (float(r.alpha), float(r.sigma))
    assert np.allclose(posterior_mean(x, noisy, r).numpy(), oracle.denoiser(noisy.numpy(), *level), rtol=1e-9)
    expected = (level[0] / level[1]) ** 2 * oracle.posterior_variance(noisy.numpy(), *level) / 6
    assert np.allclose(least_losses(x, noisy, r).numpy(), expected, rtol=1e-6, atol=1e-11)


def test_two_points_by_quadrature() -> None:
    """±1 in one dimension: D = tanh(a x/s²), and E(eps - eps*)² = (a/s)² (1 - E tanh²) over x = a + s z."""
    schedule, t = CosineAngle(), torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    z, weight = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(120))
    expected = []
    for r in map(schedule.rates, t):
        tanh = (r.alpha * (r.alpha + r.sigma * z) / r.sigma**2).tanh()
        expected.append(float((r.alpha / r.sigma) ** 2 * (1 - (weight @ tanh**2) / math.sqrt(2 * math.pi))))
    pair = torch.tensor([[1.0], [-1.0]])
    found = attainable_noise_loss(pair, schedule, t, draws=20_000, seed=0)
    assert found.value == pytest.approx(sum(expected) / 3, abs=4 * found.std_error)
    assert found.std_error < 0.01 * found.value
    assert found.by_level.tolist() == pytest.approx(expected, rel=0.05)
    assert found.draws == 60_000


def test_the_squared_error_of_the_best_answer_is_the_value() -> None:
    """E|eps - eps*|² by brute force, of which the posterior variance is the conditional mean given x_t."""
    x, r = points(40, 2), CosineAngle().rates(0.4)
    g = torch.Generator().manual_seed(1)
    x0 = x[torch.randint(40, (40_000,), generator=g)]
    eps = torch.randn(40_000, 2, dtype=torch.float64, generator=g)
    x_t = r.alpha * x0 + r.sigma * eps
    best = (x_t - r.alpha * posterior_mean(x, x_t, r)) / r.sigma
    errors = (eps - best).square().mean(1)
    found = least_losses(x, x_t, r)
    assert float((errors - found).mean()) == pytest.approx(0, abs=4 * float((errors - found).std()) / 200)
    assert float(found.var()) < 0.5 * float(errors.var())


ESLING: list[tuple[Betas, float, float]] = [
    (SigmoidBetas(1e-5, 1e-2), 0.647, 0.008),
    (LinearBetas(1e-5, 1e-2, rescale=False), 0.615, 0.008),
    (LinearBetas(1e-3, 0.2, rescale=False), 0.172, 0.01),
]


@pytest.mark.parametrize(("betas", "published", "error"), ESLING, ids=lambda value: type(value).__name__)
def test_the_swiss_roll_of_esling(betas: Betas, published: float, error: float) -> None:
    """L_simple on 10,000 points of the roll, T = 100; within 3 of both errors together (other points)."""
    roll = load_data(DataConfig(source="swiss-roll"), seed=0).values
    t = torch.arange(1, 101, dtype=torch.float64) / 100
    found = attainable_noise_loss(roll, Tabulated(betas, 100), t, draws=16, seed=0)
    assert found.value == pytest.approx(published, abs=3 * math.hypot(error, found.std_error))
    assert found.std_error < 0.006


@pytest.mark.parametrize(
    ("weighting", "target"), [(NoiseError(), Velocity()), (MinSnr(gamma=2.0), Noise()), (EdmLogNormal(), Velocity())]
)
def test_times_change_the_variance_and_not_the_objective(weighting: Weighting, target: Parameterization) -> None:
    """Uniform and log-normal times approach one integral; 512 strata, within 5 standard errors and 1 %."""
    schedule, x = CosineAngle(max_signal_rate=0.999), points(50, 2)

    def value(times: UniformTimes | LogNormalTimes) -> float:
        found = attainable_loss(
            x,
            DenoisingLoss(weighting=weighting),
            schedule=schedule,
            parameterization=target,
            times=times,
            data_std=1.0,
            seed=0,
            levels=512,
            draws=100,
        )
        return found.value

    uniform, log_normal = value(UniformTimes(spread="independent")), value(LogNormalTimes())
    assert uniform == pytest.approx(log_normal, rel=0.02)


def test_a_table_counts_each_of_its_steps_once() -> None:
    schedule: Schedule = Tabulated(LinearBetas(), 10)
    settings = {"schedule": schedule, "parameterization": Noise(), "data_std": 1.0, "seed": 3}
    loss = DenoisingLoss(weighting=NoiseError())
    found = attainable_loss(points(20, 2), loss, times=GridTimes(10, "antithetic"), draws=8, **settings)
    again = attainable_noise_loss(points(20, 2), schedule, found.t, draws=8, seed=3)
    assert found.t.tolist() == pytest.approx([k / 10 for k in range(1, 11)])
    assert found.value == pytest.approx(again.value, rel=1e-12)


def test_refusals() -> None:
    settings = {"schedule": CosineAngle(), "parameterization": Noise(), "times": UniformTimes(), "data_std": 1.0}
    with pytest.raises(ConfigError, match="Mae"):
        attainable_loss(points(5, 2), DenoisingLoss(distance=Mae()), seed=0, **settings)
    with pytest.raises(DataError, match="finite"):
        attainable_noise_loss(points(5, 2) / 0, CosineAngle(), torch.ones(1), draws=2, seed=0)
