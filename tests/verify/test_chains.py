"""Tables, posterior coefficients and sampler outputs: printed golden values, linear algebra, Monte Carlo."""

import math

import numpy as np
import pytest

from sfumato.verify.oracles import (
    alpha_bar,
    constant_betas,
    cosine_betas,
    ddim_chain_variance,
    jsd_betas,
    large_variances,
    linear_betas,
    optimal_variances,
    posterior_coefficients,
    quadratic_betas,
    reverse_chain_variance,
    sigmoid_betas,
    small_variances,
    warmup_betas,
)

LINEAR = alpha_bar(linear_betas(1000))

GOLDEN_ENDS = {
    "linear 1000": (linear_betas(1000), 4.035829765375676e-5, 1e-12),
    "linear 200, unscaled": (linear_betas(200), 0.13218, 5e-5),
    "linear 200, scaled": (linear_betas(200, 5e-4, 0.1), 3.03e-5, 5e-3),
    "linear 100, esling": (linear_betas(100, 1e-5, 1e-2), 0.605207, 1e-6),
    "linear 1000, esling": (linear_betas(1000, 1e-5, 1e-2), 0.0065928, 1e-5),
    "linear 1000, WaveGrad": (linear_betas(1000, 1e-6, 1e-2), 0.0066226, 1e-5),
    "sigmoid 100, esling": (sigmoid_betas(100), 0.604954, 1e-6),
    "quadratic 100, esling": (quadratic_betas(100, 1e-5, 1e-2), 0.706919, 1e-6),
    "constant 100, esling": (constant_betas(100, 0.035), 0.0283616, 2e-6),
    "cosine 200": (cosine_betas(200), 6.07e-8, 1e-3),
    "cosine 1000": (cosine_betas(1000), 2.42877e-9, 2e-6),
    "cosine 4000": (cosine_betas(4000), 1.52e-10, 3e-3),
}


@pytest.mark.parametrize("name", GOLDEN_ENDS)
def test_golden_last_alpha_bar(name: str) -> None:
    betas, expected, tolerance = GOLDEN_ENDS[name]  # the tolerance is half a unit of the last printed digit
    assert alpha_bar(betas)[-1] == pytest.approx(expected, rel=tolerance)


def test_golden_first_alpha_bar_and_the_clipped_beta() -> None:
    assert LINEAR[0] == pytest.approx(0.9999, rel=1e-15)
    cosine = cosine_betas(1000)
    assert alpha_bar(cosine)[0] == pytest.approx(0.99995872, abs=5e-9)
    assert (cosine == 0.999).sum() == 1
    assert cosine[-1] == 0.999


def test_linear_table_counts_of_falbel() -> None:
    """380 of the 1,000 alpha-bars lie under 0.02, the first at 1-based index 621; 67 lie above 0.95."""
    assert (LINEAR < 0.02).sum() == 380
    assert np.argmax(LINEAR < 0.02) + 1 == 621
    assert (LINEAR > 0.95).sum() == 67


def test_jsd_leaves_a_linear_alpha_bar() -> None:
    """Π (1 − 1/(T − j + 1)) telescopes to (T − k)/T, which ends at 0."""
    np.testing.assert_allclose(alpha_bar(jsd_betas(50)), 1 - np.arange(1, 51) / 50, atol=1e-14)


def test_warmup_rises_over_its_fraction_only() -> None:
    betas = warmup_betas(100, 1e-4, 0.02, 0.1)
    np.testing.assert_allclose(betas[:10], 1e-4 + np.arange(10) / 9 * (0.02 - 1e-4), rtol=1e-12)
    assert (betas[10:] == 0.02).all()


# --- coefficients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("i", [1, 2, 10, 500, 999])
def test_posterior_is_the_conditional_of_the_joint_normal(i: int) -> None:
    """With x_0 ~ N(0, 1), condition x_s on (x_0, x_t) by solving a 2 × 2 system; the prior does not matter."""
    c = posterior_coefficients(LINEAR)
    p, a = LINEAR[i - 1], LINEAR[i]
    # x_s = √p x_0 + √(1−p) e,  x_t = √(a/p) x_s + √(1 − a/p) e'
    cov = np.array(
        [
            [1.0, math.sqrt(p), math.sqrt(a / p)],
            [math.sqrt(p), 1.0, math.sqrt(a)],
            [math.sqrt(a / p), math.sqrt(a), 1.0],
        ]
    )
    gain = np.linalg.solve(cov[1:, 1:], cov[1:, 0])
    variance = cov[0, 0] - cov[0, 1:] @ gain
    # the 2 × 2 system has a condition number of 4/(1 − a), some 2e4 at i = 1
    np.testing.assert_allclose([c.on_x0[i], c.on_x_t[i]], gain, rtol=1e-9)
    assert c.variance[i] == pytest.approx(variance, rel=1e-6, abs=1e-12)


def test_posterior_keeps_the_marginals() -> None:
    c = posterior_coefficients(LINEAR)
    before = np.concatenate([[1.0], LINEAR[:-1]])
    np.testing.assert_allclose(c.on_x0 + c.on_x_t * np.sqrt(LINEAR), np.sqrt(before), atol=1e-12)
    np.testing.assert_allclose(c.on_x_t**2 * (1 - LINEAR) + c.variance, 1 - before, atol=1e-12)


def test_golden_variances_between_distant_steps() -> None:
    """Small variance over a jump, as diffusers' own tests print it for the linear table (to 1e-5)."""
    for t, s, expected in [(420, 400, 0.14771), (980, 960, 0.32460), (487, 486, 0.00979), (999, 998, 0.02)]:
        assert small_variances(LINEAR[[s, t]])[1] == pytest.approx(expected, abs=1e-5)


