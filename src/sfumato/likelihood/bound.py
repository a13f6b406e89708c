"""The variational bound on -log p(x_0) of the ancestral chain.

    -log p(x_0) <= L_T + Σ L_(t-1) + L_0
    L_T     = KL(q(x_1 | x_0) || prior)                        where the chain starts
    L_(t-1) = KL(q(x_s | x_t, x_0) || p(x_s | x_t))            every interval from t down to s > 0
    L_0     = -log p(x_0 | x_t), by a decoder                  the interval that ends at data

with x_t = alpha x_0 + sigma eps (Ho et al. 2020, eq. 5). The times are those of a sampling grid: each grid is a chain
of its own, and a model of its own. Its probability-flow ODE is yet another, whose likelihood (`flow`) need not agree.

In continuous time the middle terms become an integral over log-SNR (Kingma et al. 2021, eq. 17),

    L_inf = 1/2 ∫ E|eps - eps_hat|² dlog_snr.

Nats, summed over the values of an example, in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sfumato.core import (
    Cond,
    Decoder,
    Denoise,
    Gaussian,
    NoiseSource,
    Prediction,
    Rates,
    Variance,
    marginal,
    posterior,
    reverse,
)
from sfumato.errors import UsageError
from sfumato.likelihood.totals import total, wide

__all__ = ["Bound", "continuous_bound", "prior_term", "reconstruction_term", "step_term", "variational_bound"]


@dataclass(frozen=True, slots=True)
class Bound:
    """Terms of the bound on -log p(x_0), each (B,) float64, nats per example.

    prior: L_T.
    diffusion: the sum of the L_(t-1), or its unbiased estimate.
    reconstruction: L_0.
    """

    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor

    @property
    def total(self) -> Tensor:
        """L_T + Σ L_(t-1) + L_0, (B,)."""
        return self.prior + self.diffusion + self.reconstruction


def prior_term(d: Denoise, x0: Tensor, t: float = 1.0) -> Tensor:
    """KL(q(x_t | x_0) || schedule.prior) in nats for x0 (B, *): (B,) float64. Ho et al. 2020, L_T."""
    prior, q = d.schedule.prior, marginal(wide(x0), d.schedule.rates(t))
    return total(q.kl(Gaussian(prior.mean.to(q.mean), prior.log_var.to(q.mean))))


def step_term(p: Prediction, x0: Tensor, s: Rates, variance: Variance, *, before: Rates | None = None) -> Tensor:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) in nats for the prediction p from x_t (B, *), s > 0: (B,) float64.

    ½ [small/var - 1 - log(small/var) + pull² (x_0 - x0_hat)²/var], summed (Ho et al. 2020, eq. 8).
    """
    q = posterior(x0, p.x_t, s=s, t=p.rates, before=before)
    return total(q.kl(reverse(p, s, variance, before=before)))


def reconstruction_term(
    p: Prediction, x0: Tensor, variance: Variance, decoder: Decoder, *, before: Rates | None = None
) -> Tensor:
    """-log p(x_0 | x_t) in nats by the decoder, with the reverse kernel from x_t to data: (B,) float64."""
    kernel = reverse(p, Rates.data(), variance, before=before)
    return -total(decoder.log_prob(wide(x0), Gaussian(wide(kernel.mean), wide(kernel.log_var))))


@torch.no_grad()
def variational_bound(
    d: Denoise,
    x0: Tensor,
    times: Sequence[float],
    *,
    variance: Variance,
    decoder: Decoder,
    noise: NoiseSource,
    sampled: int | None = None,
    cond: Cond | None = None,
) -> Bound:
    """The bound on -log p(x0) for x0 (B, *) of the chain that walks down `times` to 0, with one eps per interval.

    sampled: estimate the sum over intervals from this many of them per example, one drawn from each of as many equal
    parts of the chain, others for every example; unbiased. None visits every interval.

    One denoiser call per interval visited, one more for the reconstruction; memory does not grow with them. With a
    single interval the bound is prior + reconstruction. Raises UsageError for times that are no chain down to data,
    DataError for data that the decoder gives no probability to.
    """
    check_chain(times, sampled)
    decoder.require(x0)
    moments = [d.schedule.rates(t) for t in times[:-1]]
    before = moments[-2] if len(moments) > 1 else None
    p = noised(d, x0, moments[-1], noise.normal(x0, draw=0), cond)
    num_steps = len(moments) - 1
    if sampled is None or sampled >= num_steps:
        diffusion = torch.zeros(len(x0), dtype=torch.float64)
        for index, (t, s) in enumerate(pairwise(moments)):
            said = noised(d, x0, t, noise.normal(x0, draw=index + 1), cond)
            diffusion = diffusion + step_term(said, x0, s, variance)
    else:
        diffusion = sampled_steps(d, x0, moments, sampled, variance=variance, noise=noise, cond=cond)
    return Bound(prior_term(d, x0, times[0]), diffusion, reconstruction_term(p, x0, variance, decoder, before=before))


