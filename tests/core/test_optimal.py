"""The optimal variance: the law of the reverse step itself on Gaussian data; its table, and measuring it."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.core import (
    CosineAngle,
    LinearBetas,
    NoiseSource,
    Optimal,
    Prediction,
    Rates,
    RectifiedFlow,
    Schedule,
    Small,
    Tabulated,
    Ve,
    fit_optimal,
    reverse,
)
from sfumato.errors import ConfigError, NumericsError
from sfumato.verify.oracles import GaussianOracle, MixtureOracle, Oracle, alpha_bar, optimal_variances

SCHEDULES = {"table": Tabulated(), "angle": CosineAngle(), "ve": Ve(), "flow": RectifiedFlow()}


@dataclass(frozen=True)
class Ideal:
    """An oracle as a denoiser, its guess off by the factor 1 + `wrong`."""

    oracle: Oracle
    schedule: Schedule
    wrong: float = 0.0

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        r = self.schedule.rates(t)
        x0 = self.oracle.denoiser(x_t.double().numpy(), r.alpha.numpy(), r.sigma.numpy())
        return Prediction(x_t, r, (1 + self.wrong) * torch.from_numpy(x0).to(x_t.dtype))


def exact(schedule: Schedule, times: list[float], data_var: float) -> Optimal:
    """The table of the closed form at the given times."""
    rates = [schedule.rates(t) for t in sorted(times, reverse=True)]
    mmse = [GaussianOracle([0.0], [data_var]).mmse(float(r.alpha), float(r.sigma)) for r in rates]
    return Optimal(tuple(float(r.log_snr) for r in rates), tuple(float(np.mean(e)) for e in mmse))


def guess_at(r: Rates, count: int = 1) -> Prediction:
    return Prediction(torch.zeros(count, 1, dtype=torch.float64), r, torch.zeros(count, 1, dtype=torch.float64))


# --- the variance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data_var", [0.25, 1.0, 4.0])
def test_it_is_the_variance_of_the_chain(data_var: float) -> None:
    """bt + c1² mmse at every step of the table but the last, which borrows (Bao et al. 2022, theorem 1)."""
    schedule = Tabulated()
    variance = exact(schedule, [k / 1000 for k in range(1, 1001)], data_var)
    k = torch.arange(2, 1001, dtype=torch.float64)
    kernel = reverse(guess_at(schedule.rates(k / 1000), 999), schedule.rates((k - 1) / 1000), variance)
    bars = alpha_bar(LinearBetas().values(1000).numpy())
    np.testing.assert_allclose(
        kernel.log_var.exp()[:, 0].numpy(), optimal_variances(bars, data_var)[1:], rtol=1e-8, atol=0
    )  # the oracle's 1 - bars loses digits at the clean end


@pytest.mark.parametrize("name", SCHEDULES)
def test_it_is_the_law_of_the_reverse_step(name: str) -> None:
    """x_s given x_t is Gaussian for Gaussian data: Var = Var x_s - Cov(x_s, x_t)²/Var x_t, for any s < t and family."""
    schedule, data_var = SCHEDULES[name], 0.6
    for high, low in ((0.9, 0.2), (0.5, 0.45), (0.1, 0.05), (1.0, 0.5)):
        t, s = schedule.rates(high), schedule.rates(low)
        var_s, var_t = (float(r.alpha**2 * data_var + r.sigma**2) for r in (s, t))
        forward = float(t.alpha / s.alpha)  # x_t = forward · x_s + noise
        expected = var_s - (forward * var_s) ** 2 / var_t
        kernel = reverse(guess_at(t), s, exact(schedule, [high], data_var))
        # the expected value is a difference: 1e-9 of var_s
        assert float(kernel.log_var.exp()) == pytest.approx(expected, rel=1e-8, abs=1e-9 * var_s)


def test_at_data_it_is_the_error_alone() -> None:
    """x_0 given x_t: nothing of the posterior's variance is left, and nothing is borrowed."""
    schedule = Tabulated(steps=100)
    variance = exact(schedule, [0.01], 0.25)
    for before in (None, schedule.rates(0.02)):
        kernel = reverse(guess_at(schedule.rates(0.01)), Rates.data(), variance, before=before)
        assert float(kernel.log_var.exp()) == pytest.approx(variance.mmse[0], rel=1e-12)


