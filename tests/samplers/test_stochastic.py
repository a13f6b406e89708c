"""Samplers with noise: the exact law of what comes out, its order, identities, and one Brownian path for all grids.

For Gaussian data every one of them is linear in x_T and in the increments of the path. A batch with one unit input per
row reads the coefficients off, and the sum of their squares is the variance of the output: no Monte Carlo. Methods that
look at the path within a step get increments over halves of steps that fit together.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.core import (
    CosineAngle,
    Denoise,
    Large,
    NoiseSource,
    Optimal,
    Rates,
    RectifiedFlow,
    Schedule,
    Small,
    Tabulated,
    Ve,
)
from sfumato.errors import ConfigError
from sfumato.guidance import Counting
from sfumato.samplers import (
    Ancestral,
    Dpmpp2M,
    Dpmpp2MSde,
    Dpmpp2S,
    Dpmpp3M,
    Dpmpp3MSde,
    DpmppSde,
    EulerMaruyama,
    Sampler,
    Trailing,
    UniformLogSnr,
    sample,
)
from sfumato.verify.oracles import DatasetOracle, GaussianOracle, MixtureOracle, Oracle

MakeIdeal = Callable[[Oracle, Schedule], Denoise]
AnySampler = Sampler[object]
SCHEDULES = {"angle": CosineAngle(), "ve": Ve(0.01, 80.0), "flow": RectifiedFlow(), "table": Tabulated()}
SAMPLERS: list[AnySampler] = [
    *(EulerMaruyama(), Dpmpp2MSde(), Dpmpp2MSde(eta=0.5), Dpmpp3MSde(), Dpmpp3MSde(eta=0.5)),
    *(DpmppSde(), DpmppSde(eta=0.5)),
]  # type: ignore[list-item]
MIXTURE = MixtureOracle([0.3, 0.7], [[1.0, -0.5], [-0.6, 0.8]], [[[0.1, 0.05], [0.05, 0.2]], [[0.05, 0.0], [0.0, 0.1]]])


@pytest.fixture(params=SCHEDULES.values(), ids=list(SCHEDULES))
def schedule(request: pytest.FixtureRequest) -> Schedule:
    """A table and each family."""
    return request.param


def last(steps: object) -> Tensor:
    return list(steps)[-1].x  # type: ignore[call-overload]


def start(schedule: Schedule, count: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return schedule.prior_std * NoiseSource.of(seed=0, count=count).initial(
        (count, *shape), like=torch.zeros((), dtype=dtype)
    )


@dataclass(frozen=True)
class UnitPieces:
    """Stands in for a `NoiseSource`: of the pieces of the path between `knots`, row k + 1 gets piece k as 1, else 0."""

    knots: list[float]

    def increment(self, t: Rates, s: Rates, x: Tensor) -> Tensor:
        low, high = float(t.log_snr), float(s.log_snr)
        z = torch.zeros_like(x)
        for k, (a, b) in enumerate(pairwise(self.knots)):
            if low - 1e-9 < a and b < high + 1e-9:
                z[k + 1] = math.sqrt((b - a) / (high - low))
        assert float(z.square().sum()) == pytest.approx(1, abs=1e-9)  # the interval is made of whole pieces
        return z


def output_variance(sampler: AnySampler, d: Denoise, steps: int, data_var: float) -> float:
    """Variance at t_min of samples started from the data's own marginal at t = 1, over equal steps of log-SNR."""
    times = UniformLogSnr().times_to_t_min(d.schedule, steps)
    ends = d.schedule.log_snr(torch.tensor([times[0], times[-1]], dtype=torch.float64)).tolist()
    knots = torch.linspace(*ends, 2 * steps + 1, dtype=torch.float64).tolist()  # each step in two halves
    r = d.schedule.rates(1.0)
    x = torch.zeros(2 * steps + 1, 1, dtype=torch.float64)
    x[0] = float((r.alpha**2 * data_var + r.sigma**2).sqrt())
    out = last(sample(sampler, d, x, times, noise=UnitPieces(knots)))  # type: ignore[arg-type]
    return float(out.square().sum())


