"""Data laws for which the best possible denoiser is known exactly.

With x_t = a x_0 + s e, e ~ N(0, I), the quantities of every law are bound together by

    D(x) = E[x_0 | x_t = x];   score(x) = ∇ log p_t(x) = (a D(x) − x)/s²;   eps(x) = −s score(x);   v(x) = a eps − s D.

The first relation is Tweedie's (Robbins 1956; Efron 2011), v is Salimans & Ho 2022. No trained model has a smaller
expected squared error than D over the true law. `alpha` and `sigma` are numbers or arrays (B,), one level per example;
`x` is (B, *shape). NumPy only, float64.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["DatasetOracle", "Floor", "GaussianOracle", "MixtureOracle", "Oracle", "noise_floor"]

Array = NDArray[np.float64]


class Oracle(ABC):
    """A law of x_0 with examples of shape `shape`, and what an ideal network would answer."""

    shape: tuple[int, ...]

    @abstractmethod
    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Draw x_0: (count, *shape)."""

    @abstractmethod
    def log_p(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """Log-density of x_t in nats: (B,)."""

    @abstractmethod
    def denoiser(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """D(x) = E[x_0 | x_t = x]: (B, *shape)."""

    @abstractmethod
    def score(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """∇ log p_t(x): (B, *shape)."""

    @abstractmethod
    def posterior_variance(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """E[|x_0 − D(x)|² | x_t = x], summed over the dimensions: (B,)."""

    def eps(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """E[e | x_t = x] = −s score: (B, *shape)."""
        score = self.score(x, alpha, sigma)
        return -_per_example(sigma, score.ndim) * score

    def velocity(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """E[a e − s x_0 | x_t = x]: (B, *shape)."""
        denoised = self.denoiser(x, alpha, sigma)
        a, s = (_per_example(value, denoised.ndim) for value in (alpha, sigma))
        return a * self.eps(x, alpha, sigma) - s * denoised


def _per_example(value: ArrayLike, ndim: int) -> Array:
    """A number, or (B,), so that it broadcasts against (B, …) of `ndim` axes."""
    array = np.asarray(value, np.float64)
    return array.reshape(array.shape + (1,) * (ndim - 1)) if array.ndim else array


def _log_sum_exp(logits: Array) -> Array:
    """log Σ_k exp(logits[:, k]) without overflow: (B, K) → (B,)."""
    top = logits.max(axis=1)
    return top + np.log(np.exp(logits - top[:, None]).sum(axis=1))


class GaussianOracle(Oracle):
    """x_0 ~ N(mean, cov). With S = a² C + s² I everything is linear in x.

    `mean` has the shape of an example, with d values; `cov` is (d, d), or (d,) for independent dimensions. All formulas
    are evaluated in the eigenbasis of C, C = Q diag(L) Q', where S is diagonal: exact matrix roots at no cost.
    """

    def __init__(self, mean: ArrayLike, cov: ArrayLike) -> None:
        mean = np.asarray(mean, np.float64)
        cov = np.asarray(cov, np.float64)
        self.shape = mean.shape
        self.mean = mean.reshape(-1)
        self.cov = np.diag(cov) if cov.ndim == 1 else cov
        eigenvalues, self.axes = np.linalg.eigh(self.cov)
        self.eigenvalues = np.maximum(eigenvalues, 0.0)  # a singular C may come out at -1e-17

    def _centred(self, x: ArrayLike, alpha: ArrayLike) -> Array:
        """Q'(x − a m): (B, d)."""
        flat = np.asarray(x, np.float64)
        flat = flat.reshape(len(flat), -1)
        return (flat - _per_example(alpha, 2) * self.mean) @ self.axes

    def _spread(self, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """Eigenvalues of S = a² C + s² I: (d,) or (B, d)."""
        return _per_example(alpha, 2) ** 2 * self.eigenvalues + _per_example(sigma, 2) ** 2

    def _restored(self, coordinates: Array) -> Array:
        return (coordinates @ self.axes.T).reshape(-1, *self.shape)

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """m + Q L^(1/2) z."""
        z = rng.standard_normal((count, self.mean.size))
        return self._restored(z * np.sqrt(self.eigenvalues)) + self.mean.reshape(self.shape)

    def log_p(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """−½ (x − a m)' S⁻¹ (x − a m) − ½ log det(2π S)."""
        spread = self._spread(alpha, sigma)
        return -0.5 * (self._centred(x, alpha) ** 2 / spread + np.log(2 * math.pi * spread)).sum(axis=1)

    def nll(self, x: ArrayLike) -> Array:
        """−log p of clean data, in nats: (B,)."""
        return -self.log_p(x, 1.0, 0.0)

    def entropy(self) -> float:
        """½ log det(2πe C), in nats."""
        return float(0.5 * np.log(2 * math.pi * math.e * self.eigenvalues).sum())

    def denoiser(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """D = m + a C S⁻¹ (x − a m)."""
        gain = _per_example(alpha, 2) * self.eigenvalues / self._spread(alpha, sigma)
        return self._restored(gain * self._centred(x, alpha)) + self.mean.reshape(self.shape)

    def score(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """−S⁻¹ (x − a m)."""
        return -self._restored(self._centred(x, alpha) / self._spread(alpha, sigma))

    def mmse(self, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """Variance of x_0 given x_t along each axis, s² L/(a² L + s²): (d,) or (B, d), in ascending L."""
        return _per_example(sigma, 2) ** 2 * self.eigenvalues / self._spread(alpha, sigma)

    def noise_loss(self, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """Smallest E(eps_hat − e)² along each axis, a² L/(a² L + s²): (d,) or (B, d). Its mean is the loss floor."""
        return _per_example(alpha, 2) ** 2 * self.eigenvalues / self._spread(alpha, sigma)

    def posterior_variance(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """Σ_i mmse_i, the same for every x."""
        return np.broadcast_to(self.mmse(alpha, sigma).sum(axis=-1), (len(np.asarray(x)),)).copy()

    def flow(
        self, x: ArrayLike, *, alpha: ArrayLike, sigma: ArrayLike, to_alpha: ArrayLike, to_sigma: ArrayLike
    ) -> Array:
        """Probability-flow map from level (alpha, sigma) to another: a_u m + S_u^(1/2) S_t^(−1/2) (x − a_t m).

        Both roots share their axes, so this is the solution of the ODE, not merely a map between the two laws.
        """
        stretch = np.sqrt(self._spread(to_alpha, to_sigma) / self._spread(alpha, sigma))
        moved = (stretch * self._centred(x, alpha)) @ self.axes.T + _per_example(to_alpha, 2) * self.mean
        return moved.reshape(-1, *self.shape)


class MixtureOracle(Oracle):
    """x_0 ~ Σ_k w_k N(m_k, C_k); the component can stand for a class.

    With r_k = p(k | x_t):  D = Σ r_k D_k,  score = Σ r_k score_k. `given(k)` is the class-conditional law, whence
    guided scores (1 + g) score_k − g score; `responsibilities(x, 1, 0)` is the true p(class | x_0).
    """

    def __init__(self, weights: ArrayLike, means: ArrayLike, covs: ArrayLike) -> None:
        weights = np.asarray(weights, np.float64)
        self.weights = weights / weights.sum()
        self.components = [GaussianOracle(m, c) for m, c in zip(np.asarray(means), np.asarray(covs), strict=True)]
        self.shape = self.components[0].shape

    def given(self, component: int) -> GaussianOracle:
        """The law of x_0 given its component."""
        return self.components[component]

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Draw components, then points."""
        chosen = rng.choice(len(self.weights), size=count, p=self.weights)
        each = np.stack([component.sample(count, rng) for component in self.components])
        return each[chosen, np.arange(count)]

    def _joint_log_p(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        each = np.stack([component.log_p(x, alpha, sigma) for component in self.components], axis=1)
        return each + np.log(self.weights)

    def log_p(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """log Σ_k w_k N(x; a m_k, a² C_k + s² I)."""
        return _log_sum_exp(self._joint_log_p(x, alpha, sigma))

    def responsibilities(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """p(k | x_t = x), proportional to w_k N(x; a m_k, a² C_k + s² I): (B, K)."""
        joint = self._joint_log_p(x, alpha, sigma)
        return np.asarray(np.exp(joint - _log_sum_exp(joint)[:, None]))

    def denoiser(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """Σ_k r_k D_k(x)."""
        each = np.stack([component.denoiser(x, alpha, sigma) for component in self.components], axis=1)
        return np.einsum("bk,bk...->b...", self.responsibilities(x, alpha, sigma), each)

    def score(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """Σ_k r_k score_k(x)."""
        each = np.stack([component.score(x, alpha, sigma) for component in self.components], axis=1)
        return np.einsum("bk,bk...->b...", self.responsibilities(x, alpha, sigma), each)

    def posterior_variance(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """Within plus between the components: Σ_k r_k (var_k + |D_k − D|²)."""
        r = self.responsibilities(x, alpha, sigma)
        denoised = self.denoiser(x, alpha, sigma)
        total = np.zeros(len(r))
        for k, component in enumerate(self.components):
            apart = (component.denoiser(x, alpha, sigma) - denoised).reshape(len(r), -1)
            total += r[:, k] * (component.posterior_variance(x, alpha, sigma) + (apart**2).sum(axis=1))
        return total


class DatasetOracle(Oracle):
    """x_0 is one of N given points with given weights: the law that a training set itself defines. Needs sigma > 0.

    D = Σ_k r_k x_k with logits −|x − a x_k|²/(2 s²) + log w_k. For one point D is that point, whatever x is.
    """

    def __init__(self, points: ArrayLike, weights: ArrayLike | None = None) -> None:
        points = np.asarray(points, np.float64)
        self.shape = points.shape[1:]
        self.points = points.reshape(len(points), -1)
        chances = np.ones(len(points)) if weights is None else np.asarray(weights, np.float64)
        self.weights = chances / chances.sum()

    def _logits(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        flat = np.asarray(x, np.float64)
        flat = flat.reshape(len(flat), -1)
        a, s = _per_example(alpha, 2), _per_example(sigma, 2)
        inner = flat @ self.points.T
        squares = (flat**2).sum(axis=1)[:, None] - 2 * a * inner + a**2 * (self.points**2).sum(axis=1)
        return np.asarray(-squares / (2 * s**2) + np.log(self.weights))

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Draw points with replacement."""
        return self.points[rng.choice(len(self.points), size=count, p=self.weights)].reshape(count, *self.shape)

    def log_p(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """log Σ_k w_k N(x; a x_k, s² I)."""
        logits = self._logits(x, alpha, sigma)
        scale = np.log(2 * math.pi * np.asarray(sigma, np.float64) ** 2)
        return _log_sum_exp(logits) - 0.5 * self.points.shape[1] * scale

    def responsibilities(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """p(point k | x_t = x): (B, N)."""
        logits = self._logits(x, alpha, sigma)
        return np.asarray(np.exp(logits - _log_sum_exp(logits)[:, None]))

    def denoiser(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """Weighted mean of the points."""
        return (self.responsibilities(x, alpha, sigma) @ self.points).reshape(-1, *self.shape)

    def score(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """(a D − x)/s²."""
        noisy = np.asarray(x, np.float64)
        a, s = _per_example(alpha, noisy.ndim), _per_example(sigma, noisy.ndim)
        return np.asarray((a * self.denoiser(x, alpha, sigma) - noisy) / s**2)

    def posterior_variance(self, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """Σ_k r_k |x_k|² − |D|²."""
        r = self.responsibilities(x, alpha, sigma)
        return np.asarray(r @ (self.points**2).sum(axis=1) - ((r @ self.points) ** 2).sum(axis=1))


@dataclass(frozen=True, slots=True)
class Floor:
    """A Monte-Carlo estimate of the smallest attainable loss, with its standard error."""

    value: float
    std_error: float


def noise_floor(oracle: Oracle, alpha: ArrayLike, sigma: ArrayLike, *, count: int, rng: np.random.Generator) -> Floor:
    """Smallest possible mean of (eps_hat − e)² per dimension, averaged over the levels `alpha`, `sigma` (T,).

    e − eps*(x_t) = −(a/s)(x_0 − D), so the floor at one level is (a/s)² E[posterior variance]/d. Averaging the
    posterior variance at `count` draws of x_t per level, not the squared error itself, removes most of the scatter.
    """
    alphas, sigmas = np.atleast_1d(np.asarray(alpha, np.float64)), np.atleast_1d(np.asarray(sigma, np.float64))
    dimensions = math.prod(oracle.shape)
    means, variances = [], []
    for a, s in zip(alphas, sigmas, strict=True):
        x0 = oracle.sample(count, rng)
        x = a * x0 + s * rng.standard_normal(x0.shape)
        loss = (a / s) ** 2 * oracle.posterior_variance(x, a, s) / dimensions
        means.append(loss.mean())
        variances.append(loss.var(ddof=1) / count)
    return Floor(value=float(np.mean(means)), std_error=float(np.sqrt(np.sum(variances)) / len(means)))