def test_the_table_is_read_in_logarithms() -> None:
    """Log-linear between entries, constant towards noise, falling as u² towards data; one entry will do."""
    variance = Optimal((-2.0, 0.0, 4.0), (1.0, 0.5, 0.02))
    read = variance.log_mmse(torch.tensor([-9.0, -2.0, -1.0, 0.0, 1.0, 4.0, 6.0], dtype=torch.float64)).exp()
    between = 0.5 ** (3 / 4) * 0.02 ** (1 / 4)
    expected = [1.0, 1.0, math.sqrt(0.5), 0.5, between, 0.02, 0.02 * math.exp(-2)]
    np.testing.assert_allclose(read.numpy(), expected, rtol=1e-13)
    one = Optimal((0.0,), (0.5,)).log_mmse(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)).exp()
    np.testing.assert_allclose(one.numpy(), [0.5, 0.5, 0.5 * math.exp(-1)], rtol=1e-13)


def test_knots_apart_read_the_closed_form_between_them() -> None:
    """Thirty-two knots over the 12 nats of the cosine angle: within 0.4 % of the closed form anywhere between."""
    schedule = CosineAngle()
    ends = schedule.log_snr(torch.tensor([1.0, schedule.t_min], dtype=torch.float64))
    knots = schedule.time(torch.linspace(float(ends[0]), float(ends[1]), 32, dtype=torch.float64)).tolist()
    variance = exact(schedule, knots, 0.3)
    t = torch.linspace(schedule.t_min, 1, 999, dtype=torch.float64)
    r = schedule.rates(t)
    truth = r.sigma**2 * 0.3 / (r.alpha**2 * 0.3 + r.sigma**2)
    torch.testing.assert_close(variance.log_mmse(r.log_snr).exp(), truth, rtol=4e-3, atol=0)


# --- measuring -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_measured_error_is_the_closed_form(name: str) -> None:
    """N D = 40,000 squared Gaussians of correlated pairs: five standard errors sqrt(2 tr C²/tr² C/N) at each time."""
    schedule = SCHEDULES[name]
    oracle = GaussianOracle([0.3, -0.2], [[0.5, 0.2], [0.2, 0.3]])
    x0 = torch.from_numpy(oracle.sample(20_000, np.random.default_rng(0)))
    times = [1.0, 0.6, 0.2, 0.05]
    fitted = fit_optimal(Ideal(oracle, schedule), x0, times, NoiseSource.of(seed=1, count=20_000), batch_size=7_000)
    assert len(fitted.mmse) == 4
    for t in times:
        r = schedule.rates(t)
        eigenvalues = np.asarray(oracle.mmse(float(r.alpha), float(r.sigma)))
        spread = math.sqrt(2 * float((eigenvalues**2).sum()) / 20_000) / float(eigenvalues.sum())
        assert float(fitted.log_mmse(r.log_snr).exp()) == pytest.approx(float(eigenvalues.mean()), rel=5 * spread)


def test_for_the_best_denoiser_it_is_one_minus_gamma() -> None:
    """u² (1 - E|eps_hat|²/D) of Bao et al.'s eq. 8 on a mixture, where neither has a closed form: by both estimates."""
    oracle = MixtureOracle([0.4, 0.6], [[1.0], [-0.8]], [[[0.05]], [[0.1]]])
    schedule, count = CosineAngle(), 40_000
    x0 = torch.from_numpy(oracle.sample(count, np.random.default_rng(1)))
    for t in (0.4, 0.6, 0.8):
        r = schedule.rates(t)
        fitted = fit_optimal(Ideal(oracle, schedule), x0, [t], NoiseSource.of(seed=2, count=count), batch_size=count)
        x_t = float(r.alpha) * x0 + float(r.sigma) * NoiseSource.of(seed=count, count=count).normal(x0, draw=9)
        eps = torch.from_numpy(oracle.eps(x_t.numpy(), float(r.alpha), float(r.sigma))).square()
        u2 = float(r.noise_level**2)
        error = u2 * float(eps.std()) / math.sqrt(count)
        # five errors of theirs and of ours, which is the smaller
        assert fitted.mmse[0] == pytest.approx(u2 * (1 - float(eps.mean())), abs=5 * math.sqrt(2) * error)


