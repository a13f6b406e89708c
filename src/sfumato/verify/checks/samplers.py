"""Samplers: order of convergence, declared calls, and what every method must do with data that are one point.

Orders are slopes of the mean distance from the probability flow's endpoint, from the same start, on a mixture, in
float64, over grids equally spaced in log-SNR that end at t_min: with a jump to data a second-order method looks as if
it were of first order. Adding a sampler is one line of `METHODS`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.core import NoiseSource, Schedule, Tabulated
from sfumato.guidance import Counting
from sfumato.samplers import (
    Ancestral,
    AnnealedLangevin,
    Ddim,
    Deis,
    Dpm2,
    Dpmpp2M,
    Dpmpp2MSde,
    Dpmpp2S,
    Dpmpp3M,
    Dpmpp3MSde,
    DpmppSde,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    Sampler,
    Trailing,
    UniformLogSnr,
    UniPc,
    sample,
)
from sfumato.verify import oracles
from sfumato.verify.check import AtLeast, AtMost, Bound, Check, Near
from sfumato.verify.checks.material import SCHEDULES, largest, normals, worst
from sfumato.verify.ideal import MIXTURE, Ideal

__all__ = ["CHECKS", "METHODS", "Method", "endpoint_error", "order"]


@dataclass(frozen=True, slots=True)
class Method:
    """A sampler and what is asked of it.

    sampler: the method with its settings.
    paper: where it is defined.
    order: the bound on its measured order; None for a method that adds noise, whose laws are measured elsewhere.
    """

    sampler: Sampler[Any]
    paper: str
    order: Bound | None = None


# What each method must reach. The gate of ±0.1 is ten times tighter than the steps between orders.
METHODS: dict[str, Method] = {
    "ddim": Method(Ddim(), "Song, Meng & Ermon 2021", Near(1, 0.1)),
    "ddim eta 1": Method(Ddim(eta=1.0), "Song, Meng & Ermon 2021"),
    "ancestral small": Method(Ancestral(), "Ho et al. 2020"),
    "heun": Method(Heun(), "Karras et al. 2022, alg. 1", Near(2, 0.1)),
    "heun churn": Method(Heun(churn=0.5), "Karras et al. 2022, alg. 2"),
    "dpm2": Method(Dpm2(), "Lu et al. 2022a", Near(2, 0.1)),
    "dpmpp 2s": Method(Dpmpp2S(), "Lu et al. 2022b", Near(2, 0.1)),
    "dpmpp 2m": Method(Dpmpp2M(), "Lu et al. 2022b", Near(2, 0.1)),
    # the first step has one value: order 2 as a whole, whose h² is small enough to look like 3 for a while
    "dpmpp 3m": Method(Dpmpp3M(), "Lu et al. 2022b", AtLeast(1.85)),
    "deis": Method(Deis(), "Zhang & Chen 2023", Near(2, 0.1)),
    "deis 3": Method(Deis(points=3), "Zhang & Chen 2023", AtLeast(1.85)),
    "unipc": Method(UniPc(), "Zhao et al. 2023", Near(3, 0.1)),
    "euler-maruyama": Method(EulerMaruyama(), "Song et al. 2021, eq. 6"),
    "dpmpp 2m sde": Method(Dpmpp2MSde(), "Lu et al. 2022b, sec. 5"),
    "dpmpp 3m sde": Method(Dpmpp3MSde(), "Lu et al. 2022b, sec. 5"),
    "dpmpp sde": Method(DpmppSde(), "Lu et al. 2022b, sec. 5"),
    "predictor-corrector": Method(PredictorCorrector(), "Song et al. 2021, alg. 2-5"),
    "annealed langevin": Method(AnnealedLangevin(iterations=3), "Song & Ermon 2019, alg. 1"),
}

# Numbers of steps over which the slope is fitted: the flow spans 40 nats of log-SNR, three times the others.
STEPS: dict[str, Sequence[int]] = {
    "cosine": (64, 128, 256),  # short, for `--quick`
    "ve": (64, 128, 256, 512),
    "flow": (128, 256, 512),
    "linear table": (64, 128, 256, 512),
}
COUNT = 24  # starting points


def log_snr_grid(schedule: Schedule, steps: int) -> list[float]:
    """steps + 1 times from 1 to t_min, equally spaced in log-SNR."""
    ends = schedule.log_snr(torch.tensor([1.0, schedule.t_min], dtype=torch.float64))
    inner = schedule.time(torch.linspace(float(ends[0]), float(ends[1]), steps + 1, dtype=torch.float64)).tolist()
    return [1.0, *inner[1:-1], schedule.t_min]


def starts(schedule: Schedule) -> Tensor:
    """Points of the schedule's own prior, (COUNT, 2)."""
    return schedule.prior_std * normals(COUNT, 2, seed=1)


@lru_cache(maxsize=8)
def endpoints(schedule: Schedule) -> Tensor:
    """Where the probability flow takes the starts, by Runge-Kutta in ln(sigma/alpha): error below 1e-9."""
    start, stop = schedule.rates(1.0), schedule.rates(schedule.t_min)
    levels = (float(start.noise_level), float(stop.noise_level))
    steps = round(100 * abs(math.log(levels[1] / levels[0])))
    y = oracles.probability_flow(
        MIXTURE, (starts(schedule) / start.alpha).numpy(), start=levels[0], stop=levels[1], steps=steps
    )
    return stop.alpha * torch.from_numpy(y)


