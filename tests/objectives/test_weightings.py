"""Weights against a table written apart, in eps space, times the gain of each target, also written apart."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from sfumato.core import (
    CosineAngle,
    CosineBetas,
    Edm,
    Flow,
    Image,
    LinearBetas,
    LogNormalTimes,
    LogSnrLinear,
    Noise,
    Parameterization,
    PreviousMean,
    Rates,
    RectifiedFlow,
    Schedule,
    Score,
    SigmoidBetas,
    Tabulated,
    Ve,
    Velocity,
    VpSde,
    derived_generator,
)
from sfumato.errors import ConfigError
from sfumato.objectives import (
    P2,
    EdmLogNormal,
    Elbo,
    ImageError,
    LikelihoodWeight,
    MinSnr,
    NoiseError,
    OutputError,
    ScoreError,
    SigmoidWeight,
    SoftMinSnr,
    StepElbo,
    Weighting,
)
from sfumato.verify.oracles import alpha_bar, posterior_coefficients, step_kl

STD = 0.6
Array = np.ndarray


def slope(schedule: Schedule, t: torch.Tensor) -> Array:
    """dlog_snr/dt by differences: to the noisier side on a table, which is linear there, central elsewhere."""
    h = 1e-6
    if schedule.num_steps is not None:
        t = torch.where(t == 1, t - 2 * h, t)
        return ((schedule.log_snr(t + h) - schedule.log_snr(t)) / h).numpy()
    low, high = t - h * t, torch.minimum(t + h * t, torch.ones_like(t))
    return ((schedule.log_snr(high) - schedule.log_snr(low)) / (high - low)).numpy()


# w on |eps_hat - eps|² as a function of alpha, sigma and dlog_snr/dt (Kingma & Gao 2023, table 1, with w(λ) · -½ dλ/dt)
NOISE_SPACE = {
    "noise": (NoiseError(), lambda a, s, dl: np.ones_like(a)),
    "image": (ImageError(), lambda a, s, dl: (s / a) ** 2),
    "min-snr": (MinSnr(5.0), lambda a, s, dl: np.minimum((a / s) ** 2, 5.0) / (a / s) ** 2),
    "min-snr-1": (MinSnr(1.0), lambda a, s, dl: np.minimum((a / s) ** 2, 1.0) / (a / s) ** 2),
    "soft-min-snr": (SoftMinSnr(4.0), lambda a, s, dl: 4 / (4 + (a / s) ** 2)),
    "p2": (P2(), lambda a, s, dl: 1 / (1 + (a / s) ** 2)),
    "p2-half": (P2(0.3, 0.5), lambda a, s, dl: 1 / np.sqrt(0.3 + (a / s) ** 2)),
    "score": (ScoreError(), lambda a, s, dl: 1 / s**2),
    "elbo": (Elbo(), lambda a, s, dl: -dl / 2),
    "sigmoid": (SigmoidWeight(-1.0), lambda a, s, dl: -dl / 2 / (1 + np.exp(1.0 + 2 * np.log(a / s)))),
}

# |d eps_hat / dF|, from x_t = alpha x0 + sigma eps and the target's definition
GAINS = {
    "noise": (Noise(), lambda a, s: np.ones_like(a)),
    "image": (Image(), lambda a, s: a / s),
    "velocity": (Velocity(), lambda a, s: a / (a**2 + s**2)),
    "score": (Score(), lambda a, s: s),
    "flow": (Flow(), lambda a, s: a / (a + s)),
    "edm": (Edm(), lambda a, s: a * STD / np.sqrt(a**2 * STD**2 + s**2)),
}


def moments(schedule: Schedule) -> torch.Tensor:
    if schedule.num_steps is not None:
        return torch.arange(1, schedule.num_steps + 1, dtype=torch.float64) / schedule.num_steps
    return torch.linspace(0.05, 0.95, 10, dtype=torch.float64)


@pytest.mark.parametrize("target", GAINS)
@pytest.mark.parametrize("name", NOISE_SPACE)
def test_factor_is_the_weight_times_the_gain_squared(name: str, target: str, schedule: Schedule) -> None:
    (weighting, weight), (parameterization, gain) = NOISE_SPACE[name], GAINS[target]
    t = moments(schedule)
    r = schedule.rates(t)
    a, s = r.alpha.numpy(), r.sigma.numpy()
    factor = weighting.output_factor(r, schedule, parameterization, STD)
    assert factor.dtype == torch.float64
    expected = weight(a, s, slope(schedule, t)) * gain(a, s) ** 2
    # only the differences for dlog_snr/dt are inexact: rounding of 10 over 1e-6·t, 1e-8 of the slope
    np.testing.assert_allclose(factor.numpy(), expected, rtol=1e-6 if "dl" in weight_uses(name) else 1e-11)


def weight_uses(name: str) -> str:
    return "dl" if name in ("elbo", "sigmoid") else ""


def test_gain_of_the_previous_mean() -> None:
    """x_s moves by c1 per unit of x0, so eps_hat moves by alpha/(sigma c1); the last step's target is x0 itself."""
    table = Tabulated(CosineBetas(), 12)
    bars = alpha_bar(CosineBetas().values(12).numpy())
    gain = np.sqrt(bars / (1 - bars)) / posterior_coefficients(bars).on_x0
    ours = NoiseError().output_factor(table.rates(moments(table)), table, PreviousMean(table), STD)
    np.testing.assert_allclose(ours.numpy(), gain**2, rtol=1e-9)


