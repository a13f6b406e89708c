"""The variational bound against closed forms and brute force, without Monte Carlo where its terms are quadratic.

For Gaussian data every term is quadratic in (x_0, eps), and the three points 0, ±√3 (weights 2/3, 1/6, 1/6) integrate
polynomials of degree 5 over N(0, 1) exactly: a batch of their nine pairs gives exact expectations.
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.core import (
    Betas,
    ConstantBetas,
    CosineAngle,
    Decoder,
    DiscretizedGaussian,
    GaussianDecoder,
    Large,
    Learned,
    LogVariances,
    NoiseSource,
    Prediction,
    Schedule,
    Small,
    Tabulated,
    Variance,
    Ve,
    VpSde,
)
from sfumato.core.rates import spread
from sfumato.errors import ConfigError, DataError, UsageError
from sfumato.likelihood import Bound, continuous_bound, prior_term, step_term, to_bits, variational_bound
from sfumato.verify import oracles

NODES = torch.tensor([0.0, math.sqrt(3), -math.sqrt(3)], dtype=torch.float64)
WEIGHTS = torch.tensor([2 / 3, 1 / 6, 1 / 6], dtype=torch.float64)
PAIRS = torch.cartesian_prod(NODES, NODES)  # x_0 and eps, in standard deviations
PAIR_WEIGHTS = torch.cartesian_prod(WEIGHTS, WEIGHTS).prod(1)


@dataclass(frozen=True)
class Handed:
    """Stands in for a `NoiseSource`: every draw is `eps`."""

    eps: Tensor

    def normal(self, x: Tensor, *, draw: int) -> Tensor:
        return self.eps.to(x)


@dataclass(frozen=True)
class OneGaussian:
    """The ideal denoiser of N(0, data_var)."""

    data_var: float
    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        r = self.schedule.rates(t)
        gain = r.alpha * self.data_var / (r.alpha**2 * self.data_var + r.sigma**2)
        return Prediction(x_t, r, spread(gain, x_t) * x_t)


class Ideal(Variance):
    """The variance of q(x_s | x_t) for data N(0, data_var): small + pull² mmse, and mmse where s is data."""

    def __init__(self, data_var: float) -> None:
        self.data_var = data_var

    def log_var(self, bounds: LogVariances, p: Prediction) -> Tensor:
        r = p.rates
        mmse = r.sigma**2 * self.data_var / (r.alpha**2 * self.data_var + r.sigma**2)
        if bounds.at_data:
            return spread(mmse.log(), p.x_t)
        return spread((bounds.small.exp() + (2 * bounds.log_pull).exp() * mmse).log(), p.x_t)


def exact_mean(values: Tensor) -> float:
    """The expectation over x_0 and eps of values (9,)."""
    return float((PAIR_WEIGHTS * values).sum())


def grid(schedule: Schedule, steps: int) -> list[float]:
    """Evenly spaced times from 1 down to data."""
    return [k / steps for k in range(steps, 0, -1)] + [0.0]


def handed_bound(data_var: float, schedule: Schedule, times: list[float], variance: Variance) -> Bound:
    x0 = math.sqrt(data_var) * PAIRS[:, :1]
    return variational_bound(
        OneGaussian(data_var, schedule), x0, times,
        variance=variance, decoder=GaussianDecoder(), noise=Handed(PAIRS[:, 1:]),  # type: ignore[arg-type]
    )  # fmt: skip


def entropy(data_var: float) -> float:
    return 0.5 * math.log(2 * math.pi * math.e * data_var)


@pytest.mark.parametrize("data_var", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("schedule", [Tabulated(), VpSde(), CosineAngle()], ids=["table", "vp", "angle"])
def test_the_bound_is_tight_with_the_optimal_variance(data_var: float, schedule: Schedule) -> None:
    """E[bound] - entropy = KL(q(x_1) || N(0, 1)), decoder included, on a fine chain and on a coarse one."""
    for steps in (500, 7):
        bound = handed_bound(data_var, schedule, grid(schedule, steps), Ideal(data_var))
        end = schedule.rates(1.0)
        surplus = float(end.alpha**2 * data_var + end.sigma**2) - 1
        kl = 0.5 * (surplus - math.log1p(surplus))
        assert exact_mean(bound.total) - entropy(data_var) == pytest.approx(kl, abs=1e-11)


def test_the_bound_of_an_exploding_process_has_the_prior_of_its_schedule() -> None:
    """q(x_1) = N(0, L + 80²) against N(0, 80²)."""
    bound = handed_bound(0.5, Ve(), grid(Ve(), 50), Ideal(0.5))
    surplus = 0.5 / 6400
    kl = 0.5 * (surplus - math.log1p(surplus))
    assert exact_mean(bound.total) - entropy(0.5) == pytest.approx(kl, abs=1e-10)


@pytest.mark.parametrize(
    ("data_var", "large", "small"),
    [(0.25, 0.114670, 0.569926), (1.0, 0.113703, 0.578595), (4.0, 0.114587, 0.583875)],
)
def test_golden_excess_of_fixed_variances(data_var: float, large: float, small: float) -> None:
    """Linear table of 1000 steps; at data both borrow the small variance of the interval before, as printed.

    For Large the printed numbers replace its first entry, beta_1, too: our Large keeps beta_1, as Ho's code does for
    "fixedlarge" in sampling, so the reconstruction is taken from Small.
    """
    found = [handed_bound(data_var, Tabulated(), grid(Tabulated(), 1000), v) for v in (Large(), Small())]
    decoded = found[1].reconstruction
    excess = [exact_mean(bound.prior + bound.diffusion + decoded) - entropy(data_var) for bound in found]
    assert excess == pytest.approx([large, small], abs=5.1e-7)  # six printed decimals


@dataclass(frozen=True)
class NineLevels:
    """The posterior mean of nine levels, in torch."""

    levels: Tensor
    weights: Tensor
    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        r = self.schedule.rates(t)
        odds = self.weights.log() - (x_t - r.alpha * self.levels) ** 2 / (2 * r.sigma**2)
        return Prediction(x_t, r, odds.softmax(1) @ self.levels[:, None])


BRUTE_BOUND = [5.382, 4.253, 3.511, 3.313, 3.237, 3.103, 3.190, 3.930, 5.130]
BRUTE_EXACT = [4.343, 3.502, 2.969, 2.884, 2.866, 2.712, 2.725, 3.272, 4.192]


def test_brute_force_of_nine_levels() -> None:
    """T = 3, betas (.1, .3, .6), small variances: the bound at every level by Gauss-Hermite quadrature over eps."""
    schedule = Tabulated(Three(), 3)
    levels, weights = np.linspace(-1, 1, 9), np.array([1.0, 2, 3, 1, 1, 1, 4, 2, 1])
    d = NineLevels(torch.from_numpy(levels), torch.from_numpy(weights), schedule)
    nodes, shares = np.polynomial.hermite_e.hermegauss(60)
    decoder, found = DiscretizedGaussian(levels=9), []
    for level in levels:
        bound = variational_bound(
            d, torch.full((60, 1), level, dtype=torch.float64), [1.0, 2 / 3, 1 / 3, 0.0], variance=Small(),
            decoder=decoder, noise=Handed(torch.from_numpy(nodes)[:, None]),  # type: ignore[arg-type]
        )  # fmt: skip
        found.append(float(to_bits((torch.from_numpy(shares / shares.sum()) * bound.total).sum())))
    assert found == pytest.approx(BRUTE_BOUND, abs=1e-3)
    bars = oracles.alpha_bar(np.array([0.1, 0.3, 0.6]))
    small = oracles.small_variances(bars)
    chain = oracles.LevelChain(bars, levels, weights, np.array([small[1], *small[1:]]), np.linspace(-9, 9, 1201))
    assert found == pytest.approx(chain.bound_bits(), abs=1e-5)  # 60 nodes for a decoder with steep edges
    assert (np.array(found) > BRUTE_EXACT).all()


class Three(Betas):
    """betas .1, .3, .6."""

    def unclipped(self, steps: int) -> Tensor:
        return torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)


def test_step_terms_in_their_three_forms() -> None:
    """In x_0, in eps, and with the small variance as ½ (SNR_s - SNR_t)(x_0 - x0_hat)²."""
    schedule, x0, eps = Tabulated(), PAIRS[:, :1], PAIRS[:, 1:]
    d = OneGaussian(0.3, schedule)
    for k in (2, 10, 500, 1000):
        t, s = schedule.rates(k / 1000), schedule.rates((k - 1) / 1000)
        p = d(t.alpha * x0 + t.sigma * eps, t.t)
        ours = step_term(p, x0, s, Small())
        snr_t, snr_s = t.log_snr.exp(), s.log_snr.exp()
        in_snr = 0.5 * snr_t * torch.expm1(s.log_snr - t.log_snr) * (x0 - p.x0)[:, 0] ** 2
        beta = -torch.expm1(2 * (t.alpha.log() - s.alpha.log()))
        small = beta * s.sigma**2 / t.sigma**2
        factor = beta**2 / ((1 - beta) * t.sigma**2)  # Ho et al. 2020, eq. 12, over 2 small
        in_eps = 0.5 * factor / small * (eps - p.eps)[:, 0] ** 2
        torch.testing.assert_close(ours, in_snr, rtol=1e-10, atol=1e-12)  # the difference of two means, of order 1
        torch.testing.assert_close(in_eps, in_snr, rtol=1e-10, atol=1e-12)
        assert float(snr_s) > float(snr_t)


def test_the_prior_term_is_printed_right() -> None:
    x0 = torch.ones(1, 1, dtype=torch.float64)
    found = prior_term(OneGaussian(1.0, Tabulated()), x0)
    assert float(to_bits(found)) == pytest.approx(2.91129e-5, rel=2e-6)
    assert float(prior_term(OneGaussian(1.0, Tabulated()), x0.expand(1, 12))) == pytest.approx(12 * float(found))


def test_one_step_is_prior_and_decoder() -> None:
    """T = 1: no logarithm of 0, nothing between; the decoder gets the large variance, sigma_1²."""
    schedule = Tabulated(ConstantBetas(0.9), 1)
    x0 = torch.tensor([[0.2], [-1.0]], dtype=torch.float64)
    d, source = OneGaussian(0.4, schedule), NoiseSource.of(seed=0, count=2)
    for variance in (Small(), Large()):
        bound = variational_bound(
            d, x0, [1.0, 0.0], variance=variance, decoder=DiscretizedGaussian(levels=11), noise=source
        )
        assert bound.diffusion.tolist() == [0.0, 0.0]
        assert bool(bound.total.isfinite().all())
        r = schedule.rates(1.0)
        guess = d(r.alpha * x0 + r.sigma * source.normal(x0, draw=0), r.t).x0
        z = (x0 - guess) / r.sigma
        half = 0.1 / r.sigma
        by_hand = torch.special.ndtr(z + half) - torch.special.ndtr(z - half)
        by_hand[1] = torch.special.ndtr(z[1] + half)  # -1 is the first level, whose bin is open
        torch.testing.assert_close(bound.reconstruction, -by_hand.log()[:, 0], rtol=1e-12, atol=0)


def test_sampled_intervals_are_unbiased() -> None:
    """Exactly so: the terms of 7 intervals, estimated from 3 strata, averaged over 20,000 examples of one value.

    With eps fixed only the choice of intervals is random, and 5 standard errors are few percent.
    """
    schedule, count = VpSde(), 20_000
    x0 = torch.full((count, 1), 0.8, dtype=torch.float64)

    @dataclass(frozen=True)
    class OnlyTimes:
        """Random where an interval is chosen (odd draws), fixed where noise is added."""

        source: NoiseSource

        def normal(self, x: Tensor, *, draw: int) -> Tensor:
            return self.source.normal(x, draw=draw) if draw % 2 else torch.full_like(x, 0.6)

    d, times = OneGaussian(0.3, schedule), grid(schedule, 8)
    settings = dict(variance=Small(), decoder=GaussianDecoder())
    fixed = Handed(torch.tensor(0.6, dtype=torch.float64).expand(1, 1))
    full = variational_bound(d, x0[:1], times, noise=fixed, **settings)  # type: ignore[arg-type]
    source = NoiseSource.of(seed=0, count=count)
    some = variational_bound(d, x0, times, noise=OnlyTimes(source), sampled=3, **settings)  # type: ignore[arg-type]
    error = float(some.diffusion.std()) / math.sqrt(count)
    assert abs(float(some.diffusion.mean() - full.diffusion)) < 5 * error < 0.03 * float(full.diffusion)
    assert len(some.diffusion.unique()) > 10  # different examples look at different intervals
    assert torch.equal(some.reconstruction, full.reconstruction.expand(count))
    again = variational_bound(d, x0, times, noise=OnlyTimes(source), sampled=3, **settings)  # type: ignore[arg-type]
    assert torch.equal(again.diffusion, some.diffusion)


def test_as_many_samples_as_intervals_is_the_whole_chain() -> None:
    d, x0, source = OneGaussian(0.3, VpSde()), PAIRS[:, :1], NoiseSource.of(seed=1, count=9)
    settings = dict(variance=Small(), decoder=GaussianDecoder(), noise=source)
    whole = variational_bound(d, x0, grid(VpSde(), 6), **settings)  # type: ignore[arg-type]
    all_of_them = variational_bound(d, x0, grid(VpSde(), 6), sampled=5, **settings)  # type: ignore[arg-type]
    assert torch.equal(whole.total, all_of_them.total)


def test_bound_of_a_model_that_says_zero() -> None:
    """Computable by hand: x0_hat = 0, so each step costs ½ (SNR_s - SNR_t) x_0², and they telescope."""

    class Zero:
        schedule = VpSde()

        def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
            return Prediction(x_t, self.schedule.rates(t), torch.zeros_like(x_t))

    x0 = torch.tensor([[0.4, -1.0, 1.0]], dtype=torch.float64)
    times = [1.0, 0.6, 0.3, 0.1, 0.0]
    noise = NoiseSource.of(seed=0, count=1)
    bound = variational_bound(
        Zero(), x0, times, variance=Small(), decoder=DiscretizedGaussian(levels=11), noise=noise
    )  # fmt: skip
    ends = [float(VpSde().rates(t).log_snr.exp()) for t in (0.1, 1.0)]
    assert float(bound.diffusion) == pytest.approx(0.5 * (ends[0] - ends[1]) * float(x0.square().sum()), rel=1e-10)


def test_continuous_bound_of_gaussian_data() -> None:
    """½ ∫ mmse_eps dlog_snr = ½ log((L + u_1²) u_0²/((L + u_0²) u_1²)) + …: exact in eps, strata in log-SNR.

    mmse of eps is alpha² L/(alpha² L + sigma²) = 1/(1 + u²/L), u² = exp(-log_snr): the integral is a softplus.
    """
    data_var, schedule = 0.4, VpSde()
    x0 = math.sqrt(data_var) * PAIRS[:, :1]

    @dataclass(frozen=True)
    class OnlyPairs:
        """eps as handed out, the same point of every stratum for all examples: the weighted mean stays exact."""

        def normal(self, x: Tensor, *, draw: int) -> Tensor:
            return torch.zeros_like(x) if draw % 2 else PAIRS[:, 1:]

    bound = continuous_bound(
        OneGaussian(data_var, schedule), x0, variance=Ideal(data_var), decoder=GaussianDecoder(),
        noise=OnlyPairs(), draws=400,  # type: ignore[arg-type]
    )  # fmt: skip
    ends = [float(schedule.rates(t).log_snr) + math.log(data_var) for t in (1.0, schedule.t_min)]
    exact = 0.5 * (np.logaddexp(0, ends[1]) - np.logaddexp(0, ends[0]))
    assert exact_mean(bound.diffusion) == pytest.approx(exact, rel=1e-5)  # the midpoint rule with 400 points
    surplus = float(schedule.rates(1.0).alpha ** 2) * (data_var - 1)
    kl = 0.5 * (surplus - math.log1p(surplus))
    assert exact_mean(bound.total) - entropy(data_var) == pytest.approx(kl, abs=1e-4)  # tight, too


def test_more_steps_come_down_to_the_continuous_bound() -> None:
    """With the small variance, for ideal Gaussian data; the gap falls like 1/T (Kingma et al. 2021, appendix F)."""
    schedule, data_var = VpSde(), 0.4
    times = {n: [float(schedule.time(v)) for v in log_snr_grid(schedule, n)] + [0.0] for n in (50, 100, 200)}
    found = {n: exact_mean(handed_bound(data_var, schedule, t, Small()).diffusion) for n, t in times.items()}
    assert found[50] > found[100] > found[200]
    ends = [float(schedule.rates(t).log_snr) + math.log(data_var) for t in (1.0, schedule.t_min)]
    limit = 0.5 * (np.logaddexp(0, ends[1]) - np.logaddexp(0, ends[0]))
    assert (found[100] - limit) / (found[200] - limit) == pytest.approx(2.0, abs=0.1)


def log_snr_grid(schedule: Schedule, steps: int) -> Tensor:
    ends = [float(schedule.rates(t).log_snr) for t in (1.0, schedule.t_min)]
    return torch.linspace(ends[0], ends[1], steps + 1, dtype=torch.float64)


def bound_of(x0: Tensor, times: list[float], decoder: Decoder, **settings: object) -> Bound:
    given: dict[str, object] = {"variance": Small(), "noise": NoiseSource.of(seed=0, count=len(x0)), **settings}
    return variational_bound(OneGaussian(1.0, VpSde()), x0, times, decoder=decoder, **given)  # type: ignore[arg-type]


def test_what_is_refused() -> None:
    x0 = torch.zeros(2, 3, dtype=torch.float64)
    for times in ([1.0], [1.0, 0.5], [0.5, 0.7, 0.0], [1.2, 0.0], [1.0, 1.0, 0.0]):
        with pytest.raises(UsageError, match="no chain down to data"):
            bound_of(x0, times, GaussianDecoder())
    with pytest.raises(UsageError, match="0 noise levels"):
        bound_of(x0, [1.0, 0.5, 0.0], GaussianDecoder(), sampled=0)
    with pytest.raises(DataError, match="none of the 256 levels") as refused:
        bound_of(x0 + 0.001, [1.0, 0.5, 0.0], DiscretizedGaussian())
    assert refused.value.exit_code == 3
    with pytest.raises(ConfigError, match="does not predict a variance"):
        bound_of(x0, [1.0, 0.5, 0.0], GaussianDecoder(), variance=Learned(2))


def test_float32_agrees_with_float64() -> None:
    """100 steps of a 12-value example: 1e-4 relative, from float32 states and float64 sums."""
    source, x0 = NoiseSource.of(seed=2, count=4), (2 * torch.arange(48, dtype=torch.float64).reshape(4, 12) / 255 - 1)
    d, times = OneGaussian(0.3, Tabulated()), grid(Tabulated(), 100)
    settings = dict(variance=Small(), decoder=DiscretizedGaussian(), noise=source)
    wide = variational_bound(d, x0, times, **settings)  # type: ignore[arg-type]
    narrow = variational_bound(d, x0.float(), times, **settings)  # type: ignore[arg-type]
    torch.testing.assert_close(narrow.total, wide.total, rtol=1e-4, atol=0)
