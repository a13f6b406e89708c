"""Targets: each one's definition, the way back to x0, the gain, and the identities between eps, score and v."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.core import (
    CosineAngle,
    CosineBetas,
    Denoiser,
    Edm,
    Flow,
    Image,
    LogSnrInput,
    LogSnrLinear,
    Noise,
    NoiseVarianceInput,
    Parameterization,
    Prediction,
    PreviousMean,
    Rates,
    RectifiedFlow,
    Schedule,
    Score,
    StepInput,
    Tabulated,
    TimeInput,
    Ve,
    Velocity,
    VpSde,
    marginal,
)
from sfumato.errors import ConfigError
from sfumato.verify.oracles import alpha_bar, cosine_betas, posterior_coefficients

FAMILIES = {"angle": CosineAngle(), "vp": VpSde(), "ve": Ve(), "flow": RectifiedFlow(), "log-snr": LogSnrLinear()}
STD = 0.6  # of the data, for Edm: not 1, or a missing data_std would hide

DEFINITIONS = {
    "noise": (Noise(), lambda a, s, x0, e: e),
    "image": (Image(), lambda a, s, x0, e: x0),
    "velocity": (Velocity(), lambda a, s, x0, e: a * e - s * x0),
    "score": (Score(), lambda a, s, x0, e: -e / s),
    "flow": (Flow(), lambda a, s, x0, e: e - x0),
    # Karras et al. 2022, eq. 8, for x_t/alpha: (x0 - c_skip x_t)/c_out with their sigma = s/a
    "edm": (Edm(), lambda a, s, x0, e: (s * x0 - a * STD**2 * e) / (STD * np.sqrt(a**2 * STD**2 + s**2))),
}


def draws(count: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0 = STD * torch.randn(count, 2, 3, generator=generator, dtype=torch.float64)
    return x0, torch.randn(count, 2, 3, generator=generator, dtype=torch.float64)


def rates_over(schedule: Schedule, count: int = 9) -> Rates:
    return schedule.rates(schedule.t_min + (1 - schedule.t_min) * torch.linspace(0, 1, count, dtype=torch.float64))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", DEFINITIONS)
def test_target_is_what_its_name_says(name: str, family: str) -> None:
    parameterization, definition = DEFINITIONS[name]
    r, (x0, eps) = rates_over(FAMILIES[family]), draws()
    a, s = (v.numpy().reshape(-1, 1, 1) for v in (r.alpha, r.sigma))
    expected = definition(a, s, x0.numpy(), eps.numpy())
    target = parameterization.target(x0, eps, r, STD).numpy()
    # Relative to the largest value at that level: at log-SNR ±20 the part of data (or noise) that should vanish from
    # the target, (1 - c_skip alpha)/c_out, is a rounding error 1e-16 times e^10.
    scale = np.abs(expected).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(target / scale, expected / scale, rtol=0, atol=1e-11)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", DEFINITIONS)
def test_target_keeps_its_digits_in_float32(name: str, family: str) -> None:
    """From x0 and eps in float32, against the definition in float64: x_t in float32 would lose e^10 · 6e-8 = 1e-3."""
    parameterization, definition = DEFINITIONS[name]
    r, (x0, eps) = rates_over(FAMILIES[family]), draws()
    a, s = (v.numpy().reshape(-1, 1, 1) for v in (r.alpha, r.sigma))
    expected = definition(a, s, x0.float().double().numpy(), eps.float().double().numpy())
    target = parameterization.target(x0.float(), eps.float(), r, STD)
    assert target.dtype == torch.float32
    scale = np.abs(expected).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(target.double().numpy() / scale, expected / scale, rtol=0, atol=5e-7)  # a few roundings


def test_target_gives_x0_back(target: tuple[Parameterization, Schedule]) -> None:
    parameterization, schedule = target
    r, (x0, eps) = rates_over(schedule, 12), draws(12)
    x_t = marginal(x0, r).sample(eps)
    back = parameterization.x0(parameterization.target(x0, eps, r, STD), x_t, r, STD)
    torch.testing.assert_close(back, x0, rtol=0, atol=1e-10)


def test_gain_is_the_error_of_eps_per_error_of_the_output(target: tuple[Parameterization, Schedule]) -> None:
    """|d eps_hat / dF| by a difference: eps_hat is affine in F, so any step is exact."""
    parameterization, schedule = target
    r, (x0, eps) = rates_over(schedule, 12), draws(12)
    x_t = marginal(x0, r).sample(eps)
    first, second = (Prediction(x_t, r, parameterization.x0(f, x_t, r, STD)).eps for f in (eps, eps + 1.0))
    measured = (second - first).abs().flatten(1).mean(1)
    torch.testing.assert_close(parameterization.gain(r, STD).abs(), measured, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_words_for_one_guess_agree(family: str) -> None:
    """score = -eps/sigma; x_t = alpha x0 + sigma eps; x0 = (x_t + sigma² score)/alpha; v = alpha eps - sigma x0."""
    r, (x0, eps) = rates_over(FAMILIES[family]), draws()
    x_t = marginal(x0, r).sample(eps)
    p = Prediction(x_t, r, x0)
    a, s = r.like(x0).alpha, r.like(x0).sigma
    # eps = (x_t - alpha x0)/sigma divides a rounding error of x_t, 1e-16, by sigma >= e^-10
    torch.testing.assert_close(p.eps, eps, rtol=0, atol=1e-10)
    torch.testing.assert_close(p.score, -p.eps / s, rtol=1e-10, atol=0)
    torch.testing.assert_close((x_t + s**2 * p.score) / a, x0, rtol=0, atol=1e-10)
    torch.testing.assert_close(p.v, a * p.eps - s * x0, rtol=0, atol=1e-10)
    power = a**2 + s**2
    torch.testing.assert_close((a * x_t - s * p.v) / power, x0, rtol=0, atol=1e-10)
    torch.testing.assert_close((s * x_t + a * p.v) / power, p.eps, rtol=0, atol=1e-10)


def test_another_x0_moves_eps_along() -> None:
    r, (x0, eps) = rates_over(CosineAngle()), draws()
    p = Prediction(marginal(x0, r).sample(eps), r, x0).with_x0(torch.zeros_like(x0))
    torch.testing.assert_close(p.eps, p.x_t / r.like(x0).sigma, rtol=1e-14, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_edm_has_unit_variance_in_and_out(family: str) -> None:
    """Var(c_in x_t) = Var(F) = 1 at every level, from the coefficients on x0 (variance d²) and on eps (variance 1)."""
    r = rates_over(FAMILIES[family])
    unit = torch.ones_like(r.t)
    ones, zeros = torch.ones(9, 1, dtype=torch.float64), torch.zeros(9, 1, dtype=torch.float64)
    of_data = Edm().target(ones, zeros, r, STD)[:, 0]
    of_noise = Edm().target(zeros, ones, r, STD)[:, 0]
    torch.testing.assert_close(of_data**2 * STD**2 + of_noise**2, unit, rtol=1e-10, atol=0)
    for time_input in (LogSnrInput(), NoiseVarianceInput()):
        scale = time_input.input_scale(r, STD)
        torch.testing.assert_close(scale**2 * (r.alpha**2 * STD**2 + r.sigma**2), unit, rtol=1e-13, atol=0)


def test_edm_is_karras_table() -> None:
    """Karras et al. 2022, table 1: c_skip = d²/(s² + d²), c_out = s d/sqrt(s² + d²), c_in, c_noise."""
    schedule = Ve()
    r = rates_over(schedule)
    s = r.sigma
    c = Edm().coefficients(r, STD)
    torch.testing.assert_close(c.c_skip, STD**2 / (s**2 + STD**2), rtol=1e-13, atol=0)
    torch.testing.assert_close(c.c_out, s * STD / (s**2 + STD**2).sqrt(), rtol=1e-13, atol=0)
    torch.testing.assert_close(LogSnrInput().input_scale(r, STD), 1 / (s**2 + STD**2).sqrt(), rtol=1e-13, atol=0)
    torch.testing.assert_close(LogSnrInput().value(r), s.log() / 4, rtol=1e-13, atol=1e-13)


def test_edm_of_unit_data_is_minus_v() -> None:
    r, (x0, eps) = rates_over(RectifiedFlow()), draws()
    a, s = r.like(x0).alpha, r.like(x0).sigma
    expected = -(a * eps - s * x0) / (a**2 + s**2).sqrt()
    torch.testing.assert_close(Edm().target(x0, eps, r, 1.0), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("steps", [1, 2, 12])
def test_previous_mean_is_the_posterior_mean_of_its_table(steps: int) -> None:
    """c1 x0 + c2 x_t with the oracle's coefficients; the step that ends at data is x0."""
    table = Tabulated(CosineBetas(), steps)
    r, (x0, eps) = table.rates(torch.arange(1, steps + 1) / steps), draws(steps)
    x_t = marginal(x0, r).sample(eps)
    c = posterior_coefficients(alpha_bar(cosine_betas(steps)))
    on_x0, on_x_t = (torch.from_numpy(v).reshape(-1, 1, 1) for v in (c.on_x0, c.on_x_t))
    ours = PreviousMean(table).target(x0, eps, r, 1.0)
    torch.testing.assert_close(ours, on_x0 * x0 + on_x_t * x_t, rtol=0, atol=1e-10)


