"""Targets: what each is by its definition, the way back to x0, the gain, and the words for one guess."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core import (
    CosineBetas,
    Denoise,
    Denoiser,
    Edm,
    Flow,
    Image,
    LogSnrInput,
    Noise,
    Parameterization,
    Prediction,
    PreviousMean,
    Rates,
    Schedule,
    Score,
    Tabulated,
    Velocity,
    marginal,
)
from sfumato.core.denoiser import unit_variance
from sfumato.verify import oracles
from sfumato.verify.check import AtMost, Check, proves
from sfumato.verify.checks.material import SCHEDULES, largest, normals, rates_over, worst
from sfumato.verify.ideal import MIXTURE, Ideal

__all__ = ["CHECKS"]

Array = NDArray[np.float64]
STD = 0.6  # of the data: not 1, or a missing data_std would hide
COUNT = 64
TABLE = Tabulated(CosineBetas(), COUNT)

TARGETS: dict[str, tuple[Parameterization, Callable[[Array, Array, Array, Array], Array]]] = {
    "noise": (Noise(), lambda a, s, x0, e: e),
    "image": (Image(), lambda a, s, x0, e: x0),
    "velocity": (Velocity(), lambda a, s, x0, e: a * e - s * x0),
    "score": (Score(), lambda a, s, x0, e: -e / s),
    "flow": (Flow(), lambda a, s, x0, e: e - x0),
    "edm": (Edm(), lambda a, s, x0, e: (s * x0 - a * STD**2 * e) / (STD * np.sqrt(a**2 * STD**2 + s**2))),
}
FAMILIES = {name: SCHEDULES[name] for name in ("cosine", "ve", "flow")}


def pairs(schedule: Schedule) -> tuple[Rates, Tensor]:
    """COUNT rates over the span, and (2, COUNT, 3) normals: data (of STD) and noise."""
    x = normals(2, COUNT, 3)
    return rates_over(schedule, COUNT), torch.stack([STD * x[0], x[1]])


def definition(name: str, schedule: Schedule) -> float:
    """Largest error of the target, in units of the largest target of its noise level."""
    parameterization, formula = TARGETS[name]
    r, (x0, eps) = pairs(schedule)
    a, s = r.alpha.numpy()[:, None], r.sigma.numpy()[:, None]
    expected = formula(a, s, x0.numpy(), eps.numpy())
    error = np.abs(parameterization.target(x0, eps, r, STD).numpy() - expected)
    return float((error / np.abs(expected).max(axis=1, keepdims=True)).max())


def round_trip(parameterization: Parameterization, schedule: Schedule) -> float:
    """Largest error of x0 from its own target."""
    r, (x0, eps) = pairs(schedule)
    x_t = marginal(x0, r).sample(eps)
    return largest(parameterization.x0(parameterization.target(x0, eps, r, STD), x_t, r, STD) - x0)


def gain(parameterization: Parameterization) -> float:
    """Largest relative difference of |gain| and |d eps_hat/dF|: eps_hat is affine in F, so one difference is exact."""
    schedule = SCHEDULES["cosine"]
    r, (x0, eps) = pairs(schedule)
    x_t = marginal(x0, r).sample(eps)
    first, second = (Prediction(x_t, r, parameterization.x0(f, x_t, r, STD)).eps for f in (eps, eps + 1.0))
    moved = (second - first).abs().mean(1)
    return largest(parameterization.gain(r, STD).abs() / moved - 1)


def words(schedule: Schedule) -> float:
    """Largest difference of eps, score and v of a prediction from the oracle's, which says each by its own formula."""
    r = rates_over(schedule, COUNT)
    x_t = marginal(normals(len(r.t), 2), r).sample(normals(len(r.t), 2, seed=5000))
    d: Denoise = Ideal(MIXTURE, schedule)
    p = d(x_t, r.t)
    x, a, s = x_t.numpy(), r.alpha.numpy(), r.sigma.numpy()
    said = [p.eps, p.score * r.sigma[:, None], p.v]  # the score in units of the noise: it grows as 1/sigma
    true = [MIXTURE.eps(x, a, s), MIXTURE.score(x, a, s) * s[:, None], MIXTURE.velocity(x, a, s)]
    return worst(*(largest(ours.numpy() - theirs) for ours, theirs in zip(said, true, strict=True)))


def rotation() -> float:
    """x0 = a x_t - s v and eps = s x_t + a v of a variance-preserving pair (Salimans & Ho 2022, appendix D)."""
    r, (x0, eps) = pairs(SCHEDULES["cosine"])
    x_t, a, s = marginal(x0, r).sample(eps), r.alpha[:, None], r.sigma[:, None]
    v = Prediction(x_t, r, x0).v
    return worst(largest(a * x_t - s * v - x0), largest(s * x_t + a * v - eps))


