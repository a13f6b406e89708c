"""The optimal variance of the reverse kernel (analytic-DPM; Bao, Li, Zhu & Zhang 2022, theorem 1; Bao et al. 2022b).

The posterior q(x_s | x_t, x_0) has variance `small`, and its mean moves with x_0 by `pull`. Where x_0 is only guessed,
q(x_s | x_t) is wider by what the guess leaves open,

    var = small + pull² · mmse(t),      mmse(t) = E |x_0 - x0_hat(x_t)|² / D

which is the isotropic variance of the least Kullback-Leibler divergence for the mean that the denoiser gives, and with
the best denoiser the variance of q(x_s | x_t) itself. For that denoiser, with u = sigma/alpha,

    mmse = u² (1 - Gamma),      Gamma(t) = E |eps_hat|² / D      (their eq. 8)

but the error is measured here as it stands: it needs no perfect denoiser, it cannot turn negative, and at the noisy end
it is not a small difference times u². At s = data the posterior has no variance left and var = mmse.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sfumato.core.denoiser import Cond, Denoise
from sfumato.core.kernels import LogVariances, Variance, marginal
from sfumato.core.noise import NoiseSource
from sfumato.core.prediction import Prediction
from sfumato.core.rates import spread
from sfumato.errors import ConfigError, NumericsError

__all__ = ["Optimal", "fit_optimal"]

SMALLEST = 1e-30  # stands for an error of 0, whose logarithm nothing can be read between


@dataclass(frozen=True, slots=True)
class Optimal(Variance):
    """small + pull² mmse, the mean squared error of the guess measured on data (Bao et al. 2022).

    As a setting it is written without a table, and `sfumato sample` measures it on the data of the run. log mmse is
    linear in log_snr between the entries, constant beyond the noisier end, and falls as u² = exp(-log_snr) beyond the
    cleaner one.

    log_snr: where mmse was measured, in nats, rising; left empty in settings.
    mmse: mean squared error of x0 per value at each of them; left empty in settings.
    """

    log_snr: tuple[float, ...] = ()
    mmse: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in pairwise(self.log_snr)) and all(map(math.isfinite, self.log_snr))
        if len(self.log_snr) != len(self.mmse) or not rising or not all(0 < e < math.inf for e in self.mmse):
            raise ConfigError(
                f"variance Optimal has {len(self.log_snr)} log-SNRs and {len(self.mmse)} errors",
                expected="as many of one as of the other: log-SNRs that rise strictly, errors above 0",
                fix="leave both out, and they are measured",
            )

    @property
    def is_fitted(self) -> bool:
        """Whether there is a table to read."""
        return len(self.log_snr) > 0

    def log_mmse(self, log_snr: Tensor) -> Tensor:
        """log mmse at any log_snr, float64, in its shape. Raises ConfigError for a variance that was not fitted."""
        if not self.is_fitted:
            raise ConfigError(
                "the variance Optimal has not been measured",
                expected="the error of this denoiser on data, at several noise levels",
                fix="take fit_optimal(d, x0, times, noise), or `sfumato sample RUN`, which measures on the run's data",
            )
        knots = torch.tensor(self.log_snr, dtype=torch.float64)
        values = torch.tensor(self.mmse, dtype=torch.float64).log()
        inside = log_snr.to(torch.float64).clamp(knots[0], knots[-1])
        beyond = (log_snr - knots[-1]).clamp(min=0.0)  # there what is left open is noise alone: u²
        if len(knots) == 1:
            return values[0] - beyond
        upper = torch.searchsorted(knots, inside).clamp(1, len(knots) - 1)
        share = (inside - knots[upper - 1]) / (knots[upper] - knots[upper - 1])
        return values[upper - 1] + share * (values[upper] - values[upper - 1]) - beyond

    def log_var(self, bounds: LogVariances, p: Prediction) -> Tensor:
        log_mmse = self.log_mmse(p.rates.log_snr)
        if bounds.at_data:
            return spread(log_mmse, p.x_t)
        return spread(torch.logaddexp(bounds.small, 2 * bounds.log_pull + log_mmse), p.x_t)


@torch.no_grad()
def fit_optimal(
    d: Denoise,
    x0: Tensor,
    times: Sequence[float],
    noise: NoiseSource,
    *,
    batch_size: int = 64,
    cond: Cond | None = None,
) -> Optimal:
    """mmse(t) = mean of |x_0 - x0_hat(alpha x_0 + sigma eps, t)|² over examples x0 (N, *) and their values, at `times`.

    `cond` is what d is told of each of the N examples: the error left open by x_t and by it.
    `noise` holds one seed per example; each time has its own draw. Sums are float64. Where the error varies little from
    example to example its relative standard error is sqrt(2/(N D)). Raises NumericsError for an error that is
    not finite.
    """
    assert len(noise.seeds) == len(x0), "one seed per example"
    found = {}
    for draw, t in enumerate(sorted(times, reverse=True)):
        r = d.schedule.rates(t)
        total = 0.0
        for first in range(0, len(x0), batch_size):
            part = slice(first, first + batch_size)
            eps = NoiseSource(noise.seeds[part]).normal(x0[part], draw=draw)
            guess = d(marginal(x0[part], r).sample(eps), r.t, None if cond is None else cond[part]).x0
            total += float((guess - x0[part]).double().square().sum())
        error = total / x0.numel()
        if not math.isfinite(error):
            raise NumericsError(
                f"the denoiser's mean squared error at t = {t:.4g} is {error}",
                expected="a finite number on these data",
                fix="take the variance Small, which needs no measurement, or an earlier checkpoint",
            )
        found[float(r.log_snr)] = max(error, SMALLEST)
    return Optimal(tuple(found), tuple(found.values()))