def test_previous_mean_needs_steps() -> None:
    with pytest.raises(ConfigError, match="CosineAngle, which has no steps"):
        PreviousMean(CosineAngle())


# --- the denoiser around a network -----------------------------------------------------------------------------------


class Recorder(torch.nn.Module):
    """Remembers what it was shown; answers 2 x + 1, over and over to fill the channels asked for."""

    def __init__(self, copies: int = 1) -> None:
        super().__init__()
        self.copies = copies

    def forward(self, x: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
        self.x, self.time, self.cond = x, time, cond
        return torch.cat([(2 * x + 1) * (k + 1) for k in range(self.copies)], dim=1)


@pytest.mark.parametrize("time_input", [StepInput(12), NoiseVarianceInput(), LogSnrInput()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_denoiser_shows_the_network_scaled_input_and_its_time(time_input: TimeInput, dtype: torch.dtype) -> None:
    table = Tabulated(CosineBetas(), 12)
    network = Recorder()
    d = Denoiser(network, table, Velocity(), time_input=time_input, data_std=STD)
    x_t = draws(3)[0].to(dtype)
    t = torch.tensor([1, 6, 12], dtype=torch.float64) / 12
    label = torch.tensor([0, 1, 2])
    p = d(x_t, t, label)
    bars = alpha_bar(cosine_betas(12))[[0, 5, 11]]
    log_snr = np.log(bars / (1 - bars))
    expected: dict[type[TimeInput], Any] = {
        StepInput: [0.0, 5.0, 11.0],
        NoiseVarianceInput: 1 - bars,
        LogSnrInput: -log_snr / 8,
    }
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    np.testing.assert_allclose(network.time.double(), expected[type(time_input)], rtol=tolerance)
    scale = np.ones(3) if isinstance(time_input, StepInput) else 1 / np.sqrt(bars * STD**2 + 1 - bars)
    shown = torch.from_numpy(scale).reshape(3, 1, 1) * x_t.double()
    torch.testing.assert_close(network.x.double(), shown, rtol=tolerance, atol=0)
    assert network.cond is label
    assert network.x.dtype == network.time.dtype == p.x0.dtype == dtype
    # x0 = alpha x_t - sigma v, by hand (Salimans & Ho 2022)
    a, s = (torch.from_numpy(np.sqrt(v)).reshape(3, 1, 1) for v in (bars, 1 - bars))
    torch.testing.assert_close(p.x0.double(), a * x_t.double() - s * (2 * shown + 1), rtol=tolerance, atol=tolerance)


def test_one_time_serves_the_whole_batch() -> None:
    network = Recorder()
    d = Denoiser(network, CosineAngle(), Noise(), time_input=LogSnrInput(), data_std=1.0)
    x_t = draws(4)[0]
    single = d(x_t, torch.tensor(0.4, dtype=torch.float64)).x0
    torch.testing.assert_close(single, d(x_t, torch.full((4,), 0.4, dtype=torch.float64)).x0, rtol=1e-15, atol=0)
    assert network.time.shape == (4,)


def test_learned_variance_is_the_second_half_of_the_channels() -> None:
    d = Denoiser(
        Recorder(copies=2), CosineAngle(), Image(), time_input=LogSnrInput(), data_std=STD, learn_variance=True
    )
    x_t, t = draws(2)[0], torch.tensor(0.3, dtype=torch.float64)
    p = d(x_t, t)
    answer = 2 * x_t / math.sqrt(float(d.schedule.rates(t).alpha ** 2 * STD**2 + d.schedule.rates(t).sigma ** 2)) + 1
    torch.testing.assert_close(p.x0, answer, rtol=1e-13, atol=1e-13)
    assert p.var_output is not None
    torch.testing.assert_close(p.var_output, 2 * answer, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(d.output(x_t, d.schedule.rates(t)), answer, rtol=1e-13, atol=1e-13)
