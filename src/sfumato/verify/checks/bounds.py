"""Variational bounds: every term against the closed form, and the whole against the entropy and against quadrature.

The terms are computed by the kernels that training and evaluation use; expectations over Gaussian data are exact,
because every term is quadratic in (x_0, eps).
"""

import math
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.core import (
    CosineBetas,
    Gaussian,
    Large,
    Prediction,
    Rates,
    Schedule,
    Small,
    Tabulated,
    Variance,
    log_variances,
    marginal,
    posterior,
    reverse,
)
from sfumato.verify import oracles
from sfumato.verify.check import AtMost, Check, Near, proves
from sfumato.verify.checks.kernels import neighbours
from sfumato.verify.checks.material import largest, rates_over, worst

__all__ = ["CHECKS"]

Array = NDArray[np.float64]
LINEAR = oracles.alpha_bar(oracles.linear_betas(1000))
# Nine grey levels, T = 3, betas 0.1, 0.3, 0.6: -log2 p by quadrature and its bound, three decimals
EXACT_BITS = np.array([4.343, 3.502, 2.969, 2.884, 2.866, 2.712, 2.725, 3.272, 4.192])
BOUND_BITS = np.array([5.382, 4.253, 3.511, 3.313, 3.237, 3.103, 3.190, 3.930, 5.130])
# Excess of the bound over the entropy in nats: linear table, T = 1000, the first variance borrowed from the second
EXCESS: dict[tuple[str, float], tuple[Variance, float]] = {
    ("large", 0.25): (Large(), 0.114670),
    ("small", 0.25): (Small(), 0.569926),
    ("large", 1.0): (Large(), 0.113703),
    ("small", 1.0): (Small(), 0.578595),
    ("large", 4.0): (Large(), 0.114587),
    ("small", 4.0): (Small(), 0.583875),
}


def prior_bits() -> float:
    """KL(q(x_T | x_0) || N(0, 1)) in bits for |x_0| = 1 and the linear table of 1,000 steps."""
    schedule = Tabulated()
    kl = marginal(torch.ones((), dtype=torch.float64), schedule.rates(1.0)).kl(schedule.prior)
    return float(kl) / math.log(2)


def prior_terms() -> float:
    """The prior term against its closed form for data from 0 to 3, of a table that ends far from its prior."""
    schedule = Tabulated(steps=7)
    x0 = torch.linspace(0, 3, 31, dtype=torch.float64)
    ours = marginal(x0, schedule.rates(1.0)).kl(schedule.prior)
    bar = float(schedule.rates(1.0).alpha ** 2)
    return largest(ours.numpy() - oracles.prior_kl(bar, x0.numpy() ** 2))


def step_terms(schedule: Schedule, variance: Variance) -> float:
    """KL(q || p) of every step for a guess that is off by 0.37, against the oracle's; relative."""
    s, t = neighbours(rates_over(schedule))
    bars = (rates_over(schedule).alpha ** 2).numpy()
    c = oracles.posterior_coefficients(bars)
    ours = _kls(s, t, variance, error=0.37)
    theirs = {"Small": oracles.small_variances, "Large": oracles.large_variances}[type(variance).__name__](bars)
    expected = oracles.step_kl(c.variance[1:], theirs[1:], (c.on_x0[1:] * 0.37) ** 2)
    return largest(ours / expected - 1)