def noised(d: Denoise, x0: Tensor, r: Rates, eps: Tensor, cond: Cond | None) -> Prediction:
    """The denoiser's word on x_t = alpha x0 + sigma eps, at the rates r."""
    return d(marginal(x0, r).sample(eps), r.t, cond)


def sampled_steps(
    d: Denoise,
    x0: Tensor,
    moments: Sequence[Rates],
    count: int,
    *,
    variance: Variance,
    noise: NoiseSource,
    cond: Cond | None,
) -> Tensor:
    """Σ L_(t-1) from `count` stratified intervals per example, unbiased: (B,) float64.

    The k-th is interval floor(M (k + U)/count) of M, U uniform, and counts M/count-fold: summed over k its expectation
    is the sum over all intervals, whether or not count divides M.
    """
    num_steps = len(moments) - 1
    table = d.schedule.rates(torch.stack([r.t for r in moments]))
    found = torch.zeros(len(x0), dtype=torch.float64)
    for k in range(count):
        place = (k + uniform(noise, x0, draw=2 * k + 1)) / count
        index = (num_steps * place).long().clamp(max=num_steps - 1)
        t, s = picked(table, index), picked(table, index + 1)
        p = noised(d, x0, t, noise.normal(x0, draw=2 * k + 2), cond)
        found = found + step_term(p, x0, s, variance)
    return found * (num_steps / count)


def picked(table: Rates, index: Tensor) -> Rates:
    """The rates at the places `index` (B,) of a table of rates (T,)."""
    return Rates(table.t[index], table.alpha[index], table.sigma[index])


def uniform(noise: NoiseSource, x: Tensor, *, draw: int) -> Tensor:
    """U(0, 1) per sample of x (B, *), as Phi of a normal: (B,) float64 on the CPU."""
    normal = noise.normal(torch.empty(len(x), 1, dtype=torch.float64), draw=draw)
    return torch.special.ndtr(normal.flatten())


@torch.no_grad()
def continuous_bound(
    d: Denoise,
    x0: Tensor,
    *,
    variance: Variance,
    decoder: Decoder,
    noise: NoiseSource,
    draws: int,
    cond: Cond | None = None,
) -> Bound:
    """The bound on -log p(x0) of the chain with infinitely many steps from t = 1 to t_min and a decoder there.

    diffusion = ½ (log_snr(t_min) - log_snr(1)) E|eps - eps_hat|² with log_snr uniform, from `draws` strata per example
    (Kingma et al. 2021, eq. 17, in log-SNR): unbiased. `variance` is that of the reverse kernel that the decoder gets.
    """
    check_draws(draws)
    decoder.require(x0)
    ends = [d.schedule.rates(t) for t in (1.0, d.schedule.t_min)]
    low, high = (r.log_snr for r in ends)
    found = torch.zeros(len(x0), dtype=torch.float64)
    for k in range(draws):
        place = (k + uniform(noise, x0, draw=2 * k + 1)) / draws
        eps = noise.normal(x0, draw=2 * k + 2)
        p = noised(d, x0, d.schedule.rates(d.schedule.time(low + (high - low) * place)), eps, cond)
        found = found + total((eps - p.eps).square())
    p = noised(d, x0, ends[1], noise.normal(x0, draw=0), cond)
    diffusion = found * float(high - low) / (2 * draws)
    return Bound(prior_term(d, x0), diffusion, reconstruction_term(p, x0, variance, decoder))


def check_chain(times: Sequence[float], sampled: int | None) -> None:
    """Refuse times that do not go down strictly from at most 1 to data. Raises UsageError."""
    falling = all(t > s for t, s in pairwise(times))
    if len(times) < 2 or not falling or times[-1] != 0 or times[0] > 1:
        raise UsageError(
            f"the times {list(times)[:6]}… are no chain down to data",
            expected="strictly decreasing times within [0, 1], the last of them 0",
            fix="take a grid such as Trailing().times(schedule, steps)",
        )
    if sampled is not None:
        check_draws(sampled)


def check_draws(count: int) -> None:
    """Refuse an estimate from nothing. Raises UsageError."""
    if count < 1:
        raise UsageError(
            f"{count} noise levels per example were asked for", expected="1 or more", fix="ask for 32, or for all"
        )