def test_a_wrong_denoiser_is_measured_as_it_is() -> None:
    """x0_hat 30 % too large: mmse + (0.3)² E x0_hat², which widens the steps by what the guess is off."""
    schedule, data_var, count = CosineAngle(), 0.5, 40_000
    oracle = GaussianOracle([0.0], [data_var])
    x0 = torch.from_numpy(oracle.sample(count, np.random.default_rng(3)))
    d = Ideal(oracle, schedule, wrong=0.3)
    fitted = fit_optimal(d, x0, [0.5], NoiseSource.of(seed=3, count=count), batch_size=count)
    r = schedule.rates(0.5)
    best = float(r.sigma**2 * data_var / (r.alpha**2 * data_var + r.sigma**2))
    assert fitted.mmse[0] == pytest.approx(best + 0.09 * (data_var - best), rel=5 * math.sqrt(2 / count))


def test_measuring_depends_on_seeds_and_not_on_batches() -> None:
    """The sums differ in their order alone: 1e-12."""
    oracle = GaussianOracle([0.0, 0.0], [1.0, 0.2])
    x0 = torch.from_numpy(oracle.sample(50, np.random.default_rng(0)))
    tables = [
        fit_optimal(Ideal(oracle, CosineAngle()), x0, [0.3, 0.9], NoiseSource.of(seed=5, count=50), batch_size=size)
        for size in (50, 7)
    ]
    np.testing.assert_allclose(tables[0].mmse, tables[1].mmse, rtol=1e-12)
    assert tables[0].log_snr == tables[1].log_snr


def test_an_exact_guess_leaves_the_small_variance() -> None:
    """A data set of one point: mmse 0, and the posterior's own variance to rounding."""
    schedule = CosineAngle()
    x0 = torch.full((4, 2), 0.5, dtype=torch.float64)

    class Knows:
        def __init__(self) -> None:
            self.schedule = schedule

        def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
            return Prediction(x_t, schedule.rates(t), torch.full_like(x_t, 0.5))

    fitted = fit_optimal(Knows(), x0, [0.8], NoiseSource.of(seed=0, count=4))
    p, s = guess_at(schedule.rates(0.8)), schedule.rates(0.3)
    torch.testing.assert_close(reverse(p, s, fitted).log_var, reverse(p, s, Small()).log_var, rtol=1e-14, atol=1e-14)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_an_unfitted_variance_says_what_fits_it() -> None:
    schedule = CosineAngle()
    with pytest.raises(ConfigError, match=r"(?s)Optimal has not been measured.*fit_optimal.*sfumato sample RUN"):
        reverse(guess_at(schedule.rates(0.8)), schedule.rates(0.5), Optimal())


@pytest.mark.parametrize(
    ("log_snr", "mmse"),
    [((0.0,), ()), ((1.0, 0.0), (0.1, 0.2)), ((0.0, 0.0), (0.1, 0.1)), ((0.0,), (0.0,)), ((0.0,), (math.nan,))],
    ids=str,
)
def test_tables_that_are_none_are_refused(log_snr: tuple[float, ...], mmse: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="variance Optimal has"):
        Optimal(log_snr, mmse)


def test_a_network_gone_wrong_is_refused() -> None:
    d = Ideal(GaussianOracle([0.0], [1.0]), CosineAngle(), wrong=math.nan)
    with pytest.raises(NumericsError, match=r"mean squared error at t = 0\.5 is nan"):
        fit_optimal(d, torch.ones(2, 1, dtype=torch.float64), [0.5], NoiseSource.of(seed=0, count=2))