def test_plain_is_exactly_one(pair: tuple[Parameterization, Schedule]) -> None:
    """Not 1 to rounding, and at alpha = 0 or sigma = 0 too: nothing is divided."""
    parameterization, schedule = pair
    t = moments(schedule)
    ones = torch.ones_like(t)
    assert torch.equal(OutputError().output_factor(schedule.rates(t), schedule, parameterization, STD), ones)
    nothing = Rates(t, torch.zeros_like(t), torch.zeros_like(t))
    assert torch.equal(OutputError().output_factor(nothing, schedule, parameterization, STD), ones)


@pytest.mark.parametrize(
    ("weighting", "parameterization"),
    [(NoiseError(), Noise()), (ImageError(), Image()), (ScoreError(), Score())],
    ids=repr,
)
def test_a_targets_own_weighting_is_its_plain_loss(
    weighting: Weighting, parameterization: Parameterization, schedule: Schedule
) -> None:
    t = moments(schedule)
    factor = weighting.output_factor(schedule.rates(t), schedule, parameterization, STD)
    torch.testing.assert_close(factor, torch.ones_like(t), rtol=1e-13, atol=0)


@pytest.mark.parametrize("schedule", [Ve(), CosineAngle(), RectifiedFlow(), VpSde()], ids=repr)
def test_edm_is_one_on_its_own_target_and_times(schedule: Schedule) -> None:
    """λ(sigma) c_out² = 1 in Karras et al. 2022: the product of weight, gain² and inverse density."""
    times = LogNormalTimes(-0.8, 1.1)
    drawn = times.draw(schedule, 200, derived_generator(0, "edm"))
    factor = EdmLogNormal(-0.8, 1.1).output_factor(schedule.rates(drawn.t), schedule, Edm(), STD)
    torch.testing.assert_close(factor * drawn.inv_density, torch.ones(200, dtype=torch.float64), rtol=2e-15, atol=0)


