"""Predictor-corrector: its formula, the predictor alone, the law it keeps, its counts and its refusals."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.core import CosineAngle, Denoise, NoiseSource, Prediction, RectifiedFlow, Schedule, Tabulated, Ve
from sfumato.errors import ConfigError
from sfumato.guidance import Counting
from sfumato.samplers import (
    Ancestral,
    AnnealedLangevin,
    Ddim,
    DormandPrince,
    Dpmpp2MSde,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    Sampler,
    Trailing,
    UniformLogSnr,
    UniPc,
    sample,
)
from sfumato.verify.oracles import DatasetOracle, GaussianOracle, MixtureOracle, Oracle

MakeIdeal = Callable[[Oracle, Schedule], Denoise]
AnySampler = Sampler[object]
SCHEDULES = {"angle": CosineAngle(), "ve": Ve(0.01, 80.0), "flow": RectifiedFlow(), "table": Tabulated()}
PREDICTORS: list[AnySampler] = [Ddim(), Ancestral(), EulerMaruyama(), Heun(), Dpmpp2MSde()]  # type: ignore[list-item]
MIXTURE = MixtureOracle([0.3, 0.7], [[1.0, -0.5], [-0.6, 0.8]], [[[0.1, 0.05], [0.05, 0.2]], [[0.05, 0.0], [0.0, 0.1]]])


@pytest.fixture(params=SCHEDULES.values(), ids=list(SCHEDULES))
def schedule(request: pytest.FixtureRequest) -> Schedule:
    """A table and each family."""
    return request.param


def last(steps: object) -> Tensor:
    return list(steps)[-1].x  # type: ignore[call-overload]


def noise_of(count: int, seed: int = 0) -> NoiseSource:
    return NoiseSource.of(seed=seed, count=count)


def start(schedule: Schedule, count: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return schedule.prior_std * noise_of(count).initial((count, *shape), like=torch.zeros((), dtype=dtype))


@pytest.mark.parametrize("predictor", PREDICTORS, ids=repr)
def test_without_corrections_it_is_the_predictor(predictor: AnySampler, schedule: Schedule, ideal: MakeIdeal) -> None:
    """Bit for bit, at every step, in calls too."""
    d, x, times = ideal(MIXTURE, schedule), start(schedule, 4, 2), UniformLogSnr().times(schedule, 9)
    alone = sample(predictor, d, x, times, noise=noise_of(4))
    corrected = sample(PredictorCorrector(predictor, corrections=0), d, x, times, noise=noise_of(4))
    for ours, theirs in zip(corrected, alone, strict=True):
        assert torch.equal(ours.x, theirs.x)
        assert ours.calls == theirs.calls
    assert PredictorCorrector(predictor, corrections=0).deterministic == predictor.deterministic


def test_a_correction_is_algorithm_4(schedule: Schedule, ideal: MakeIdeal) -> None:
    """x + size score + sqrt(2 size) z with size = 2 (snr |z|/|score|)², |z| and sigma |score| at sqrt(D)."""
    d, x, times = ideal(MIXTURE, schedule), start(schedule, 4, 2), UniformLogSnr().times(schedule, 9)[:2]
    (step,) = sample(PredictorCorrector(Ddim(), snr=0.2), d, x, times, noise=noise_of(4))
    predicted = last(sample(Ddim(), d, x, times, noise=noise_of(4)))
    r = schedule.rates(times[1])
    score = torch.from_numpy(MIXTURE.score(predicted.numpy(), float(r.alpha), float(r.sigma)))
    size = 2 * (0.2 * math.sqrt(2) / (math.sqrt(2) / float(r.sigma))) ** 2
    z = noise_of(4).normal(predicted, draw=1 << 32)
    torch.testing.assert_close(step.x, predicted + size * score + math.sqrt(2 * size) * z, rtol=1e-9, atol=1e-9)


@dataclass
class UnitDraws:
    """Stands in for a `NoiseSource`: row k + 1 gets draw k as 1, else 0."""

    def normal(self, x: Tensor, *, draw: int) -> Tensor:
        z = torch.zeros_like(x)
        z[draw - (1 << 32) + 1] = 1
        return z


def test_the_exact_law_of_corrected_steps(schedule: Schedule, ideal: MakeIdeal) -> None:
    """Gaussian data, DDIM as predictor: V <- f² V, then V <- (1 - c sigma²/v)² V + 2 c sigma² with c = 2 snr².

    v = alpha² L + sigma² is the marginal's variance, which the correction leaves but for c² sigma⁴/v.
    """
    data_var, steps, corrections, snr = 0.25, 8, 3, 0.16
    d = ideal(GaussianOracle([0.0], [data_var]), schedule)
    times = UniformLogSnr().times_to_t_min(schedule, steps)
    x = torch.zeros(steps * corrections + 1, 1, dtype=torch.float64)
    x[0] = schedule.prior_std
    sampler, variance, c = PredictorCorrector(Ddim(), corrections, snr), schedule.prior_std**2, 2 * snr**2
    for step in sample(sampler, d, x, times, noise=UnitDraws()):  # type: ignore[arg-type]
        r, one = schedule.rates(step.s), torch.ones(1, 1, dtype=torch.float64)
        factor = float(last(sample(Ddim(), d, one, [step.t, step.s], noise=noise_of(1))))
        variance *= factor**2
        sigma2 = float(r.sigma**2)
        marginal = float(r.alpha**2) * data_var + sigma2
        for _ in range(corrections):
            variance = (1 - c * sigma2 / marginal) ** 2 * variance + 2 * c * sigma2
        assert float(step.x.square().sum()) == pytest.approx(variance, rel=1e-9)


def test_every_correction_has_noise_of_its_own() -> None:
    """Draws are counted over all steps, and apart from those that a predictor takes."""
    asked: list[int] = []

    class Listening:
        def normal(self, x: Tensor, *, draw: int) -> Tensor:
            asked.append(draw)
            return torch.ones_like(x)

    class Zero:
        schedule = Ve(0.01, 80.0)

        def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
            return Prediction(x_t, self.schedule.rates(t), 0 * x_t)

    sampler = PredictorCorrector(AnnealedLangevin(iterations=2), corrections=3)
    times = Trailing().times(Zero.schedule, 4)
    list(sample(sampler, Zero(), torch.ones(1, 2), times, noise=Listening()))  # type: ignore[arg-type]
    assert len(asked) == len(set(asked)) == 4 * 2 + 3 * 3


@pytest.mark.parametrize("predictor", PREDICTORS, ids=repr)
def test_calls(predictor: AnySampler, ideal: MakeIdeal) -> None:
    """The predictor's, and `corrections` at every level that is reached before data."""
    schedule = CosineAngle()
    for steps, corrections in ((1, 2), (5, 1), (5, 3)):
        sampler = PredictorCorrector(predictor, corrections=corrections)
        counting = Counting(ideal(MIXTURE, schedule))
        times = Trailing().times(schedule, steps)
        walked = list(sample(sampler, counting, start(schedule, 2, 2), times, noise=noise_of(2)))
        assert counting.calls == sampler.calls(steps) == walked[-1].calls
        assert counting.calls == predictor.calls(steps) + corrections * (steps - 1)


