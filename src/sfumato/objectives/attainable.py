"""The smallest loss that any network can reach on a finite data set.

Given N points x_j, the best answer to x_t = alpha x_0 + sigma eps is their posterior mean,

    D(x_t) = Σ_j r_j x_j,   r = softmax_j( -|x_t - alpha x_j|² / (2 sigma²) ),

and eps* = (x_t - alpha D)/sigma. As eps - eps* = (alpha/sigma)(D - x_0), the smallest mean squared error of eps is

    E|eps - eps*|² = (alpha/sigma)² E[ Σ_j r_j |x_j|² - |D|² ],

the posterior variance at random x_t, whose scatter is a small part of that of the squared error itself. A weighting
multiplies it per level. A network at this loss has learned its training points by heart at low noise, and can go no
lower on them; examples held out may lie on either side.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfumato.core import (
    LogNormalTimes,
    Parameterization,
    Rates,
    Schedule,
    TimeDraw,
    Times,
    UniformTimes,
    batch_noise,
    derived_generator,
)
from sfumato.errors import ConfigError, DataError
from sfumato.objectives.denoising import DenoisingLoss, Mse
from sfumato.objectives.weightings import Weighting

__all__ = [
    "AttainableLoss",
    "attainable_loss",
    "attainable_noise_loss",
    "least_losses",
    "levels_of",
    "noise_weights",
    "posterior_mean",
]

CHUNK = 1 << 19  # pairs of a noisy example and a point at once


@dataclass(frozen=True, slots=True, eq=False)
class AttainableLoss:
    """The smallest loss, its standard error, and where it comes from.

    value: mean over the levels, weights included.
    std_error: of the value, over the draws of each level.
    draws: draws of x_t in all.
    t: (K,) times of the levels, increasing.
    by_level: (K,) the weighted loss of each, whose mean is the value.
    """

    value: float
    std_error: float
    draws: int
    t: Tensor
    by_level: Tensor


def posterior_mean(points: Tensor, x_t: Tensor, r: Rates) -> Tensor:
    """D(x_t) for points (N, *) and x_t (B, *) at one level; float64, shaped as x_t."""
    centres = points.flatten(1).double()
    found = [weights @ centres for weights in _responsibilities(centres, x_t.flatten(1).double(), r)]
    return torch.cat(found).reshape(x_t.shape)


def least_losses(points: Tensor, x_t: Tensor, r: Rates) -> Tensor:
    """(alpha/sigma)² times the posterior variance, mean over elements, at each x_t (B, *) of one level: (B,) float64.

    Its expectation over x_t is the smallest E|eps_hat - eps|² per element.
    """
    centres = points.flatten(1).double()
    squares = centres.square().sum(1)
    found = [
        weights @ squares - (weights @ centres).square().sum(1)
        for weights in _responsibilities(centres, x_t.flatten(1).double(), r)
    ]
    scale = float((r.alpha / r.sigma) ** 2) / centres.shape[1]
    return scale * torch.cat(found).clamp(min=0)  # below 0 by rounding alone, where a single point is left


def _responsibilities(centres: Tensor, x_t: Tensor, r: Rates) -> Iterable[Tensor]:
    """r_j for parts of x_t (B, D): (b, N) each."""
    a, variance = float(r.alpha), float(r.sigma) ** 2
    constant = -(a**2) * centres.square().sum(1) / (2 * variance)
    for part in x_t.split(max(1, CHUNK // len(centres))):
        yield torch.addmm(constant, part, centres.T, alpha=a / variance).softmax(dim=1)


def attainable_noise_loss(
    points: Tensor, schedule: Schedule, t: Tensor, *, draws: int, seed: int, weights: Tensor | None = None
) -> AttainableLoss:
    """The smallest mean of weight · |eps_hat - eps|² per element over the levels t (K,), `draws` of x_t for each.

    L_simple is all weights 1. points (N, *) in model units; the draws of a level go through the points in turn.
    """
    centres = points.flatten(1).double().cpu()
    if not bool(centres.isfinite().all()):
        raise DataError("some points are not finite", expected="finite points", fix="check the data")
    factor = torch.ones_like(t) if weights is None else weights
    means, variances = [], []
    for level, (moment, weight) in enumerate(zip(t, factor, strict=True)):
        r = schedule.rates(moment)
        chosen = (level * draws + torch.arange(draws)) % len(centres)
        eps = batch_noise((draws, centres.shape[1]), seed, "attainable", level).double()
        losses = weight * least_losses(centres, r.alpha * centres[chosen] + r.sigma * eps, r)
        means.append(losses.mean())
        variances.append(losses.var(correction=1) / draws)
    by_level = torch.stack(means)
    std_error = math.sqrt(float(torch.stack(variances).sum())) / len(t)
    return AttainableLoss(float(by_level.mean()), std_error, draws * len(t), t, by_level)


def attainable_loss(
    points: Tensor,
    objective: DenoisingLoss,
    *,
    schedule: Schedule,
    parameterization: Parameterization,
    times: Times,
    data_std: float,
    seed: int,
    levels: int = 128,
    draws: int = 64,
) -> AttainableLoss:
    """The smallest value of a denoising objective on points (N, *): the integral over t that training approaches.

    For times in a continuum `levels` of them are drawn, one per stratum; otherwise every step of the table counts once.
    Raises ConfigError for a distance other than the squared error, whose optimum is no posterior mean.
    """
    if not isinstance(objective.distance, Mse):
        raise ConfigError(
            f"the smallest loss under the distance {type(objective.distance).__name__} is not known in closed form",
            expected="the squared error",
            fix="set objective.distance: mse, or leave out the attainable loss",
        )
    drawn = levels_of(schedule, times, levels, seed)
    order = drawn.t.argsort()
    t, inv_density = drawn.t[order], drawn.inv_density[order]
    weights = inv_density * noise_weights(objective.weighting, schedule.rates(t), schedule, parameterization, data_std)
    return attainable_noise_loss(points, schedule, t, draws=draws, seed=seed, weights=weights)


def levels_of(schedule: Schedule, times: Times, count: int, seed: int) -> TimeDraw:
    """Times and 1/density whose weighted mean is the objective's integral; how training draws is no matter."""
    if schedule.num_steps is not None and not isinstance(times, UniformTimes | LogNormalTimes):
        grid = torch.arange(1, schedule.num_steps + 1, dtype=torch.float64) / schedule.num_steps
        return TimeDraw(grid, torch.ones_like(grid))
    even = replace(times, spread="stratified") if isinstance(times, UniformTimes | LogNormalTimes) else UniformTimes()
    return even.draw(schedule, count, derived_generator(seed, "attainable times"))


def noise_weights(
    weighting: Weighting, r: Rates, schedule: Schedule, parameterization: Parameterization, data_std: float
) -> Tensor:
    """The weight on |eps_hat - eps|²: the factor on the output's error over gain²; float64, shaped as r.t."""
    return weighting.output_factor(r, schedule, parameterization, data_std) / parameterization.gain(r, data_std) ** 2