def _kls(s: Rates, t: Rates, variance: Variance, *, error: float) -> Array:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) in nats for x_0 = 0.5 and a guess of 0.5 + error: (N,)."""
    x0 = torch.full((len(t.t), 1), 0.5, dtype=torch.float64)
    x_t = marginal(x0, t).mean
    p = reverse(Prediction(x_t, t, x0 + error), s, variance)
    return posterior(x0, x_t, s=s, t=t).kl(p).numpy()[:, 0]


def three_forms() -> float:
    """The step term with the small variance is ½ (SNR_s - SNR_t)(error)² (Kingma et al. 2021, eq. 14); relative."""
    schedule = Tabulated(CosineBetas(), 100)
    s, t = neighbours(rates_over(schedule))
    snr_form = 0.5 * (s.log_snr.exp() - t.log_snr.exp()) * 0.37**2
    return largest(_kls(s, t, Small(), error=0.37) / snr_form.numpy() - 1)


def expected_bound(schedule: Tabulated, data_var: float, log_vars: torch.Tensor) -> float:
    """E[bound] in nats for x_0 ~ N(0, data_var), the ideal denoiser and log-variances (T,), the first the decoder's.

    Every term is quadratic, so its expectation is that over x_0 = ±sqrt(data_var) and eps = ±1.
    """
    r = rates_over(schedule)
    std = math.sqrt(data_var)
    x0 = torch.tensor([std, std, -std, -std], dtype=torch.float64)[None, :]
    eps = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)[None, :]
    a, sigma = r.alpha[:, None], r.sigma[:, None]
    x_t = a * x0 + sigma * eps
    guess = a * data_var / (a**2 * data_var + sigma**2) * x_t
    s, t = neighbours(r)
    q, mean = (posterior(x[1:], x_t[1:], s=s, t=t) for x in (x0.expand_as(guess), guess))
    steps = q.kl(Gaussian(mean.mean, log_vars[1:, None])).mean(1).sum()
    decoder = -Gaussian(guess[:1], log_vars[:1, None]).log_prob(x0).mean()
    prior = marginal(x0, r_last(r)).kl(schedule.prior).mean()
    return float(steps + decoder + prior)


def r_last(r: Rates) -> Rates:
    """The noisiest of some rates."""
    return Rates(r.t[-1], r.alpha[-1], r.sigma[-1])


def log_variances_of(schedule: Tabulated, kind: str, data_var: float) -> torch.Tensor:
    """Log-variances of all T steps, the first borrowed from the interval before; `optimal` is bt + c1² mmse; (T,)."""
    if kind == "optimal":
        bars = (rates_over(schedule).alpha ** 2).numpy()
        return torch.from_numpy(np.log(oracles.optimal_variances(bars, data_var)))
    r = rates_over(schedule)
    s, t = neighbours(r)
    of_steps = log_variances(s, t)
    first, second = schedule.rates(1 / schedule.steps), schedule.rates(2 / schedule.steps)
    decoder = log_variances(Rates.data(), first, before=second).small
    return torch.cat([decoder[None], of_steps.small if kind == "small" else of_steps.large])


def excess(kind: str, data_var: float) -> float:
    """E[bound] - entropy in nats."""
    schedule = Tabulated()
    entropy = 0.5 * math.log(2 * math.pi * math.e * data_var)
    return expected_bound(schedule, data_var, log_variances_of(schedule, kind, data_var)) - entropy


def tightness(data_var: float) -> float:
    """|E[bound] - entropy - KL(q(x_T) || N(0, 1))| with the optimal variance."""
    spread = LINEAR[-1] * (data_var - 1)
    return abs(excess("optimal", data_var) - 0.5 * (spread - math.log1p(spread)))


def nine_levels() -> oracles.LevelChain:
    """The chain of three steps over nine grey levels, small enough to integrate."""
    bars = oracles.alpha_bar(np.array([0.1, 0.3, 0.6]))
    small = oracles.small_variances(bars)
    variances = np.concatenate([small[1:2], small[1:]])
    weights = np.array([1.0, 2, 3, 1, 1, 1, 4, 2, 1])
    return oracles.LevelChain(bars, np.linspace(-1, 1, 9), weights, variances, np.linspace(-9, 9, 1201))


def brute_force() -> float:
    """Largest error of -log2 p and of its bound against the printed tables, in bits."""
    chain = nine_levels()
    return worst(largest(chain.exact_bits() - EXACT_BITS), largest(chain.bound_bits() - BOUND_BITS))


def total_probability() -> float:
    """|Σ p - 1| over the nine levels."""
    return abs(float((2.0 ** -nine_levels().exact_bits()).sum()) - 1)


def bound_holds() -> float:
    """The least of bound - exact over the nine levels, negated: above 0 the bound would be none."""
    chain = nine_levels()
    return float((chain.exact_bits() - chain.bound_bits()).max())


CHECKS = (
    Check("bound[prior term]", proves(prior_bits), Near(2.91129e-5, 6e-11), prior_bits),
    Check("bound[prior terms, short table]", proves(prior_terms), AtMost(1e-12), prior_terms),
    *(
        # the oracle's terms are small differences of numbers near 1: six digits less in the linear table
        Check(
            f"bound[step terms, {type(variance).__name__.lower()}, {where}]",
            proves(step_terms),
            AtMost(1e-8),
            partial(step_terms, schedule, variance),
        )
        for where, schedule in (("linear table", Tabulated()), ("cosine table", Tabulated(CosineBetas(), 100)))
        for variance in (Small(), Large())
    ),
    Check("bound[step terms as differences of snr]", proves(three_forms), AtMost(1e-11), three_forms),
    *(
        # sums of a thousand terms that span eight decades
        Check(
            f"bound[gaussian tightness, L={data_var:g}]",
            "with the optimal variance the bound exceeds the entropy by KL(q(x_T) || N(0, 1)) alone (Bao 2022)",
            AtMost(1e-9),
            partial(tightness, data_var),
        )
        for data_var in (0.25, 1.0, 4.0)
    ),
    *(
        Check(
            f"bound[excess of {kind}, L={data_var:g}]",
            "nats above the entropy with a fixed variance, as calculated elsewhere to six decimals (Ho 2020)",
            Near(value, 1e-6),
            partial(excess, kind, data_var),
        )
        for (kind, data_var), (_, value) in EXCESS.items()
    ),
    Check("bound[brute force, nine levels]", proves(brute_force), AtMost(1e-3), brute_force),
    Check("bound[brute force, total probability]", proves(total_probability), AtMost(1e-12), total_probability),
    Check("bound[brute force, bound above exact]", proves(bound_holds), AtMost(0), bound_holds),
)