@pytest.mark.parametrize("predictor", PREDICTORS, ids=repr)
def test_one_image_comes_back(predictor: AnySampler, schedule: Schedule, ideal: MakeIdeal) -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 4, 4))
    d = ideal(DatasetOracle(image), schedule)
    x = start(schedule, 4, 3, 4, 4, dtype=torch.float32)
    times = UniformLogSnr().times(schedule, 12)
    out = last(sample(PredictorCorrector(predictor), d, x, times, noise=noise_of(4)))
    assert out.dtype == torch.float32
    assert float((out - torch.from_numpy(image)).abs().max()) <= 1e-5


def test_samples_do_not_depend_on_their_batch(ideal: MakeIdeal) -> None:
    """Norms over the batch, as published code takes them, would fail this."""
    schedule = CosineAngle()
    d, times = ideal(MIXTURE, schedule), Trailing().times(schedule, 12)

    def draw(seed: int, count: int) -> Tensor:
        noise = noise_of(count, seed)
        x = noise.initial((count, 2), like=torch.zeros((), dtype=torch.float64))
        return last(sample(PredictorCorrector(), d, x, times, noise=noise))

    torch.testing.assert_close(torch.cat([draw(4 + i, 1) for i in range(5)]), draw(4, 5), rtol=0, atol=1e-10)


def test_what_cannot_be_corrected_is_refused() -> None:
    for predictor in (PredictorCorrector(), DormandPrince(), UniPc()):
        with pytest.raises(ConfigError, match=rf"sampler\.predictor is {type(predictor).__name__}"):
            PredictorCorrector(predictor)
    with pytest.raises(ConfigError, match=r"sampler\.corrections is -1"):
        PredictorCorrector(corrections=-1)
    for snr in (0.0, 1.5, math.nan):
        with pytest.raises(ConfigError, match=rf"sampler\.snr is {snr}"):
            PredictorCorrector(snr=snr)
