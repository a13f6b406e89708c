"""What measurements and labels say of data, exactly: posteriors of Gaussians, classes of mixtures, distances of laws.

For x_0 ~ N(m, C) and y = A x_0 + s n with n ~ N(0, I),

    x_0 | y ~ N(m + K (y − A m), C − K A C),    K = C A' (A C A' + s² I)⁺

and x_t depends on y through x_0 alone, so that the ideal denoiser given y is that of this law. NumPy only, float64.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfumato.verify.oracles.worlds import GaussianOracle, MixtureOracle

__all__ = ["among", "gaussian_distance", "guided_score", "log_share", "posterior"]

Array = NDArray[np.float64]
SINGULAR = 1e-10  # share of the largest eigenvalue below which a direction was not measured


def posterior(law: GaussianOracle, matrix: ArrayLike, y: ArrayLike, noise_std: float) -> GaussianOracle:
    """The law of x_0 given y = A x_0 + noise_std n; `matrix` A (M, D), y with M values. Measurements may repeat."""
    a = np.asarray(matrix, np.float64)
    seen = a @ law.cov @ a.T + noise_std**2 * np.eye(len(a))
    gain = law.cov @ a.T @ np.linalg.pinv(seen, rcond=SINGULAR, hermitian=True)
    mean = law.mean + gain @ (np.asarray(y, np.float64).reshape(-1) - a @ law.mean)
    left = law.cov - gain @ a @ law.cov
    return GaussianOracle(mean.reshape(law.shape), (left + left.T) / 2)


def gaussian_distance(mean: Array, cov: Array, other_mean: Array, other_cov: Array) -> float:
    """Wasserstein-2 distance of two Gaussians: |m − m'|² + tr(C + C' − 2 (C^½ C' C^½)^½), its root.

    Dowson & Landau 1982; Gelbrich 1990.
    """
    root = _root(cov)
    shared = np.trace(cov + other_cov - 2 * _root(root @ other_cov @ root))
    return float(np.sqrt(max(((mean - other_mean) ** 2).sum() + shared, 0.0)))


def _root(cov: Array) -> Array:
    """The symmetric root of a covariance."""
    values, axes = np.linalg.eigh(cov)
    return np.asarray((axes * np.sqrt(np.maximum(values, 0))) @ axes.T)


def among(law: MixtureOracle, components: tuple[int, ...]) -> MixtureOracle:
    """The law of x_0 given that its component is one of these: a class made of several components."""
    chosen = [law.components[k] for k in components]
    means, covs = [c.mean.reshape(law.shape) for c in chosen], [c.cov for c in chosen]
    return MixtureOracle(law.weights[list(components)], means, covs)


def log_share(
    law: MixtureOracle, components: tuple[int, ...], x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike
) -> Array:
    """log p(component among these | x_t = x): what an ideal classifier of noisy data says; (B,)."""
    return np.asarray(np.log(law.responsibilities(x, alpha, sigma)[:, list(components)].sum(axis=1)))


def guided_score(
    law: MixtureOracle,
    components: tuple[int, ...],
    weight: ArrayLike,
    x: ArrayLike,
    alpha: ArrayLike,
    sigma: ArrayLike,
) -> Array:
    """score + w ∇ log p(class | x_t), the class being these components; w a number or (B,): (B, *).

    ∇ log p(class | x) = Σ_(k in class) q_k score_k − score with q_k = p(k | class, x).
    """
    shares = law.responsibilities(x, alpha, sigma)[:, list(components)]
    each = np.stack([law.components[k].score(x, alpha, sigma) for k in components], axis=1)
    inside = np.einsum("bk,bk...->b...", shares / shares.sum(axis=1, keepdims=True), each)
    whole = law.score(x, alpha, sigma)
    w = np.asarray(weight, np.float64)
    return np.asarray(whole + w.reshape(w.shape + (1,) * (whole.ndim - 1 if w.ndim else 0)) * (inside - whole))
