"""Every schedule: its clock, inverse, slope, family, bounds and prior; each clock against its own source."""

import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from scipy.integrate import quad

from sfumato.core import (
    ConstantBetas,
    CosineAngle,
    CosineBetas,
    Denoiser,
    LinearBetas,
    LogSnrLinear,
    Noise,
    NoiseVarianceInput,
    RectifiedFlow,
    Schedule,
    Shifted,
    StepInput,
    Tabulated,
    Ve,
    VpSde,
    ZeroTerminalSnr,
    check_terminal_signal,
)
from sfumato.errors import ConfigError

MAX_LOG_SNR = 20.0


def times_of(schedule: Schedule, count: int = 501) -> torch.Tensor:
    """Times over the whole span, both ends included, denser towards the clean end."""
    return torch.linspace(0, 1, count, dtype=torch.float64) ** 2 * (1 - schedule.t_min) + schedule.t_min


# --- what every schedule keeps ---------------------------------------------------------------------------------------


def test_log_snr_decreases_strictly(schedule: Schedule) -> None:
    t = times_of(schedule)
    assert bool((schedule.rates(t).log_snr.diff() < 0).all())
    assert 0 < schedule.t_min <= 0.5


def test_rates_carry_the_log_snr_of_the_clock(schedule: Schedule) -> None:
    t = times_of(schedule)
    r = schedule.rates(t)
    assert r.alpha.dtype == r.sigma.dtype == torch.float64
    # two logarithms of numbers down to 1e-9: 1e-14 absolute in a log-SNR of 20
    torch.testing.assert_close(r.log_snr, schedule.log_snr(t), rtol=1e-12, atol=1e-12)


def test_time_is_the_inverse(schedule: Schedule) -> None:
    t = times_of(schedule)
    # tan, exp and the stretch of ZeroTerminalSnr lose two digits near the ends
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, rtol=0, atol=1e-13)


def test_log_snr_beyond_the_span_goes_to_its_ends(schedule: Schedule) -> None:
    out = schedule.time(torch.tensor([math.inf, 1000.0, -1000.0, -math.inf], dtype=torch.float64))
    clean, noisy = schedule.t_min, 1.0
    torch.testing.assert_close(out, torch.tensor([clean, clean, noisy, noisy], dtype=torch.float64), rtol=0, atol=1e-15)


def test_slope_is_the_derivative(schedule: Schedule) -> None:
    """Central differences with h = 1e-4 min(t, 1 - t); a table is compared inside its intervals, where it is linear."""
    t = times_of(schedule)
    t = t[(t > max(1e-3, 2 * schedule.t_min)) & (t < 0.999)]
    if schedule.num_steps is not None:
        index = torch.arange(1, schedule.num_steps, dtype=torch.float64)
        t = (index + 0.4) / schedule.num_steps
    h = 1e-4 * torch.minimum(t, 1 - t)
    difference = (schedule.log_snr(t + h) - schedule.log_snr(t - h)) / (2 * h)
    # The next term, h² f'''/6, is 3e-9 relative where f goes as log t or log(1 - t); rounding of f over 2h is 1e-8.
    torch.testing.assert_close(schedule.slope(t), difference, rtol=1e-6, atol=1e-7)


def test_slope_leaves_no_graph_and_takes_any_shape(schedule: Schedule) -> None:
    with torch.no_grad():
        one, many = schedule.slope(torch.tensor(0.7)), schedule.slope(torch.tensor([0.7, 0.7]))
    assert not one.requires_grad
    assert one.shape == ()
    # 0.7 is a float32 here: both read the same number
    torch.testing.assert_close(many, one.expand(2), rtol=0, atol=0)


@pytest.mark.parametrize("steps", [2, 3, 10, 49, 100, 200, 1000, 4000])
def test_slope_at_grid_points_is_that_of_the_noisier_interval(steps: int) -> None:
    """Whatever (k/T)·T rounds to: 57/100·100 is 56.99999999999999."""
    table = Tabulated(LinearBetas(), steps)
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    rises = table.log_snr(t).diff() * steps
    expected = torch.cat([rises, rises[-1:]])  # after t = 1 there is no interval: that before it
    torch.testing.assert_close(table.slope(t), expected, rtol=1e-9, atol=0)  # a difference of two numbers about 10


