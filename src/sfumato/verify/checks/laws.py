"""Laws of what comes out, for Gaussian data, where every sampler is a linear map: exact, without a single draw.

`law`: the variance after all T steps of the linear table, as calculated apart from this library, and after few steps
against the oracle's recursion V <- R² V + var. `weak order`: how fast the variance of a stochastic sampler, started
from the exact law at t = 1, comes to that at t_min.
"""

from functools import partial
from typing import Any

import numpy as np

from sfumato.core import CosineBetas, Large, LinearBetas, OneLevel, Optimal, Small, Tabulated, Variance
from sfumato.samplers import (
    Ancestral,
    Ddim,
    Dpmpp2MSde,
    Dpmpp3MSde,
    DpmppSde,
    EulerMaruyama,
    Heun,
    Langevin,
    Sampler,
    Trailing,
)
from sfumato.verify import oracles
from sfumato.verify.affine import output_variance
from sfumato.verify.check import AtLeast, AtMost, Bound, Check, Near, proves
from sfumato.verify.checks.likelihoods import exact_optimal
from sfumato.verify.checks.material import SCHEDULES
from sfumato.verify.checks.samplers import log_snr_grid

__all__ = ["CHECKS", "WEAK_ORDERS", "weak_order"]

# Variance of the output for data of variance L: linear table, T = 1000.
PUBLISHED: dict[tuple[str, float], tuple[Variance, float]] = {
    ("large", 0.25): (Large(), 0.250752),
    ("small", 0.25): (Small(), 0.246125),
    ("large", 1.0): (Large(), 0.999900),
    ("small", 1.0): (Small(), 0.991067),
    ("large", 4.0): (Large(), 3.990569),
    ("small", 4.0): (Small(), 3.974777),
}
DATA_VAR = 0.25

# The variance of a stochastic sampler converges with this order in the number of steps.
WEAK_ORDERS: dict[str, tuple[Sampler[Any], Bound]] = {
    "ancestral small": (Ancestral(Small()), Near(1, 0.1)),
    "ancestral large": (Ancestral(Large()), Near(1, 0.1)),
    "ddim eta 0.5": (Ddim(eta=0.5), Near(1, 0.1)),
    "heun churn": (Heun(churn=0.5), Near(2, 0.1)),
    "euler-maruyama": (EulerMaruyama(), Near(1, 0.1)),
    "dpmpp 2m sde": (Dpmpp2MSde(), Near(2, 0.1)),
    "dpmpp 3m sde": (Dpmpp3MSde(), AtLeast(1.85)),
    "dpmpp sde": (DpmppSde(), Near(2, 0.1)),
}
WHERE = ("cosine", "ve", "linear table")
WEAK_STEPS = (64, 128, 256)


def of_chain(variance: Variance, data_var: float) -> float:
    """Variance of ancestral sampling in all 1,000 steps of the linear table, from N(0, 1)."""
    schedule = Tabulated()
    times = Trailing().times(schedule, 1000)
    return output_variance(Ancestral(variance), schedule, times, data_var=data_var, prior_var=1.0)


def recursion(sampler: Sampler[Any], name: str, steps: int) -> float:
    """Relative error of the output's variance in a few steps of a 100-step table, against the oracle's recursion."""
    schedule = Tabulated({"linear": LinearBetas(), "cosine": CosineBetas()}[name], 100)
    table = {"linear": oracles.linear_betas(100, 1e-3, 0.2), "cosine": oracles.cosine_betas(100)}[name]
    times = Trailing().times(schedule, steps)
    bars = oracles.alpha_bar(table)[[round(t * 100) - 1 for t in reversed(times[:-1])]]
    ours = output_variance(sampler, schedule, times, data_var=DATA_VAR, prior_var=1.0)
    return abs(ours / expected_variance(sampler, bars) - 1)


def optimal_recursion(name: str) -> float:
    """The same for the optimal variance, given the exact error of the ideal denoiser."""
    schedule = Tabulated({"linear": LinearBetas(), "cosine": CosineBetas()}[name], 100)
    return recursion(Ancestral(exact_optimal(schedule, DATA_VAR)), name, 7)


