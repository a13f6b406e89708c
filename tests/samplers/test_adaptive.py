"""The adaptive sampler against scipy and torchdiffeq on the same ODE, and against the exact flow of Gaussian data."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torchdiffeq import odeint

from sfumato.core import CosineAngle, Denoise, NoiseSource, RectifiedFlow, Schedule, Tabulated, Ve, VpSde
from sfumato.core.probability_flow import ProbabilityFlow
from sfumato.errors import ConfigError, NumericsError, UsageError
from sfumato.guidance import Counting
from sfumato.samplers import DormandPrince, Step, sample
from sfumato.verify.oracles import DatasetOracle, GaussianOracle, MixtureOracle, Oracle

SCHEDULES = {"table": Tabulated(), "angle": CosineAngle(), "vp": VpSde(), "ve": Ve(), "flow": RectifiedFlow()}
MIXTURE = MixtureOracle([0.3, 0.7], [[1.0, -0.5], [-0.6, 0.8]], [[[0.1, 0.05], [0.05, 0.2]], [[0.05, 0.0], [0.0, 0.1]]])
TIGHT = DormandPrince(rtol=1e-11, atol=1e-11, max_steps=100_000)
MakeIdeal = Callable[[Oracle, Schedule], Denoise]


@pytest.fixture(params=SCHEDULES.values(), ids=list(SCHEDULES))
def schedule(request: pytest.FixtureRequest) -> Schedule:
    return request.param


def start(schedule: Schedule, count: int, *shape: int) -> Tensor:
    like = torch.zeros((), dtype=torch.float64)
    return schedule.prior_std * NoiseSource.of(seed=0, count=count).initial((count, *shape), like=like)


def walked(sampler: DormandPrince, d: Denoise, x: Tensor, *times: float) -> Step:
    *_, last = sample(sampler, d, x, times, noise=NoiseSource.of(seed=0, count=len(x)))
    return last


def test_agrees_with_scipy_and_torchdiffeq(schedule: Schedule, ideal: MakeIdeal) -> None:
    """The same path in the coordinates of the papers, dy/du = eps in y = x/alpha: nothing of ours but the schedule."""
    top, d = 1.0 if schedule.prior_std > 1 else 0.8, ideal(MIXTURE, schedule)
    ends = [schedule.rates(t) for t in (top, schedule.t_min)]
    x = start(schedule, 3, 2)
    log_levels = [float(r.noise_level.log()) for r in ends]  # over log u, so that they need no 10^5 steps

    def slope(log_u: float, y: np.ndarray) -> np.ndarray:
        u = np.exp(log_u)
        return u * MIXTURE.eps(y, 1.0, u)  # eps depends on y and u alone, whatever the schedule

    ours = walked(TIGHT, d, x, top, schedule.t_min).x / ends[1].alpha
    y0 = (x / ends[0].alpha).numpy()
    theirs = odeint(
        lambda v, y: torch.from_numpy(slope(float(v), y.numpy())),
        torch.from_numpy(y0), torch.tensor(log_levels, dtype=torch.float64), rtol=1e-11, atol=1e-11,
    )[-1]  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
    by_scipy = solve_ivp(
        lambda v, y: slope(v, y.reshape(3, 2)).ravel(), log_levels, y0.ravel(), method="DOP853", rtol=1e-12, atol=1e-12
    ).y[:, -1]
    np.testing.assert_allclose(ours.numpy().ravel(), by_scipy, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("tolerance", "most_calls"), [(1e-3, 80), (1e-6, 140), (1e-9, 400)])
def test_exact_flow_of_gaussian_data(schedule: Schedule, ideal: MakeIdeal, tolerance: float, most_calls: int) -> None:
    """x_s = alpha_s m + S_s^½ S_t^-½ (x_t - alpha_t m); the error stays near the tolerance, and so does the price."""
    mean, eigenvalues = np.array([0.5, -1.0, 0.0]), np.array([0.02, 0.5, 3.0])
    oracle = GaussianOracle(mean, eigenvalues)
    x, last, first = start(schedule, 32, 3), schedule.rates(schedule.t_min), schedule.rates(1.0)
    end = walked(DormandPrince(tolerance, tolerance), ideal(oracle, schedule), x, 1.0, schedule.t_min)
    grown = [np.sqrt(float(r.alpha) ** 2 * eigenvalues + float(r.sigma) ** 2) for r in (first, last)]
    exact = float(last.alpha) * mean + grown[1] / grown[0] * (x.numpy() - float(first.alpha) * mean)
    assert np.abs(end.x.numpy() - exact).max() < 6 * tolerance  # local errors of up to fifty steps
    assert int(end.calls_each.max()) <= most_calls


def test_the_last_step_is_the_prediction_at_t_min(schedule: Schedule, ideal: MakeIdeal) -> None:
    d, x = ideal(MIXTURE, schedule), start(schedule, 4, 2)
    at_t_min = walked(DormandPrince(), d, x, 1.0, schedule.t_min)
    at_data = walked(DormandPrince(), d, x, 1.0, 0.0)
    guess = d(at_t_min.x, torch.tensor(schedule.t_min, dtype=torch.float64)).x0
    assert torch.equal(at_data.x, guess)
    assert (at_data.calls_each - at_t_min.calls_each).tolist() == [1] * 4
    assert torch.equal(walked(DormandPrince(), d, at_t_min.x, schedule.t_min, 0.0).x, guess)


def test_one_picture_is_given_back(schedule: Schedule, ideal: MakeIdeal) -> None:
    picture = np.array([[0.7, -0.4, 0.1]])
    end = walked(DormandPrince(), ideal(DatasetOracle(picture), schedule), start(schedule, 3, 3), 1.0, 0.0)
    np.testing.assert_allclose(end.x, picture.repeat(3, 0), atol=1e-12)


def test_a_sample_alone_is_what_it_is_in_a_batch(schedule: Schedule, ideal: MakeIdeal) -> None:
    d, x = ideal(MIXTURE, schedule), start(schedule, 6, 2)
    together = walked(DormandPrince(1e-6, 1e-6), d, x, 1.0, 0.0)
    assert len(together.calls_each.unique()) > 1  # each has steps of its own
    for i in range(6):
        alone = walked(DormandPrince(1e-6, 1e-6), d, x[i : i + 1], 1.0, 0.0)
        torch.testing.assert_close(alone.x[0], together.x[i], rtol=1e-12, atol=1e-12)
        assert int(alone.calls_each) == int(together.calls_each[i])


def test_calls_are_counted(ideal: MakeIdeal) -> None:
    """`calls` is how often the denoiser was asked, `calls_each` what a sample needed of them."""
    counting = Counting(ideal(MIXTURE, CosineAngle()))
    end = walked(DormandPrince(), counting, start(CosineAngle(), 5, 2), 1.0, 0.4, 0.0)
    assert end.calls == counting.calls >= int(end.calls_each.max())


def test_steps_are_refused() -> None:
    assert DormandPrince.adaptive
    with pytest.raises(UsageError, match="its calls in 50 steps") as refused:
        DormandPrince().calls(50)
    assert refused.value.exit_code == 2


def test_a_cap_of_steps_is_no_sample(ideal: MakeIdeal) -> None:
    """Not converged is said with the time where it stands, and nothing is returned."""
    d = ideal(MIXTURE, VpSde())
    with pytest.raises(
        NumericsError, match=r"4 of 4 samples had not arrived after 5 steps.* stands at t = 0\.\d"
    ) as no:
        walked(DormandPrince(rtol=1e-6, atol=1e-6, max_steps=5), d, start(VpSde(), 4, 2), 1.0, 0.0)
    assert no.value.exit_code == 5
    for bad in ({"rtol": 0.0}, {"atol": -1e-3}, {"rtol": 1.0}, {"max_steps": 0}):
        with pytest.raises(ConfigError):
            DormandPrince(**bad)


def test_the_clock_has_its_inverse(schedule: Schedule) -> None:
    flow = ProbabilityFlow(DenoiseNothing(schedule))
    for t in np.linspace(schedule.t_min, 1.0, 23):
        w = flow.clock(float(t))
        assert np.sinh(-w) == pytest.approx(float((schedule.rates(float(t)).log_snr / 2).exp()), rel=1e-12)
        assert float(flow.time(torch.tensor(w, dtype=torch.float64))) == pytest.approx(t, rel=1e-7, abs=1e-12)


class DenoiseNothing:
    """A denoiser that nobody asks."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> object:
        raise NotImplementedError
