"""Variational bounds: printed golden values, quadrature, Monte Carlo."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from sfumato.verify.oracles import (
    LevelChain,
    alpha_bar,
    bound_excess,
    large_variances,
    linear_betas,
    optimal_variances,
    posterior_coefficients,
    prior_kl,
    small_variances,
    step_kl,
)

LINEAR = alpha_bar(linear_betas(1000))


def borrowed(variances: np.ndarray, bars: np.ndarray = LINEAR) -> np.ndarray:
    """The first entry replaced by bt of the second step, as Ho et al.'s code does for the decoder."""
    return np.concatenate([small_variances(bars)[1:2], variances[1:]])


def kl_by_quadrature(mean: float, std: float, other_mean: float, other_std: float) -> float:
    p, q = norm(mean, std), norm(other_mean, other_std)
    value, _ = quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), mean - 12 * std, mean + 12 * std, limit=200)
    return value


def test_prior_term() -> None:
    assert prior_kl(LINEAR[-1], 1.0) / math.log(2) == pytest.approx(2.91129e-5, rel=2e-6)
    bar, x0 = 0.132, 0.8
    by_quadrature = kl_by_quadrature(math.sqrt(bar) * x0, math.sqrt(1 - bar), 0.0, 1.0)
    assert prior_kl(bar, x0**2) == pytest.approx(by_quadrature, rel=1e-9)


def test_step_term() -> None:
    by_quadrature = kl_by_quadrature(0.3, math.sqrt(0.2), 0.1, math.sqrt(0.35))
    assert step_kl(0.2, 0.35, 0.2**2) == pytest.approx(by_quadrature, rel=1e-9)


def test_step_term_in_its_three_forms() -> None:
    """In x_0, in noise (factor b²/(al (1−A))), and as ½ (SNR_s − SNR_t)(x_0 − x̂_0)² when var = bt."""
    c = posterior_coefficients(LINEAR)
    i = np.array([1, 9, 499, 999])
    p, a = LINEAR[i - 1], LINEAR[i]
    error = 0.37
    in_x0 = step_kl(c.variance[i], c.variance[i], (c.on_x0[i] * error) ** 2)
    beta, eps_error = 1 - a / p, np.sqrt(a / (1 - a)) * error
    in_noise = 0.5 * beta**2 / ((a / p) * (1 - a)) * eps_error**2 / c.variance[i]
    in_snr = 0.5 * (p / (1 - p) - a / (1 - a)) * error**2
    np.testing.assert_allclose(in_x0, in_snr, rtol=1e-9)  # differences of SNRs lose six digits at i = 1
    np.testing.assert_allclose(in_noise, in_snr, rtol=1e-9)


@pytest.mark.parametrize(
    ("data_var", "large", "small"),
    [(0.25, 0.114670, 0.569926), (1.0, 0.113703, 0.578595), (4.0, 0.114587, 0.583875)],
)
def test_golden_excess_of_fixed_variances(data_var: float, large: float, small: float) -> None:
    ours = [bound_excess(LINEAR, data_var, borrowed(v)) for v in (large_variances(LINEAR), small_variances(LINEAR))]
    assert ours == pytest.approx([large, small], abs=5.1e-7)  # six printed decimals


@pytest.mark.parametrize("data_var", [0.25, 1.0, 4.0])
def test_bound_is_tight_with_the_optimal_variance(data_var: float) -> None:
    """What remains is KL(q(x_T) ‖ N(0, 1)) of two centred normals."""
    spread = LINEAR[-1] * (data_var - 1)  # V_T − 1
    expected = 0.5 * (spread - math.log1p(spread))
    excess = bound_excess(LINEAR, data_var, optimal_variances(LINEAR, data_var))
    assert excess == pytest.approx(expected, abs=1e-11)  # a sum of a thousand float64 terms