@pytest.mark.parametrize("schedule", [Ve(), LogSnrLinear()], ids=repr)
def test_edm_weight_against_karras(schedule: Schedule) -> None:
    """w dt on |eps_hat - eps|² is p(ln σ) d(ln σ) · λ(σ) · σ², λ = (σ² + d²)/(σ d)², over the uniform on [t_min, 1]."""
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    r = schedule.rates(t)
    level = r.noise_level.numpy()
    low, high = (float(schedule.rates(x).noise_level.log()) for x in (schedule.t_min, 1.0))
    p = norm(-1.2, 1.2)
    density = p.pdf(np.log(level)) / (p.cdf(high) - p.cdf(low)) * -slope(schedule, t) / 2 * (1 - schedule.t_min)
    expected = density * (level**2 + STD**2) / (level * STD) ** 2 * level**2
    ours = EdmLogNormal().output_factor(r, schedule, Noise(), STD).numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-6)  # the slope is a difference


# --- the bound of a chain --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("betas", "steps"), [(LinearBetas(), 1000), (CosineBetas(), 50), (SigmoidBetas(1e-4, 0.2), 100), (CosineBetas(), 2)]
)
def test_step_elbo_is_the_kl_of_each_step(betas: object, steps: int) -> None:
    """The mean over k of w |eps error|² is the sum of KL(q(x_s | x_t, x_0) || p) with the small variance."""
    table = Tabulated(betas, steps)  # type: ignore[arg-type]
    t = moments(table)
    r = table.rates(t)
    bars = alpha_bar(table.betas.values(steps).numpy())
    c = posterior_coefficients(bars)
    x0_error = 0.37
    eps_error = bars / (1 - bars) * x0_error**2
    ours = StepElbo().output_factor(r, table, Noise(), STD).numpy() / steps * eps_error
    expected = step_kl(c.variance[1:], c.variance[1:], c.on_x0[1:] ** 2 * x0_error**2)
    # expm1 of a difference of log-SNRs and the oracle's differences 1 - A/P both carry 1e-16/1e-4
    np.testing.assert_allclose(ours[1:], expected, rtol=1e-10)
    # the decoder: -log N(x0; x0_hat, bt_2) but for its constant
    assert ours[0] == pytest.approx(x0_error**2 / (2 * c.variance[1]), rel=1e-10)
    # and its well-known form, half the SNR that the step loses
    snr = bars / (1 - bars)
    np.testing.assert_allclose(ours[1:], 0.5 * -np.diff(snr) * x0_error**2, rtol=1e-9)


def test_step_elbo_of_a_single_step_is_its_decoder() -> None:
    table = Tabulated(CosineBetas(), 1)
    r = table.rates(moments(table))
    factor = StepElbo().output_factor(r, table, Image(), STD)
    assert float(factor) == pytest.approx(0.5 / float(r.sigma**2), rel=1e-12)


def test_step_elbo_tends_to_the_elbo() -> None:
    """T/2 expm1(λ_s - λ_t) -> -½ dλ/dt: the difference halves as T doubles, on the cosine's smooth middle."""

    def gap(steps: int) -> float:
        table = Tabulated(CosineBetas(), steps)
        r = table.rates(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
        step, limit = (w.output_factor(r, table, Noise(), STD) for w in (StepElbo(), Elbo()))
        return float((step / limit - 1).abs().max())

    gaps = [gap(steps) for steps in (400, 800, 1600)]
    assert gaps[0] < 0.05
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.05)
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.05)


