"""DDIM and ancestral steps against each other and against their formulas; the driver, its counts and its refusals."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.core import (
    CosineAngle,
    CosineBetas,
    Denoise,
    Large,
    LearnedRange,
    LinearBetas,
    NoiseSource,
    Prediction,
    RectifiedFlow,
    Schedule,
    Small,
    Tabulated,
    Ve,
    posterior,
)
from sfumato.errors import ConfigError, NumericsError, UsageError
from sfumato.guidance import Counting
from sfumato.samplers import Ancestral, Ddim, Leading, Linspace, Sampler, Step, Trailing, sample
from sfumato.verify.oracles import DatasetOracle, GaussianOracle, MixtureOracle, Oracle

SCHEDULES = {"table": Tabulated(CosineBetas(), 100), "angle": CosineAngle(), "ve": Ve(), "flow": RectifiedFlow()}
SAMPLERS: list[Sampler[None]] = [
    Ddim(),
    Ddim(eta=0.5),
    Ddim(eta=1.0),
    Ddim(eta=1.0, sigma_hat=True),
    Ancestral(Small()),
    Ancestral(Large()),
]
MIXTURE = MixtureOracle([0.3, 0.7], [[1.0, -0.5], [-0.6, 0.8]], [[[0.1, 0.05], [0.05, 0.2]], [[0.05, 0.0], [0.0, 0.1]]])
MakeIdeal = Callable[[Oracle, Schedule], Denoise]


@pytest.fixture(params=SCHEDULES.values(), ids=list(SCHEDULES))
def schedule(request: pytest.FixtureRequest) -> Schedule:
    """A table and each family."""
    return request.param


def start(schedule: Schedule, count: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return schedule.prior_std * NoiseSource.of(seed=0, count=count).initial(
        (count, *shape), like=torch.zeros((), dtype=dtype)
    )


def last(steps: object) -> Tensor:
    return list(steps)[-1].x  # type: ignore[call-overload]


# --- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [3, 30])
def test_ddim_of_eta_one_is_ancestral_sampling(schedule: Schedule, steps: int, ideal: MakeIdeal) -> None:
    """The same states at every step on the same noise; the sigma-hat variant is the large variance."""
    d, x = ideal(MIXTURE, schedule), start(schedule, 8, 2)
    times = Trailing().times(schedule, steps)
    for ddim, ancestral in (
        (Ddim(eta=1.0), Ancestral(Small())),
        (Ddim(eta=1.0, sigma_hat=True), Ancestral(Large())),
    ):
        walks = [sample(s, d, x, times, noise=NoiseSource.of(seed=1, count=8)) for s in (ddim, ancestral)]
        for ours, theirs in zip(*walks, strict=True):
            scale = max(1.0, float(theirs.x.abs().max()))  # VE starts at 80
            torch.testing.assert_close(ours.x / scale, theirs.x / scale, rtol=0, atol=1e-12)


def test_deterministic_ddim_is_eulers_method(schedule: Schedule, ideal: MakeIdeal) -> None:
    """y = x/alpha, u = sigma/alpha: y_s = y_t + (u_s - u_t) eps. Song et al. 2021, eq. 13."""
    d, x = ideal(MIXTURE, schedule), start(schedule, 8, 2)
    times = [*Linspace().times(schedule, 20)[:-1]]
    for step in sample(Ddim(), d, x, times, noise=NoiseSource.of(seed=1, count=8)):
        r, then = step.prediction.rates, schedule.rates(step.s)
        y = step.prediction.x_t / r.alpha + (then.noise_level - r.noise_level) * step.prediction.eps
        scale = max(1.0, float(step.x.abs().max()))
        torch.testing.assert_close(step.x / scale, then.alpha * y / scale, rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_step_is_equation_12(eta: float, given: Callable[..., NoiseSource], ideal: MakeIdeal) -> None:
    """sqrt(A_s) x0 + sqrt(1 - A_s - v²) eps + v z with v² = eta² (1 - A_s)/(1 - A_t) (1 - A_t/A_s), by hand."""
    schedule = Tabulated()
    x, z = start(schedule, 5, 2), torch.full((5, 2), 0.7, dtype=torch.float64)
    for k, j in ((1000, 900), (500, 499), (2, 1), (1000, 1)):
        stepped = Ddim(eta=eta).step(
            ideal(MIXTURE, schedule), x, t=k / 1000, s=j / 1000, state=None, noise=given(lambda _, x: z), cond=None
        )
        bars = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
        now, then = bars[k - 1], bars[j - 1]
        v2 = eta**2 * (1 - then) / (1 - now) * (1 - now / then)
        p = stepped.prediction
        expected = then**0.5 * p.x0 + (1 - then - v2) ** 0.5 * p.eps + v2**0.5 * z
        # numpy's 1 - A_s - v² cancels to 1e-16 of 1, and a root makes 1e-12 of it in the long step
        torch.testing.assert_close(stepped.x, expected, rtol=0, atol=1e-11)


def test_ancestral_draws_from_the_posterior_of_its_guess(
    schedule: Schedule, given: Callable[..., NoiseSource], ideal: MakeIdeal
) -> None:
    d, x, z = ideal(MIXTURE, schedule), start(schedule, 5, 2), torch.full((5, 2), -1.3, dtype=torch.float64)
    source = given(lambda _, x: z)
    stepped = Ancestral(Small()).step(d, x, t=0.9, s=0.4, state=None, noise=source, cond=None)
    q = posterior(stepped.prediction.x0, x, s=schedule.rates(0.4), t=schedule.rates(0.9))
    torch.testing.assert_close(stepped.x, q.mean + q.log_var.exp().sqrt() * z, rtol=1e-13, atol=1e-13)
    assert source.intervals == [(0.9, 0.4)]  # type: ignore[attr-defined]


def test_no_noise_enters_where_none_belongs(given: Callable[..., NoiseSource], ideal: MakeIdeal) -> None:
    """eta = 0 asks for none at all, and no sampler asks for any on the step to data."""
    schedule = CosineAngle()
    d, x = ideal(MIXTURE, schedule), start(schedule, 2, 2)
    for sampler, asked in ((Ddim(), 0), (Ddim(eta=0.2), 4), (Ancestral(), 4)):
        source = given(lambda _, x: torch.zeros_like(x))
        list(sample(sampler, d, x, Trailing().times(schedule, 5), noise=source))
        assert len(source.intervals) == asked  # type: ignore[attr-defined]


def test_ancestral_takes_a_learned_variance(given: Callable[..., NoiseSource]) -> None:
    schedule = CosineAngle()

    class Halfway:
        def __init__(self) -> None:
            self.schedule = schedule

        def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
            return Prediction(x_t, schedule.rates(t), 0 * x_t, torch.zeros_like(x_t))

    ones = given(lambda _, x: torch.ones_like(x))
    x = torch.zeros(1, 1, dtype=torch.float64)
    steps = {
        v: float(Ancestral(v).step(Halfway(), x, t=0.8, s=0.3, state=None, noise=ones, cond=None).x)
        for v in (Small(), Large(), LearnedRange())
    }
    assert steps[LearnedRange()] == pytest.approx(math.sqrt(steps[Small()] * steps[Large()]), rel=1e-12)


# --- exact endpoints -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_one_image_comes_back(sampler: Sampler[None], schedule: Schedule, ideal: MakeIdeal) -> None:
    """The ideal denoiser of a data set of one is that image, so every sampler ends at it, in float32 to 1e-5."""
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 4, 4))
    d = ideal(DatasetOracle(image), schedule)
    for steps in (1, 2, 20):
        x = start(schedule, 4, 3, 4, 4, dtype=torch.float32)
        out = last(sample(sampler, d, x, Trailing().times(schedule, steps), noise=NoiseSource.of(seed=0, count=4)))
        assert out.dtype == torch.float32
        assert float((out - torch.from_numpy(image)).abs().max()) <= 1e-5


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_last_states_are_on_the_way_to_the_image(sampler: Sampler[None], schedule: Schedule, ideal: MakeIdeal) -> None:
    """Stopped at s > 0, the law of x_s is q(x_s | image) = N(alpha image, sigma²) exactly, whatever the steps and eta.

    So for one-point data, any eta and the small variance (Song et al. 2021, lemma 1); with the large it is wider.
    """
    image = torch.tensor([[0.8, -0.3]], dtype=torch.float64)
    d, count = ideal(DatasetOracle(image.numpy()), schedule), 4000
    r = schedule.rates(1.0)
    x = r.alpha * image + r.sigma * NoiseSource.of(seed=0, count=count).initial((count, 2), like=image)
    times = Trailing().times(schedule, 5)[:4]
    end = schedule.rates(times[-1])
    out = last(sample(sampler, d, x, times, noise=NoiseSource.of(seed=50_000, count=count)))
    centred = (out - end.alpha * image) / end.sigma
    assert float(centred.mean()) == pytest.approx(0, abs=5 / math.sqrt(2 * count))
    variance, error = float(centred.var()), 5 * math.sqrt(1 / count)
    if sampler in (Ddim(eta=1.0, sigma_hat=True), Ancestral(Large())):
        assert variance > 1 + error
    else:
        assert variance == pytest.approx(1, abs=error)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_a_chain_of_one_step_samples(sampler: Sampler[None], ideal: MakeIdeal) -> None:
    """T = 1: the only step ends at data, so the sample is the ideal guess from noise, and nothing takes log 0."""
    schedule = Tabulated(CosineBetas(), 1)
    x, r = start(schedule, 4, 2), schedule.rates(1.0)
    noise = NoiseSource.of(seed=0, count=4)
    for grid in (Trailing(), Leading(), Linspace()):
        out = last(sample(sampler, ideal(MIXTURE, schedule), x, grid.times(schedule, 1), noise=noise))
        expected = torch.from_numpy(MIXTURE.denoiser(x.numpy(), float(r.alpha), float(r.sigma)))
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_a_path_is_refined_not_redrawn(ideal: MakeIdeal) -> None:
    """With one Brownian path per sample, more steps change the picture less and less; fresh noise would not.

    Distance between the ends of S and 4S steps: falls at each of two refinements, by more than half in all.
    """
    schedule = CosineAngle()
    d = ideal(MIXTURE, schedule)
    for sampler in (Ancestral(Small()), Ddim(eta=1.0), Ddim(eta=0.5)):
        ends = [
            last(
                sample(
                    sampler,
                    d,
                    start(schedule, 64, 2),
                    Linspace().times(schedule, steps)[:-1],
                    noise=NoiseSource.of(seed=9, count=64),
                )
            )
            for steps in (10, 40, 160)
        ]
        coarse, fine = ((a - b).square().mean().sqrt() for a, b in pairwise(ends))
        assert float(fine) < 0.5 * float(coarse)
        other = last(
            sample(
                sampler,
                d,
                start(schedule, 64, 2),
                Linspace().times(schedule, 160)[:-1],
                noise=NoiseSource.of(seed=777, count=64),
            )
        )
        assert float((other - ends[-1]).square().mean().sqrt()) > 3 * float(fine)


# --- the driver ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 10, 100])
def test_steps_and_calls(sampler: Sampler[None], steps: int, ideal: MakeIdeal) -> None:
    """S intervals, one call each, as stated and as counted; the stream counts along."""
    schedule = Tabulated(CosineBetas(), 100)
    counting = Counting(ideal(MIXTURE, schedule))
    times = Trailing().times(schedule, steps)
    walked = list(sample(sampler, counting, start(schedule, 2, 2), times, noise=NoiseSource.of(seed=0, count=2)))
    assert counting.calls == sampler.calls(steps) == steps
    assert [step.calls for step in walked] == list(range(1, steps + 1))
    assert [(step.t, step.s) for step in walked] == list(pairwise(times))
    assert sampler.order == 1


def test_a_trajectory_is_a_stream(ideal: MakeIdeal) -> None:
    """Nothing is computed before it is asked for; each state is where the next prediction was made."""
    schedule = CosineAngle()
    counting = Counting(ideal(MIXTURE, schedule))
    x = start(schedule, 2, 2)
    stream = sample(Ddim(), counting, x, Trailing().times(schedule, 6), noise=NoiseSource.of(seed=0, count=2))
    assert counting.calls == 0
    first = next(stream)
    assert counting.calls == 1
    assert torch.equal(first.prediction.x_t, x)
    states: list[Step] = [first, *stream]
    for before, after in pairwise(states):
        assert torch.equal(after.prediction.x_t, before.x)
    assert torch.equal(states[-1].x, states[-1].prediction.x0)


def test_the_condition_reaches_every_call() -> None:
    seen = []

    class Conditioned:
        schedule = CosineAngle()

        def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
            seen.append(cond)
            return Prediction(x_t, self.schedule.rates(t), 0 * x_t)

    label, times = torch.tensor([1, 2]), Trailing().times(CosineAngle(), 3)
    noise = NoiseSource.of(seed=0, count=2)
    for sampler in (Ddim(), Ancestral()):
        list(sample(sampler, Conditioned(), torch.zeros(2, 1), times, noise=noise, cond=label))
    assert [c is label for c in seen] == [True] * 6


def test_coefficients_are_float64_and_states_are_not(ideal: MakeIdeal) -> None:
    """float32 sampling follows float64 to 1e-5 over 100 steps: only the states are rounded."""
    schedule = Tabulated(LinearBetas(), 1000)
    d = ideal(GaussianOracle([0.2, -0.1], [0.5, 2.0]), schedule)
    times = Leading().times(schedule, 100)
    for sampler in (Ddim(), Ancestral()):
        single, double = (
            last(sample(sampler, d, start(schedule, 8, 2, dtype=t), times, noise=NoiseSource.of(seed=3, count=8)))
            for t in (torch.float32, torch.float64)
        )
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5)


def test_samples_do_not_depend_on_their_batch(ideal: MakeIdeal) -> None:
    """Sample i of seed K is sample 0 of seed K + i; the oracle's matrix products may round differently: 1e-6."""
    schedule = CosineAngle()
    d, times = ideal(MIXTURE, schedule), Trailing().times(schedule, 12)

    def draw(seed: int, count: int) -> Tensor:
        noise = NoiseSource.of(seed=seed, count=count)
        return last(sample(Ancestral(), d, noise.initial((count, 2), like=torch.zeros(())), times, noise=noise))

    torch.testing.assert_close(torch.cat([draw(4 + i, 1) for i in range(5)]), draw(4, 5), rtol=0, atol=1e-6)