# --- the law ---------------------------------------------------------------------------------------------------------


def check_order(sampler: AnySampler, d: Denoise, data_var: float, counts: tuple[int, int]) -> None:
    """The error of the output variance falls as steps^-order, slope ± 0.1, to below 10 %.

    Three terms of the polynomial (3M) start from one, which limits the order to 2 late: at least 1.9 there.
    """
    r = d.schedule.rates(d.schedule.t_min)
    truth = float(r.alpha**2 * data_var + r.sigma**2)
    coarse, fine = (output_variance(sampler, d, steps, data_var) - truth for steps in counts)
    slope = math.log2(abs(coarse / fine))
    assert slope > sampler.order - 0.1
    assert isinstance(sampler, Dpmpp3MSde) or slope < sampler.order + 0.1
    assert abs(fine) < 0.1 * truth


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_variance_converges_at_the_declared_order(sampler: AnySampler, schedule: Schedule, ideal: MakeIdeal) -> None:
    """From 128 steps to 256: the flow spans 40 nats, so a step is 0.3 nats long there and 0.1 and less elsewhere."""
    check_order(sampler, ideal(GaussianOracle([0.0], [0.25]), schedule), 0.25, (128, 256))


@pytest.mark.proof
@pytest.mark.parametrize("data_var", [0.25, 4.0])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_order_at_more_steps(sampler: AnySampler, data_var: float, schedule: Schedule, ideal: MakeIdeal) -> None:
    """The same from 256 to 512, on data narrower and wider than the noise."""
    check_order(sampler, ideal(GaussianOracle([0.0], [data_var]), schedule), data_var, (256, 512))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_mean_converges_to_the_data(sampler: AnySampler, schedule: Schedule, ideal: MakeIdeal) -> None:
    """Without any noise the walk from the mean of x_1 is the mean of the samples; it ends at alpha times the data's.

    Started at the exact mean it stays on it: x0_hat is the data's mean all along, for every method, to rounding.
    """
    d = ideal(GaussianOracle([0.7, -0.4], [[0.5, 0.3], [0.3, 0.9]]), schedule)
    mean = torch.tensor([[0.7, -0.4]], dtype=torch.float64)

    class Silent:
        def increment(self, t: Rates, s: Rates, x: Tensor) -> Tensor:
            return torch.zeros_like(x)

    times = UniformLogSnr().times_to_t_min(schedule, 40)
    out = last(sample(sampler, d, float(schedule.rates(1.0).alpha) * mean, times, noise=Silent()))  # type: ignore[arg-type]
    torch.testing.assert_close(out, float(schedule.rates(schedule.t_min).alpha) * mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("data_var", "published"), [(0.25, 0.249900), (1.0, 0.999900), (4.0, 3.999900)])
def test_the_optimal_variance_gives_the_data_back(data_var: float, published: float, ideal: MakeIdeal) -> None:
    """A thousand ancestral steps with small + pull² mmse: each is the exact law of x_s given x_t; only the last, which
    adds no noise, takes sigma_1² = 1e-4 of the variance away. Numbers by an independent calculation, to their digits.
    """
    schedule = Tabulated()
    oracle = GaussianOracle([0.0], [data_var])
    rates = [schedule.rates(k / 1000) for k in range(1000, 0, -1)]
    table = [float(np.mean(oracle.mmse(float(r.alpha), float(r.sigma)))) for r in rates]
    sampler = Ancestral(Optimal(tuple(float(r.log_snr) for r in rates), tuple(table)))
    times = Trailing().times(schedule, 1000)
    x = torch.zeros(1000, 1, dtype=torch.float64)
    x[0] = 1
    noise = UnitPieces([float(r.log_snr) for r in rates])
    variance = float(last(sample(sampler, ideal(oracle, schedule), x, times, noise=noise)).square().sum())  # type: ignore[arg-type]
    assert variance == pytest.approx(published, abs=1e-6)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_the_optimal_variance_is_exact_in_any_number_of_steps(steps: int, schedule: Schedule, ideal: MakeIdeal) -> None:
    """Gaussian data, walk to t_min from the marginal at t = 1: no error of discretisation at all, where small has 10 %.

    The other variances need a thousand steps for that.
    """
    data_var = 0.6
    oracle = GaussianOracle([0.0], [data_var])
    times = UniformLogSnr().times_to_t_min(schedule, steps)
    rates = [schedule.rates(t) for t in times[:-1]]
    mmse = [float(np.mean(oracle.mmse(float(r.alpha), float(r.sigma)))) for r in rates]
    exact = Ancestral(Optimal(tuple(float(r.log_snr) for r in rates), tuple(mmse)))
    r, d = schedule.rates(schedule.t_min), ideal(oracle, schedule)
    truth = float(r.alpha**2 * data_var + r.sigma**2)
    assert output_variance(exact, d, steps, data_var) == pytest.approx(truth, rel=1e-8)  # type: ignore[arg-type]
    assert output_variance(Ancestral(Small()), d, steps, data_var) < 0.9 * truth  # type: ignore[arg-type]