def test_elbo_does_not_depend_on_the_clock() -> None:
    """∫ w dt between two log-SNRs is half their difference for every schedule (Kingma et al. 2021, section 5.1)."""
    for schedule in (CosineAngle(), VpSde(), LogSnrLinear(), Tabulated(steps=100)):
        ends = schedule.time(torch.tensor([2.0, -5.0], dtype=torch.float64))
        t = ends[0] + (ends[1] - ends[0]) * (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
        w = Elbo().output_factor(schedule.rates(t), schedule, Noise(), STD)
        assert float(w.mean() * (ends[1] - ends[0])) == pytest.approx(3.5, rel=1e-4)  # midpoint rule


def test_weights_stay_finite_at_both_ends(pair: tuple[Parameterization, Schedule]) -> None:
    parameterization, schedule = pair
    ends = schedule.rates(torch.tensor([schedule.t_min, 1.0], dtype=torch.float64))
    for weighting, _ in NOISE_SPACE.values():
        factor = weighting.output_factor(ends, schedule, parameterization, STD)
        assert bool(factor.isfinite().all()), weighting
        assert bool((factor > 0).all()), weighting


@pytest.mark.parametrize("make", [lambda: MinSnr(0.0), lambda: MinSnr(math.nan), lambda: EdmLogNormal(std=-1.0)])
def test_settings_out_of_range_are_refused(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # type: ignore[operator]


def test_step_elbo_needs_steps() -> None:
    with pytest.raises(ConfigError, match="CosineAngle, which has no steps"):
        StepElbo().output_factor(CosineAngle().rates(0.5), CosineAngle(), Noise(), 1.0)


def test_soft_min_snr_is_min_snr_at_both_ends_and_half_of_it_at_the_corner(schedule: Schedule) -> None:
    r = schedule.rates(torch.linspace(schedule.t_min, 1, 101, dtype=torch.float64))
    soft, hard = (w.noise_weight(r, schedule, STD) for w in (SoftMinSnr(2.0), MinSnr(2.0)))
    snr, share = (r.alpha / r.sigma) ** 2, soft / hard
    assert ((share >= 0.5) & (share <= 1)).all()
    # min(s, γ)(1/s + 1/γ) is 1 + the smaller of the two ratios of s and γ
    expected = 1 / (1 + torch.minimum(snr / 2, 2 / snr))
    torch.testing.assert_close(share, expected, rtol=1e-12, atol=0)


def test_p2_is_l_simple_without_gamma_and_the_noise_variance_with_its_defaults(schedule: Schedule) -> None:
    r = schedule.rates(torch.linspace(schedule.t_min, 1, 101, dtype=torch.float64))
    assert torch.equal(P2(gamma=0.0).noise_weight(r, schedule, STD), torch.ones_like(r.t))
    share = r.sigma**2 / (r.alpha**2 + r.sigma**2)  # 1/(1 + SNR); sigma² where variance is preserved
    torch.testing.assert_close(P2().noise_weight(r, schedule, STD), share, rtol=1e-12, atol=0)
    torch.testing.assert_close(SoftMinSnr(1.0).noise_weight(r, schedule, STD), share, rtol=1e-12, atol=0)


@pytest.mark.parametrize("schedule", [VpSde(), Ve(), RectifiedFlow(), CosineAngle()], ids=repr)
def test_likelihood_weighting_is_half_of_g_squared_on_the_score(schedule: Schedule) -> None:
    """½ g² |score error|² with g² = dsigma²/dt - 2 sigma² dlog(alpha)/dt by differences: the weight of the ELBO."""
    t, h = torch.linspace(0.05, 0.95, 19, dtype=torch.float64), 1e-6
    low, r, high = (schedule.rates(t + step) for step in (-h, 0.0, h))
    g_squared = ((high.sigma**2 - low.sigma**2) - 2 * r.sigma**2 * (high.alpha.log() - low.alpha.log())) / (2 * h)
    w = LikelihoodWeight().noise_weight(r, schedule, STD)
    torch.testing.assert_close(w, g_squared / (2 * r.sigma**2), rtol=1e-7, atol=0)  # central differences
    assert LikelihoodWeight is Elbo


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_weights_need_positive_numbers(value: float) -> None:
    for make in (MinSnr, SoftMinSnr):
        with pytest.raises(ConfigError, match=r"objective\.weighting\.gamma is"):
            make(value)
    with pytest.raises(ConfigError, match=r"objective\.weighting\.k is"):
        P2(k=value)
    if value != 0:
        with pytest.raises(ConfigError, match=r"objective\.weighting\.gamma is"):
            P2(gamma=value)
