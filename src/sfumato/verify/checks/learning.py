"""What objectives aim at: the bound as a loss, the first paper's bound, and the minimisers of score matching.

Expectations are exact: every loss here is quadratic in data and noise, so their values ±1 stand for N(0, 1).
"""

import itertools
import math
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core import (
    CosineBetas,
    Denoiser,
    GaussianDecoder,
    Large,
    Noise,
    NoiseVarianceInput,
    OneLevel,
    Schedule,
    Score,
    Small,
    StepInput,
    Tabulated,
    Variance,
)
from sfumato.objectives import (
    DenoisingLoss,
    DenoisingScoreMatching,
    Draw,
    ExactScoreMatching,
    Objective,
    SlicedScoreMatching,
    SohlDicksteinBound,
    VariationalBound,
    entropies,
)
from sfumato.verify import oracles
from sfumato.verify.check import AtMost, Check, Near, proves
from sfumato.verify.checks.material import largest, normals, times_over
from sfumato.verify.ideal import IdealNetwork

__all__ = ["CHECKS"]

Array = NDArray[np.float64]
TABLE = Tabulated(CosineBetas(), 100)
BARS = oracles.alpha_bar(oracles.cosine_betas(100))
LEVEL = 0.5
VARS = (0.7, 2.0)  # of two independent dimensions


def mean_loss(objective: Objective, schedule: Schedule, data_var: float) -> float:
    """Mean over all steps of a table of E[loss] for the ideal network of N(0, data_var)."""
    std = math.sqrt(data_var)
    network = IdealNetwork(oracles.GaussianOracle([0.0], [data_var]), data_std=std)
    d = Denoiser(network, schedule, Noise(), time_input=NoiseVarianceInput(), data_std=std)
    t = times_over(schedule)
    ones, total = torch.ones(len(t), 1, dtype=torch.float64), 0.0
    with torch.no_grad():
        for x0, eps in itertools.product((std, -std), (1.0, -1.0)):
            losses = objective(d, x0 * ones, Draw(t, eps * ones, torch.ones_like(t)))
            total += float(losses.values.double().mean()) / 4
    return total


def chain_variances(variance: Variance) -> Array:
    """Variances (T,) of the oracle's chain, the first that of the decoder: sigma_1², or borrowed from step two."""
    small = oracles.small_variances(BARS)
    if isinstance(variance, Large):
        return oracles.large_variances(BARS)
    return np.concatenate([small[1:2], small[1:]])


def counts_density(objective: Objective, schedule: Schedule) -> float:
    """Losses are in proportion to inv_density, without which other times would be another objective; relative."""
    d = Denoiser(
        Shrink(torch.tensor([0.3, 1.0], dtype=torch.float64)),
        schedule,
        Noise(),
        time_input=NoiseVarianceInput(),
        data_std=1.0,
    )
    t, x0, eps = times_over(schedule), *normals(2, len(times_over(schedule)), 2)
    probes = (eps.sign(),) * objective.num_probes
    with torch.no_grad():
        once, thrice = (
            objective(d, x0, Draw(t, eps, torch.full_like(t, weight), probes)).values for weight in (1.0, 3.0)
        )
    return largest(thrice / once - 3)


def bound_as_loss(variance: Variance, data_var: float) -> float:
    """The mean of T L_(t-1) + L_T over all steps against the closed form of the bound, in nats (Ho et al. 2020)."""
    ours = mean_loss(VariationalBound(variance, GaussianDecoder()), TABLE, data_var)
    entropy = 0.5 * math.log(2 * math.pi * math.e * data_var)
    return abs(ours - entropy - oracles.bound_excess(BARS, data_var, chain_variances(variance)))


def first_bound(data_var: float) -> float:
    """-K of Sohl-Dickstein et al. 2015, eq. 14, against the oracle's sum of T - 1 terms and Gaussian entropies."""
    c = oracles.posterior_coefficients(BARS)
    mmse = (1 - BARS) * data_var / (BARS * data_var + 1 - BARS)
    steps = oracles.step_kl(c.variance[1:], c.variance[1:], c.on_x0[1:] ** 2 * mmse[1:]).sum()
    of_entropies = 0.5 * math.log(2 * math.pi * math.e * (1 - BARS[0]) / (1 - BARS[-1]))
    ours = mean_loss(SohlDicksteinBound(Small()), TABLE, data_var)
    return abs(ours - float(steps) - of_entropies)


