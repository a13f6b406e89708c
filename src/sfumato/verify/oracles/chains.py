"""The T-step chain from its alpha-bar alone: tables, posterior coefficients, the exact output of a sampler.

Index i = 0 … T−1 stands for "after i + 1 steps"; P is the alpha-bar of the step before, 1 at i = 0. With A = alpha-bar,
al = A/P and b = 1 − al (Ho et al. 2020, eq. 6, 7):

    q(x_s | x_t, x_0) = N(c1 x_0 + c2 x_t, bt),   c1 = b √P/(1−A),   c2 = (1−P) √al/(1−A),   bt = b (1−P)/(1−A).

Any decreasing alpha-bar will do, so a respaced chain is the same code on fewer entries. NumPy only, float64.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "PosteriorCoefficients",
    "alpha_bar",
    "constant_betas",
    "cosine_betas",
    "ddim_chain_variance",
    "jsd_betas",
    "large_variances",
    "linear_betas",
    "optimal_variances",
    "posterior_coefficients",
    "quadratic_betas",
    "reverse_chain_variance",
    "sigmoid_betas",
    "small_variances",
    "warmup_betas",
]

Array = NDArray[np.float64]


# Tables. `first` and `last` are used as given: rescaling by 1000/T is the caller's affair.


def linear_betas(steps: int, first: float = 1e-4, last: float = 0.02) -> Array:
    """linspace(first, last). Ho et al. 2020, section 4."""
    return np.linspace(first, last, steps)


def quadratic_betas(steps: int, first: float = 1e-4, last: float = 0.02) -> Array:
    """linspace(√first, √last)². Ho et al. 2020 (code, "quad")."""
    return np.asarray(np.linspace(first**0.5, last**0.5, steps) ** 2)


def sigmoid_betas(steps: int, first: float = 1e-5, last: float = 1e-2) -> Array:
    """first + (last − first) / (1 + exp(−linspace(−6, 6))). esling."""
    return first + (last - first) / (1 + np.exp(-np.linspace(-6, 6, steps)))


def constant_betas(steps: int, value: float) -> Array:
    """The same variance at every step. Ho et al. 2020 (code, "const")."""
    return np.full(steps, value)


def cosine_betas(steps: int, offset: float = 0.008, largest: float = 0.999) -> Array:
    """alpha-bar = f(k/T)/f(0) with f(u) = cos²((u + offset)/(1 + offset) π/2), no beta above `largest`.

    Nichol & Dhariwal 2021, eq. 17.
    """
    u = np.arange(steps + 1) / steps
    f = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.minimum(1 - f[1:] / f[:-1], largest)


def jsd_betas(steps: int) -> Array:
    """1/(T − k + 1) for k = 1 … T; the last is 1. Sohl-Dickstein et al. 2015; Ho et al. 2020 (code, "jsd")."""
    return 1 / np.arange(steps, 0, -1, dtype=np.float64)


def warmup_betas(steps: int, first: float, last: float, fraction: float) -> Array:
    """`last` throughout, but linspace(first, last) over the first `fraction` of the steps. Ho et al. 2020 (code)."""
    betas = np.full(steps, last)
    rising = int(steps * fraction)
    betas[:rising] = np.linspace(first, last, rising)
    return betas


def alpha_bar(betas: Array) -> Array:
    """Π_{j ≤ i} (1 − b_j): (T,)."""
    return np.asarray(np.cumprod(1 - betas), np.float64)


# Coefficients and variances.


@dataclass(frozen=True, slots=True)
class PosteriorCoefficients:
    """q(x_s | x_t, x_0) = N(on_x0 · x_0 + on_x_t · x_t, variance), each (T,)."""

    on_x0: Array
    on_x_t: Array
    variance: Array


def _before(bars: Array) -> Array:
    """alpha-bar one step earlier, 1 before the first."""
    return np.concatenate([[1.0], bars[:-1]])


def posterior_coefficients(bars: Array) -> PosteriorCoefficients:
    """c1, c2 and bt of every step; at the first step (1, 0, 0). Ho et al. 2020, eq. 7."""
    before = _before(bars)
    keep = bars / before
    beta = 1 - keep
    return PosteriorCoefficients(
        on_x0=beta * np.sqrt(before) / (1 - bars),
        on_x_t=(1 - before) * np.sqrt(keep) / (1 - bars),
        variance=beta * (1 - before) / (1 - bars),
    )


def large_variances(bars: Array) -> Array:
    """b, the variance of q(x_t | x_s): optimal when x_0 ~ N(0, I). Ho et al. 2020, section 3.2."""
    return np.asarray(1 - bars / _before(bars))


def small_variances(bars: Array) -> Array:
    """bt, the variance of q(x_s | x_t, x_0): optimal when x_0 is one point; 0 at the first step."""
    return posterior_coefficients(bars).variance


def optimal_variances(bars: Array, data_var: float) -> Array:
    """bt + c1² mmse, the variance of q(x_s | x_t) when x_0 ~ N(0, data_var). Bao et al. 2022, theorem 1."""
    c = posterior_coefficients(bars)
    mmse = (1 - bars) * data_var / (bars * data_var + 1 - bars)
    return np.asarray(c.variance + c.on_x0**2 * mmse)


# What comes out of a sampler that uses the ideal denoiser.


def _run_linear_chain(factors: Array, variances: Array, prior_var: float) -> float:
    """V ← factor² V + variance from the last step to the first, which adds no noise."""
    spread = prior_var
    for i in range(len(factors) - 1, 0, -1):
        spread = factors[i] ** 2 * spread + variances[i]
    return float(factors[0] ** 2 * spread)


def reverse_chain_variance(bars: Array, data_var: float, variances: Array, *, prior_var: float = 1.0) -> float:
    """Variance of what ancestral sampling puts out for x_0 ~ N(0, data_var), with step variances (T,).

    The ideal denoiser is linear, so x_s = R x_t + noise with R = c1 a L/(a² L + s²) + c2. The first entry of
    `variances` is not used: the last step adds no noise.
    """
    c = posterior_coefficients(bars)
    shrink = np.sqrt(bars) * data_var / (bars * data_var + 1 - bars)
    return _run_linear_chain(c.on_x0 * shrink + c.on_x_t, variances, prior_var)


def ddim_chain_variance(bars: Array, data_var: float, *, eta: float, prior_var: float = 1.0) -> float:
    """The same for DDIM: x_s = √P D + √(1 − P − η² bt) eps* + η √bt z. Song et al. 2021, eq. 12 and 16."""
    before = _before(bars)
    variances = eta**2 * small_variances(bars)
    shrink = np.sqrt(bars) * data_var / (bars * data_var + 1 - bars)
    noise = np.sqrt(1 - bars) / (bars * data_var + 1 - bars)
    direction = np.sqrt(np.maximum(1 - before - variances, 0.0))  # below 0 only by rounding, at the last step
    return _run_linear_chain(np.sqrt(before) * shrink + direction * noise, variances, prior_var)
