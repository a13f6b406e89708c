"""Langevin dynamics: its stationary law by linear recursion, drift and all; annealing; the end at data; counts."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.core import (
    CosineAngle,
    Denoise,
    Denoiser,
    NoiseSource,
    OneLevel,
    RectifiedFlow,
    Schedule,
    StepInput,
    Tabulated,
    Ve,
)
from sfumato.core import Score as ScoreTarget
from sfumato.errors import ConfigError, UsageError
from sfumato.guidance import Counting
from sfumato.samplers import (
    AnnealedLangevin,
    Langevin,
    Trailing,
    UniformLogSnr,
    langevin,
    sample,
    score_at,
)
from sfumato.verify.oracles import DatasetOracle, GaussianOracle, MixtureOracle, Oracle

MakeIdeal = Callable[[Oracle, Schedule], Denoise]
FAMILIES = {"angle": CosineAngle(0.02, 0.999), "ve": Ve(0.02, 20.0), "flow": RectifiedFlow(), "table": Tabulated()}
MIXTURE = MixtureOracle([0.2, 0.8], [[2.0], [-2.0]], [[[0.04]], [[0.04]]])


@dataclass
class UnitDraws:
    """Stands in for a `NoiseSource`: row k + 1 gets draw k as 1, else 0; the draws asked for are remembered."""

    asked: list[int]

    def normal(self, x: Tensor, *, draw: int) -> Tensor:
        z = torch.zeros_like(x)
        z[draw + 1] = 1
        self.asked.append(draw)
        return z


def last(steps: object) -> Tensor:
    return list(steps)[-1].x  # type: ignore[call-overload]


def noise_of(count: int, seed: int = 0) -> NoiseSource:
    return NoiseSource.of(seed=seed, count=count)


# --- on a plain score ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step_size", "temperature"), [(0.1, 1.0), (1.0, 1.0), (0.5, 0.7), (3.0, 1.0)])
def test_stationary_variance(step_size: float, temperature: float) -> None:
    """N(0, 1): V = (1 - step/2)² V + step T², so V = T²/(1 - step/4), by the exact linear recursion from any start."""
    count = 400
    x = torch.zeros(count + 1, 1, dtype=torch.float64)
    x[0] = 3.0
    noise = UnitDraws([])
    walk = langevin(
        lambda y: -y,
        x,
        steps=count,
        step_size=step_size,
        temperature=temperature,
        noise=noise,  # type: ignore[arg-type]
    )
    *_, end = walk
    assert float(end[1:].square().sum()) == pytest.approx(temperature**2 / (1 - step_size / 4), rel=1e-8)
    assert abs(float(end[0])) == pytest.approx(3 * abs(1 - step_size / 2) ** count, rel=1e-9)
    assert noise.asked == list(range(count))


def test_the_noise_is_gaussian_and_does_not_drift() -> None:
    """Without a score: x is a sum of sqrt(step) z, of mean 0 and variance steps · step.

    Uniform noise would drift by ½ sqrt(step) each time. 40,000 numbers: five standard errors; fourth moment 3 V².
    """
    count, steps, size = 40_000, 10, 1e-3
    x = torch.zeros(400, 100, dtype=torch.float64)
    *_, end = langevin(torch.zeros_like, x, steps=steps, step_size=size, noise=noise_of(400))
    var = steps * size
    assert float(end.mean()) == pytest.approx(0, abs=5 * math.sqrt(var / count))  # uniform: 0.16, esling's figure
    assert float(end.square().mean()) == pytest.approx(var, rel=5 * math.sqrt(2 / count))
    assert float(end.pow(4).mean()) == pytest.approx(3 * var**2, rel=5 * math.sqrt(96 / count) / 3)


def test_decay_shrinks_the_steps() -> None:
    """Step k is step_size decay^k: without a score the variances add to step_size (1 - decay^n)/(1 - decay)."""
    x = torch.zeros(11, 1, dtype=torch.float64)
    states = list(langevin(torch.zeros_like, x, steps=10, step_size=0.3, decay=0.9, noise=UnitDraws([])))  # type: ignore[arg-type]
    assert len(states) == 10
    for n, state in enumerate(states, 1):
        assert float(state.square().sum()) == pytest.approx(0.3 * (1 - 0.9**n) / 0.1, rel=1e-12)


def test_one_step_is_its_formula() -> None:
    x = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    (end,) = langevin(lambda y: y**2, x, steps=1, step_size=0.04, temperature=0.5, noise=noise_of(1))
    z = noise_of(1).normal(x, draw=0)
    torch.testing.assert_close(end, x + 0.02 * x**2 + 0.2 * 0.5 * z, rtol=1e-14, atol=0)


def test_a_walk_keeps_no_gradient() -> None:
    weight = torch.ones((), requires_grad=True)
    states = list(langevin(lambda y: -weight * y, torch.ones(1, 1), steps=2, step_size=0.1, noise=noise_of(1)))
    assert not any(state.requires_grad for state in states)


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("step_size", 0.0), ("step_size", math.nan), ("decay", 1.1), ("decay", 0.0), ("temperature", -1.0)],
)
def test_walks_that_are_none_are_refused(name: str, value: float) -> None:
    given = {"steps": 3, "step_size": 0.1, name: value}
    with pytest.raises(ConfigError, match=f"{name} {value}"):
        list(langevin(torch.zeros_like, torch.ones(1, 1), noise=noise_of(1), **given))  # type: ignore[arg-type]
    if name != "steps":
        with pytest.raises(ConfigError, match=f"{name} {value}"):
            Langevin(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_score_of_a_denoiser(name: str, ideal: MakeIdeal) -> None:
    """The oracle's own score of x_t, back from the prediction of x0."""
    schedule = FAMILIES[name]
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    oracle = GaussianOracle([0.3, -0.2], [[0.5, 0.2], [0.2, 0.3]])
    r = schedule.rates(0.4)
    expected = torch.from_numpy(oracle.score(x.numpy(), float(r.alpha), float(r.sigma)))
    torch.testing.assert_close(score_at(ideal(oracle, schedule), 0.4)(x), expected, rtol=1e-9, atol=1e-9)