# --- identities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noisy", "plain"),
    [(Dpmpp2MSde(eta=0.0), Dpmpp2M()), (Dpmpp3MSde(eta=0.0), Dpmpp3M()), (DpmppSde(eta=0.0), Dpmpp2S())],
    ids=["2m", "3m", "single"],
)
def test_without_noise_it_is_the_solver_of_the_ode(
    noisy: AnySampler, plain: AnySampler, schedule: Schedule, ideal: MakeIdeal
) -> None:
    """The same states, and no noise is asked for."""
    assert noisy.deterministic
    d, x = ideal(MIXTURE, schedule), start(schedule, 8, 2)
    times = [*UniformLogSnr().times_to_t_min(schedule, 12), 0.0]
    walks = [sample(s, d, x, times, noise=None) for s in (noisy, plain)]  # type: ignore[arg-type]
    for ours, theirs in zip(*walks, strict=True):
        scale = max(1.0, float(theirs.x.abs().max()))  # VE starts at 80
        torch.testing.assert_close(ours.x / scale, theirs.x / scale, rtol=0, atol=1e-12)


def test_two_m_is_its_formula(ideal: MakeIdeal) -> None:
    """k-diffusion's step in its own terms, at alpha = 1 and with eta between: exponentials, not differences of them."""
    schedule, eta = Ve(0.01, 80.0), 0.7
    d, x = ideal(MIXTURE, schedule), start(schedule, 4, 2)
    times = [1.0, 0.8, 0.65, 0.55]
    noise = NoiseSource.of(seed=3, count=4)
    walked = list(sample(Dpmpp2MSde(eta=eta), d, x, times, noise=noise))
    old, h_last = None, math.nan
    for step in walked:
        now, then = schedule.rates(step.t), schedule.rates(step.s)
        h = math.log(float(now.sigma / then.sigma))
        denoised = step.prediction.x0
        expected = float(then.sigma / now.sigma) * math.exp(-h * eta) * x + (1 - math.exp(-h - h * eta)) * denoised
        if old is not None:
            expected = expected + 0.5 * (1 - math.exp(-h - h * eta)) * (h / h_last) * (denoised - old)
        z = NoiseSource.of(seed=3, count=4).increment(now, then, x)
        expected = expected + float(then.sigma) * math.sqrt(1 - math.exp(-2 * h * eta)) * z
        torch.testing.assert_close(step.x, expected, rtol=1e-12, atol=1e-11)
        x, old, h_last = step.x, denoised, h


