"""The law of what comes out: exact for Gaussian data, where a sampler with the ideal denoiser is an affine map.

It is linear in (x_T, z_1 … z_S), so its variance is the sum of the squares of the coefficients, which one batch of unit
inputs reads off: no Monte Carlo. The oracle's chains say what it must be.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sfumato.core import (
    Betas,
    CosineBetas,
    Denoise,
    Large,
    LinearBetas,
    NoiseSource,
    Prediction,
    Schedule,
    Small,
    Tabulated,
)
from sfumato.samplers import Ancestral, Ddim, Sampler, Trailing, sample
from sfumato.verify.oracles import (
    GaussianOracle,
    Oracle,
    alpha_bar,
    ddim_chain_variance,
    large_variances,
    reverse_chain_variance,
    small_variances,
)

MakeIdeal = Callable[[Oracle, Schedule], Denoise]

# Linear schedule, T = 1000, by an independent calculation: variance of the output for data of variance L
PUBLISHED = {
    (0.25, "large"): 0.250752,
    (0.25, "small"): 0.246125,
    (1.0, "large"): 0.999900,
    (1.0, "small"): 0.991067,
    (4.0, "large"): 3.990569,
    (4.0, "small"): 3.974777,
}


def output_variance(sampler: Sampler[None], d: Denoise, times: list[float], given: Callable[..., NoiseSource]) -> float:
    """Σ of squared coefficients: sample 0 gets x_T = 1, sample k the noise 1 at step k, all else 0."""
    count = len(times)

    def impulse(k: int, x: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        z[k + 1] = 1
        return z

    x = torch.zeros(count, 1, dtype=torch.float64)
    x[0] = 1
    *_, end = sample(sampler, d, x, times, noise=given(impulse))
    return float(end.x.square().sum())


@pytest.mark.parametrize(("data_var", "kind"), PUBLISHED)
def test_ancestral_variance_of_a_thousand_steps(
    data_var: float, kind: str, ideal: MakeIdeal, given: Callable[..., NoiseSource]
) -> None:
    schedule = Tabulated()
    sampler = Ancestral(Large() if kind == "large" else Small())
    d = ideal(GaussianOracle([0.0], [data_var]), schedule)
    variance = output_variance(sampler, d, Trailing().times(schedule, 1000), given)
    assert variance == pytest.approx(PUBLISHED[data_var, kind], abs=1e-6)
    bars = alpha_bar(LinearBetas().values(1000).numpy())
    variances = large_variances(bars) if kind == "large" else small_variances(bars)
    assert variance == pytest.approx(reverse_chain_variance(bars, data_var, variances), rel=1e-10)


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("betas", [LinearBetas(), CosineBetas()], ids=repr)
def test_skipping_steps_keeps_the_exact_law(
    betas: Betas, steps: int, ideal: MakeIdeal, given: Callable[..., NoiseSource]
) -> None:
    """The oracle's chain on the kept alpha-bars alone, for ancestral sampling and for DDIM of any eta."""
    schedule = Tabulated(betas, 100)
    times = Trailing().times(schedule, steps)
    kept = [round(t * 100) - 1 for t in reversed(times[:-1])]
    bars = alpha_bar(betas.values(100).numpy())[kept]
    d = ideal(GaussianOracle([0.0], [0.25]), schedule)
    expected: dict[Sampler[None], float] = {
        Ancestral(Small()): reverse_chain_variance(bars, 0.25, small_variances(bars)),
        Ancestral(Large()): reverse_chain_variance(bars, 0.25, large_variances(bars)),
        Ddim(eta=1.0, sigma_hat=True): reverse_chain_variance(bars, 0.25, large_variances(bars)),
        **{Ddim(eta=eta): ddim_chain_variance(bars, 0.25, eta=eta) for eta in (0.0, 0.4, 1.0)},
    }
    for sampler, variance in expected.items():
        # the oracle's sqrt(1 - P - η² bt) loses digits on steps as long as these
        assert output_variance(sampler, d, times, given) == pytest.approx(variance, rel=1e-9), sampler


@dataclass(frozen=True)
class Shrinking:
    """The ideal denoiser of N(0, L) for rows of independent scalars: D = alpha L x/(alpha² L + sigma²)."""

    data_var: float
    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        r = self.schedule.rates(t)
        return Prediction(x_t, r, float(r.alpha * self.data_var / (r.alpha**2 * self.data_var + r.sigma**2)) * x_t)


def simulate(kind: str, count: int) -> tuple[float, float]:
    """Variance of `count` scalars sampled with the real noise in 100 of 1,000 steps, and the oracle's."""
    schedule = Tabulated()
    times = Trailing().times(schedule, 100)
    total, batch = 0.0, min(count, 500_000)
    for first in range(0, count, batch):
        # the elements of a sample are as independent as samples are, so one seed serves a row of 100 scalars
        noise = NoiseSource.of(seed=first, count=batch // 100)
        x = noise.initial((batch // 100, 100), like=torch.zeros(()))
        *_, end = sample(
            Ancestral(Large() if kind == "large" else Small()), Shrinking(0.25, schedule), x, times, noise=noise
        )
        total += float(end.x.double().square().sum())
    bars = alpha_bar(LinearBetas().values(1000).numpy())[9::10]
    variances = large_variances(bars) if kind == "large" else small_variances(bars)
    return total / count, reverse_chain_variance(bars, 0.25, variances)


@pytest.mark.parametrize("kind", ["small", "large"])
def test_variance_by_simulation(kind: str) -> None:
    """20,000 scalars: five standard errors, 5 sqrt(2/n) = 5 %, of the 15 % between small and large."""
    measured, expected = simulate(kind, 20_000)
    assert measured == pytest.approx(expected, rel=5 * math.sqrt(2 / 20_000))


@pytest.mark.proof
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["small", "large"])
def test_variance_by_ten_million(kind: str) -> None:
    """10,000,000 scalars: 0.22 % at five standard errors."""
    measured, expected = simulate(kind, 10_000_000)
    assert measured == pytest.approx(expected, rel=5 * math.sqrt(2 / 10_000_000))