def test_excess_by_simulation() -> None:
    """E[−log p(x_0:T) + log q(x_1:T | x_0)] over 200,000 chains of 4 steps, from the densities alone."""
    bars, data_var, n = alpha_bar(linear_betas(4, 0.1, 0.7)), 0.5, 200_000
    variances = borrowed(large_variances(bars), bars)
    rng = np.random.default_rng(0)
    x0 = math.sqrt(data_var) * rng.standard_normal(n)
    path, log_q = [x0], np.zeros(n)
    for i in range(4):
        keep = bars[i] / (bars[i - 1] if i else 1.0)
        path.append(math.sqrt(keep) * path[-1] + math.sqrt(1 - keep) * rng.standard_normal(n))
        log_q += norm(math.sqrt(keep) * path[-2], math.sqrt(1 - keep)).logpdf(path[-1])
    log_p = norm().logpdf(path[-1])
    c = posterior_coefficients(bars)
    for i in range(4):
        denoised = math.sqrt(bars[i]) * data_var / (bars[i] * data_var + 1 - bars[i]) * path[i + 1]
        log_p += norm(c.on_x0[i] * denoised + c.on_x_t[i] * path[i + 1], math.sqrt(variances[i])).logpdf(path[i])
    bound = log_q - log_p + norm(0, math.sqrt(data_var)).logpdf(x0)  # each path minus its share of the entropy
    five_errors = 5 * bound.std() / math.sqrt(n)
    assert abs(bound.mean() - bound_excess(bars, data_var, variances)) < five_errors < 0.02


def nine_levels(grid: np.ndarray) -> LevelChain:
    bars = alpha_bar(np.array([0.1, 0.3, 0.6]))
    weights = np.array([1.0, 2, 3, 1, 1, 1, 4, 2, 1])
    return LevelChain(bars, np.linspace(-1, 1, 9), weights, borrowed(small_variances(bars), bars), grid)


def test_golden_brute_force_of_nine_levels() -> None:
    chain = nine_levels(np.linspace(-9, 9, 1201))
    exact, bound = chain.exact_bits(), chain.bound_bits()
    golden_exact = [4.343, 3.502, 2.969, 2.884, 2.866, 2.712, 2.725, 3.272, 4.192]
    golden_bound = [5.382, 4.253, 3.511, 3.313, 3.237, 3.103, 3.190, 3.930, 5.130]
    assert exact == pytest.approx(golden_exact, abs=5e-4)
    assert bound == pytest.approx(golden_bound, abs=5e-4)
    assert (bound > exact).all()
    assert (2.0**-exact).sum() == pytest.approx(1.0, abs=1e-12)


def test_brute_force_does_not_depend_on_its_grid() -> None:
    coarse, fine = nine_levels(np.linspace(-9, 9, 601)), nine_levels(np.linspace(-10, 10, 1501))
    np.testing.assert_allclose(coarse.exact_bits(), fine.exact_bits(), rtol=1e-9)
    np.testing.assert_allclose(coarse.bound_bits(), fine.bound_bits(), rtol=1e-9)


def test_brute_force_by_simulation() -> None:
    """Levels drawn from the model itself: 300,000 ancestral samples, five standard errors per share."""
    chain, n = nine_levels(np.linspace(-9, 9, 1201)), 300_000
    c, rng = posterior_coefficients(chain.bars), np.random.default_rng(1)
    x = rng.standard_normal(n)
    for i in (2, 1, 0):
        a, s2 = math.sqrt(chain.bars[i]), 1 - chain.bars[i]
        odds = chain.weights * np.exp(-((x[:, None] - a * chain.levels) ** 2) / (2 * s2))
        denoised = odds @ chain.levels / odds.sum(axis=1)
        x = c.on_x0[i] * denoised + c.on_x_t[i] * x + math.sqrt(chain.variances[i]) * rng.standard_normal(n)
    nearest = np.clip(np.rint((x + 1) * 4), 0, 8).astype(int)
    shares = np.bincount(nearest, minlength=9) / n
    chances = 2.0 ** -chain.exact_bits()
    assert (np.abs(shares - chances) < 5 * np.sqrt(chances * (1 - chances) / n)).all()
