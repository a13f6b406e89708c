"""Exact answers, in NumPy and float64, written without a look at the rest of sfumato, which is never imported here.

`worlds`: data laws whose ideal denoiser is known (Gaussian, Gaussian mixture, finite data set).
`chains`: tables of betas, coefficients of the T-step chain, the exact law of what a sampler puts out.
`bounds`: variational bounds in closed form and by quadrature.
`flow`: the probability flow of any of these laws, integrated.
`features`: KID, FID and balls of neighbours by their definitions.
`posterior`: Gaussians given a measurement, mixtures given a class, the distance of two Gaussians.

Everything takes pairs (alpha, sigma), or alpha-bar, never times. tests/verify holds each formula to a second route.
"""

from sfumato.verify.oracles.bounds import (
    LevelChain,
    bound_excess,
    prior_kl,
    step_kl,
)
from sfumato.verify.oracles.chains import (
    PosteriorCoefficients,
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
from sfumato.verify.oracles.features import Balls, balls, frechet, kernel_distance, kernel_distance_1d
from sfumato.verify.oracles.flow import probability_flow
from sfumato.verify.oracles.posterior import among, gaussian_distance, guided_score, log_share, posterior
from sfumato.verify.oracles.worlds import (
    DatasetOracle,
    Floor,
    GaussianOracle,
    MixtureOracle,
    Oracle,
    noise_floor,
)

__all__ = [
    "Balls",
    "DatasetOracle",
    "Floor",
    "GaussianOracle",
    "LevelChain",
    "MixtureOracle",
    "Oracle",
    "PosteriorCoefficients",
    "alpha_bar",
    "among",
    "balls",
    "bound_excess",
    "constant_betas",
    "cosine_betas",
    "ddim_chain_variance",
    "frechet",
    "gaussian_distance",
    "guided_score",
    "jsd_betas",
    "kernel_distance",
    "kernel_distance_1d",
    "large_variances",
    "linear_betas",
    "log_share",
    "noise_floor",
    "optimal_variances",
    "posterior",
    "posterior_coefficients",
    "prior_kl",
    "probability_flow",
    "quadratic_betas",
    "reverse_chain_variance",
    "sigmoid_betas",
    "small_variances",
    "step_kl",
    "warmup_betas",
]