def test_first_step_returns_the_denoised() -> None:
    c = posterior_coefficients(LINEAR)
    assert (c.on_x0[0], c.on_x_t[0], c.variance[0]) == (1.0, 0.0, 0.0)
    assert large_variances(LINEAR)[0] == pytest.approx(1e-4, rel=1e-10)


# --- outputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data_var", "large", "small", "optimal"),
    [(0.25, 0.250752, 0.246125, 0.249900), (1.0, 0.999900, 0.991067, 0.999900), (4.0, 3.990569, 3.974777, 3.999900)],
)
def test_golden_output_variances(data_var: float, large: float, small: float, optimal: float) -> None:
    variances = [large_variances(LINEAR), small_variances(LINEAR), optimal_variances(LINEAR, data_var)]
    outputs = [reverse_chain_variance(LINEAR, data_var, each) for each in variances]
    assert outputs == pytest.approx([large, small, optimal], abs=5e-7)  # six printed decimals


@pytest.mark.parametrize("choice", ["large", "small", "optimal"])
def test_output_variance_by_simulation(choice: str) -> None:
    """The chain itself on 400,000 points, T = 12; a variance has relative standard error √(2/n), five are allowed."""
    bars, data_var, n = alpha_bar(linear_betas(12, 0.01, 0.6)), 0.4, 400_000
    variances = {
        "large": large_variances(bars),
        "small": small_variances(bars),
        "optimal": optimal_variances(bars, data_var),
    }[choice]
    rng = np.random.default_rng(0)
    x = rng.standard_normal(n)
    for i in range(11, -1, -1):
        before = bars[i - 1] if i else 1.0
        beta = 1 - bars[i] / before
        eps = math.sqrt(1 - bars[i]) * x / (bars[i] * data_var + 1 - bars[i])
        mean = (x - beta / math.sqrt(1 - bars[i]) * eps) / math.sqrt(1 - beta)  # Ho et al. 2020, eq. 11
        x = mean + (math.sqrt(variances[i]) * rng.standard_normal(n) if i else 0.0)
    expected = reverse_chain_variance(bars, data_var, variances)
    assert x.var() == pytest.approx(expected, rel=5 * math.sqrt(2 / n))


@pytest.mark.parametrize("data_var", [0.25, 1.0, 4.0])
def test_optimal_variance_is_that_of_the_joint_normal(data_var: float) -> None:
    """Var(x_s | x_t) = V_s − Cov²/V_t, and a chain run with it loses only the mismatch of the prior."""
    before = np.concatenate([[1.0], LINEAR[:-1]])
    spread_s = before * data_var + 1 - before
    spread_t = LINEAR * data_var + 1 - LINEAR
    conditional = spread_s - (LINEAR / before) * spread_s**2 / spread_t
    np.testing.assert_allclose(optimal_variances(LINEAR, data_var), conditional, rtol=1e-8, atol=1e-13)
    right_prior = reverse_chain_variance(
        LINEAR, data_var, optimal_variances(LINEAR, data_var), prior_var=float(spread_t[-1])
    )
    # exactly data_var, but for the noise that the last step leaves out
    left_out = optimal_variances(LINEAR, data_var)[0]
    assert right_prior + left_out == pytest.approx(data_var, rel=1e-9)


@pytest.mark.parametrize("data_var", [0.25, 1.0, 4.0])
def test_ddim_with_eta_one_is_ancestral_sampling_with_the_small_variance(data_var: float) -> None:
    ancestral = reverse_chain_variance(LINEAR, data_var, small_variances(LINEAR))
    assert ddim_chain_variance(LINEAR, data_var, eta=1.0) == pytest.approx(ancestral, rel=1e-10)


def test_ddim_with_eta_zero_tends_to_the_probability_flow() -> None:
    """Refining the same law between the same ends: the output tends to L/(A L + 1 − A) with error of order 1/steps."""
    data_var, last = 0.25, 1e-4
    exact = data_var / (last * data_var + 1 - last)
    errors = []
    for steps in (200, 400, 800):
        angle = np.arange(1, steps + 1) / steps * math.acos(math.sqrt(last))
        errors.append(abs(ddim_chain_variance(np.cos(angle) ** 2, data_var, eta=0.0) - exact))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.1)
    assert np.log2(errors[1] / errors[2]) == pytest.approx(1.0, abs=0.1)


def test_ddim_output_between_the_extremes_by_simulation() -> None:
    """η = 0.5 on 400,000 points, T = 12, σ from Song et al. 2021, eq. 16, and not from the posterior."""
    bars, data_var, n = alpha_bar(linear_betas(12, 0.01, 0.6)), 0.4, 400_000
    rng = np.random.default_rng(2)
    x = rng.standard_normal(n)
    for i in range(11, -1, -1):
        before = bars[i - 1] if i else 1.0
        std = 0.5 * math.sqrt((1 - before) / (1 - bars[i])) * math.sqrt(1 - bars[i] / before)
        eps = math.sqrt(1 - bars[i]) * x / (bars[i] * data_var + 1 - bars[i])
        denoised = (x - math.sqrt(1 - bars[i]) * eps) / math.sqrt(bars[i])
        x = math.sqrt(before) * denoised + math.sqrt(1 - before - std**2) * eps + std * rng.standard_normal(n)
    assert x.var() == pytest.approx(ddim_chain_variance(bars, data_var, eta=0.5), rel=5 * math.sqrt(2 / n))
