"""Inversion: a deterministic sampler walked backwards turns data into the noise that it would be sampled from.

The probability-flow ODE runs in both directions; so does the formula of every deterministic step, x_s from x_t for any
two times (Song, Meng & Ermon 2021, sec. 4.3, with DDIM's; second-order ones come back closer in as many calls). Data
enter at t_min as alpha x0, the ODE's state y = x/alpha being x0 itself. The walk back ends at t_min too: a step to data
would show the denoiser's opinion of the data and not the error of the two walks.

Where a schedule's t_min still has visible noise (`CosineAngle`: 0.3 of the data), clean data are not what the denoiser
has seen there, and the latent is not quite N(0, prior_std² I).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from sfumato.core import Cond, Denoise, NoiseSource, Schedule
from sfumato.errors import UsageError
from sfumato.samplers.base import Sampler, check_finite, check_times, sample
from sfumato.samplers.grids import Trailing, UniformLogSnr

__all__ = ["RoundTrip", "decode", "encode", "inversion_times", "round_trip"]

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Data (B, *) encoded and decoded again: the latent at t = times[0] and what came back, both (B, *).

    rms: root of the mean squared difference from the data, per sample, (B,) float64, in units of the data.
    largest: the largest difference of any element.
    """

    latent: Tensor
    decoded: Tensor
    rms: Tensor
    largest: float


def inversion_times(schedule: Schedule, steps: int) -> list[float]:
    """`steps` intervals from 1 to t_min: even in log-SNR, or between steps of the table where there is one."""
    table = schedule.num_steps
    if table is None:
        return UniformLogSnr().times_to_t_min(schedule, steps)
    return Trailing().times_to_t_min(schedule, min(steps, table - 1))


def check_invertible(sampler: Sampler[S], times: Sequence[float]) -> None:
    """Refuse samplers that add noise, and grids that end at data, where sigma = 0 and nothing can be retraced."""
    if not sampler.deterministic:
        raise UsageError(
            f"{sampler!r} adds fresh noise at every step, and inversion retraces a deterministic path",
            expected="a deterministic sampler: Ddim with eta 0, Heun without churn, Dpm2, Dpmpp2S, Dpmpp2M, …",
            fix="take Heun(), or Ddim(eta=0)",
        )
    check_times(times)
    if times[-1] == 0:
        raise UsageError(
            "inversion over a grid of times that ends at data, 0",
            expected="strictly decreasing times whose last is t_min, where data enter",
            fix="take a grid such as UniformLogSnr().times_to_t_min(schedule, steps)",
        )


@torch.no_grad()
def encode(sampler: Sampler[S], d: Denoise, x0: Tensor, times: Sequence[float], *, cond: Cond | None = None) -> Tensor:
    """The latent x (B, *) at times[0] that `sampler` would bring to the data x0 (B, *); walks `times` backwards.

    times: decreasing, from 1 to t_min, as `times_to_t_min` of a grid gives them. With t = 1 the latent is of the law
    of `prior` if the data are of the denoiser's. Raises UsageError for a stochastic sampler or a grid that ends at
    data, NumericsError for a latent that is not finite.
    """
    check_invertible(sampler, times)
    x = float(d.schedule.rates(times[-1]).alpha) * x0
    state, silent = sampler.init(x), NoiseSource.of(seed=0, count=len(x))
    for t, s in pairwise(reversed(times)):
        stepped = sampler.step(d, x, t=t, s=s, state=state, noise=silent, cond=cond)
        x, state = stepped.x, stepped.state
    check_finite(x, times[0])
    return x


@torch.no_grad()
def decode(
    sampler: Sampler[S], d: Denoise, latent: Tensor, times: Sequence[float], *, cond: Cond | None = None
) -> Tensor:
    """x/alpha (B, *) at the last of `times`, from the latent (B, *) at the first: the way back of `encode`."""
    check_invertible(sampler, times)
    silent = NoiseSource.of(seed=0, count=len(latent))
    *_, last = sample(sampler, d, latent, times, noise=silent, cond=cond)
    return last.x / float(d.schedule.rates(times[-1]).alpha)


def round_trip(
    sampler: Sampler[S], d: Denoise, x0: Tensor, times: Sequence[float], *, cond: Cond | None = None
) -> RoundTrip:
    """Encode x0 (B, *), decode it, and say how far it came back; falls as the steps to the power of the order."""
    latent = encode(sampler, d, x0, times, cond=cond)
    decoded = decode(sampler, d, latent, times, cond=cond)
    apart = (decoded - x0).to(torch.float64).flatten(1)
    return RoundTrip(latent, decoded, apart.square().mean(1).sqrt(), float(apart.abs().max()))
