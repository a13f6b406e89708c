"""The denoising loss: one number per example, in eps space whatever the target, with true gradients."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.core import (
    CosineAngle,
    CosineBetas,
    Denoiser,
    Edm,
    GridTimes,
    Image,
    LogNormalTimes,
    LogSnrInput,
    Noise,
    Parameterization,
    PreviousMean,
    Rates,
    RectifiedFlow,
    Schedule,
    StepInput,
    Tabulated,
    TimeInput,
    Velocity,
    derived_generator,
    marginal,
)
from sfumato.errors import ConfigError
from sfumato.objectives import (
    DenoisingLoss,
    Distance,
    Draw,
    EdmLogNormal,
    Elbo,
    Huber,
    ImageError,
    Mae,
    MinSnr,
    Mse,
    NoiseError,
    OutputError,
    ScoreError,
    SigmoidWeight,
    StepElbo,
    Weighting,
)
from sfumato.objectives.weightings import NoiseSpaceWeighting

WEIGHTINGS = [NoiseError(), ImageError(), MinSnr(), ScoreError(), Elbo(), SigmoidWeight(), EdmLogNormal(0.0, 2.0)]
Build = Callable[[Parameterization, Schedule], Any]  # a Scene of conftest


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=repr)
def test_loss_is_the_weighted_error_of_eps(
    weighting: NoiseSpaceWeighting, pair: tuple[Parameterization, Schedule], scene: Build
) -> None:
    """inv_density · w · mean |eps_hat - eps|², with eps_hat from the denoiser's own prediction, for every target."""
    parameterization, schedule = pair
    s = scene(parameterization, schedule)
    losses = DenoisingLoss(weighting=weighting)(s.denoiser, s.x0, s.draw).values
    w = weighting.noise_weight(schedule.rates(s.draw.t), schedule, 0.6)
    assert losses.shape == (11,)
    # eps_hat - eps is a difference of numbers up to e^10 times the error where one of alpha and sigma is e^-10
    torch.testing.assert_close(losses, s.draw.inv_density * w * s.eps_error(), rtol=1e-7, atol=0)


def test_plain_loss_is_the_error_of_the_output(pair: tuple[Parameterization, Schedule], scene: Build) -> None:
    parameterization, schedule = pair
    s = scene(parameterization, schedule)
    r = schedule.rates(s.draw.t)
    output = s.denoiser.output(marginal(s.x0, r).sample(s.draw.eps), r)
    error = (output - parameterization.target(s.x0, s.draw.eps, r, 0.6)).square().mean((1, 2))
    losses = DenoisingLoss()(s.denoiser, s.x0, s.draw).values
    torch.testing.assert_close(losses, s.draw.inv_density * error, rtol=1e-12, atol=0)


DISTANCES: dict[str, tuple[Distance, Callable[..., Any]]] = {
    "mse": (Mse(), lambda r: r**2),
    "mae": (Mae(), np.abs),
    "huber": (Huber(0.3), lambda r: np.where(np.abs(r) <= 0.3, r**2 / 2, 0.3 * (np.abs(r) - 0.15))),
}


@pytest.mark.parametrize("name", DISTANCES)
def test_distance_acts_on_the_weighted_residual(name: str, scene: Build) -> None:
    """d(sqrt(w gain²) (F_hat - F)), not w gain² d(F_hat - F)."""
    distance, d = DISTANCES[name]
    s = scene(Velocity(), CosineAngle())
    r = CosineAngle().rates(s.draw.t)
    output = s.denoiser.output(marginal(s.x0, r).sample(s.draw.eps), r)
    error = (output - Velocity().target(s.x0, s.draw.eps, r, 0.6)).numpy()
    factor = ImageError().output_factor(r, CosineAngle(), Velocity(), 0.6).numpy()
    expected = d(np.sqrt(factor)[:, None, None] * error).mean((1, 2)) * s.draw.inv_density.numpy()
    losses = DenoisingLoss(distance, ImageError())(s.denoiser, s.x0, s.draw).values
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("distance", [Mse(), Mae(), Huber(0.3)], ids=repr)
def test_loss_is_linear_in_the_inverse_density(distance: Distance, scene: Build) -> None:
    s = scene(Noise(), RectifiedFlow())
    loss = DenoisingLoss(distance, MinSnr())
    once = loss(s.denoiser, s.x0, s.draw).values
    thrice = loss(s.denoiser, s.x0, replace(s.draw, inv_density=3 * s.draw.inv_density)).values
    torch.testing.assert_close(thrice, 3 * once, rtol=1e-14, atol=0)