def test_no_gradient_is_kept() -> None:
    weight = torch.ones((), requires_grad=True)

    class Trainable:
        schedule = CosineAngle()

        def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
            return Prediction(x_t, self.schedule.rates(t), weight * x_t)

    times = Trailing().times(CosineAngle(), 3)
    steps = sample(Ddim(), Trainable(), torch.ones(1, 1), times, noise=NoiseSource.of(seed=0, count=1))
    assert not any(step.x.requires_grad for step in steps)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "times", [[], [1.0], [0.5, 0.5], [0.3, 0.6], [1.2, 0.5], [0.5, -0.1], [1.0, float("nan"), 0.0]], ids=str
)
def test_times_that_are_no_grid_are_refused(times: list[float], ideal: MakeIdeal) -> None:
    d = ideal(MIXTURE, CosineAngle())
    with pytest.raises(UsageError, match="no sampling grid"):
        list(sample(Ddim(), d, torch.zeros(1, 2), times, noise=NoiseSource.of(seed=0, count=1)))


def test_samples_that_are_not_finite_are_an_error_naming_the_first() -> None:
    class Explodes:
        schedule = CosineAngle()

        def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
            x0 = torch.zeros_like(x_t)
            x0[2, 0], x0[4, 1] = float("nan"), float("inf")
            return Prediction(x_t, self.schedule.rates(t), x0)

    times = Trailing().times(CosineAngle(), 3)
    with pytest.raises(NumericsError, match=r"2 of 6 samples are not finite .*\(first: sample 2"):
        list(sample(Ddim(), Explodes(), torch.zeros(6, 2), times, noise=NoiseSource.of(seed=0, count=6)))
    filled = {"noise": NoiseSource.of(seed=0, count=6)}
    assert len(list(sample(Ddim(), Explodes(), torch.zeros(6, 2), times, wanted=2, **filled))) == 3
    with pytest.raises(NumericsError, match="1 of 3 samples"):
        list(sample(Ddim(), Explodes(), torch.zeros(6, 2), times, wanted=3, **filled))


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_eta_out_of_range_is_refused(eta: float) -> None:
    with pytest.raises(ConfigError, match=f"eta is {eta}"):
        Ddim(eta=eta)


def test_sigma_hat_needs_full_stochasticity() -> None:
    with pytest.raises(ConfigError, match=r"sigma_hat is true and sampler\.eta is 0\.5"):
        Ddim(eta=0.5, sigma_hat=True)
