"""Objectives: weights by their formulas, the attainable loss, the bound by its weights, times that do not bias.

Expectations are exact: losses of an ideal network on Gaussian data are quadratic in (x_0, eps), so four points do.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.core import (
    CosineBetas,
    Denoiser,
    GridTimes,
    Image,
    LogNormalTimes,
    LossAwareTimes,
    Noise,
    NoiseVarianceInput,
    Parameterization,
    Schedule,
    Tabulated,
    Times,
    UniformTimes,
    Velocity,
    derived_generator,
)
from sfumato.objectives import (
    P2,
    DenoisingLoss,
    Draw,
    EdmLogNormal,
    Elbo,
    ImageError,
    MinSnr,
    NoiseError,
    OutputError,
    ScoreError,
    SigmoidWeight,
    SoftMinSnr,
    StepElbo,
    Weighting,
)
from sfumato.objectives.attainable import posterior_mean
from sfumato.verify import oracles
from sfumato.verify.check import AtMost, Check, Near, proves
from sfumato.verify.checks.material import SCHEDULES, largest, normals, rates_over, times_over, worst
from sfumato.verify.ideal import IdealNetwork

__all__ = ["CHECKS"]

Array = NDArray[np.float64]
STD = 0.6

# w on |eps_hat - eps|² in alpha, sigma and dlog_snr/dt (Kingma & Gao 2023, table 1)
WEIGHTS: dict[str, tuple[Weighting, Callable[[Array, Array, Array], Array]]] = {
    "noise": (NoiseError(), lambda a, s, slope: np.ones_like(a)),
    "image": (ImageError(), lambda a, s, slope: (s / a) ** 2),
    "min-snr": (MinSnr(5.0), lambda a, s, slope: np.minimum((a / s) ** 2, 5.0) / (a / s) ** 2),
    "soft min-snr": (SoftMinSnr(4.0), lambda a, s, slope: 4 / ((a / s) ** 2 + 4)),
    "p2": (P2(1.0, 0.5), lambda a, s, slope: (1 + (a / s) ** 2) ** -0.5),
    "score": (ScoreError(), lambda a, s, slope: 1 / s**2),
    "elbo": (Elbo(), lambda a, s, slope: -slope / 2),
    "sigmoid": (SigmoidWeight(-1.0), lambda a, s, slope: -slope / 2 / (1 + math.e * (a / s) ** 2)),
    "edm": (EdmLogNormal(-0.4, 1.5), lambda a, s, slope: edm_weight(a, s, slope)),
}
# |d eps_hat/dF| by each target's definition
GAINS: dict[str, tuple[Parameterization, Callable[[Array, Array], Array]]] = {
    "noise": (Noise(), lambda a, s: np.ones_like(a)),
    "image": (Image(), lambda a, s: a / s),
    "velocity": (Velocity(), lambda a, s: a / (a**2 + s**2)),
}
# Smallest noise loss, averaged over the linear table of 1,000 steps, for data of variance L
FLOORS = {0.25: 0.173053, 1.0: 0.275513, 4.0: 0.395407}
TIMES: dict[str, Times] = {
    "uniform": UniformTimes(),
    "log-normal": LogNormalTimes(-0.4, 1.5),
    "uniform antithetic": UniformTimes("antithetic"),
    "loss-aware": LossAwareTimes(bins=20),
}


def edm_weight(a: Array, s: Array, slope: Array) -> Array:
    """Karras et al.'s loss (2022, eq. 8): λ(σ) c_out² = 1 on F, ln σ ~ N(-0.4, 1.5²) cut to the schedule's span."""
    level = s / a
    z = (np.log(level) + 0.4) / 1.5
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) / 1.5 * np.abs(slope) / 2
    ends = [0.5 * math.erfc(-float(z[i]) / math.sqrt(2)) for i in (0, -1)]
    lam = (level**2 + STD**2) / (level * STD) ** 2
    return np.asarray(density / (ends[1] - ends[0]) * lam * level**2)


def factor(name: str, target: str) -> float:
    """w · gain², the factor on the output's squared error, against both formulas; relative."""
    (weighting, weight), (parameterization, gain) = WEIGHTS[name], GAINS[target]
    schedule = SCHEDULES["ve"]
    r = rates_over(schedule)
    a, s = r.alpha.numpy(), r.sigma.numpy()
    slope = np.full_like(a, -2 * math.log(80.0 / 0.01))
    expected = weight(a, s, slope) * gain(a, s) ** 2
    # EDM's density is with respect to the part of [0, 1] that training draws from
    share = 1 - schedule.t_min if name == "edm" else 1.0
    ours = weighting.output_factor(r, schedule, parameterization, STD).numpy()
    return largest(ours / (share * expected) - 1)


def gaussian_denoiser(schedule: Schedule, data_var: float) -> Denoiser:
    """The ideal network of N(0, data_var), predicting eps."""
    network = IdealNetwork(oracles.GaussianOracle([0.0], [data_var]), data_std=math.sqrt(data_var))
    return Denoiser(network, schedule, Noise(), time_input=NoiseVarianceInput(), data_std=math.sqrt(data_var))


def expected_losses(schedule: Schedule, data_var: float, weighting: Weighting) -> Array:
    """E[loss] at every time of `times_over`, over x_0 = ±sqrt(data_var) and eps = ±1: (N,)."""
    t, std = times_over(schedule), math.sqrt(data_var)
    d, loss = gaussian_denoiser(schedule, data_var), DenoisingLoss(weighting=weighting)
    total = np.zeros(len(t))
    with torch.no_grad():
        for x0 in (std, -std):
            for eps in (1.0, -1.0):
                ones = torch.ones(len(t), 1, dtype=torch.float64)
                draw = Draw(t, eps * ones, torch.ones_like(t))
                total += loss(d, x0 * ones, draw).values.numpy() / 4
    return total


