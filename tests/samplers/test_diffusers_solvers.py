"""The deterministic solvers against diffusers' along its own timesteps, on one mixture and a table, in float64.

Theirs hold tables in float32 and cast states to it; here their modules are told that float32 is float64, so that all
of their arithmetic is. Tolerance 1e-12 of the largest value of a state: what is left is rounding.
"""

import importlib
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.core import Denoise, NoiseSource, Rates, Schedule, Tabulated
from sfumato.samplers import Ddim, Deis, Dpmpp2M, Dpmpp3M, Heun, Sampler, UniPc, sample
from sfumato.verify.oracles import MixtureOracle, Oracle

pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")  # it calls NumPy as of old

T, STEPS = 1000, 20
TABLE = Tabulated()
MIXTURE = MixtureOracle([0.3, 0.7], [[1.0, -0.5], [-0.6, 0.8]], [[[0.3, 0.1], [0.1, 0.4]], [[0.2, 0.0], [0.0, 0.3]]])
MakeIdeal = Callable[[Oracle, Schedule], Denoise]
Theirs = Callable[..., Any]


class Doubled:
    """A module in which float32 means float64."""

    def __init__(self, module: Any, double: Any) -> None:
        self.module, self.float32 = module, double

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Theirs:
    """A scheduler of diffusers for 20 steps of the linear table, in float64 throughout."""

    def make(name: str, kind: str, **options: Any) -> Any:
        module = importlib.import_module(f"diffusers.schedulers.scheduling_{name}")
        monkeypatch.setattr(module, "torch", Doubled(torch, torch.float64))
        monkeypatch.setattr(module, "np", Doubled(np, np.float64))
        table = {"num_train_timesteps": T, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
        scheduler = getattr(module, kind)(**table, **options)
        scheduler.set_timesteps(STEPS)
        assert scheduler.sigmas.dtype == torch.float64
        return scheduler

    return make


def times_of(scheduler: Any, end: float) -> list[float]:
    indices = dict.fromkeys(scheduler.timesteps.tolist())  # Heun's are listed twice
    return [*((index + 1) / T for index in indices), end]


def start() -> Tensor:
    return NoiseSource.of(seed=3, count=8).initial((8, 2), like=torch.zeros((), dtype=torch.float64))


def our_states(sampler: Sampler[Any], d: Denoise, times: list[float]) -> list[Tensor]:
    return [step.x for step in sample(sampler, d, start(), times, noise=NoiseSource.of(seed=0, count=8))]


def eps_at(d: Denoise, x: Tensor, index: float) -> Tensor:
    return d(x, torch.tensor((index + 1) / T, dtype=torch.float64)).eps


def assert_all_same(ours: list[Tensor], others: list[Tensor]) -> None:
    assert len(ours) == len(others)
    for a, b in zip(ours, others, strict=True):
        scale = max(1.0, float(b.abs().max()))
        torch.testing.assert_close(a / scale, b / scale, rtol=0, atol=1e-12)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_euler(spacing: str, theirs: Theirs, ideal: MakeIdeal) -> None:
    """Theirs walks in y = x/alpha. (Its linspace lies between the steps of the table.)"""
    scheduler = theirs("euler_discrete", "EulerDiscreteScheduler", timestep_spacing=spacing)
    d, times = ideal(MIXTURE, TABLE), times_of(scheduler, 0.0)
    alphas = [*(float(TABLE.rates(t).alpha) for t in times[:-1]), 1.0]
    y, states = start() / alphas[0], []
    for k, index in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(y, index)
        y = scheduler.step(eps_at(d, alphas[k] * y, float(index)), index, y).prev_sample
        states.append(alphas[k + 1] * y)
    assert_all_same(our_states(Ddim(), d, times), states)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_heun(spacing: str, theirs: Theirs, ideal: MakeIdeal) -> None:
    """Theirs makes two steps of each of ours, the first to the end and the second back from the start."""
    scheduler = theirs("heun_discrete", "HeunDiscreteScheduler", timestep_spacing=spacing)
    d, times = ideal(MIXTURE, TABLE), times_of(scheduler, 0.0)
    y, states = start() / TABLE.rates(times[0]).alpha, []
    for k, index in enumerate(scheduler.timesteps.tolist()):
        x = TABLE.rates((index + 1) / T).alpha * y
        y = scheduler.step(eps_at(d, x, index), scheduler.timesteps[k], y).prev_sample
        if scheduler.state_in_first_order and k < len(scheduler.timesteps) - 1:
            states.append(TABLE.rates((index + 1) / T).alpha * y)
    assert_all_same(our_states(Heun(), d, times), [*states, y])


def their_states(scheduler: Any, d: Denoise) -> list[Tensor]:
    x, states = start(), []
    for index in scheduler.timesteps:
        x = scheduler.step(eps_at(d, x, float(index)), index, x).prev_sample
        states.append(x)
    return states


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_dpm_solver_2m(spacing: str, theirs: Theirs, ideal: MakeIdeal) -> None:
    scheduler = theirs("dpmsolver_multistep", "DPMSolverMultistepScheduler", timestep_spacing=spacing)
    d, times = ideal(MIXTURE, TABLE), times_of(scheduler, 0.0)
    assert_all_same(our_states(Dpmpp2M(), d, times), their_states(scheduler, d))


@pytest.mark.parametrize(
    ("points", "variant", "compared"), [(2, "bh2", STEPS), (2, "bh1", STEPS - 1), (3, "bh2", STEPS - 2)]
)
def test_unipc(points: int, variant: Any, compared: int, theirs: Theirs, ideal: MakeIdeal) -> None:
    """Theirs gives nan at data with bh1, and with order 3 takes order 2 for the step before: compared up to there."""
    options = {"solver_order": points, "solver_type": variant, "timestep_spacing": "trailing"}
    scheduler = theirs("unipc_multistep", "UniPCMultistepScheduler", **options)
    d, times = ideal(MIXTURE, TABLE), times_of(scheduler, 0.0)
    ours = our_states(UniPc(points, variant), d, times)
    assert_all_same(ours[:compared], their_states(scheduler, d)[:compared])


@pytest.mark.parametrize("points", [2, 3])
def test_deis(points: int, theirs: Theirs, ideal: MakeIdeal) -> None:
    """Theirs ends at the first step of the table, not at data."""
    scheduler = theirs("deis_multistep", "DEISMultistepScheduler", solver_order=points, timestep_spacing="trailing")
    d, times = ideal(MIXTURE, TABLE), times_of(scheduler, TABLE.t_min)
    assert_all_same(our_states(Deis(points), d, times), their_states(scheduler, d))


def test_their_third_order_weighs_the_curvature_by_half(theirs: Theirs, ideal: MakeIdeal) -> None:
    """One step from the same three values: ours less theirs is half of alpha h³ phi_3(-h) x0'', to rounding.

    Their D2 is the second divided difference, h² x0''/2, and the weight they give it that of h² x0''.
    """
    scheduler = theirs("dpmsolver_multistep", "DPMSolverMultistepScheduler", solver_order=3)
    d, x = ideal(MIXTURE, TABLE), start()
    times = times_of(scheduler, 0.0)
    sampler, at = Dpmpp3M(), 12
    state = sampler.init(x)
    for t, s in pairwise(times[: at + 2]):
        before = state
        stepped = sampler.step(d, x, t=t, s=s, state=state, noise=NoiseSource.of(seed=0, count=8), cond=None)
        last, x, state = x, stepped.x, stepped.state
    values = [stepped.prediction.x0, *before.values[:2]]
    scheduler._step_index = at
    other = scheduler.multistep_dpm_solver_third_order_update(values[::-1], sample=last)
    places = [float(TABLE.rates(t).log_snr) / 2 for t in times[at - 2 : at + 2]]
    curvature = second_derivative(values, places[2::-1])
    then: Rates = TABLE.rates(times[at + 1])
    h = places[3] - places[2]
    share = h**2 / 2 - h - math.expm1(-h)  # h³ phi_3(-h)
    assert float((stepped.x - other).abs().max()) > 1e-5  # far above rounding
    assert_all_same([stepped.x - other], [float(then.alpha) * share * curvature / 2])


def second_derivative(values: list[Tensor], places: list[float]) -> Tensor:
    """Of the parabola through three values."""
    first = [(values[k] - values[k + 1]) / (places[k] - places[k + 1]) for k in range(2)]
    return 2 * (first[0] - first[1]) / (places[0] - places[2])