# --- one level -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("denoise", [False, True])
def test_samples_of_one_level(denoise: bool, ideal: MakeIdeal) -> None:
    """N(0, L) seen at u: the walk keeps v/(1 - step/(4v)) with v = L + u²; denoising multiplies by (L/v)².

    Exact by the linear recursion; calls as stated and as counted.
    """
    data_var, schedule, size = 0.5, OneLevel(0.2, start=1.5), 0.3
    counting = Counting(ideal(GaussianOracle([0.0], [data_var]), schedule))
    sampler = Langevin(200, size, denoise=denoise)
    x = torch.zeros(201, 1, dtype=torch.float64)
    x[0] = schedule.prior_std
    times = Trailing().times(schedule, 1)
    (step,) = sample(sampler, counting, x, times, noise=UnitDraws([]))  # type: ignore[arg-type]
    v = data_var + 0.2**2
    expected = v / (1 - size / (4 * v)) * ((data_var / v) ** 2 if denoise else 1)
    assert float(step.x.square().sum()) == pytest.approx(expected, rel=1e-8)
    assert counting.calls == sampler.calls(1) == step.calls == 200 + denoise


def test_a_score_network_of_one_level_samples(ideal: MakeIdeal) -> None:
    """A network that is the score of N(0, 0.49 + 0.01) on `OneLevel(0.1)`: samples of that law, in float32.

    2,000 independent values: five standard errors of the variance.
    """

    class Field(torch.nn.Module):
        def forward(self, x: Tensor, time: Tensor, cond: Tensor | None) -> Tensor:
            return -x / 0.5

    schedule = OneLevel(0.1)
    d = Denoiser(Field(), schedule, ScoreTarget(), time_input=StepInput(1), data_std=0.7, allow_terminal_signal=True)
    noise = noise_of(100)
    x = schedule.prior_std * noise.initial((100, 20), like=torch.zeros(()))
    out = last(sample(Langevin(100, 0.05), d, x, [1.0, 0.0], noise=noise))
    assert out.dtype == torch.float32
    expected = 0.5 / (1 - 0.05 / (4 * 0.5))
    assert float(out.double().var()) == pytest.approx(expected, rel=5 * math.sqrt(2 / 2000))


def test_langevin_refuses_a_grid_of_levels(ideal: MakeIdeal) -> None:
    d = ideal(MIXTURE, CosineAngle())
    with pytest.raises(UsageError, match=r"(?s)one noise level.*t = 1 to 0\.5.*steps: 1 .*AnnealedLangevin"):
        list(sample(Langevin(2), d, torch.zeros(1, 1), [1.0, 0.5, 0.0], noise=noise_of(1)))


def test_langevin_refuses_the_noisy_end_of_a_schedule(ideal: MakeIdeal) -> None:
    """There it samples noisy data, which in units of data are 50 times too wide; the clean end is a level as any."""
    for schedule in (CosineAngle(), Ve()):
        d = ideal(MIXTURE, schedule)
        with pytest.raises(UsageError, match=r"(?s)one noise level.*times the signal.*AnnealedLangevin"):
            list(sample(Langevin(2), d, torch.zeros(1, 1), [1.0, 0.0], noise=noise_of(1)))
        (step,) = sample(Langevin(2), d, torch.zeros(1, 1), [schedule.t_min, 0.0], noise=noise_of(1))
        assert step.calls == 2