def expected_variance(sampler: Sampler[Any], bars: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """What the oracle's chain on the kept alpha-bars puts out."""
    match sampler:
        case Ancestral(variance=Large()) | Ddim(sigma_hat=True):
            return oracles.reverse_chain_variance(bars, DATA_VAR, oracles.large_variances(bars))
        case Ancestral(variance=Optimal()):
            return oracles.reverse_chain_variance(bars, DATA_VAR, oracles.optimal_variances(bars, DATA_VAR))
        case Ddim(eta=eta):
            return oracles.ddim_chain_variance(bars, DATA_VAR, eta=eta)
        case _:
            return oracles.reverse_chain_variance(bars, DATA_VAR, oracles.small_variances(bars))


def weak_order(sampler: Sampler[Any], where: str) -> float:
    """Minus the slope of log |variance - truth| over log(steps), from the exact law at t = 1 to t_min."""
    schedule = SCHEDULES[where]
    start, stop = schedule.rates(1.0), schedule.rates(schedule.t_min)
    prior_var, truth = (float(r.alpha**2) * DATA_VAR + float(r.sigma**2) for r in (start, stop))
    errors = [
        abs(
            output_variance(sampler, schedule, log_snr_grid(schedule, n), data_var=DATA_VAR, prior_var=prior_var)
            - truth
        )
        for n in WEAK_STEPS
    ]
    return -float(np.polyfit(np.log(WEAK_STEPS), np.log(errors), 1)[0])


def langevin(step_size: float) -> float:
    """Variance of 300 Langevin steps at one level, against V/(1 - step/(4 V)), which they keep; relative."""
    schedule, wide = OneLevel(0.5), DATA_VAR + 0.5**2
    kept = wide / (1 - step_size / (4 * wide))
    sampler = Langevin(iterations=300, step_size=step_size)
    return abs(output_variance(sampler, schedule, [1.0, 0.0], data_var=DATA_VAR, prior_var=kept) / kept - 1)


def langevin_from_afar() -> float:
    """The same from a start of a hundred times the variance: 300 steps of 0.1 forget it."""
    schedule, wide = OneLevel(0.5), DATA_VAR + 0.5**2
    kept = wide / (1 - 0.1 / (4 * wide))
    sampler = Langevin(iterations=300, step_size=0.1)
    return abs(output_variance(sampler, schedule, [1.0, 0.0], data_var=DATA_VAR, prior_var=100 * kept) / kept - 1)


def _recursions() -> list[Check]:
    samplers: dict[str, Sampler[Any]] = {
        "ancestral small": Ancestral(Small()),
        "ancestral large": Ancestral(Large()),
        "ddim": Ddim(),
        "ddim eta 0.4": Ddim(eta=0.4),
        "ddim sigma hat": Ddim(eta=1.0, sigma_hat=True),
    }
    about = "variance of the output in 7 of 100 steps, against the oracle's recursion, relative"
    return [
        Check(f"law[{name}, 7 of 100, {table}]", about, AtMost(1e-9), partial(recursion, sampler, table, 7))
        for name, sampler in samplers.items()
        for table in ("linear", "cosine")
    ] + [
        Check(f"law[ancestral optimal, 7 of 100, {table}]", about, AtMost(1e-9), partial(optimal_recursion, table))
        for table in ("linear", "cosine")
    ]


CHECKS = (
    *(
        # six printed decimals
        Check(
            f"law[ancestral {kind}, L={data_var:g}]",
            "variance of the output of all 1000 steps of the linear table, by recursion elsewhere (Ho 2020, sec. 3.2)",
            Near(value, 1e-6),
            partial(of_chain, variance, data_var),
            quick=False,
        )
        for (kind, data_var), (variance, value) in PUBLISHED.items()
    ),
    *_recursions(),
    *(
        Check(
            f"weak order[{name}, {where}]",
            f"slope of the variance's error over {WEAK_STEPS[0]} to {WEAK_STEPS[-1]} steps, exact",
            bound,
            partial(weak_order, sampler, where),
            quick=name in ("ancestral small", "dpmpp sde") and where == "cosine",
        )
        for name, (sampler, bound) in WEAK_ORDERS.items()
        for where in WHERE
    ),
    *(
        Check(f"law[langevin, step {size:g}]", proves(langevin), AtMost(1e-10), partial(langevin, size), quick=False)
        for size in (0.1, 1.0)
    ),
    Check(
        "law[langevin, forgets its start]", proves(langevin_from_afar), AtMost(1e-10), langevin_from_afar, quick=False
    ),
)