@pytest.mark.parametrize("sampler", [Dpmpp2MSde(), Dpmpp3MSde()], ids=repr)
def test_the_first_step_of_eta_one_is_ancestral(sampler: AnySampler, schedule: Schedule, ideal: MakeIdeal) -> None:
    """exp(-2h) x + (1 - exp(-2h)) x0 in data units with the small variance: the posterior of the guess."""
    d, x = ideal(MIXTURE, schedule), start(schedule, 8, 2)
    times = UniformLogSnr().times_to_t_min(schedule, 12)[:2]
    ours, theirs = (
        last(sample(s, d, x, times, noise=NoiseSource.of(seed=1, count=8)))  # type: ignore[arg-type]
        for s in (sampler, Ancestral(Small()))
    )
    scale = max(1.0, float(theirs.abs().max()))
    torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=1e-12)


def test_euler_maruyama_is_eulers_step_on_the_reverse_sde(schedule: Schedule, ideal: MakeIdeal) -> None:
    """y + (u_t² - u_s²) score_y + sqrt(u_t² - u_s²) z, with the score of y from the oracle at alpha = 1."""
    d, x = ideal(MIXTURE, schedule), start(schedule, 8, 2)
    times = UniformLogSnr().times_to_t_min(schedule, 30)
    noise = NoiseSource.of(seed=1, count=8)
    for step in sample(EulerMaruyama(), d, x, times, noise=noise):
        now, then = schedule.rates(step.t), schedule.rates(step.s)
        u_t, u_s = float(now.noise_level), float(then.noise_level)
        y = step.prediction.x_t / now.alpha
        score = torch.from_numpy(MIXTURE.score(y.numpy(), 1.0, u_t))
        z = noise.increment(now, then, y)
        expected = float(then.alpha) * (y + (u_t**2 - u_s**2) * score + math.sqrt(u_t**2 - u_s**2) * z)
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(step.x / scale, expected / scale, rtol=0, atol=1e-10)


def test_where_variance_explodes_it_is_ancestral_with_the_large_variance(ideal: MakeIdeal) -> None:
    """Song et al. 2021, eq. 46: their reverse diffusion sampler."""
    schedule = Ve(0.01, 80.0)
    d, x, times = ideal(MIXTURE, schedule), start(schedule, 8, 2), Trailing().times(schedule, 20)
    ours, theirs = (
        last(sample(s, d, x, times, noise=NoiseSource.of(seed=1, count=8)))
        for s in (EulerMaruyama(), Ancestral(Large()))
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_all_families_walk_the_same_path(sampler: AnySampler, ideal: MakeIdeal) -> None:
    """In y = x/alpha the family does not matter: the same log-SNRs, the same noise, the same y at every step."""
    log_snrs = torch.linspace(-6, 5, 12, dtype=torch.float64)
    paths = []
    for schedule in (CosineAngle(0.01, 0.999), Ve(0.01, 80.0), RectifiedFlow()):
        times = schedule.time(log_snrs).tolist()
        x = float(schedule.rates(times[0]).alpha) * 20 * start(CosineAngle(), 6, 2)
        d, noise = ideal(MIXTURE, schedule), NoiseSource.of(seed=2, count=6)
        paths.append([s.x / schedule.rates(s.s).alpha for s in sample(sampler, d, x, times, noise=noise)])
    for other in paths[1:]:
        for ours, theirs in zip(paths[0], other, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


# --- one path --------------------------------------------------------------------------------------------------------


def distances(sampler: AnySampler, d: Denoise, counts: list[int], reference: int) -> list[float]:
    """How far samples in so many steps are from those of `reference` steps on the same path, and on a fresh one.

    The median over 64 samples: a few whose path passes between the modes may end at the other one.
    """
    x = start(d.schedule, 64, 2)

    def end(steps: int, seed: int = 9) -> Tensor:
        times = UniformLogSnr().times_to_t_min(d.schedule, steps)
        return last(sample(sampler, d, x, times, noise=NoiseSource.of(seed=seed, count=64)))

    truth = end(reference)
    ends = [*(end(steps) for steps in counts), end(counts[0], seed=777)]
    return [float((other - truth).norm(dim=1).median()) for other in ends]


@pytest.mark.parametrize("sampler", [EulerMaruyama(), Dpmpp2MSde(), DpmppSde()], ids=repr)
def test_more_steps_refine_the_same_picture(sampler: AnySampler, ideal: MakeIdeal) -> None:
    """Ten steps are nearer to 320 on the same path than to another sample, and eighty at a third of the distance.

    Strong order 1 gives an eighth.
    """
    few, many, fresh = distances(sampler, ideal(MIXTURE, CosineAngle()), [10, 80], 320)
    assert many < few / 3
    assert few < 0.6 * fresh


@pytest.mark.proof
@pytest.mark.timeout(600)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_refinement_to_a_fine_solution(sampler: AnySampler, schedule: Schedule, ideal: MakeIdeal) -> None:
    """20 and 200 steps against 3,200: the distance falls as 1/steps, by 10 give or take a half.

    Over the flow's 40 nats they are 80 and 800, for steps as short.
    """
    counts = [80, 800] if schedule == SCHEDULES["flow"] else [20, 200]
    few, many, fresh = distances(sampler, ideal(MIXTURE, schedule), counts, 3200)
    assert many < few / 5
    assert many < 0.1 * fresh


# --- ends, counts, refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_one_image_comes_back(sampler: AnySampler, schedule: Schedule, ideal: MakeIdeal) -> None:
    """The ideal denoiser of a data set of one is that image, so every sampler ends at it, in float32 to 1e-5."""
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 4, 4))
    d = ideal(DatasetOracle(image), schedule)
    for steps in (1, 2, 20):
        x = start(schedule, 4, 3, 4, 4, dtype=torch.float32)
        out = last(sample(sampler, d, x, Trailing().times(schedule, steps), noise=NoiseSource.of(seed=0, count=4)))
        assert out.dtype == torch.float32
        assert float((out - torch.from_numpy(image)).abs().max()) <= 1e-5


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_steps_and_calls(sampler: AnySampler, steps: int, ideal: MakeIdeal) -> None:
    counting = Counting(ideal(MIXTURE, Tabulated()))
    times = Trailing().times(Tabulated(), steps)
    walked = list(sample(sampler, counting, start(Tabulated(), 2, 2), times, noise=NoiseSource.of(seed=0, count=2)))
    assert counting.calls == sampler.calls(steps) == walked[-1].calls
    assert counting.calls == (2 * steps - 1 if isinstance(sampler, DpmppSde) else steps)
    assert not sampler.deterministic


