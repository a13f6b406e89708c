"""The deterministic solvers: exact endpoints, calls, dtypes, the quadrature behind them, and Heun's churn."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from sfumato.core import (
    CosineAngle,
    CosineBetas,
    Denoise,
    NoiseSource,
    Prediction,
    RectifiedFlow,
    Schedule,
    Tabulated,
    Ve,
)
from sfumato.errors import ConfigError
from sfumato.guidance import Counting
from sfumato.samplers import (
    Ancestral,
    Ddim,
    Deis,
    Dpm2,
    Dpmpp2M,
    Dpmpp2S,
    Dpmpp3M,
    Heun,
    Karras,
    Linspace,
    Sampler,
    Step,
    Trailing,
    UniformLogSnr,
    UniPc,
    sample,
)
from sfumato.samplers.exponential import phi, polynomial_weights
from sfumato.verify.oracles import DatasetOracle, GaussianOracle, MixtureOracle, Oracle

SCHEDULES = {
    "table": Tabulated(CosineBetas(), 100),
    "angle": CosineAngle(),
    "ve": Ve(),
    "flow": RectifiedFlow(),
}
TWO_CALLS: list[Sampler[Any]] = [Heun(), Heun(churn=1.0), Dpm2(), Dpmpp2S()]
ONE_CALL: list[Sampler[Any]] = [Dpmpp2M(), Dpmpp3M(), Deis(), Deis(points=3), UniPc(), UniPc(3), UniPc(2, "bh1")]
SOLVERS = [*TWO_CALLS, *ONE_CALL]
MIXTURE = MixtureOracle([0.3, 0.7], [[1.0, -0.5], [-0.6, 0.8]], [[[0.1, 0.05], [0.05, 0.2]], [[0.05, 0.0], [0.0, 0.1]]])
MakeIdeal = Callable[[Oracle, Schedule], Denoise]
quiet = NoiseSource.of(seed=0, count=4)


@pytest.fixture(params=SCHEDULES.values(), ids=list(SCHEDULES))
def schedule(request: pytest.FixtureRequest) -> Schedule:
    """A table and each family."""
    return request.param


def start(schedule: Schedule, count: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    like = torch.zeros((), dtype=dtype)
    return schedule.prior_std * NoiseSource.of(seed=0, count=count).initial((count, *shape), like=like)


def walk(sampler: Sampler[Any], d: Denoise, x: Tensor, times: list[float]) -> list[Step]:
    return list(sample(sampler, d, x, times, noise=NoiseSource.of(seed=0, count=len(x))))


# --- exact endpoints -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SOLVERS, ids=repr)
def test_one_image_comes_back(sampler: Sampler[Any], schedule: Schedule, ideal: MakeIdeal) -> None:
    """The ideal denoiser of a data set of one is that image, so every sampler ends at it, in float32 to 1e-5."""
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 4, 4))
    d = ideal(DatasetOracle(image), schedule)
    for steps in (1, 2, 3, 9):
        x = start(schedule, 4, 3, 4, 4, dtype=torch.float32)
        for grid in (Trailing(), Karras()):
            states = walk(sampler, d, x, grid.times(schedule, steps))
            assert all(step.x.dtype == torch.float32 for step in states)
            assert float((states[-1].x - torch.from_numpy(image)).abs().max()) <= 1e-5


@pytest.mark.parametrize("sampler", [s for s in SOLVERS if s.deterministic], ids=repr)
def test_one_point_is_solved_exactly(sampler: Sampler[Any], schedule: Schedule, ideal: MakeIdeal) -> None:
    """x0 never changes on the way to one point, nor does eps: no correction has anything to add, at any step length."""
    point = torch.tensor([[0.8, -0.3]], dtype=torch.float64)
    d, eps = ideal(DatasetOracle(point.numpy()), schedule), torch.tensor([[0.4, -1.7]], dtype=torch.float64)
    times = Linspace().times_to_t_min(schedule, 7)
    first, last = schedule.rates(1.0), schedule.rates(schedule.t_min)
    end = walk(sampler, d, first.alpha * point + first.sigma * eps, times)[-1].x
    expected = last.alpha * point + last.sigma * eps
    # eps of a state is known to 1e-16 of x/sigma; the flow's first step shrinks a noise level of 2e4
    torch.testing.assert_close(end, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sampler", SOLVERS, ids=repr)
def test_one_step_is_the_guess_from_noise(sampler: Sampler[Any], schedule: Schedule, ideal: MakeIdeal) -> None:
    x, r = start(schedule, 4, 2), schedule.rates(1.0)
    expected = torch.from_numpy(MIXTURE.denoiser(x.numpy(), float(r.alpha), float(r.sigma)))
    for grid in (Trailing(), UniformLogSnr()):
        (step,) = walk(sampler, ideal(MIXTURE, schedule), x, grid.times(schedule, 1))
        torch.testing.assert_close(step.x, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampler", SOLVERS, ids=repr)
def test_coefficients_are_float64_and_states_are_not(sampler: Sampler[Any], ideal: MakeIdeal) -> None:
    """float32 follows float64 to 2e-5 over 40 steps, those of the flow from noise level 2e4 too."""
    for schedule in (SCHEDULES["table"], SCHEDULES["flow"]):
        d, times = ideal(GaussianOracle([0.2, -0.1], [0.5, 2.0]), schedule), Karras().times(schedule, 40)
        single, double = (walk(sampler, d, start(schedule, 8, 2, dtype=t), times)[-1].x for t in FLOATS)
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, rtol=0, atol=2e-5)


FLOATS = (torch.float32, torch.float64)


# --- costs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SOLVERS, ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_calls(sampler: Sampler[Any], steps: int, ideal: MakeIdeal) -> None:
    """2 S - 1 or S, as stated and as counted; to t_min the last step is like the others."""
    schedule = CosineAngle()
    each = 2 if sampler in TWO_CALLS else 1
    counting = Counting(ideal(MIXTURE, schedule))
    states = walk(sampler, counting, start(schedule, 2, 2), Karras().times(schedule, steps))
    assert counting.calls == sampler.calls(steps) == each * (steps - 1) + 1
    assert [step.calls for step in states] == [*(each * k for k in range(1, steps)), counting.calls]
    counting.calls = 0
    assert walk(sampler, counting, start(schedule, 2, 2), Karras().times_to_t_min(schedule, steps))[-1].calls == (
        counting.calls
    )
    assert counting.calls == each * steps


@pytest.mark.parametrize("sampler", SOLVERS, ids=repr)
def test_the_condition_reaches_every_call(sampler: Sampler[Any]) -> None:
    seen = []

    class Conditioned:
        schedule = CosineAngle()

        def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
            seen.append(cond)
            return Prediction(x_t, self.schedule.rates(t), 0 * x_t)

    label, times = torch.tensor([1, 2, 0, 1]), Karras().times(CosineAngle(), 3)
    list(sample(sampler, Conditioned(), torch.zeros(4, 1), times, noise=quiet, cond=label))
    assert all(cond is label for cond in seen)
    assert len(seen) == sampler.calls(3)


@pytest.mark.parametrize("sampler", SOLVERS, ids=repr)
def test_a_step_leaves_its_state_as_it_was(sampler: Sampler[Any], ideal: MakeIdeal) -> None:
    """The memory is a value: a step taken twice from one state gives the same twice."""
    schedule = CosineAngle()
    d, x, times = ideal(MIXTURE, schedule), start(schedule, 4, 2), UniformLogSnr().times(schedule, 5)
    state = sampler.init(x)
    for t, s in pairwise(times):
        once, twice = (sampler.step(d, x, t=t, s=s, state=state, noise=quiet, cond=None) for _ in range(2))
        assert torch.equal(once.x, twice.x)
        x, state = once.x, once.state


def test_what_is_deterministic() -> None:
    assert all(sampler.deterministic for sampler in [Ddim(), *SOLVERS] if sampler != Heun(churn=1.0))
    assert not any(sampler.deterministic for sampler in (Heun(churn=1.0), Ddim(eta=0.1), Ancestral()))


# --- quadrature ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("z", [-40.0, -3.0, -1.0, -0.999, -1e-3, 0.0, 1e-9, 0.5, 1.0, 5.0])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_phi_is_its_integral(order: int, z: float) -> None:
    """phi_k(z) = ∫_0^1 e^(z (1 - r)) r^(k - 1)/(k - 1)! dr; both branches, and the seam at |z| = 1."""
    integral, _ = quad(lambda r: math.exp(z * (1 - r)) * r ** (order - 1) / math.factorial(order - 1), 0, 1)
    assert phi(order, z) == pytest.approx(integral, rel=1e-11)


@pytest.mark.parametrize("z", [-7.0, -0.3, 0.3, 2.0])
@pytest.mark.parametrize("places", [[-0.7], [1.0], [-0.7, -1.9], [-1.1, 1.0], [-0.5, -3.0, 1.0]], ids=str)
def test_weights_are_exact_for_polynomials(z: float, places: list[float]) -> None:
    weights = polynomial_weights(z, places)
    for degree in range(len(places) + 1):
        integral, _ = quad(lambda r, n=degree: math.exp(z * (1 - r)) * (r**n - 0.0**n), 0, 1)
        assert sum(w * (r**degree - 0.0**degree) for w, r in zip(weights, places, strict=True)) == pytest.approx(
            integral, rel=1e-11, abs=1e-13
        )


# --- churn -----------------------------------------------------------------------------------------------------------


def test_churn_never_rises_above_the_noisy_end_nor_by_more_than_a_root_of_two() -> None:
    schedule = Ve(0.002, 80.0)
    sampler = Heun(churn=0.5)
    assert sampler.raised(schedule, 1.0, 0.9) == 1.0
    nearly = sampler.raised(schedule, 0.999, 0.5)
    assert nearly == 1.0  # and not beyond
    t, s = 0.5, 0.48
    u_t, u_s, u = (float(schedule.rates(at).noise_level) for at in (t, s, sampler.raised(schedule, t, s)))
    assert math.log(u / u_t) == pytest.approx(0.5 * math.log(u_t / u_s), rel=1e-9)
    far = sampler.raised(schedule, 0.5, 0.1)
    assert float(schedule.rates(far).noise_level) / u_t == pytest.approx(math.sqrt(2), rel=1e-9)


def test_churn_acts_between_its_noise_levels_only() -> None:
    schedule = Ve(0.002, 80.0)
    sampler = Heun(churn=0.5, churn_min=0.05, churn_max=50.0)
    for t in (0.05, 0.2, 0.5, 0.9, 0.97):
        inside = 0.05 <= float(schedule.rates(t).noise_level) <= 50
        assert (sampler.raised(schedule, t, t - 0.02) > t) == inside


def test_no_noise_enters_where_none_belongs(given: Callable[..., NoiseSource], ideal: MakeIdeal) -> None:
    """None without churn, none on the step to data, none where t = 1 leaves no room."""
    schedule = CosineAngle()
    d, times = ideal(MIXTURE, schedule), Karras().times(schedule, 6)
    for sampler in SOLVERS:
        source = given(lambda _, x: torch.zeros_like(x))
        list(sample(sampler, d, start(schedule, 2, 2), times, noise=source))
        inner = list(pairwise(times))[1:-1] if not sampler.deterministic else []
        assert source.intervals == inner  # type: ignore[attr-defined]


@pytest.mark.parametrize("churn", [0.5, 2.0])
def test_churn_keeps_the_marginals(churn: float, ideal: MakeIdeal) -> None:
    """Forgetting and re-solving leaves q_t as it is: the variance at the end is that of the data, by count alone."""
    schedule, count = Ve(0.01, 20.0), 4000
    d = ideal(GaussianOracle([0.0], [[0.49]]), schedule)
    r = schedule.rates(1.0)
    noise = NoiseSource.of(seed=11, count=count)
    x = math.sqrt(0.49 + float(r.sigma) ** 2) * noise.initial((count, 1), like=torch.zeros((), dtype=torch.float64))
    *_, end = sample(Heun(churn=churn), d, x, Karras().times(schedule, 60), noise=noise)
    last = 0.49**2 / (0.49 + 0.01**2)  # of the posterior mean at t_min
    assert float(end.x.var()) == pytest.approx(last, rel=5 * math.sqrt(2 / count) + 0.01)  # 1 % of truncation error
    assert float(torch.corrcoef(torch.cat([end.x, x], dim=1).T)[0, 1]) < 0.8  # and much was forgotten


def test_finer_steps_refine_the_churned_path(ideal: MakeIdeal) -> None:
    """One Brownian path per sample: the ends of S and 4 S steps approach each other as S grows."""
    schedule = CosineAngle()
    d, x = ideal(MIXTURE, schedule), start(schedule, 64, 2)
    noise = [NoiseSource.of(seed=9, count=64) for _ in range(3)]
    ends = [
        list(sample(Heun(churn=1.0), d, x, UniformLogSnr().times_to_t_min(schedule, steps), noise=source))[-1].x
        for steps, source in zip((8, 32, 128), noise, strict=True)
    ]
    coarse, fine = (float((a - b).square().mean().sqrt()) for a, b in pairwise(ends))
    assert fine < 0.5 * coarse


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Heun(churn=-1.0), r"sampler\.churn is -1"),
        (lambda: Heun(churn=math.nan), r"sampler\.churn is nan"),
        (lambda: Heun(churn_noise=math.inf), r"churn_noise is inf"),
        (lambda: Heun(churn_min=2.0, churn_max=1.0), r"churn_min and sampler\.churn_max are 2\.0 and 1\.0"),
        (lambda: Deis(points=1), r"points is 1"),
        (lambda: Deis(points=4), r"points is 4"),
        (lambda: UniPc(points=1), r"points is 1"),
        (lambda: UniPc(points=4), r"points is 4"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], Sampler[Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
