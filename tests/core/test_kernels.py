"""Transitions between any two times: the oracle's c1, c2, bt, and what any Gaussian chain must satisfy."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.core import (
    Betas,
    CosineAngle,
    CosineBetas,
    Gaussian,
    Large,
    LearnedRange,
    LinearBetas,
    Prediction,
    Rates,
    Schedule,
    SigmoidBetas,
    Small,
    Tabulated,
    Ve,
    log_variances,
    marginal,
    mean_weights,
    posterior,
    reverse,
)
from sfumato.errors import ConfigError
from sfumato.verify.oracles import alpha_bar, large_variances, posterior_coefficients

CHAINS = [(LinearBetas(), 1000), (CosineBetas(), 100), (SigmoidBetas(1e-5, 1e-2), 100), (LinearBetas(), 2)]


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs_of(schedule: Schedule) -> list[tuple[Rates, Rates]]:
    """(s, t) near and far, among them both ends of the span."""
    at = [schedule.t_min, *(schedule.t_min + (1 - schedule.t_min) * u for u in (0.01, 0.3, 0.31, 0.9)), 1.0]
    return [(schedule.rates(s), schedule.rates(t)) for i, s in enumerate(at) for t in at[i + 1 :]]


# --- against the oracle's chain --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("betas", "steps"), CHAINS, ids=str)
def test_posterior_is_that_of_the_chain(betas: Betas, steps: int) -> None:
    """keep = c2, pull = c1, small = bt, large = b for every neighbouring pair. Ho et al. 2020, eq. 7."""
    table = Tabulated(betas, steps)
    bars = alpha_bar(betas.values(steps).numpy())
    c, b = posterior_coefficients(bars), large_variances(bars)
    k = torch.arange(1, steps, dtype=torch.float64)
    s, t = table.rates(k / steps), table.rates((k + 1) / steps)
    weights, bounds = mean_weights(s, t), log_variances(s, t)
    # The oracle's own 1 - A/P cancels: 1e-16 absolute in betas down to 1e-5.
    np.testing.assert_allclose(weights.keep.numpy(), c.on_x_t[1:], rtol=0, atol=1e-10)
    np.testing.assert_allclose(weights.pull.numpy(), c.on_x0[1:], rtol=0, atol=1e-10)
    np.testing.assert_allclose(bounds.small.exp().numpy(), c.variance[1:], rtol=1e-9)
    np.testing.assert_allclose(bounds.large.exp().numpy(), b[1:], rtol=1e-9)
    np.testing.assert_allclose(bounds.large.exp().numpy(), betas.values(steps).numpy()[1:], rtol=1e-9)


def test_posterior_mean_in_its_noise_form() -> None:
    """c1 x0 + c2 x_t = (x_t - b eps/sigma)/sqrt(1 - b). Ho et al. 2020, eq. 11."""
    table = Tabulated()
    k = torch.tensor([2, 10, 500, 999, 1000], dtype=torch.float64)
    s, t = table.rates((k - 1) / 1000), table.rates(k / 1000)
    x0, eps = some(5, 3), some(5, 3, seed=1)
    x_t = marginal(x0, t).sample(eps)
    b = LinearBetas().values(1000)[k.long() - 1][:, None]
    expected = (x_t - b * eps / t.sigma[:, None]) / (1 - b).sqrt()
    torch.testing.assert_close(posterior(x0, x_t, s=s, t=t).mean, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kept", [[1, 1000], [1, 2, 3], [7, 143, 501, 996, 1000], list(range(1, 1001, 37))], ids=len)
def test_skipping_steps_is_the_respaced_chain(kept: list[int]) -> None:
    """The oracle's coefficients on the kept alpha-bars alone, a chain of its own (Nichol & Dhariwal 2021, eq. 19)."""
    bars = alpha_bar(LinearBetas().values(1000).numpy())[np.array(kept) - 1]
    c, b = posterior_coefficients(bars), large_variances(bars)
    table = Tabulated()
    at = table.rates(torch.tensor(kept, dtype=torch.float64) / 1000)
    s, t = (Rates(at.t[cut], at.alpha[cut], at.sigma[cut]) for cut in (slice(None, -1), slice(1, None)))
    weights, bounds = mean_weights(s, t), log_variances(s, t)
    np.testing.assert_allclose(weights.keep.numpy(), c.on_x_t[1:], rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(weights.pull.numpy(), c.on_x0[1:], rtol=1e-10)
    np.testing.assert_allclose(bounds.small.exp().numpy(), c.variance[1:], rtol=1e-9)
    np.testing.assert_allclose(bounds.large.exp().numpy(), b[1:], rtol=1e-9)


# --- what any chain must satisfy -------------------------------------------------------------------------------------


def test_marginals_are_consistent(schedule: Schedule) -> None:
    """Drawing x_t, then x_s from the posterior, gives q(x_s | x_0): pull + keep alpha_t = alpha_s and so on."""
    for s, t in pairs_of(schedule):
        weights = mean_weights(s, t)
        var = float(log_variances(s, t).small.exp())
        assert float(weights.pull + weights.keep * t.alpha) == pytest.approx(float(s.alpha), abs=1e-10)
        assert float(weights.keep**2 * t.sigma**2) + var == pytest.approx(float(s.sigma**2), rel=1e-10)


def test_large_is_the_forward_step(schedule: Schedule) -> None:
    """q(x_t | x_s) = N(alpha_t/alpha_s x_s, large): its variance and that of x_s make sigma_t²."""
    for s, t in pairs_of(schedule):
        carried = float((t.alpha / s.alpha * s.sigma) ** 2)
        assert carried + float(log_variances(s, t).large.exp()) == pytest.approx(float(t.sigma**2), rel=1e-10)


def test_small_lies_below_large_and_all_is_finite(schedule: Schedule) -> None:
    for s, t in pairs_of(schedule):
        bounds = log_variances(s, t)
        assert math.isfinite(float(bounds.small))
        assert math.isfinite(float(bounds.large))
        assert float(bounds.small) <= float(bounds.large) < math.log(float(t.sigma**2)) + 1e-12


def test_two_steps_compose(schedule: Schedule) -> None:
    """Forward: large(s, u) = (alpha_u/alpha_t)² large(s, t) + large(t, u)."""
    at = [schedule.rates(schedule.t_min + (1 - schedule.t_min) * u) for u in (0.1, 0.5, 0.8)]
    s, t, u = at
    first, second, whole = (log_variances(*pair).large.exp() for pair in ((s, t), (t, u), (s, u)))
    torch.testing.assert_close((u.alpha / t.alpha) ** 2 * first + second, whole, rtol=1e-11, atol=0)


def test_reverse_steps_compose_when_x0_is_known(schedule: Schedule) -> None:
    """q(x_s | x_u, x_0) is q(x_s | x_t, x_0) averaged over q(x_t | x_u, x_0)."""
    s, t, u = (schedule.rates(schedule.t_min + (1 - schedule.t_min) * share) for share in (0.1, 0.5, 0.8))
    x0, x_u = some(4, 2), some(4, 2, seed=1)
    inner = posterior(x0, x_u, s=t, t=u)
    outer = posterior(x0, inner.mean, s=s, t=t)
    direct = posterior(x0, x_u, s=s, t=u)
    torch.testing.assert_close(outer.mean, direct.mean, rtol=0, atol=1e-10)
    keep = mean_weights(s, t).keep
    torch.testing.assert_close(
        outer.log_var.exp() + keep**2 * inner.log_var.exp(), direct.log_var.exp(), rtol=1e-10, atol=0
    )


def test_a_tiny_step_keeps_its_digits(schedule: Schedule) -> None:
    """Times 1e-7 apart: large = sigma_t² · (-slope) · 1e-7."""
    s, t = schedule.rates(0.7003), schedule.rates(0.7003 + 1e-7)
    slope = float(schedule.slope(torch.tensor(0.7003, dtype=torch.float64)))
    expected = float(t.sigma**2) * -slope * 1e-7
    # log_snr of order 10 carries 1e-15, over a difference of 1e-7 · slope: 1e-8; second order 1e-6
    assert float(log_variances(s, t).large.exp()) == pytest.approx(expected, rel=1e-5)


# --- the interval that ends at data ----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 3, 1000])
def test_last_interval_borrows_the_variance_before_it(steps: int) -> None:
    """x0 is the mean; small is beta-tilde_2, as Ho's code clips the first entry; large stays sigma_1²."""
    table = Tabulated(CosineBetas(), steps)
    first, second = table.rates(1 / steps), table.rates(2 / steps)
    bars = alpha_bar(CosineBetas().values(steps).numpy())
    x0, x_t = some(2, 3), some(2, 3, seed=1)
    q = posterior(x0, x_t, s=Rates.data(), t=first, before=second)
    torch.testing.assert_close(q.mean, x0, rtol=0, atol=0)
    assert float(q.log_var.exp()) == pytest.approx(posterior_coefficients(bars).variance[1], rel=1e-9)
    bounds = log_variances(Rates.data(), first, before=second)
    assert float(bounds.large.exp()) == pytest.approx(1 - bars[0], rel=1e-12)
    assert float(bounds.small) <= float(bounds.large)


def test_a_single_interval_uses_the_large_variance() -> None:
    only = Tabulated(CosineBetas(), 1).rates(1.0)
    bounds = log_variances(Rates.data(), only)
    assert float(bounds.small) == float(bounds.large) == pytest.approx(math.log(float(only.sigma**2)), rel=1e-12)


def test_marginal_at_data_is_data() -> None:
    x0 = some(2, 3)
    q = marginal(x0, Rates.data())
    torch.testing.assert_close(q.mean, x0, rtol=0, atol=0)
    assert float(q.std) == 0


# --- the reverse kernel ----------------------------------------------------------------------------------------------


def prediction(schedule: Schedule, *, var_output: Tensor | None = None) -> Prediction:
    return Prediction(some(2, 3), schedule.rates(0.8), some(2, 3, seed=1), var_output)


def test_reverse_is_the_posterior_of_the_guess() -> None:
    p = prediction(CosineAngle())
    s = p.rates
    then = CosineAngle().rates(0.5)
    bounds = log_variances(then, s)
    q = posterior(p.x0, p.x_t, s=then, t=s)
    for variance, log_var in ((Small(), bounds.small), (Large(), bounds.large)):
        kernel = reverse(p, then, variance)
        torch.testing.assert_close(kernel.mean, q.mean, rtol=0, atol=0)
        torch.testing.assert_close(kernel.log_var, log_var, rtol=1e-15, atol=0)


def test_learned_range_interpolates_logarithms() -> None:
    """v = 0 is small, 1 is large, ½ their geometric mean. Nichol & Dhariwal 2021, eq. 15."""
    schedule = Ve()
    mix = torch.tensor([[0.0, 0.5, 1.0]] * 2, dtype=torch.float64)
    p, then = prediction(schedule, var_output=2 * mix - 1), schedule.rates(0.4)
    bounds = log_variances(then, p.rates)
    var = reverse(p, then, LearnedRange()).log_var.exp()
    small, large = float(bounds.small.exp()), float(bounds.large.exp())
    np.testing.assert_allclose(var[0].numpy(), [small, math.sqrt(small * large), large], rtol=1e-12)
    with pytest.raises(ConfigError, match="does not predict a variance"):
        reverse(prediction(schedule), then, LearnedRange())


def test_kernels_follow_the_dtype_of_the_state() -> None:
    """float32 states, float64 coefficients: within float32 rounding of the float64 answer."""
    s, t = CosineAngle().rates(torch.tensor([0.2, 0.5])), CosineAngle().rates(torch.tensor([0.4, 0.9]))
    x0, x_t = some(2, 3), some(2, 3, seed=1)
    q: Gaussian = posterior(x0.float(), x_t.float(), s=s, t=t)
    assert q.mean.dtype == q.log_var.dtype == torch.float32
    torch.testing.assert_close(q.mean.double(), posterior(x0, x_t, s=s, t=t).mean, rtol=0, atol=1e-6)