def test_family(schedule: Schedule) -> None:
    """alpha² + sigma² = 1, alpha = 1 or alpha + sigma = 1, to rounding."""
    r = schedule.rates(times_of(schedule))
    base = schedule
    while isinstance(base, Shifted | ZeroTerminalSnr):
        base = base.base
    law = {Ve: r.alpha, RectifiedFlow: r.alpha + r.sigma}.get(type(base), r.alpha**2 + r.sigma**2)
    torch.testing.assert_close(law, torch.ones_like(law), rtol=0, atol=1e-15)


def test_continuous_schedules_stay_within_the_bounds(schedule: Schedule) -> None:
    if schedule.num_steps is None:
        log_snr = schedule.log_snr(times_of(schedule))
        assert float(log_snr.abs().max()) <= MAX_LOG_SNR + 1e-9  # the shift of a bound comes back through exp and log


def test_prior_is_what_is_left_of_noise(schedule: Schedule) -> None:
    """N(0, 1) where alpha² + sigma² = 1, N(0, sigma_1²) elsewhere."""
    end = schedule.rates(1.0)
    preserving = abs(float(end.alpha**2 + end.sigma**2) - 1) < 1e-12
    assert schedule.prior_std == pytest.approx(1.0 if preserving else float(end.sigma), rel=1e-15)
    assert float(schedule.prior.std) == pytest.approx(schedule.prior_std, rel=1e-15)
    assert float(schedule.prior.mean) == 0
    assert schedule.terminal_signal(0.5) == pytest.approx(0.25 * float(end.log_snr.exp()), rel=1e-12)


def test_rates_of_a_number_and_of_a_batch_agree(schedule: Schedule) -> None:
    one, many = schedule.rates(0.625), schedule.rates(torch.full((3,), 0.625))
    assert one.alpha.shape == ()
    torch.testing.assert_close(many.alpha, one.alpha.expand(3), rtol=1e-15, atol=0)
    torch.testing.assert_close(many.sigma, one.sigma.expand(3), rtol=1e-15, atol=0)


# --- each clock against its source -----------------------------------------------------------------------------------


