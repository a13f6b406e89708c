"""Bounds as they are evaluated: the whole chain on Gaussian data, decoders of levels, and units.

The chain's expectation is exact: data and noise of ±1 stand for N(0, 1), since every term is quadratic in them.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from sfumato.core import (
    CosineBetas,
    DiscretizedGaussian,
    Gaussian,
    GaussianDecoder,
    Large,
    NoiseSource,
    Optimal,
    Small,
    Tabulated,
    Variance,
    fit_optimal,
)
from sfumato.likelihood import Levels, bits_per_dim, to_nats, variational_bound
from sfumato.samplers import Trailing
from sfumato.verify import oracles
from sfumato.verify.check import AtMost, Check, Near, proves
from sfumato.verify.checks.material import largest, normals, rates_over, worst
from sfumato.verify.ideal import Ideal

__all__ = ["CHECKS"]

LINEAR = Tabulated()


@dataclass(frozen=True, slots=True)
class Signs:
    """Stands in for a `NoiseSource`: every draw is the same given signs, (B, 1)."""

    values: Tensor

    def normal(self, x: Tensor, *, draw: int) -> Tensor:
        return self.values.to(x)


def exact_optimal(schedule: Tabulated, data_var: float) -> Optimal:
    """The optimal variance of N(0, data_var) on a table, from the closed form of its mean squared error."""
    r = rates_over(schedule)
    mmse = r.sigma**2 * data_var / (r.alpha**2 * data_var + r.sigma**2)
    return Optimal(tuple(r.log_snr.flip(0).tolist()), tuple(mmse.flip(0).tolist()))


def excess(variance: Variance, schedule: Tabulated, data_var: float) -> float:
    """E[variational_bound] - entropy in nats over all steps of a table, for the ideal denoiser of N(0, data_var)."""
    x0 = math.sqrt(data_var) * torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=torch.float64)
    signs = Signs(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64))
    bound = variational_bound(
        Ideal(oracles.GaussianOracle([0.0], [data_var]), schedule),
        x0,
        Trailing().times(schedule, schedule.steps),
        variance=variance,
        decoder=GaussianDecoder(),
        noise=cast(NoiseSource, signs),
    )
    return float(bound.total.mean()) - 0.5 * math.log(2 * math.pi * math.e * data_var)


def tightness(data_var: float) -> float:
    """|E[bound] - entropy - KL(q(x_T) || N(0, 1))| with the optimal variance, on 1,000 steps (Bao et al. 2022)."""
    spread = float(LINEAR.rates(1.0).alpha ** 2) * (data_var - 1)
    found = excess(exact_optimal(LINEAR, data_var), LINEAR, data_var)
    return abs(found - 0.5 * (spread - math.log1p(spread)))


def against_oracle(variance: Variance, data_var: float) -> float:
    """|E[variational_bound] - entropy - the closed form| on 100 cosine steps."""
    bars = oracles.alpha_bar(oracles.cosine_betas(100))
    small = oracles.small_variances(bars)
    ours = {"Small": np.concatenate([small[1:2], small[1:]]), "Large": oracles.large_variances(bars)}
    expected = oracles.bound_excess(bars, data_var, ours[type(variance).__name__])
    return abs(excess(variance, Tabulated(CosineBetas(), 100), data_var) - expected)


def measured_optimal() -> float:
    """Largest relative error of the error that `fit_optimal` measures, on ±1 data whose mean is exact."""
    schedule, data_var = Tabulated(CosineBetas(), 20), 0.25
    x0 = 0.5 * torch.ones(4000, 1, dtype=torch.float64)
    x0[::2] *= -1
    times = [k / 20 for k in range(1, 21)]
    d = Ideal(oracles.GaussianOracle([0.0], [data_var]), schedule)
    found = fit_optimal(d, x0, times, NoiseSource.of(seed=0, count=4000), batch_size=4000)
    truth = exact_optimal(schedule, data_var)
    return largest(np.array(found.mmse) / np.array(truth.mmse) - 1)


def wide(value: float) -> Tensor:
    """One number, float64."""
    return torch.full((1,), value, dtype=torch.float64)


def decoder_sums() -> float:
    """|Σ over 256 levels of P - 1| for means in and far outside the range and standard deviations of 1e-4 to 10."""
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)[:, None]
    means = torch.linspace(-3, 3, 13, dtype=torch.float64).repeat(6)
    log_var = 2 * torch.tensor([1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0], dtype=torch.float64).log().repeat_interleave(13)
    said = DiscretizedGaussian().log_prob(levels, Gaussian(means[None, :], log_var[None, :]))
    return largest(said.exp().sum(0) - 1)


def decoder_masses() -> float:
    """Largest error of P(level) against differences of erf, for eight means and three standard deviations."""
    levels = np.linspace(-1, 1, 256)
    edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
    errors: list[float] = []
    for mean in np.linspace(-1.2, 1.2, 8):
        for std in (0.003, 0.05, 0.7):
            below = np.array([0.5 * math.erfc(-(edge - mean) / std / math.sqrt(2)) for edge in edges])
            kernel = Gaussian(wide(float(mean)), wide(2 * math.log(std)))
            said = DiscretizedGaussian().log_prob(torch.from_numpy(levels), kernel)
            errors.append(largest(said.exp().numpy() - np.diff(below)))
    return worst(*errors)


def decoder_tails() -> float:
    """Largest relative error of log P 30 standard deviations off, against -z²/2 - ln(z √2π) and its series."""
    z = 30.0
    half, std = 1 / 255, 0.02
    kernel = Gaussian(wide(0.0), wide(2 * math.log(std)))
    level = round((z * std + half) / (2 * half) - 0.5) * 2 * half + half
    edge = (level - half) / std
    # Mills: Phi(-z) = phi(z)/z (1 - 1/z² + 3/z⁴ - …); the far edge of the bin adds e^-(z · bin/std) of it
    expected = -(edge**2) / 2 - math.log(edge * math.sqrt(2 * math.pi)) + math.log(1 - edge**-2 + 3 * edge**-4)
    far = (level + half) / std
    beyond = -(far**2) / 2 - math.log(far * math.sqrt(2 * math.pi)) + math.log(1 - far**-2 + 3 * far**-4)
    expected += math.log1p(-math.exp(beyond - expected))
    said = DiscretizedGaussian().log_prob(wide(level), kernel)
    return abs(float(said) / expected - 1)


def unit_offset() -> float:
    """Bits/dim of uniform 8-bit noise under the uniform density of its range: 8, whatever the scale of the data."""
    errors: list[float] = []
    for low, high in ((-1.0, 1.0), (0.0, 1.0), (-3.7, 12.0)):
        width = (high - low) / 256
        log_prob = torch.full((1,), -4 * math.log(high - low), dtype=torch.float64)
        said = bits_per_dim(log_prob, dim=4, offset=Levels((low,), (width,)).offset)
        errors.append(abs(float(said) - 8))
    return worst(*errors)


def offsets() -> float:
    """The offset of 256 levels on [-1, 1] is 7 bits (Song et al. 2021)."""
    return Levels((-1.0,), (2 / 256,)).offset


def round_units() -> float:
    """to_nats(bits_per_dim(·)) gives nats back."""
    log_prob = normals(9, 1)[:, 0]
    return largest(to_nats(bits_per_dim(log_prob, dim=3)) + log_prob / 3)


CHECKS = (
    *(
        # a thousand float64 terms
        Check(
            f"likelihood[bound is tight, L={v:g}]", proves(tightness), AtMost(1e-9), partial(tightness, v), quick=False
        )
        for v in (0.25, 1.0, 4.0)
    ),
    *(
        Check(
            f"likelihood[bound, {type(variance).__name__.lower()}, L={v:g}]",
            proves(against_oracle),
            AtMost(1e-9),
            partial(against_oracle, variance, v),
        )
        for variance in (Small(), Large())
        for v in (0.25, 4.0)
    ),
    # five standard errors of a mean of 4,000 squares: 5 sqrt(2/4000)
    Check("likelihood[optimal variance, measured]", proves(measured_optimal), AtMost(0.112), measured_optimal),
    Check("likelihood[decoder sums to 1]", proves(decoder_sums), AtMost(1e-12), decoder_sums),
    Check("likelihood[decoder masses]", proves(decoder_masses), AtMost(1e-12), decoder_masses),
    # the series' next term is 15/z⁶ = 2e-8 of the mass, and log P is -450
    Check("likelihood[decoder tails]", proves(decoder_tails), AtMost(1e-9), decoder_tails),
    Check("likelihood[uniform noise is 8 bits]", proves(unit_offset), AtMost(1e-12), unit_offset),
    Check("likelihood[offset of 8-bit data]", proves(offsets), Near(7, 1e-12), offsets),
    Check("likelihood[nats and bits]", proves(round_units), AtMost(1e-12), round_units),
)
