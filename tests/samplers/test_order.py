"""Order of convergence on a mixture, against an ODE solver that knows nothing of schedules or samplers.

In y = x/alpha, u = sigma/alpha every schedule has the same probability-flow ODE, dy/du = eps(y, u), with eps the
oracle's at alpha = 1, sigma = u. scipy integrates it in ln u; a sampler walks a grid of equal steps in log-SNR that
ends at t_min.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from sfumato.core import CosineAngle, CosineBetas, Denoise, NoiseSource, RectifiedFlow, Schedule, Tabulated, Ve, VpSde
from sfumato.samplers import (
    Ddim,
    Deis,
    Dpm2,
    Dpmpp2M,
    Dpmpp2S,
    Dpmpp3M,
    Heun,
    Karras,
    Sampler,
    TimeGrid,
    UniformLogSnr,
    UniPc,
    sample,
)
from sfumato.verify.oracles import GaussianOracle, MixtureOracle, Oracle

MIXTURE = MixtureOracle([0.3, 0.7], [[1.0, -0.5], [-0.6, 0.8]], [[[0.3, 0.1], [0.1, 0.4]], [[0.2, 0.0], [0.0, 0.3]]])
SCHEDULES = {
    "angle": CosineAngle(),
    "ve": Ve(0.01, 80.0),
    "flow": RectifiedFlow(),
    "vp": VpSde(),
    "table": Tabulated(),
    "cosine-table": Tabulated(CosineBetas()),
}
MakeIdeal = Callable[[Oracle, Schedule], Denoise]
COUNT = 24


def grid(schedule: Schedule, steps: int) -> list[float]:
    """steps + 1 times from 1 to t_min, equally spaced in log-SNR."""
    ends = schedule.log_snr(torch.tensor([1.0, schedule.t_min], dtype=torch.float64))
    inner = schedule.time(torch.linspace(float(ends[0]), float(ends[1]), steps + 1, dtype=torch.float64)).tolist()
    return [1.0, *inner[1:-1], schedule.t_min]


def endpoint(sampler: Sampler[None], d: Denoise, x: Tensor, steps: int) -> Tensor:
    *_, end = sample(sampler, d, x, grid(d.schedule, steps), noise=NoiseSource.of(seed=0, count=len(x)))
    return end.x


def noisy(schedule: Schedule) -> Tensor:
    """Points of the schedule's own prior, which the data's marginal at t = 1 is close to."""
    return schedule.prior_std * NoiseSource.of(seed=1, count=COUNT).initial(
        (COUNT, 2), like=torch.zeros((), dtype=torch.float64)
    )


@cache
def exact_end(schedule: Schedule) -> Tensor:
    return exact(schedule, noisy(schedule))


def exact(schedule: Schedule, x: Tensor) -> Tensor:
    start, stop = schedule.rates(1.0), schedule.rates(schedule.t_min)

    def velocity(log_u: float, flat: np.ndarray) -> np.ndarray:
        u = math.exp(log_u)
        return (u * MIXTURE.eps(flat.reshape(COUNT, 2), 1.0, u)).ravel()

    span = [float(r.noise_level.log()) for r in (start, stop)]
    solved = solve_ivp(velocity, span, (x / start.alpha).flatten().numpy(), method="DOP853", rtol=1e-9, atol=1e-10)
    return stop.alpha * torch.from_numpy(solved.y[:, -1].reshape(COUNT, 2))


@pytest.mark.parametrize("name", SCHEDULES)
def test_ddim_is_of_first_order(name: str, ideal: MakeIdeal) -> None:
    """Halving the steps in log-SNR halves the error: slope 1.00 ± 0.1 over 64, 128, 256 (512 on the widest span)."""
    schedule = SCHEDULES[name]
    x = noisy(schedule)
    truth = exact_end(schedule)
    d = ideal(MIXTURE, schedule)
    counts = [256, 512] if name == "flow" else [64, 128, 256]  # the flow spans 40 nats, four times the others
    errors = [float((endpoint(Ddim(), d, x, steps) - truth).norm(dim=1).mean()) for steps in counts]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -slope == pytest.approx(Ddim.order, abs=0.1)
    assert errors[-1] < 0.05  # and to the right place, in units of data of size 1


@pytest.mark.parametrize("name", ["angle", "ve", "flow", "table"])
def test_gaussian_flow_ends_where_the_closed_form_says(name: str, ideal: MakeIdeal) -> None:
    """x_u = a_u m + S_u^½ S_t^-½ (x_t - a_t m), in correlated dimensions; the error halves, and extrapolates away."""
    schedule = SCHEDULES[name]
    oracle = GaussianOracle([0.3, -0.7], [[0.5, 0.3], [0.3, 0.9]])
    x = noisy(schedule)
    start, stop = schedule.rates(1.0), schedule.rates(schedule.t_min)
    truth = torch.from_numpy(
        oracle.flow(
            x.numpy(),
            alpha=float(start.alpha),
            sigma=float(start.sigma),
            to_alpha=float(stop.alpha),
            to_sigma=float(stop.sigma),
        )
    )
    d = ideal(oracle, schedule)
    coarse, fine = (endpoint(Ddim(), d, x, steps) for steps in (300, 600))
    assert float((coarse - truth).norm() / (fine - truth).norm()) == pytest.approx(2, rel=0.1)
    # Richardson: 2 fine - coarse leaves the second order, (40/600)² of the flow and less elsewhere
    assert float((2 * fine - coarse - truth).abs().max()) < 2e-3


# A first step of order p - 1 leaves an error h^p: little happens near t = 1, so it hides here, and what interpolates
# three values looks one order better than in the end. Those declare the order no start can spoil, a lower bound.
SOLVERS: list[tuple[Sampler[Any], float, float]] = [
    (Heun(), 1.9, 2.1),
    (Dpm2(), 1.9, 2.1),
    (Dpmpp2S(), 1.9, 2.1),
    (Dpmpp2M(), 1.9, 2.1),
    (Deis(), 1.9, 2.1),
    (Dpmpp3M(), 1.85, math.inf),
    (UniPc(), 2.9, 3.1),
]
VARIANTS: list[tuple[Sampler[Any], float, float]] = [
    (Deis(points=3), 1.9, math.inf),
    (UniPc(variant="bh1"), 2.9, 3.1),
    (UniPc(points=3), 2.9, math.inf),
]


def solver_slope(sampler: Sampler[Any], grid: TimeGrid, d: Denoise, counts: tuple[int, int]) -> float:
    """-d log error / d log steps between two numbers of steps, on a grid that ends at t_min."""
    x, truth = noisy(d.schedule), exact_end(d.schedule)
    errors = []
    for steps in counts:
        times = grid.times_to_t_min(d.schedule, steps)
        *_, end = sample(sampler, d, x, times, noise=NoiseSource.of(seed=0, count=len(x)))
        errors.append(float((end.x - truth).norm(dim=1).mean()))
    return math.log(errors[0] / errors[1]) / math.log(counts[1] / counts[0])


def name_of(value: object) -> str:
    return repr(value).split("(churn")[0]


@pytest.mark.parametrize(("sampler", "least", "most"), SOLVERS, ids=name_of)
@pytest.mark.parametrize("name", ["angle", "ve", "flow", "table"])
def test_order_of_a_solver(name: str, sampler: Sampler[Any], least: float, most: float, ideal: MakeIdeal) -> None:
    """The slope from 64 to 512 steps in log-SNR is the order declared, ± 0.1; the flow, of 40 nats, included."""
    slope = solver_slope(sampler, UniformLogSnr(), ideal(MIXTURE, SCHEDULES[name]), (64, 512))
    assert least <= slope <= most
    assert least >= sampler.order - 0.15


@pytest.mark.parametrize(("sampler", "least", "most"), VARIANTS, ids=name_of)
def test_order_of_a_variant(sampler: Sampler[Any], least: float, most: float, ideal: MakeIdeal) -> None:
    slope = solver_slope(sampler, UniformLogSnr(), ideal(MIXTURE, SCHEDULES["ve"]), (64, 512))
    assert least <= slope <= most
    assert least >= sampler.order - 0.15


@pytest.mark.parametrize("sampler", [Heun(), Dpm2(), Dpmpp2M()], ids=["heun", "dpm2", "2m"])
def test_order_on_karras_noise_levels(sampler: Sampler[Any], ideal: MakeIdeal) -> None:
    """Steps of changing length: a multistep method that took them for equal would fall to order 1."""
    slope = solver_slope(sampler, Karras(), ideal(MIXTURE, SCHEDULES["ve"]), (64, 256))
    assert slope == pytest.approx(2, abs=0.15)