# --- annealed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_the_law_of_an_annealed_walk(name: str, ideal: MakeIdeal) -> None:
    """The variance of x/alpha after each level by its own recursion, V <- (1 - c u²/(2v))² V + c u² with v = L + u².

    It holds in every family; the end without denoising is the last of them.
    """
    schedule, data_var, c, iterations = FAMILIES[name], 0.5, 0.4, 7
    d = ideal(GaussianOracle([0.0], [data_var]), schedule)
    times = UniformLogSnr().times(schedule, 12)
    sampler = AnnealedLangevin(iterations, c, denoise=False)
    noise = UnitDraws([])
    x = torch.zeros(12 * iterations + 1, 1, dtype=torch.float64)
    x[0] = schedule.prior_std
    variance = (schedule.prior_std / float(schedule.rates(1.0).alpha)) ** 2
    for step in sample(sampler, d, x, times, noise=noise):  # type: ignore[arg-type]
        u2 = float(schedule.rates(step.t).noise_level) ** 2
        for _ in range(iterations):
            variance = (1 - c * u2 / (2 * (data_var + u2))) ** 2 * variance + c * u2
        alpha = 1.0 if step.s == 0 else float(schedule.rates(step.s).alpha)
        assert float(step.x.square().sum()) / alpha**2 == pytest.approx(variance, rel=1e-7)
    assert noise.asked == list(range(12 * iterations))  # never the same noise twice
    assert step.calls == sampler.calls(12) == 12 * iterations


def test_its_steps_are_those_of_algorithm_1(ideal: MakeIdeal) -> None:
    """step_i = eps sigma_i²/sigma_L², with step_size = eps/sigma_L²: their 2e-5 at sigma_L = 0.01 is the default."""
    schedule = Ve(0.01, 1.0)
    d, x = ideal(MIXTURE, schedule), torch.tensor([[0.4]], dtype=torch.float64)
    times = UniformLogSnr().times(schedule, 10)
    noise = noise_of(1)
    (first, *_) = sample(AnnealedLangevin(iterations=1), d, x, times, noise=noise)
    for t, state in ((times[0], first.x),):
        size = 2e-5 * float(schedule.rates(t).sigma) ** 2 / 0.01**2
        expected = x + size / 2 * score_at(d, t)(x) + math.sqrt(size) * noise.normal(x, draw=0)
        torch.testing.assert_close(state, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["angle", "ve"])
def test_annealing_finds_the_right_mass(name: str, ideal: MakeIdeal) -> None:
    """Modes at ±2 of width 0.2 with masses 0.2 and 0.8, which one level alone cannot mix between.

    1,000 samples: mass within five standard errors, 0.063, of 0.2; within a mode the variance is 0.04 to 15 %.
    """
    schedule, count = FAMILIES[name], 1000
    noise = noise_of(count)
    x = schedule.prior_std * noise.initial((count, 1), like=torch.zeros((), dtype=torch.float64))
    times = UniformLogSnr().times(schedule, 12)
    out = last(sample(AnnealedLangevin(25, 0.3), ideal(MIXTURE, schedule), x, times, noise=noise))
    right = out > 0
    assert float(right.double().mean()) == pytest.approx(0.2, abs=5 * math.sqrt(0.2 * 0.8 / count))
    assert float(out[~right].mean()) == pytest.approx(-2, abs=0.05)
    # 800 samples: 5 standard errors are 25 %; denoising at u = 0.02 … 0.045 takes up to 5 %
    assert float(out[~right].var()) == pytest.approx(0.04, rel=0.25)


@pytest.mark.parametrize("name", FAMILIES)
def test_one_image_comes_back(name: str, ideal: MakeIdeal) -> None:
    """Denoised, the walk ends at the only image there is; not denoised, at it plus the last level's noise."""
    schedule = FAMILIES[name]
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 4, 4))
    d, noise = ideal(DatasetOracle(image), schedule), noise_of(4)
    x = schedule.prior_std * noise.initial((4, 3, 4, 4), like=torch.zeros(()))
    times = UniformLogSnr().times(schedule, 8)
    kept, denoised = (
        last(sample(AnnealedLangevin(5, 1.0, denoise=end), d, x, times, noise=noise)) for end in (False, True)
    )
    assert float((denoised - torch.from_numpy(image)).abs().max()) <= 1e-5
    if name != "flow":  # of whose 40 nats eight levels and forty steps are not enough
        rest = float((kept.double() - torch.from_numpy(image)).square().mean().sqrt())
        assert rest == pytest.approx(float(schedule.rates(schedule.t_min).noise_level) / math.sqrt(0.75), rel=0.25)


def test_calls_and_the_last_prediction(ideal: MakeIdeal) -> None:
    schedule = CosineAngle()
    for sampler in (AnnealedLangevin(3), AnnealedLangevin(3, denoise=False), AnnealedLangevin(1, 1.0)):
        counting = Counting(ideal(MIXTURE, schedule))
        x = torch.ones(2, 1, dtype=torch.float64)
        walked = list(sample(sampler, counting, x, Trailing().times(schedule, 4), noise=noise_of(2)))
        assert counting.calls == sampler.calls(4) == walked[-1].calls == 4 * sampler.iterations + sampler.denoise
        assert torch.equal(walked[0].prediction.x_t, x)
        assert torch.equal(walked[-1].x, walked[-1].prediction.x0) == sampler.denoise


@pytest.mark.parametrize("step_size", [0.0, 4.0, math.nan])
def test_steps_that_fly_apart_are_refused(step_size: float) -> None:
    with pytest.raises(ConfigError, match=f"step_size {step_size}"):
        AnnealedLangevin(step_size=step_size)