def test_cosine_angle_is_cos_and_sin_of_a_linear_angle() -> None:
    t = torch.linspace(1e-5, 1, 301, dtype=torch.float64)
    angle = math.acos(0.95) + t * (math.acos(0.02) - math.acos(0.95))
    r = CosineAngle(0.02, 0.95).rates(t)
    torch.testing.assert_close(r.alpha, angle.cos(), rtol=1e-13, atol=1e-15)  # cos near pi/2 has lost two digits
    torch.testing.assert_close(r.sigma, angle.sin(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("t", [1e-5, 1e-3, 0.1, 0.37, 0.9, 1.0])
@pytest.mark.parametrize("betas", [(0.1, 20.0), (0.5, 12.0)])
def test_vp_sde_against_the_integral(betas: tuple[float, float], t: float) -> None:
    """alpha = exp(-½ ∫ beta), sigma² = ∫ beta(u) exp(-∫_u^t beta) du: the variance of the SDE, by quadrature."""
    low, high = betas
    spent = quad(lambda u: low + u * (high - low), 0, t)[0]

    def added(u: float) -> float:
        rest = quad(lambda v: low + v * (high - low), u, t)[0]
        return (low + u * (high - low)) * math.exp(-rest)

    r = VpSde(low, high).rates(t)
    assert float(r.alpha) == pytest.approx(math.exp(-spent / 2), rel=1e-12)
    assert float(r.sigma**2) == pytest.approx(quad(added, 0, t, epsabs=0, epsrel=1e-11)[0], rel=1e-9)


def test_ve_is_geometric() -> None:
    r = Ve(0.01, 50.0).rates(torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64))
    expected = torch.tensor([0.01**0.75 * 50**0.25, math.sqrt(0.5), 50.0], dtype=torch.float64)
    torch.testing.assert_close(r.sigma, expected, rtol=1e-13, atol=0)


def test_flow_is_straight_but_for_the_bounds() -> None:
    """sigma is affine in t, symmetric about 1/2, and within 4.6e-5 of t."""
    t = torch.linspace(RectifiedFlow().t_min, 1, 101, dtype=torch.float64)
    sigma = RectifiedFlow().rates(t).sigma
    torch.testing.assert_close(sigma.diff(), sigma.diff().mean().expand(100), rtol=1e-9, atol=0)
    assert float(sigma[0] + sigma[-1]) == pytest.approx(1, abs=1e-15)
    assert float((sigma - t).abs().max()) < 4.6e-5


def test_log_snr_linear_is_linear() -> None:
    t = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    expected = torch.tensor([7.0, -1.0, -11.0], dtype=torch.float64)
    torch.testing.assert_close(LogSnrLinear(-11.0, 9.0).log_snr(t), expected, rtol=1e-15, atol=1e-14)


def test_shifted_is_what_averaging_pixels_does() -> None:
    """A smooth 4h×4w image plus noise at the shifted level, averaged over 4×4 blocks, has the base's noise level.

    Averaging leaves the signal and divides the noise's variance by 16, so noise_level(256) / 4 = noise_level(64).
    """
    base, shifted = CosineAngle(), Shifted(256, 64, CosineAngle())
    t = torch.linspace(0.2, 0.8, 13, dtype=torch.float64)
    torch.testing.assert_close(shifted.rates(t).noise_level / 4, base.rates(t).noise_level, rtol=1e-13, atol=0)
    noise = torch.randn(1, 1, 512, 512, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    averaged = torch.nn.functional.avg_pool2d(noise, 4)
    assert float(averaged.std()) == pytest.approx(1 / 4, rel=5 / math.sqrt(2 * 128**2))  # five standard errors


def test_shifted_keeps_the_clock_where_it_can() -> None:
    base = LogSnrLinear()
    shifted = Shifted(32, 64, base)  # log_snr + 2 log 2, from 16.4 to -13.6: within the bounds
    t = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(shifted.log_snr(t), base.log_snr(t) + 2 * math.log(2), rtol=0, atol=1e-14)
    clipped = Shifted(4, 64, base)  # + 5.5: the clean end would reach 20.5
    assert float(clipped.rates(clipped.t_min).log_snr) == pytest.approx(20, abs=1e-9)
    assert float(clipped.rates(1.0).log_snr) == pytest.approx(-15 + 4 * math.log(4), abs=1e-12)


@pytest.mark.parametrize("base", [Tabulated(), Tabulated(LinearBetas(rescale=False), 200), CosineAngle()], ids=str)
def test_zero_terminal_snr_against_the_paper(base: Schedule) -> None:
    """sqrt(alpha-bar) minus its last value, times first/(first - last); ours ends at alpha = 4.54e-5 and not at 0."""
    t = torch.linspace(base.t_min, 1, 200, dtype=torch.float64)
    root = base.rates(t).alpha
    paper = (root - root[-1]) * root[0] / (root[0] - root[-1])
    floor = 1 / math.sqrt(1 + math.exp(MAX_LOG_SNR))
    ours = ZeroTerminalSnr(base).rates(t).alpha
    torch.testing.assert_close(ours, floor + paper * (root[0] - floor) / root[0], rtol=1e-9, atol=1e-15)
    assert float((ours - paper).abs().max()) <= floor * (1 + 1e-9)
    assert float(ours[0]) == pytest.approx(float(root[0]), rel=1e-12)


# --- refusals --------------------------------------------------------------------------------------------------------


def denoiser(schedule: Schedule, *, data_std: float = 1.0, allow: bool = False) -> Denoiser:
    return Denoiser(
        torch.nn.Identity(),
        schedule,
        Noise(),
        time_input=StepInput(200),
        data_std=data_std,
        allow_terminal_signal=allow,
    )


def test_signal_left_at_the_end_is_refused_with_the_number_and_the_remedies() -> None:
    """Unscaled linear betas over 200 steps end at alpha-bar 0.132 (0.13218, from the oracle's table)."""
    short = Tabulated(LinearBetas(rescale=False), 200)
    with pytest.raises(ConfigError, match=r"alpha-bar 0\.1322") as caught:
        denoiser(short)
    assert "0.152 times" in caught.value.what  # 0.13218/(1 - 0.13218)
    for remedy in ("rescale", "CosineBetas", "ZeroTerminalSnr", "allow_terminal_signal"):
        assert remedy in caught.value.fix
    assert denoiser(short, allow=True).schedule is short
    assert denoiser(ZeroTerminalSnr(short)).schedule.terminal_signal(1.0) < 1e-8
    assert denoiser(short, data_std=0.25).schedule is short  # 0.152 · 0.0625 = 0.0095


@pytest.mark.parametrize(
    ("schedule", "key"),
    [
        (CosineAngle(min_signal_rate=0.3), "min_signal_rate"),
        (VpSde(beta_max=3.0), "beta_max"),
        (LogSnrLinear(log_snr_min=-2.0), "log_snr_min"),
        (Ve(sigma_max=3.0), "sigma_max"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Schedule) else value,
)
@pytest.mark.parametrize("data_std", [1.0, 0.7])
def test_the_remedy_of_a_continuous_schedule_is_a_setting_of_its_own_that_works(
    schedule: Schedule, key: str, data_std: float
) -> None:
    with pytest.raises(ConfigError) as caught:
        denoiser(schedule, data_std=data_std)
    found = re.match(rf"set schedule\.{key}: (-?[0-9.]+), or set allow_terminal_signal: true$", caught.value.fix)
    assert found is not None, caught.value.fix
    mended = replace(schedule, **{key: float(found[1])})  # type: ignore[type-var]
    assert 0.008 < mended.terminal_signal(data_std) <= 0.01  # no more is asked for than is needed
    with pytest.raises(ConfigError, match=rf"schedule\.base\.{key}"):
        denoiser(Shifted(64, base=schedule), data_std=data_std)


@pytest.mark.parametrize("end", [0.0099, 0.0101])
def test_the_guard_is_at_one_hundredth(end: float) -> None:
    """A chain of one step with beta = 1/(1 + end) leaves an SNR of `end`."""
    schedule = Tabulated(ConstantBetas(1 / (1 + end)), 1)
    assert schedule.terminal_signal(1.0) == pytest.approx(end, rel=1e-12)
    if end <= 0.01:
        check_terminal_signal(schedule, 1.0)
    else:
        with pytest.raises(ConfigError, match="ends with alpha-bar"):
            check_terminal_signal(schedule, 1.0)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: CosineAngle(0.95, 0.02), "min_signal_rate and max_signal_rate are"),
        (lambda: CosineAngle(0.0, 0.95), "min_signal_rate"),
        (lambda: CosineAngle(0.02, 1.0), "max_signal_rate"),
        (lambda: VpSde(0.0, 20.0), "beta_min"),
        (lambda: VpSde(0.1, 60.0), "beta_max"),
        (lambda: Ve(0.0, 80.0), "sigma_min"),
        (lambda: Ve(1.0, 1.0), "sigma_min and sigma_max"),
        (lambda: Ve(float("nan"), 1.0), "sigma_min"),
        (lambda: LogSnrLinear(-30.0, 10.0), "log_snr_min"),
        (lambda: Shifted(0), r"resolution is 0"),
        (lambda: Shifted(2_000_000, 1), "moves by"),
        (lambda: ZeroTerminalSnr(Ve()), "not variance preserving"),
        (lambda: ZeroTerminalSnr(RectifiedFlow()), "not variance preserving"),
        (lambda: ZeroTerminalSnr(Tabulated(steps=1)), "one step"),
        (lambda: Tabulated(steps=1).slope(torch.ones(1)), "one step"),
        (lambda: denoiser(CosineAngle(), data_std=0.0), r"data_std is 0\.0"),
        (lambda: denoiser(CosineAngle(), data_std=float("nan")), "data_std is nan"),
    ],
)
def test_settings_out_of_range_are_refused(make: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_chains_have_rates(steps: int) -> None:
    table = Tabulated(CosineBetas(), steps)
    t = [k / steps for k in range(1, steps + 1)]
    log_snrs = [float(table.rates(x).log_snr) for x in t]
    assert all(a > b for a, b in pairwise(log_snrs))
    assert table.time(torch.tensor(log_snrs)).tolist() == pytest.approx(t, abs=1e-6)  # through float32
    assert denoiser(table).schedule.terminal_signal(1.0) < 0.01


def test_noise_variance_input_is_the_share_of_noise() -> None:
    r = RectifiedFlow().rates(0.3)
    expected = float(r.sigma**2 / (r.alpha**2 + r.sigma**2))
    assert float(NoiseVarianceInput().value(r)) == pytest.approx(expected, rel=1e-13)