def three_entropies() -> float:
    """½ log(2 pi e sigma²) after the first and the last step, and for the prior."""
    said = entropies(TABLE)
    of = [0.5 * math.log(2 * math.pi * math.e * var) for var in (1 - BARS[0], 1 - BARS[-1], 1.0)]
    return largest(np.array([float(v) for v in (said.first, said.last, said.prior)]) - np.array(of))


class Shrink(torch.nn.Module):
    """F = -k x, dimension by dimension."""

    def __init__(self, k: Tensor) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
        return -self.k * x


def expected_score_loss(objective: Objective, k: Tensor) -> float:
    """E[loss] of the score -k x for two independent normals of variances VARS, blurred by LEVEL."""
    signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=6)), dtype=torch.float64)
    x0 = signs[:, :2] * torch.tensor(VARS, dtype=torch.float64).sqrt()
    d = Denoiser(Shrink(k), OneLevel(LEVEL), Score(), time_input=StepInput(1), data_std=1.0, allow_terminal_signal=True)
    ones = torch.ones(len(signs), dtype=torch.float64)
    draw = Draw(ones, signs[:, 2:4], ones, (signs[:, 4:],) * objective.num_probes)
    with torch.no_grad():
        return float(objective(d, x0, draw).values.double().mean())


def minimiser(objective: Objective) -> float:
    """Largest relative error of the k of least loss, 1/(L + sigma²): losses are parabolas in k, so three points do."""
    truth = 1 / (np.array(VARS) + LEVEL**2)
    found: list[float] = []
    for i in range(2):
        k = torch.tensor([1.0, 1.0], dtype=torch.float64)
        values = []
        for place in (0.0, 1.0, 2.0):
            k[i] = place
            values.append(expected_score_loss(objective, k))
        low, middle, high = values
        found.append(1 - (high - low) / (2 * (high - 2 * middle + low)))
    return largest(np.array(found) / truth - 1)


def least_loss() -> float:
    """The exact loss of the true score: -½ E|grad log p|² = -½ Σ 1/(L + sigma²) (Hyvärinen 2005)."""
    truth = torch.tensor([1 / (v + LEVEL**2) for v in VARS], dtype=torch.float64)
    return expected_score_loss(ExactScoreMatching(), truth) + 0.5 * float(truth.sum())


def constant_apart() -> float:
    """Denoising minus exact loss is the same for any score: D/(2 sigma²) (Vincent 2011); the largest difference."""
    scores = [torch.tensor(k, dtype=torch.float64) for k in ([0.0, 0.0], [1.0, 0.3], [-2.0, 5.0])]
    apart = [
        expected_score_loss(DenoisingScoreMatching(), k) - expected_score_loss(ExactScoreMatching(), k) for k in scores
    ]
    return largest(np.array(apart) - 2 / (2 * LEVEL**2))


OBJECTIVES: dict[str, Objective] = {
    "exact": ExactScoreMatching(),
    "sliced": SlicedScoreMatching(),
    "sliced, variance reduced": SlicedScoreMatching(variance_reduced=True),
    "denoising": DenoisingScoreMatching(),
}

CHECKS = (
    *(
        # losses are float32 in the mean over float64 terms; sums of a hundred
        Check(
            f"loss[bound, {type(variance).__name__.lower()}, L={data_var:g}]",
            proves(bound_as_loss),
            AtMost(1e-9),
            partial(bound_as_loss, variance, data_var),
        )
        for variance in (Small(), Large())
        for data_var in (0.25, 4.0)
    ),
    *(
        Check(f"loss[bound of 2015, L={v:g}]", proves(first_bound), AtMost(1e-9), partial(first_bound, v))
        for v in (0.25, 1.0)
    ),
    *(
        # a score loss is a difference of two parts, and may be a small share of them
        Check(f"loss[density, {name}]", proves(counts_density), AtMost(1e-9), partial(counts_density, objective, TABLE))
        for name, objective in {
            "denoising": DenoisingLoss(),
            "bound": VariationalBound(Small()),
            "bound of 2015": SohlDicksteinBound(Small()),
            "score matching": SlicedScoreMatching(),
        }.items()
    ),
    Check("loss[entropies of 2015]", proves(three_entropies), AtMost(1e-12), three_entropies),
    *(
        Check(f"score matching[{name}]", proves(minimiser), AtMost(1e-9), partial(minimiser, objective))
        for name, objective in OBJECTIVES.items()
    ),
    Check("score matching[least loss]", proves(least_loss), Near(0, 1e-12), least_loss),
    Check("score matching[denoising less exact]", proves(constant_apart), AtMost(1e-11), constant_apart),
)
