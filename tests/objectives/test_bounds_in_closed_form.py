"""Bounds against the oracles: on Gaussian data by points with exact second moments, on levels by quadrature."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.core import (
    Betas,
    CosineBetas,
    Denoiser,
    DiscretizedGaussian,
    Edm,
    GaussianDecoder,
    Image,
    Large,
    Learned,
    LearnedRange,
    Noise,
    Parameterization,
    PreviousMean,
    Rates,
    Schedule,
    Small,
    Tabulated,
    TimeInput,
    Variance,
    Velocity,
    marginal,
    mean_weights,
    reverse,
)
from sfumato.objectives import (
    Draw,
    Hybrid,
    Objective,
    SohlDicksteinBound,
    VariationalBound,
    entropies,
)
from sfumato.verify.oracles import (
    DatasetOracle,
    LevelChain,
    alpha_bar,
    bound_excess,
    large_variances,
    optimal_variances,
    posterior_coefficients,
    prior_kl,
    small_variances,
    step_kl,
)

STEPS = 8
TABLE = Tabulated(CosineBetas(), STEPS)
BARS = (TABLE.rates(torch.arange(1, STEPS + 1).double() / STEPS).alpha ** 2).numpy()
SMALL = np.concatenate([small_variances(BARS)[1:2], small_variances(BARS)[1:]])  # the first is that of the second
PARAMETERIZATIONS = [Noise(), Image(), Velocity(), Edm(), PreviousMean(TABLE)]
Array = np.ndarray


class Clock(TimeInput):
    """Hands the network t itself, so that an ideal answer can be computed from the schedule."""

    def value(self, r: Rates) -> Tensor:
        return r.t

    @property
    def span(self) -> float:
        return 1.0

    def input_scale(self, r: Rates, data_std: float) -> Tensor:
        return torch.ones_like(r.t)


class Ideal(torch.nn.Module):
    """The best F for x0 ~ N(0, data_var), and what is said of the variance, one number per step (T,)."""

    def __init__(self, parameterization: Parameterization, schedule: Schedule, data_var: float, says: Tensor) -> None:
        super().__init__()
        self.parameterization, self.schedule, self.data_var = parameterization, schedule, data_var
        self.says = says

    def forward(self, x: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
        r = self.schedule.rates(time)
        x0 = (r.alpha * self.data_var / (r.alpha**2 * self.data_var + r.sigma**2))[:, None] * x
        c = self.parameterization.coefficients(r, 1.0)
        output = (x0 - c.c_skip[:, None] * x) / c.c_out[:, None]
        k = (time * len(self.says)).round().long() - 1
        return torch.cat([output, self.says[k][:, None].expand_as(x)], dim=1)


def ideal(
    data_var: float, says: Tensor | None = None, *, p: Parameterization | None = None, table: Tabulated = TABLE
) -> Denoiser:
    said = torch.zeros(table.steps, dtype=torch.float64) if says is None else says
    target = p or Noise()
    network = Ideal(target, table, data_var, said)
    return Denoiser(
        network, table, target, time_input=Clock(), data_std=1.0, learn_variance=True, allow_terminal_signal=True
    )


def points(data_var: float, steps: int = STEPS) -> tuple[Tensor, Draw]:
    """For each step, the four (x0, eps) with the second moments of N(0, data_var) and N(0, 1): (4 T, 1).

    Their mean is the exact expectation of what is quadratic, as every term of a bound on Gaussian data is.
    """
    x0 = math.sqrt(data_var) * torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    eps = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    ones = torch.ones(4 * steps, dtype=torch.float64)
    return x0.repeat(steps)[:, None], Draw(t.repeat_interleave(4), eps.repeat(steps)[:, None], ones)


def entropy(data_var: float) -> float:
    return 0.5 * math.log(2 * math.pi * math.e * data_var)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("data_var", [0.25, 1.0, 4.0])
def test_each_term_is_the_oracles(data_var: float, parameterization: Parameterization) -> None:
    """E L_{t-1} = step_kl with the mean's error c1² mmse; E L_0 = ½ log(2 pi var) + mmse/(2 var); L_T = prior_kl."""
    x0, draw = points(data_var)
    c = posterior_coefficients(BARS)
    mmse = (1 - BARS) * data_var / (BARS * data_var + 1 - BARS)
    for variance, vs in ((Small(), SMALL), (Large(), large_variances(BARS))):
        terms = VariationalBound(variance).terms(ideal(data_var, p=parameterization), x0, draw)
        inner = step_kl(c.variance[1:], vs[1:], c.on_x0[1:] ** 2 * mmse[1:])
        decoder = 0.5 * np.log(2 * np.pi * vs[0]) + mmse[0] / (2 * vs[0])
        expected = np.concatenate([[decoder], inner])
        np.testing.assert_allclose(terms.step.view(STEPS, 4).mean(1).numpy(), expected, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(terms.prior.numpy(), prior_kl(BARS[-1], data_var), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("data_var", [0.25, 1.0, 4.0])
def test_mean_over_t_is_the_whole_bound(data_var: float) -> None:
    """E[loss] - entropy is the oracle's excess; with the optimal variance, learned, it is KL(q(x_T) ‖ N(0, 1))."""
    x0, draw = points(data_var)
    best = optimal_variances(BARS, data_var)
    cases: list[tuple[Variance, Array]] = [
        (Small(), SMALL),
        (Large(), large_variances(BARS)),
        (Learned(steps=STEPS), best),
    ]
    d = ideal(data_var, torch.from_numpy(np.log(best)))
    for variance, vs in cases:
        loss = VariationalBound(variance)(d, x0, draw).values.mean()
        excess = bound_excess(BARS, data_var, vs)
        np.testing.assert_allclose(float(loss) - entropy(data_var), excess, rtol=0, atol=1e-10)
    last_var = BARS[-1] * data_var + 1 - BARS[-1]
    assert excess == pytest.approx(0.5 * (last_var - 1 - math.log(last_var)), abs=1e-12)


class ThreeBetas(Betas):
    """The chain of the brute-force table."""

    def unclipped(self, steps: int) -> Tensor:
        return torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)


def test_bound_of_nine_levels_is_that_of_brute_force() -> None:
    """Discretised decoder, mixture posterior, T = 3: the oracle's bound by quadrature and its published figures."""
    table, bars = Tabulated(ThreeBetas(), 3), alpha_bar(np.array([0.1, 0.3, 0.6]))
    levels, weights = np.linspace(-1, 1, 9), np.array([1, 2, 3, 1, 1, 1, 4, 2, 1]) / 16
    bt = posterior_coefficients(bars).variance
    chain = LevelChain(bars, levels, weights, np.array([bt[1], bt[1], bt[2]]), np.linspace(-12, 12, 4001))
    oracle = DatasetOracle(levels[:, None], weights)

    class Best(torch.nn.Module):
        def forward(self, x: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
            r = table.rates(time[:1])
            return torch.from_numpy(oracle.denoiser(x.numpy(), float(r.alpha), float(r.sigma)))

    d = Denoiser(Best(), table, Image(), time_input=Clock(), data_std=1.0, allow_terminal_signal=True)
    bound = VariationalBound(Small(), DiscretizedGaussian(9))
    eps = torch.linspace(-9, 9, 721, dtype=torch.float64)
    mass = torch.exp(-(eps**2) / 2) / math.sqrt(2 * math.pi) * (eps[1] - eps[0])  # the trapezium rule
    found = []
    for level in levels:
        x0 = torch.full((721, 1), float(level), dtype=torch.float64)
        each = [
            bound(d, x0, Draw(torch.full((721,), k / 3, dtype=torch.float64), eps[:, None], torch.ones(721).double()))
            for k in (1, 2, 3)
        ]
        found.append(float(sum((mass * losses.values).sum() for losses in each)) / 3 / math.log(2))
    np.testing.assert_allclose(found, chain.bound_bits(), rtol=0, atol=1e-8)
    published = [5.382, 4.253, 3.511, 3.313, 3.237, 3.103, 3.190, 3.930, 5.130]
    np.testing.assert_allclose(found, published, rtol=0, atol=1e-3)
    assert (np.array(found) >= chain.exact_bits()).all()


@pytest.mark.parametrize("data_var", [0.25, 4.0])
@pytest.mark.parametrize("make", [VariationalBound, Hybrid])
def test_the_best_learned_variance_is_the_optimal_one(make: Callable[..., Objective], data_var: float) -> None:
    """The bound is stationary there, for the log-variance itself and for the range between small and large."""
    best = torch.from_numpy(np.log(optimal_variances(BARS, data_var)))
    large = torch.from_numpy(np.log(large_variances(BARS)))
    small = torch.from_numpy(np.log(SMALL))
    x0, draw = points(data_var)
    # where the decoder's two bounds differ the range can say any variance: v = 2 (log var - small)/(large - small) - 1
    for variance, said in ((Learned(steps=STEPS), best), (LearnedRange(), 2 * (best - small) / (large - small) - 1)):
        for off, stationary in ((0.0, True), (0.1, False)):
            says = (said + off).requires_grad_()
            loss = make(variance=variance)(ideal(data_var, says), x0, draw).values.mean()
            (gradient,) = torch.autograd.grad(loss, says)
            scale = 1.0 if make is VariationalBound else 1e-3
            if stationary:
                assert float(gradient.abs().max()) < 1e-10 * scale
            else:
                assert (gradient > 1e-5 * scale).any()


@pytest.mark.parametrize("data_var", [0.25, 1.0, 4.0])
def test_bound_of_2015_is_the_entropies_of_the_noisy_data(data_var: float) -> None:
    """With the exact reverse steps, -K = H(X_1) + H_p - H(X_T): each sum of KLs telescopes into informations."""
    x0, draw = points(data_var)
    d = ideal(data_var, torch.from_numpy(np.log(optimal_variances(BARS, data_var))))
    bound = SohlDicksteinBound(Learned(steps=STEPS))(d, x0, draw).values.mean()
    first, last = (entropy(BARS[i] * data_var + 1 - BARS[i]) for i in (0, -1))
    assert float(bound) == pytest.approx(first + entropy(1.0) - last, abs=1e-9)
    # in the words of the paper's code: bits beyond the isotropic Gaussian
    relative = entropies(TABLE).relative_bits(bound)
    assert float(relative) == pytest.approx((first - last) / math.log(2), abs=1e-9)


def test_both_bounds_coincide_on_data_that_the_chain_leaves_alone() -> None:
    """N(0, 1): the reverse of every step is the forward one, the decoder included; both are the entropy exactly."""
    x0, draw = points(1.0)
    for objective in (VariationalBound(Large()), SohlDicksteinBound(Large())):
        assert float(objective(ideal(1.0), x0, draw).values.mean()) == pytest.approx(entropy(1.0), abs=1e-9)


@pytest.mark.parametrize("data_var", [0.25, 4.0])
def test_bound_of_2015_misses_its_own_model_by_the_cross_entropies(data_var: float) -> None:
    """With p(x_0 | x_1) = N(sqrt(1 - beta_1) x_1, beta_1) the true bound is -K + ½ (m - 1)(A_T + 1 - A_1)."""
    x0, draw = points(data_var)
    d, first = ideal(data_var), draw.t == 1 / STEPS
    terms = VariationalBound(Small()).terms(d, x0, draw)
    x_1 = marginal(x0, TABLE.rates(draw.t)).sample(draw.eps)[first]
    keep, beta = math.sqrt(BARS[0]), 1 - BARS[0]
    decoder = 0.5 * math.log(2 * math.pi * beta) + ((x0[first] - keep * x_1) ** 2).mean() / (2 * beta)
    model = STEPS * (terms.step * ~first).mean() + decoder + terms.prior.mean()
    bound = SohlDicksteinBound(Small())(d, x0, draw).values.mean()
    gap = 0.5 * (data_var - 1) * (BARS[-1] + 1 - BARS[0])
    assert float(model - bound) == pytest.approx(gap, abs=1e-9)


def test_a_chain_of_one_step_is_prior_and_decoder() -> None:
    table = Tabulated(CosineBetas(), 1)
    x0, draw = points(1.0, 1)
    d = ideal(1.0, table=table)
    terms = VariationalBound(Small()).terms(d, x0, draw)
    r = table.rates(1.0)
    kernel = reverse(d(marginal(x0, r).sample(draw.eps), draw.t), Rates.data(), Small())
    torch.testing.assert_close(terms.step, -GaussianDecoder().log_prob(x0, kernel)[:, 0], rtol=1e-12, atol=0)
    assert mean_weights(Rates.data(), r).pull == 1