def endpoint_error(sampler: Sampler[Any], schedule: Schedule, steps: int) -> float:
    """Mean distance between where the sampler and where the probability flow take the starts."""
    x, noise = starts(schedule), NoiseSource.of(seed=0, count=COUNT)
    *_, end = sample(sampler, Ideal(MIXTURE, schedule), x, log_snr_grid(schedule, steps), noise=noise)
    return float((end.x - endpoints(schedule)).norm(dim=1).mean())


def order(sampler: Sampler[Any], where: str) -> float:
    """Minus the slope of log(error) over log(steps)."""
    errors = [endpoint_error(sampler, SCHEDULES[where], steps) for steps in STEPS[where]]
    return -float(np.polyfit(np.log(STEPS[where]), np.log(errors), 1)[0])


def calls(sampler: Sampler[Any]) -> float:
    """Largest difference of declared, reported and counted calls over 1, 2, 3 and 12 steps that end at data."""
    errors: list[int] = []
    for steps in (1, 2, 3, 12):
        counting = Counting(Ideal(MIXTURE, SCHEDULES["cosine"]))
        times, noise = Trailing().times(counting.schedule, steps), NoiseSource.of(seed=0, count=2)
        *_, end = sample(sampler, counting, normals(2, 2), times, noise=noise)
        errors += [abs(counting.calls - sampler.calls(steps)), abs(counting.calls - end.calls)]
    return float(max(errors))


def one_point(sampler: Sampler[Any]) -> float:
    """Largest distance from the only point there is, after 12 steps on each family that end at data."""
    point = np.array([[0.7, -0.4, 0.1]])
    errors: list[float] = []
    for where in ("cosine", "ve", "flow", "linear table"):
        schedule = SCHEDULES[where]
        d = Ideal(oracles.DatasetOracle(point), schedule)
        x, noise = schedule.prior_std * normals(4, 3), NoiseSource.of(seed=0, count=4)
        *_, end = sample(sampler, d, x, Trailing().times(schedule, 12), noise=noise)
        errors.append(largest(end.x.numpy() - point))
    return worst(*errors)


def straight(sampler: Sampler[Any]) -> float:
    """Largest error after 5 steps to t_min for data that are one point, where x0 and eps are constant along a path."""
    point = np.array([[0.7, -0.4, 0.1]])
    errors: list[float] = []
    for where in ("cosine", "ve", "linear table"):
        schedule = SCHEDULES[where]
        x, noise = schedule.prior_std * normals(4, 3), NoiseSource.of(seed=0, count=4)
        d = Ideal(oracles.DatasetOracle(point), schedule)
        *_, end = sample(sampler, d, x, UniformLogSnr().times_to_t_min(schedule, 5), noise=noise)
        start, stop = schedule.rates(1.0), schedule.rates(schedule.t_min)
        noise_left = float(stop.sigma / start.sigma) * (x - start.alpha * torch.from_numpy(point))
        errors.append(largest(end.x - stop.alpha * torch.from_numpy(point) - noise_left))
    return worst(*errors)


def alone(sampler: Sampler[Any]) -> float:
    """Largest difference between sample 2 of a batch of 4 and the same seed sampled alone."""
    schedule = Tabulated(steps=100)
    times, d = Trailing().times(schedule, 10), Ideal(MIXTURE, schedule)

    def drawn(first: int, count: int) -> Tensor:
        x, noise = normals(count, 2, seed=first), NoiseSource.of(seed=0, first=first, count=count)
        *_, end = sample(sampler, d, x, times, noise=noise)
        return end.x

    return largest(drawn(0, 4)[2:3] - drawn(2, 1))


def same_picture(sampler: Sampler[Any]) -> float:
    """Mean distance between 50 and 400 steps over that between two seeds: one Brownian path, ever finer."""
    schedule = SCHEDULES["cosine"]
    x, d = normals(COUNT, 2, seed=1), Ideal(MIXTURE, schedule)

    def drawn(steps: int, seed: int) -> Tensor:
        noise = NoiseSource.of(seed=seed, count=COUNT)
        *_, end = sample(sampler, d, x, log_snr_grid(schedule, steps), noise=noise)
        return end.x

    fine = drawn(400, 0)
    return float((drawn(50, 0) - fine).norm(dim=1).mean() / (drawn(400, 1000) - fine).norm(dim=1).mean())


def _orders() -> list[Check]:
    found: list[Check] = []
    for name, method in METHODS.items():
        if method.order is None:
            continue
        for where in STEPS:
            about = f"slope of the error over {STEPS[where][0]} to {STEPS[where][-1]} steps ({method.paper})"
            measure = partial(order, method.sampler, where)
            found.append(Check(f"order[{name}, {where}]", about, method.order, measure, quick=where == "cosine"))
    return found


def _every(
    kind: str, about: str, bound: Bound, measure: Callable[[Sampler[Any]], float], *, methods: Mapping[str, Method]
) -> list[Check]:
    """A check of every one of some methods."""
    return [
        Check(f"{kind}[{name}]", f"{about} ({method.paper})", bound, partial(measure, method.sampler))
        for name, method in methods.items()
    ]


DETERMINISTIC = {name: method for name, method in METHODS.items() if method.sampler.deterministic}

CHECKS = (
    *_orders(),
    *_every("calls", "declared, reported and counted calls of the denoiser agree", Near(0, 0), calls, methods=METHODS),
    *_every("one point", "data that are one point are returned", AtMost(1e-10), one_point, methods=METHODS),
    # coefficients of up to 80 times the noise level's start, which cancel
    *_every("straight path", "constant x0 and eps: no error of method", AtMost(1e-10), straight, methods=DETERMINISTIC),
    *_every("batch independence", "a sample does not see the others", AtMost(1e-12), alone, methods=METHODS),
)
