"""Transitions: the oracle's c1, c2 and bt, what any Gaussian chain must satisfy, respacing, and DDIM's identities.

The gates of the identities are 1e-10 in float64, the largest errors that rounding explains are near 1e-12.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core import (
    CosineBetas,
    Gaussian,
    Large,
    LearnedRange,
    NoiseSource,
    Prediction,
    Rates,
    Schedule,
    Small,
    Tabulated,
    log_variances,
    marginal,
    mean_weights,
    posterior,
    reverse,
)
from sfumato.samplers import Ancestral, Ddim, Sampler, Trailing, sample
from sfumato.verify import oracles
from sfumato.verify.check import AtMost, Check, proves
from sfumato.verify.checks.material import SCHEDULES, largest, normals, rates_over, worst
from sfumato.verify.ideal import MIXTURE, Ideal

__all__ = ["CHECKS"]

Array = NDArray[np.float64]
TABLES: dict[str, tuple[Tabulated, Array]] = {
    "linear table": (Tabulated(), oracles.linear_betas(1000)),
    "cosine table": (Tabulated(CosineBetas(), 100), oracles.cosine_betas(100)),
}
KEPT = (1, 7, 143, 501, 996, 1000)


def cut(r: Rates, part: slice) -> Rates:
    return Rates(r.t[part], r.alpha[part], r.sigma[part])


def neighbours(r: Rates) -> tuple[Rates, Rates]:
    """(s, t): every level with the next noisier one."""
    return cut(r, slice(None, -1)), cut(r, slice(1, None))


def coefficients(r: Rates, bars: Array) -> float:
    """Largest error of keep, pull, and of small and large relative, against c2, c1, bt and b of the oracle."""
    s, t = neighbours(r)
    c, b = oracles.posterior_coefficients(bars), oracles.large_variances(bars)
    weights, bounds = mean_weights(s, t), log_variances(s, t)
    return worst(
        largest(weights.keep.numpy() - c.on_x_t[1:]),
        largest(weights.pull.numpy() - c.on_x0[1:]),
        largest(bounds.small.exp().numpy() / c.variance[1:] - 1),
        largest(bounds.large.exp().numpy() / b[1:] - 1),
    )


def posterior_mean(table: Tabulated, betas: Array) -> float:
    """c1 x0 + c2 x_t = (x_t - b eps/sigma)/sqrt(1 - b) (Ho et al. 2020, eq. 11)."""
    s, t = neighbours(rates_over(table))
    x0, eps = normals(len(t.t), 2), normals(len(t.t), 2, seed=5000)
    x_t, b = marginal(x0, t).sample(eps), torch.from_numpy(betas)[1:, None]
    expected = (x_t - b * eps / t.sigma[:, None]) / (1 - b).sqrt()
    return largest(posterior(x0, x_t, s=s, t=t).mean - expected)


def respaced(kept: tuple[int, ...]) -> float:
    """The coefficients of a chain of its own on the kept alpha-bars (Nichol & Dhariwal 2021, eq. 19)."""
    bars = oracles.alpha_bar(oracles.linear_betas(1000))[np.array(kept) - 1]
    return coefficients(Tabulated().rates(torch.tensor(kept, dtype=torch.float64) / 1000), bars)


def far_pairs(schedule: Schedule) -> list[tuple[Rates, Rates]]:
    """(s, t) near and far, both ends of the span among them."""
    at = [schedule.t_min + (1 - schedule.t_min) * share for share in (0.0, 0.01, 0.3, 0.31, 0.9, 1.0)]
    return [(schedule.rates(s), schedule.rates(t)) for i, s in enumerate(at) for t in at[i + 1 :]]


def consistency(schedule: Schedule) -> float:
    """Drawing x_t, then x_s from the posterior, gives q(x_s | x_0): both moments, relative."""
    errors: list[float] = []
    for s, t in far_pairs(schedule):
        weights, var = mean_weights(s, t), log_variances(s, t).small.exp()
        mean = (weights.pull + weights.keep * t.alpha) / s.alpha - 1
        power = (weights.keep**2 * t.sigma**2 + var) / s.sigma**2 - 1
        errors += [abs(float(mean)), abs(float(power))]
    return worst(*errors)


def forward(schedule: Schedule) -> float:
    """Two forward steps make one: large(s, u) = (alpha_u/alpha_t)² large(s, t) + large(t, u), relative."""
    s, t, u = (schedule.rates(schedule.t_min + (1 - schedule.t_min) * share) for share in (0.1, 0.5, 0.8))
    first, second, whole = (log_variances(*pair).large.exp() for pair in ((s, t), (t, u), (s, u)))
    return abs(float(((u.alpha / t.alpha) ** 2 * first + second) / whole - 1))


def last_of(sampler: Sampler[None], schedule: Schedule, times: list[float]) -> Tensor:
    """Eight samples of the mixture, with the noise of seeds 0 to 7."""
    x = schedule.prior_std * normals(8, 2)
    *_, end = sample(sampler, Ideal(MIXTURE, schedule), x, times, noise=NoiseSource.of(seed=0, count=8))
    return end.x


def eta_one(schedule: Schedule) -> float:
    """DDIM with eta 1 and ancestral sampling with the small variance, on the same noise (Song, Meng & Ermon 2021)."""
    times = Trailing().times(schedule, 25)
    return largest(last_of(Ddim(eta=1.0), schedule, times) - last_of(Ancestral(Small()), schedule, times))


def sigma_hat(schedule: Schedule) -> float:
    """DDIM's sigma-hat and ancestral sampling with the large variance, on the same noise."""
    times = Trailing().times(schedule, 25)
    ours = last_of(Ddim(eta=1.0, sigma_hat=True), schedule, times)
    return largest(ours - last_of(Ancestral(Large()), schedule, times))