def test_float32_follows_float64(ideal: MakeIdeal) -> None:
    """Coefficients are float64, states are not: 1e-4 over 30 steps."""
    for schedule in (RectifiedFlow(),):
        d = ideal(GaussianOracle([0.2, -0.1], [0.5, 2.0]), schedule)
        times = UniformLogSnr().times(schedule, 30)
        for sampler in SAMPLERS:
            single, double = (
                last(sample(sampler, d, start(schedule, 8, 2, dtype=t), times, noise=NoiseSource.of(seed=3, count=8)))
                for t in (torch.float32, torch.float64)
            )
            torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)


@pytest.mark.parametrize("cls", [Dpmpp2MSde, Dpmpp3MSde, DpmppSde])
@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_eta_out_of_range_is_refused(cls: type, eta: float) -> None:
    with pytest.raises(ConfigError, match=f"eta is {eta}"):
        cls(eta=eta)


def test_half_the_path_is_part_of_the_whole(ideal: MakeIdeal) -> None:
    """DpmppSde at eta 1 asks for the noise up to the middle and for that of the whole step, both from its start."""
    asked: list[tuple[float, float]] = []

    class Listening:
        def increment(self, t: Rates, s: Rates, x: Tensor) -> Tensor:
            asked.append((float(t.log_snr), float(s.log_snr)))
            return torch.zeros_like(x)

    schedule = CosineAngle()
    x = torch.zeros(1, 2, dtype=torch.float64)
    list(sample(DpmppSde(), ideal(MIXTURE, schedule), x, [0.9, 0.5], noise=Listening()))  # type: ignore[arg-type]
    (start_half, middle), (start_whole, stop) = asked
    assert start_half == start_whole
    assert middle == pytest.approx((start_whole + stop) / 2, rel=1e-12)