def floor(data_var: float) -> float:
    """The mean loss of the ideal network over all 1,000 steps of the linear table."""
    return float(expected_losses(Tabulated(), data_var, NoiseError()).mean())


def step_elbo(data_var: float) -> float:
    """Σ of the bound's weights times the errors of eps, over T, against Σ KL of the oracle's chain; relative."""
    schedule = Tabulated(CosineBetas(), 100)
    losses = expected_losses(schedule, data_var, StepElbo())
    bars = oracles.alpha_bar(oracles.cosine_betas(100))
    c = oracles.posterior_coefficients(bars)
    mmse = (1 - bars) * data_var / (bars * data_var + 1 - bars)
    kls = oracles.step_kl(c.variance[1:], c.variance[1:], c.on_x0[1:] ** 2 * mmse[1:])
    return largest(losses[1:] / 100 / kls - 1)


def continuous_elbo() -> float:
    """The bound's integral over t with the weight -½ dlog_snr/dt against ½ ∫ mmse dSNR = ½ ln of a ratio; relative."""
    schedule, data_var = SCHEDULES["cosine"], 0.25
    t = schedule.t_min + (1 - schedule.t_min) * (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    r = schedule.rates(t)
    network_loss = r.alpha**2 * data_var / (r.alpha**2 * data_var + r.sigma**2)
    weight = Elbo().output_factor(r, schedule, Noise(), 1.0)
    ours = float((weight * network_loss).mean()) * (1 - schedule.t_min)
    ends = schedule.rates(torch.tensor([schedule.t_min, 1.0], dtype=torch.float64)).log_snr.exp()
    exact = 0.5 * math.log(float((1 + ends[0] * data_var) / (1 + ends[1] * data_var)))
    return abs(ours / exact - 1)


def unbiased(times: Times) -> float:
    """E[inv_density f(t)] over 65,536 stratified times against ∫ f, f = 1 + log_snr²; relative."""
    schedule = SCHEDULES["cosine"]
    memory = times.memory(schedule)
    if memory is not None:  # losses that grow with t, so that the density is far from uniform
        t = times_over(schedule, 4001)
        memory.add(t, 0.1 + t**4)
    drawn = times.draw(schedule, 65536, derived_generator(0, "verify"), memory)
    grid = schedule.t_min + (1 - schedule.t_min) * (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    exact = float((1 + schedule.log_snr(grid) ** 2).mean())
    return abs(float((drawn.inv_density * (1 + schedule.log_snr(drawn.t) ** 2)).mean()) / exact - 1)


def grid_times() -> float:
    """Largest share by which a step of 100 is drawn more or less often than another, in 10,000 stratified times."""
    drawn = GridTimes(100).draw(Tabulated(steps=100), 10_000, derived_generator(0, "verify"))
    counts = torch.bincount((drawn.t * 100).round().long(), minlength=101)[1:]
    return largest(counts / 100 - 1)


def data_set() -> float:
    """The best answer for 50 points in the plane, over many levels, against the oracle's weighted mean of them."""
    schedule, points = SCHEDULES["vp"], normals(50, 2, seed=30)
    x, oracle = normals(64, 2, seed=90), oracles.DatasetOracle(points.numpy())
    errors = []
    for share in (0.05, 0.3, 0.6, 1.0):
        r = schedule.rates(share)
        expected = oracle.denoiser(x.numpy(), float(r.alpha), float(r.sigma))
        errors.append(largest(posterior_mean(points, x, r).numpy() - expected))
    return worst(*errors)


def plain() -> float:
    """The plain loss on the output has a factor of exactly 1 for every target and level."""
    r = rates_over(SCHEDULES["flow"])
    return largest(OutputError().output_factor(r, SCHEDULES["flow"], Velocity(), STD) - 1)


CHECKS = (
    *(
        Check(
            f"weight[{name} on {target}]",
            "the factor on the output's error is w · gain², by formulas of its own, relative (Kingma & Gao 2023)",
            AtMost(1e-9),
            partial(factor, name, target),
        )
        for name in WEIGHTS
        for target in GAINS
    ),
    Check("loss[posterior mean of a data set]", proves(data_set), AtMost(1e-10), data_set),
    Check("weight[plain]", proves(plain), AtMost(0), plain),
    *(
        # six printed decimals
        Check(
            f"loss[attainable, L={data_var:g}]",
            "mean noise loss of the ideal network over the linear table, as calculated elsewhere",
            Near(value, 1e-6),
            partial(floor, data_var),
        )
        for data_var, value in FLOORS.items()
    ),
    *(
        Check(f"loss[bound by its weights, L={v:g}]", proves(step_elbo), AtMost(1e-9), partial(step_elbo, v))
        for v in (0.25, 4.0)
    ),
    # the midpoint rule in 20,000 cells of a smooth integrand
    Check("loss[bound in continuous time]", proves(continuous_elbo), AtMost(1e-7), continuous_elbo),
    *(
        # stratified: one time per cell leaves 1/N of the variation; antithetic: N^-1/2, of a spread of about 1
        Check(
            f"times[unbiased, {name}]",
            proves(unbiased),
            AtMost(0.02 if "antithetic" in name else 1e-3),
            partial(unbiased, times),
        )
        for name, times in TIMES.items()
    ),
    Check("times[every step alike]", proves(grid_times), AtMost(1e-9), grid_times),
)
