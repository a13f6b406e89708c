"""The decoder of levels: masses that sum to 1, logarithms that stay finite, gradients that are right in the tail."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from sfumato.core import DiscretizedGaussian, Gaussian, GaussianDecoder
from sfumato.core.decoders import log_mass, log_ndtr
from sfumato.errors import ConfigError, DataError

LEVELS = torch.linspace(-1, 1, 256, dtype=torch.float64)


def kernel(mean: float, std: float, like: Tensor = LEVELS) -> Gaussian:
    return Gaussian(torch.full_like(like, mean), torch.tensor(2 * math.log(std), dtype=like.dtype))


@pytest.mark.parametrize("mean", [0.0, 0.3, -0.9971, 1.0, -4.0, 7.5, 1e5])
@pytest.mark.parametrize("std", [1e-3, 0.01, 0.1, 1.0, 30.0])
def test_the_masses_of_all_levels_sum_to_one(mean: float, std: float) -> None:
    """For any mean and scale: the outer bins are open. No logarithm is infinite, however far the level."""
    log_prob = DiscretizedGaussian().log_prob(LEVELS, kernel(mean, std))
    assert float(log_prob.exp().sum()) == pytest.approx(1.0, abs=1e-12)
    assert bool(log_prob.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_logarithm_and_no_gradient_is_infinite(dtype: torch.dtype) -> None:
    levels = LEVELS.to(dtype)
    for log_var in (-30.0, -12.0, 0.0, 12.0):
        mean = torch.linspace(-50, 50, 256, dtype=dtype, requires_grad=True)
        spread = torch.tensor(log_var, dtype=dtype, requires_grad=True)
        log_prob = DiscretizedGaussian().log_prob(levels, Gaussian(mean, spread))
        log_prob.sum().backward()
        assert bool(log_prob.isfinite().all())
        assert mean.grad is not None
        assert spread.grad is not None
        assert bool(mean.grad.isfinite().all())
        assert bool(spread.grad.isfinite())


def test_masses_by_scipy() -> None:
    """Against scipy's distribution function, reflected where it would round to 1."""
    mean, std, half = 0.21, 0.13, 1 / 255
    z = (LEVELS.numpy() - mean) / std
    inner = np.where(z > 0, norm.cdf(-z + half / std) - norm.cdf(-z - half / std), 0)
    inner = np.where(z > 0, inner, norm.cdf(z + half / std) - norm.cdf(z - half / std))
    inner[0], inner[-1] = norm.cdf(z[0] + half / std), norm.sf(z[-1] - half / std)
    ours = DiscretizedGaussian().log_prob(LEVELS, kernel(mean, std)).exp()
    np.testing.assert_allclose(ours, inner, rtol=1e-11)  # a difference of two numbers 3 % apart loses two digits


def test_the_tail_by_its_asymptote() -> None:
    """Far below a narrow bin, mass = density · width/(width·z) (1 - e^(-width z)): the bin's near edge dominates."""
    low, high = torch.tensor(-40.001, dtype=torch.float64), torch.tensor(-40.0, dtype=torch.float64)
    by_scipy = norm.logcdf(-40.0) + math.log(-math.expm1(norm.logcdf(-40.001) - norm.logcdf(-40.0)))
    assert float(log_mass(low, high)) == pytest.approx(by_scipy, rel=1e-11)
    assert float(log_mass(-high, -low)) == float(log_mass(low, high))  # the other tail is its mirror image


def test_log_ndtr_and_its_gradient() -> None:
    z = torch.tensor([-1e4, -300.0, -30.0, -2.0, -1.0, -0.5, 0.0, 1.0, 5.0], dtype=torch.float64, requires_grad=True)
    value = log_ndtr(z)
    np.testing.assert_allclose(value.detach(), norm.logcdf(z.detach()), rtol=1e-14)
    value.sum().backward()
    by_hand = np.exp(norm.logpdf(z.detach()) - norm.logcdf(z.detach()))
    np.testing.assert_allclose(z.grad, by_hand, rtol=1e-7)  # scipy's side is a difference of numbers of 5e7
    low = torch.tensor([-2e4], requires_grad=True)
    log_ndtr(low).backward()  # float32, where a difference of numbers of 2e8 would be noise
    assert low.grad is not None
    assert float(low.grad) == pytest.approx(2e4, rel=1e-5)


def test_gradients_by_differences() -> None:
    x0 = LEVELS[::17].clone()
    mean = (x0 + 0.05 * torch.sin(40 * x0)).requires_grad_(True)
    log_var = torch.full_like(x0, -6.0).requires_grad_(True)
    decoder = DiscretizedGaussian()
    assert torch.autograd.gradcheck(lambda m, v: decoder.log_prob(x0, Gaussian(m, v)), (mean, log_var))


def test_other_levels() -> None:
    """Nine levels: half a bin is 1/8; on [0, 1] with 4 levels, likewise masses of one."""
    nine = DiscretizedGaussian(levels=9)
    assert nine.bin_width == 0.25
    middle = nine.log_prob(torch.zeros(1, dtype=torch.float64), kernel(0.0, 0.5, torch.zeros(1, dtype=torch.float64)))
    assert float(middle.exp()) == pytest.approx(norm.cdf(0.25) - norm.cdf(-0.25), rel=1e-13)
    four = torch.linspace(0, 1, 4, dtype=torch.float64)
    masses = DiscretizedGaussian(4, 0.0, 1.0).log_prob(four, kernel(0.4, 0.3, four)).exp()
    assert float(masses.sum()) == pytest.approx(1.0, abs=1e-14)


def test_data_off_the_levels_are_refused() -> None:
    decoder = DiscretizedGaussian()
    decoder.require(LEVELS.float())
    for bad in (LEVELS + 0.3 / 255, LEVELS * 1.1, torch.full((3,), torch.nan), torch.tensor([-1.0 - 2 / 255])):
        with pytest.raises(DataError, match="none of the 256 levels") as refused:
            decoder.require(bad)
        assert refused.value.exit_code == 3
    GaussianDecoder().require(torch.tensor([1e9]))
    with pytest.raises(DataError, match="1 of 2 values are not finite"):
        GaussianDecoder().require(torch.tensor([1.0, torch.inf]))


def test_a_decoder_of_nothing_is_refused() -> None:
    for levels, low, high in ((1, -1.0, 1.0), (256, 1.0, 1.0), (256, -math.inf, 1.0), (8, 0.0, math.nan)):
        with pytest.raises(ConfigError, match="a decoder of"):
            DiscretizedGaussian(levels, low, high)


def test_the_density_is_that_of_the_last_gaussian() -> None:
    x0 = torch.tensor([0.3, -1.2], dtype=torch.float64)
    ours = GaussianDecoder().log_prob(x0, kernel(0.1, 0.4, x0))
    np.testing.assert_allclose(ours, norm(0.1, 0.4).logpdf(x0), rtol=1e-13)
