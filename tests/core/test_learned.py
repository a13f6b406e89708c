"""The trained clock: what it is before, after and during training, and the optimum that it must find."""

import copy
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from sfumato.core import (
    Denoiser,
    LearnedLogSnr,
    LogSnrInput,
    LogSnrLinear,
    Noise,
    PiecewiseLogSnr,
    Schedule,
    UniformTimes,
    derived_generator,
)
from sfumato.errors import ConfigError
from sfumato.objectives import DenoisingLoss, Draw, Elbo


class IdealNoise(nn.Module):
    """E[eps | x_t] for data N(0, std² I), variance preserved: sigma c_in · (c_in x_t)."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor, time: Tensor, cond: object = None) -> Tensor:
        log_snr = -8 * time.double()
        signal, noise = log_snr.sigmoid() * self.std**2, (-log_snr).sigmoid()
        return ((noise / (signal + noise)).sqrt()[:, None] * x.double()).to(x.dtype)


def ideal(settings: LearnedLogSnr, std: float = 1.0) -> Denoiser:
    return Denoiser(IdealNoise(std), settings, Noise(), time_input=LogSnrInput(), data_std=std)


def losses(d: Denoiser, index: int, count: int, std: float = 1.0) -> Tensor:
    """The bound's loss of `count` examples of N(0, std² I) in the plane, by the step's number; float64."""
    generator = derived_generator(0, "learned", index)
    t = UniformTimes().draw(d.schedule, count, generator).t
    x0, eps = torch.randn(2, count, 2, generator=generator, dtype=torch.float64)
    return DenoisingLoss(weighting=Elbo())(d, std * x0, Draw(t, eps, torch.ones(count, dtype=torch.float64))).values


def optimum(t: Tensor, settings: LearnedLogSnr, std: float) -> Tensor:
    """The log_snr whose loss has the least variance on N(0, std² I): softplus(log_snr + 2 log std) linear in t.

    The mean squared error of the ideal eps is sigmoid(log_snr + 2 log std), the integral of which is the softplus.
    """
    shift = 2 * math.log(std)
    ends = torch.tensor([settings.log_snr_max, settings.log_snr_min], dtype=torch.float64) + shift
    clean, noisy = torch.nn.functional.softplus(ends)
    return (clean + t * (noisy - clean)).expm1().log() - shift


def set_logits(d: Denoiser, values: Tensor) -> None:
    assert d.clock is not None
    with torch.no_grad():
        d.clock.logits.copy_(values)


def test_untrained_it_is_linear() -> None:
    settings = LearnedLogSnr(7, -9.0, 8.0)
    t = torch.linspace(1e-5, 1, 50, dtype=torch.float64)
    trained = LearnedLogSnr(7, -9.0, 8.0, learn_ends=True)
    for schedule in (settings, ideal(settings).schedule, ideal(trained).schedule):
        torch.testing.assert_close(schedule.log_snr(t).detach(), LogSnrLinear(-9.0, 8.0).log_snr(t), rtol=0, atol=1e-13)


def test_values_by_hand() -> None:
    """Logits log 1, log 2, log 5: 1/8, 2/8 and 5/8 of 99 % of the fall from 4 to -12, and a third of 1 % each."""
    d = ideal(LearnedLogSnr(3, -12.0, 4.0))
    set_logits(d, torch.tensor([1.0, 2.0, 5.0]).log())
    schedule = d.schedule
    assert isinstance(schedule, PiecewiseLogSnr)
    first, second = 4 - 0.99 * 2 - 0.16 / 3, 4 - 0.99 * 6 - 0.32 / 3
    expected = torch.tensor([4.0, first, second, -12.0], dtype=torch.float64)
    torch.testing.assert_close(schedule.values.detach(), expected, rtol=0, atol=1e-6)  # logits are float32
    t = torch.tensor([1 / 6, 1 / 3, 0.5, 1.0], dtype=torch.float64)
    read = torch.tensor([(4 + first) / 2, first, (first + second) / 2, -12.0], dtype=torch.float64)
    torch.testing.assert_close(schedule.log_snr(t).detach(), read, rtol=0, atol=1e-6)
    middle, last = 3 * (second - first), 3 * (-12 - second)
    slopes = torch.tensor([3 * (first - 4), middle, middle, last], dtype=torch.float64)  # at a knot: the noisier part
    torch.testing.assert_close(schedule.slope(t).detach(), slopes, rtol=0, atol=1e-5)
    assert float(schedule.values[0].detach()) == 4
    assert float(schedule.values[-1].detach()) == -12  # the ends are exact, whatever rounding does to the sum


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_any_logits_make_a_schedule(scale: float) -> None:
    d = ideal(LearnedLogSnr(16))
    set_logits(d, scale * torch.randn(16, generator=derived_generator(0, "logits")))
    t = torch.linspace(1e-5, 1, 400, dtype=torch.float64)
    schedule = d.schedule
    log_snr = schedule.log_snr(t).detach()
    assert bool((log_snr.diff() < 0).all())
    # a part as flat as a hundredth of its share, 0.2 per unit of time: rounding of 10 over that slope
    torch.testing.assert_close(schedule.time(log_snr), t, rtol=0, atol=1e-13)


def test_the_network_holds_the_clock() -> None:
    """In optimizers and in files, under one name; a copy has a clock of its own; a second denoiser takes the same."""
    d = ideal(LearnedLogSnr(4))
    assert [name for name, _ in d.network.named_parameters()] == ["noise_schedule.logits"]
    twin = copy.deepcopy(d)
    set_logits(twin, torch.arange(4.0))
    assert not twin.schedule.log_snr(torch.tensor(0.5)).equal(d.schedule.log_snr(torch.tensor(0.5)))
    assert twin.clock is dict(twin.network.named_children())["noise_schedule"]
    again = Denoiser(twin.network, LearnedLogSnr(4), Noise(), time_input=LogSnrInput(), data_std=1.0)
    assert again.clock is twin.clock


def test_gradients_are_those_of_finite_differences() -> None:
    """Of the mean loss, and in judgement of half its mean square: central differences, h = 1e-2 in float32 logits."""
    d = ideal(LearnedLogSnr(5, -6.0, 5.0))
    start = torch.tensor([0.3, -0.2, 0.5, 0.0, -0.4])
    set_logits(d, start)
    assert d.clock is not None

    def mean(power: int) -> Iterator[float]:
        for k in range(5):
            sides = []
            for h in (1e-2, -1e-2):
                moved = start.clone()
                moved[k] += h
                set_logits(d, moved)
                sides.append(float(losses(d, 0, 64).detach().pow(power).mean()) / power)
            yield (sides[0] - sides[1]) / float((start[k] + 1e-2) - (start[k] - 1e-2))
        set_logits(d, start)

    for power in (1, 2):
        expected = list(mean(power))
        d.clock.logits.grad = None
        values = losses(d, 0, 64)
        if power == 1:
            values.mean().backward()
        else:
            with d.clock.judged(values):
                values.mean().backward()
        assert d.clock.logits.grad is not None
        # h² times a third derivative of the order of the gradient: 1e-4 of its size
        size = max(map(abs, expected))
        assert d.clock.logits.grad.tolist() == pytest.approx(expected, abs=2e-3 * size)


def test_judgement_leaves_the_network_its_gradient() -> None:
    class Scaled(IdealNoise):
        def __init__(self) -> None:
            super().__init__(1.0)
            self.factor = nn.Parameter(torch.tensor(0.8))

        def forward(self, x: Tensor, time: Tensor, cond: object = None) -> Tensor:
            return self.factor * super().forward(x, time)

    network = Scaled()
    d = Denoiser(network, LearnedLogSnr(4), Noise(), time_input=LogSnrInput(), data_std=1.0)
    assert d.clock is not None
    losses(d, 0, 32).mean().backward()
    assert network.factor.grad is not None
    plain, network.factor.grad = network.factor.grad, None
    values = losses(d, 0, 32)
    with d.clock.judged(values):
        values.mean().backward()
    assert network.factor.grad.equal(plain)


def mean_square(schedule: Schedule, std: float) -> float:
    """E[L²] over t, by quadrature: L = -slope/2 · mmse · e, e exponential (|error|² of two Gaussians), E[e²] = 2."""
    t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    t = schedule.t_min + (1 - schedule.t_min) * t
    mmse = (schedule.log_snr(t) + 2 * math.log(std)).sigmoid()
    return float(2 * (schedule.slope(t) / 2 * mmse).square().mean().detach())


@pytest.mark.parametrize("std", [1.0, 0.3])
def test_training_finds_the_closed_form(std: float) -> None:
    """On N(0, std² I) in the plane with the ideal eps: E[L²] falls to its floor, log_snr becomes the optimum.

    E[L] is half the fall of softplus(log_snr + 2 log std) whatever the clock, so that the floor of E[L²] is 2 E[L]².
    32 straight parts cannot bend as the optimum does at its noisy end: the best of them (by descent on the quadrature)
    stay 3 % above the floor, and the last quarter is left out of the comparison.
    """
    settings = LearnedLogSnr(32)
    d = ideal(settings, std)
    assert d.clock is not None
    optimizer = torch.optim.Adam(d.clock.parameters())
    for step in range(500):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 500)
        optimizer.zero_grad()
        values = losses(d, step, 256, std)
        with d.clock.judged(values):
            values.mean().backward()
        optimizer.step()
    shift = 2 * math.log(std)
    mean = (math.log1p(math.exp(10 + shift)) - math.log1p(math.exp(-10 + shift))) / 2
    with torch.no_grad():
        trained = losses(d, -1, 20_000, std)
    # stratified times: what is left is the spread of e, sqrt(E[L²]/2 / 20,000) = 0.7 % of the mean
    assert float(trained.mean()) == pytest.approx(mean, rel=0.03)
    assert mean_square(settings, std) > 1.7 * 2 * mean**2
    assert 0.999 * 2 * mean**2 < mean_square(d.schedule, std) < 1.12 * 2 * mean**2  # 500 noisy steps: 5 and 9 %
    t = torch.arange(25, dtype=torch.float64) / 32
    found = d.clock.values().detach()[:25]
    torch.testing.assert_close(found, optimum(t, settings, std), rtol=0, atol=0.6)  # untrained: 7 and 9 nats away


@pytest.mark.parametrize(
    "settings",
    [
        {"knots": 0},
        {"log_snr_min": 3.0, "log_snr_max": 2.0},
        {"log_snr_max": 21.0},
        {"log_snr_max": 20.0, "learn_ends": True},
        {"log_snr_min": 0.0, "log_snr_max": 0.05, "learn_ends": True},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="schedule"):
        LearnedLogSnr(**settings)  # type: ignore[arg-type]


def test_a_schedule_that_ends_in_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="LearnedLogSnr ends with alpha-bar") as caught:
        ideal(LearnedLogSnr(8, -2.0, 8.0))
    assert "set schedule.log_snr_min: -4.7" in caught.value.fix