@pytest.mark.parametrize("weighting", [OutputError(), NoiseError(), Elbo()], ids=repr)
@pytest.mark.parametrize("distance", [Mse(), Mae(), Huber(0.3)], ids=repr)
@pytest.mark.parametrize("parameterization", [Noise(), Velocity(), Image(), Edm()], ids=repr)
def test_gradients_are_those_of_finite_differences(
    parameterization: Parameterization, distance: Distance, weighting: Weighting, scene: Build
) -> None:
    s = scene(parameterization, CosineAngle())
    loss = DenoisingLoss(distance, weighting)

    def per_example(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        s.network.weight, s.network.bias = weight, bias
        return loss(s.denoiser, s.x0, s.draw).values

    inputs = (s.network.weight.clone().requires_grad_(), s.network.bias.clone().requires_grad_())
    assert torch.autograd.gradcheck(per_example, inputs)


def test_losses_belong_to_their_examples(scene: Build) -> None:
    """Each value depends on its own example alone, and a slice of the batch gives a slice of the losses."""
    s = scene(Velocity(), CosineAngle())
    loss = DenoisingLoss(weighting=NoiseError())
    whole = loss(s.denoiser, s.x0, s.draw).values
    part = slice(3, 7)
    draw = Draw(s.draw.t[part], s.draw.eps[part], s.draw.inv_density[part])
    torch.testing.assert_close(loss(s.denoiser, s.x0[part], draw).values, whole[part], rtol=1e-14, atol=0)


def test_float32_losses_agree_with_float64(pair: tuple[Parameterization, Schedule], scene: Build) -> None:
    """To 1e-4 over log-SNR ±20 and targets of any size: only tensors are float32, no coefficient."""
    parameterization, schedule = pair
    s = scene(parameterization, schedule)
    for weighting in (OutputError(), NoiseError()):
        exact = DenoisingLoss(weighting=weighting)(s.denoiser, s.x0, s.draw).values
        draw = replace(s.draw, eps=s.draw.eps.float())
        single = DenoisingLoss(weighting=weighting)(s.denoiser, s.x0.float(), draw).values
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize("weighting", [OutputError(), NoiseError(), ImageError(), MinSnr(), ScoreError(), StepElbo()])
@pytest.mark.parametrize("make", [Noise, Image, Velocity, Edm, PreviousMean], ids=lambda make: make.__name__)
def test_a_chain_of_one_step_has_losses(make: Callable[..., Parameterization], weighting: Weighting) -> None:
    """T = 1: w |eps_hat - eps|² as ever, with the decoder's weight ½/sigma² on x0 for the bound."""
    table = Tabulated(CosineBetas(), 1)
    parameterization = PreviousMean(table) if make is PreviousMean else make()

    class Half(torch.nn.Module):
        def forward(self, x: torch.Tensor, time: torch.Tensor, cond: torch.Tensor | None = None) -> torch.Tensor:
            return 0.5 * x

    d = Denoiser(Half(), table, parameterization, time_input=StepInput(1), data_std=1.0)
    x0, eps = torch.randn(2, 6, 3, dtype=torch.float64)
    drawn = GridTimes(1).draw(table, 6, derived_generator(0, "one"))
    losses = DenoisingLoss(weighting=weighting)(d, x0, Draw(drawn.t, eps, drawn.inv_density)).values
    r = table.rates(drawn.t)
    error = (d(marginal(x0, r).sample(eps), drawn.t).x0 - x0).square().mean(1)
    factor = weighting.output_factor(r, table, Image(), 1.0)  # the factor on the error of x0
    if isinstance(weighting, OutputError):
        factor = 1 / parameterization.coefficients(r, 1.0).c_out ** 2
    torch.testing.assert_close(losses, factor * error, rtol=1e-9, atol=0)


@pytest.mark.parametrize("space", [(1,), (1, 4, 4)], ids=str)
def test_variance_channels_stay_out_of_the_loss(space: tuple[int, ...]) -> None:
    """One channel, where (B, 2, *) would broadcast against (B, 1, *) without a word."""

    class Twice(torch.nn.Module):
        def forward(self, x: torch.Tensor, time: torch.Tensor, cond: torch.Tensor | None = None) -> torch.Tensor:
            return torch.cat([0.5 * x, torch.full_like(x, 100.0)], dim=1)

    class Once(torch.nn.Module):
        def forward(self, x: torch.Tensor, time: torch.Tensor, cond: torch.Tensor | None = None) -> torch.Tensor:
            return 0.5 * x

    x0 = torch.randn(5, *space)
    draw = Draw(torch.linspace(0.1, 0.9, 5, dtype=torch.float64), torch.randn(5, *space), torch.ones(5))
    plain, learned = (
        Denoiser(n, CosineAngle(), Noise(), time_input=LogSnrInput(), data_std=1.0, learn_variance=v)
        for n, v in ((Once(), False), (Twice(), True))
    )
    assert torch.equal(DenoisingLoss()(plain, x0, draw).values, DenoisingLoss()(learned, x0, draw).values)


def test_objective_does_not_depend_on_the_times() -> None:
    """E[inv_density · loss] over log-normal times is the mean over uniform ones: another variance, same mean."""
    schedule = Tabulated(steps=50)

    class Half(torch.nn.Module):
        def forward(self, x: torch.Tensor, time: torch.Tensor, cond: torch.Tensor | None = None) -> torch.Tensor:
            return 0.5 * x

    d = Denoiser(Half(), schedule, Noise(), time_input=LogSnrInput(), data_std=1.0)
    means, errors = [], []
    for times in (LogNormalTimes(0.0, 2.5, "independent"), None):
        count = 40_000
        generator = derived_generator(0, "objective", times is None)
        x0, eps = torch.randn(2, count, 1, generator=generator, dtype=torch.float64)
        if times is None:
            t = schedule.t_min + (1 - schedule.t_min) * torch.rand(count, generator=generator, dtype=torch.float64)
            draw = Draw(t, eps, torch.ones(count))
        else:
            drawn = times.draw(schedule, count, generator)
            draw = Draw(drawn.t, eps, drawn.inv_density)
        values = DenoisingLoss()(d, x0, draw).values
        means.append(float(values.mean()))
        errors.append(float(values.std()) / count**0.5)
    assert abs(means[0] - means[1]) < 5 * np.hypot(*errors)


class Clock(TimeInput):
    """Hands the network t itself, so that an ideal answer can be computed from the schedule."""

    def value(self, r: Rates) -> torch.Tensor:
        return r.t

    @property
    def span(self) -> float:
        return 1.0

    def input_scale(self, r: Rates, data_std: float) -> torch.Tensor:
        return torch.ones_like(r.t)


def test_noise_loss_of_a_perfect_denoiser_is_the_oracles_floor() -> None:
    """eps* = sigma x_t for N(0, 1) data; its loss averaged over the T = 1000 chain is 0.275513 in closed form."""
    schedule = Tabulated()

    class Ideal(torch.nn.Module):
        def forward(self, x: torch.Tensor, time: torch.Tensor, cond: torch.Tensor | None = None) -> torch.Tensor:
            return schedule.rates(time).sigma[:, None] * x

    d = Denoiser(Ideal(), schedule, Noise(), time_input=Clock(), data_std=1.0)
    count = 64_000
    generator = derived_generator(0, "floor")
    x0, eps = torch.randn(2, count, 1, generator=generator, dtype=torch.float64)
    drawn = GridTimes(1000).draw(schedule, count, generator)
    values = DenoisingLoss()(d, x0, Draw(drawn.t, eps, drawn.inv_density)).values
    assert float(values.mean()) == pytest.approx(0.275513, abs=5 * float(values.std()) / count**0.5)


@pytest.mark.parametrize("delta", [0.0, -1.0, float("nan")])
def test_huber_needs_a_positive_delta(delta: float) -> None:
    with pytest.raises(ConfigError, match=f"delta is {delta}"):
        Huber(delta)


def test_image_target_needs_no_noise_to_be_right() -> None:
    """A network that answers x0 itself has loss 0 under every weighting."""
    x0 = torch.randn(4, 3, dtype=torch.float64)

    class Knows(torch.nn.Module):
        def forward(self, x: torch.Tensor, time: torch.Tensor, cond: torch.Tensor | None = None) -> torch.Tensor:
            return x0

    d = Denoiser(Knows(), RectifiedFlow(), Image(), time_input=LogSnrInput(), data_std=1.0)
    draw = Draw(torch.tensor([0.1, 0.4, 0.7, 1.0]), torch.randn(4, 3, dtype=torch.float64), torch.ones(4))
    for weighting in WEIGHTINGS:
        assert float(DenoisingLoss(weighting=weighting)(d, x0, draw).values.max()) == 0
