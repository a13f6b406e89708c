"""The variational bound of a T-step chain, in closed form for Gaussian data and by quadrature for a few levels.

    −log p(x_0) ≤ KL(q(x_T | x_0) ‖ N(0, 1)) + Σ_{t ≥ 2} KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t)) − log p(x_0 | x_1),

each step with p(x_s | x_t) = N(c1 D(x_t) + c2 x_t, var). Ho et al. 2020, eq. 5. Nats per dimension unless a name says
bits. NumPy only, float64; symbols as in `chains`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfumato.verify.oracles.chains import posterior_coefficients
from sfumato.verify.oracles.worlds import DatasetOracle

__all__ = ["LevelChain", "bound_excess", "prior_kl", "step_kl"]

Array = NDArray[np.float64]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def prior_kl(last_bar: ArrayLike, x0_squared: ArrayLike) -> Array:
    """KL(q(x_T | x_0) ‖ N(0, 1)) = ½ [A x_0² − A − ln(1 − A)], in nats per dimension."""
    bar = np.asarray(last_bar, np.float64)
    return np.asarray(0.5 * (bar * np.asarray(x0_squared) - bar - np.log1p(-bar)))


def step_kl(true_var: ArrayLike, var: ArrayLike, mean_error_squared: ArrayLike) -> Array:
    """KL of two normals: ½ [bt/var − 1 + ln(var/bt) + (difference of the means)²/var], in nats."""
    true, ours = np.asarray(true_var, np.float64), np.asarray(var, np.float64)
    return np.asarray(0.5 * (true / ours - 1 + np.log(ours / true) + np.asarray(mean_error_squared) / ours))


def bound_excess(bars: Array, data_var: float, variances: Array) -> float:
    """E[bound] − entropy for x_0 ~ N(0, data_var), the ideal denoiser and step variances (T,), in nats per dimension.

    The first step is scored by the density of N(D(x_1), variances[0]). With `optimal_variances` the excess is
    KL(q(x_T) ‖ N(0, 1)) alone: the bound is tight.
    """
    c = posterior_coefficients(bars)
    mmse = (1 - bars) * data_var / (bars * data_var + 1 - bars)
    steps = step_kl(c.variance[1:], variances[1:], c.on_x0[1:] ** 2 * mmse[1:]).sum()
    decoder = 0.5 * (math.log(2 * math.pi * variances[0]) + mmse[0] / variances[0])
    entropy = 0.5 * math.log(2 * math.pi * math.e * data_var)
    return float(prior_kl(bars[-1], data_var) + steps + decoder - entropy)


@dataclass(frozen=True)
class LevelChain:
    """A one-dimensional chain over a few equally spaced grey levels, small enough to integrate numerically.

    `levels` (K,) with `weights` (K,) are the data; the denoiser is their posterior mean; `variances` (T,) are the step
    variances, the first that of the decoder, a normal integrated over each level's bin, the outer bins open-ended (Ho
    et al. 2020, eq. 13). Integrals are sums over `grid`, evenly spaced points that cover all the mass (the trapezium
    rule, exact to rounding for such smooth integrands).
    """

    bars: Array
    levels: Array
    weights: Array
    variances: Array
    grid: Array

    def _denoised(self, i: int) -> Array:
        oracle = DatasetOracle(self.levels[:, None], self.weights)
        bar = self.bars[i]
        return oracle.denoiser(self.grid[:, None], math.sqrt(bar), math.sqrt(1 - bar))[:, 0]

    def _decoder(self) -> Array:
        """P(level | x_1): (grid, K)."""
        edges = (self.levels[1:] + self.levels[:-1]) / 2
        z = (edges[None, :] - self._denoised(0)[:, None]) / math.sqrt(2 * self.variances[0])
        below = np.concatenate([np.zeros((len(z), 1)), 0.5 * (1 + _erf(z)), np.ones((len(z), 1))], axis=1)
        return np.diff(below, axis=1)

    def _normal(self, mean: Array, var: float) -> Array:
        """N(grid; mean, var) times the spacing of the grid: (means, grid)."""
        spacing = self.grid[1] - self.grid[0]
        z2 = (self.grid[None, :] - mean[:, None]) ** 2 / var
        return np.asarray(np.exp(-0.5 * z2) / math.sqrt(2 * math.pi * var) * spacing)

    def exact_bits(self) -> Array:
        """−log2 p(level) of the model, integrating every x_t in turn from x_T ~ N(0, 1): (K,)."""
        c = posterior_coefficients(self.bars)
        mass = self._normal(np.zeros(1), 1.0)[0]
        for i in range(len(self.bars) - 1, 0, -1):
            means = c.on_x0[i] * self._denoised(i) + c.on_x_t[i] * self.grid
            mass = mass @ self._normal(means, self.variances[i])
        return -np.log2(mass @ self._decoder())

    def bound_bits(self) -> Array:
        """The variational bound on `exact_bits`, with exact expectations over q: (K,)."""
        c = posterior_coefficients(self.bars)
        total = prior_kl(self.bars[-1], self.levels**2)
        for i in range(1, len(self.bars)):
            q = self._normal(math.sqrt(self.bars[i]) * self.levels, 1 - self.bars[i])
            error = c.on_x0[i] * (self.levels[:, None] - self._denoised(i)[None, :])
            total = total + (q * step_kl(c.variance[i], self.variances[i], error**2)).sum(axis=1)
        q = self._normal(math.sqrt(self.bars[0]) * self.levels, 1 - self.bars[0])
        # Far from a level its bin has probability 0 in floating point, and q has none there either.
        log_decoder = np.log(np.maximum(self._decoder(), np.finfo(np.float64).tiny))
        total = total - (q * log_decoder.T).sum(axis=1)
        return np.asarray(total / math.log(2))