def unit_target(schedule: Schedule) -> float:
    """Largest |Var F - 1| of EDM's target: it is linear in x0 of variance STD² and eps of variance 1."""
    r = rates_over(schedule, COUNT)
    one, nothing = torch.ones(COUNT, 1, dtype=torch.float64), torch.zeros(COUNT, 1, dtype=torch.float64)
    of_data, of_noise = Edm().target(STD * one, nothing, r, STD), Edm().target(nothing, one, r, STD)
    return largest(of_data**2 + of_noise**2 - 1)


def unit_input(schedule: Schedule) -> float:
    """Largest |Var(c_in x_t) - 1|."""
    r = rates_over(schedule, COUNT)
    return largest(unit_variance(r, STD) ** 2 * (r.alpha**2 * STD**2 + r.sigma**2) - 1)


class Silent(torch.nn.Module):
    """A network that says nothing: F = 0."""

    def forward(self, x: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
        return torch.zeros_like(x)


def silent_edm(schedule: Schedule) -> float:
    """Largest difference between EDM's denoiser with F = 0 and the ideal denoiser of N(0, STD²)."""
    d = Denoiser(Silent(), schedule, Edm(), time_input=LogSnrInput(), data_std=STD)
    r, (x0, eps) = pairs(schedule)
    x_t = marginal(x0, r).sample(eps)
    oracle = oracles.GaussianOracle(np.zeros(3), np.full(3, STD**2))
    ideal = oracle.denoiser(x_t.numpy(), r.alpha.numpy(), r.sigma.numpy())
    return largest(d(x_t, r.t).x0.numpy() - ideal)


def previous_mean() -> float:
    """Largest error of the target of `PreviousMean`, c1 x0 + c2 x_t of the oracle's chain (Ho et al. 2020, eq. 7)."""
    r, (x0, eps) = pairs(TABLE)
    x_t = marginal(x0, r).sample(eps).numpy()
    c = oracles.posterior_coefficients(oracles.alpha_bar(oracles.cosine_betas(COUNT)))
    expected = c.on_x0[:, None] * x0.numpy() + c.on_x_t[:, None] * x_t
    return largest(PreviousMean(TABLE).target(x0, eps, r, STD).numpy() - expected)


def log_snr_input() -> float:
    """Largest |-log_snr/8 - ¼ ln(sigma/alpha)|, Karras et al.'s c_noise (2022, table 1)."""
    r = rates_over(SCHEDULES["ve"])
    return largest(LogSnrInput().value(r).numpy() - np.log(r.noise_level.numpy()) / 4)


def _of_pairs() -> list[Check]:
    """The checks of every target on every family."""
    found: list[Check] = []
    for name, (parameterization, _) in TARGETS.items():
        for where, schedule in FAMILIES.items():
            of = f"{name}, {where}"
            # at log-SNR ±20 the part that should vanish from a target is a rounding error times e^10
            defined = partial(definition, name, schedule)
            about = "the target by its definition in x0 and eps, relative to its size"
            found.append(Check(f"parameterization[{of}]", about, AtMost(1e-10), defined))
            back = partial(round_trip, parameterization, schedule)
            about = "x0 comes back from its own target, float64"
            found.append(Check(f"parameterization[round trip {of}]", about, AtMost(1e-10), back))
    return found


CHECKS = (
    *_of_pairs(),
    *(
        Check(
            f"gain[{name}]",
            "|eps_hat - eps| per |F_hat - F|, relative: how weights meet targets",
            AtMost(1e-9),
            partial(gain, parameterization),
        )
        for name, (parameterization, _) in TARGETS.items()
    ),
    *(
        # eps = (x_t - alpha x0)/sigma divides rounding errors by sigma, down to e^-10
        Check(
            f"words[{name}]",
            "eps, score and v of a prediction against the mixture's own (Tweedie; Salimans & Ho 2022)",
            AtMost(1e-10),
            partial(words, schedule),
        )
        for name, schedule in SCHEDULES.items()
    ),
    *(
        check
        for name, schedule in FAMILIES.items()
        for check in (
            Check(
                f"edm[unit target, {name}]",
                "EDM's target has unit variance at every level (Karras 2022, app. B.6)",
                AtMost(1e-12),
                partial(unit_target, schedule),
            ),
            Check(
                f"edm[unit input, {name}]",
                "c_in x_t has unit variance at every level (Karras 2022, app. B.6)",
                AtMost(1e-12),
                partial(unit_input, schedule),
            ),
            Check(
                f"edm[silent network, {name}]",
                "with F = 0 EDM's denoiser is the ideal one of N(0, data_std²)",
                AtMost(1e-12),
                partial(silent_edm, schedule),
            ),
        )
    ),
    Check("identity[v rotates x0 and eps]", proves(rotation), AtMost(1e-12), rotation),
    Check("parameterization[previous mean]", proves(previous_mean), AtMost(1e-10), previous_mean),
    Check("edm[noise input]", proves(log_snr_input), AtMost(1e-12), log_snr_input),
)