def euler(schedule: Schedule) -> float:
    """DDIM with eta 0 is Euler's method for dy/du = eps(y, u) in y = x/alpha, u = sigma/alpha."""
    times = Trailing().times(schedule, 25)[:-1]
    levels = [schedule.rates(t) for t in times]
    y = (schedule.prior_std * normals(8, 2) / levels[0].alpha).numpy()
    for t, s in pairwise(levels):
        u = float(t.noise_level)
        y = y + (float(s.noise_level) - u) * MIXTURE.eps(y, 1.0, u)
    return largest(last_of(Ddim(), schedule, times) / levels[-1].alpha - torch.from_numpy(y))


def learned_range() -> float:
    """var_output -1, 0, 1 give the small variance, the geometric mean, the large one; relative."""
    schedule = SCHEDULES["cosine"]
    t, s = schedule.rates(0.8), schedule.rates(0.4)
    said = torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64)
    p = Prediction(torch.zeros_like(said), t, torch.zeros_like(said), said)
    a = float(s.alpha / t.alpha)  # by hand: large = sigma_t² - sigma_s²/a², small = large sigma_s²/sigma_t²
    large = float(t.sigma**2) - float(s.sigma**2) / a**2
    small = large * float(s.sigma**2 / t.sigma**2)
    var = reverse(p, s, LearnedRange()).log_var.exp()[0]
    return largest(var.numpy() / np.array([small, (small * large) ** 0.5, large]) - 1)


def divergence() -> float:
    """KL of two normals against the oracle's, for variances a millionth apart to a million times each other."""
    log_ratio = np.concatenate([np.linspace(-14, 14, 29), [1e-6, -1e-6]])
    far = np.linspace(-2, 2, len(log_ratio))
    zero = torch.zeros(len(far), dtype=torch.float64)
    ours = Gaussian(zero, zero).kl(Gaussian(torch.from_numpy(far), torch.from_numpy(log_ratio)))
    return largest(ours.numpy() - oracles.step_kl(1.0, np.exp(log_ratio), far**2))


def _check(name: str, function: Callable[..., float], *arguments: object, limit: float = 1e-10) -> Check:
    return Check(name, proves(function), AtMost(limit), partial(function, *arguments))


CHECKS = (
    *(
        check
        for name, (table, betas) in TABLES.items()
        for check in (
            # the oracle's own 1 - A/P cancels: 1e-16 absolute in betas down to 4e-5
            _check(
                f"identity[coefficients, {name}]",
                coefficients,
                rates_over(table),
                oracles.alpha_bar(betas),
                limit=1e-9,
            ),
            _check(f"identity[posterior mean, {name}]", posterior_mean, table, betas),
        )
    ),
    _check("identity[respaced, 6 of 1000]", respaced, KEPT),
    _check("identity[respaced, 28 of 1000]", respaced, tuple(range(1, 1001, 37))),
    *(_check(f"identity[marginal consistency, {n}]", consistency, schedule) for n, schedule in SCHEDULES.items()),
    *(_check(f"identity[forward steps compose, {n}]", forward, schedule) for n, schedule in SCHEDULES.items()),
    *(
        _check(f"identity[{name}, {where}]", function, SCHEDULES[where])
        for name, function in (
            ("eta 1 is ancestral small", eta_one),
            ("sigma hat is ancestral large", sigma_hat),
            ("eta 0 is euler", euler),
        )
        for where in ("cosine", "ve", "flow", "linear table")
    ),
    _check("identity[learned range]", learned_range),
    _check("identity[kl of normals]", divergence),
)
