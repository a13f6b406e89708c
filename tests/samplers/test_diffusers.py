"""Step by step against diffusers' schedulers, with the same network outputs and the same noise.

Its tables are float32, an error of 3.6e-7 that is not ours; patched to float64, the two agree to 1e-12.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.core import (
    Betas,
    CosineBetas,
    Denoise,
    Denoiser,
    Image,
    Large,
    LinearBetas,
    Noise,
    NoiseSource,
    Parameterization,
    QuadraticBetas,
    Small,
    StepInput,
    Tabulated,
    Velocity,
    log_variances,
    marginal,
)
from sfumato.guidance import Clipped
from sfumato.samplers import Ancestral, Ddim, Leading, Linspace, TimeGrid, Trailing, sample

diffusers = pytest.importorskip("diffusers")
ddpm_module = pytest.importorskip("diffusers.schedulers.scheduling_ddpm")

T = 1000
TARGETS: dict[str, Parameterization] = {"epsilon": Noise(), "sample": Image(), "v_prediction": Velocity()}
GRIDS: dict[str, TimeGrid] = {"leading": Leading(), "linspace": Linspace(), "trailing": Trailing()}
TABLES: dict[str, Betas] = {
    "linear": LinearBetas(),
    "scaled_linear": QuadraticBetas(),
    "squaredcos_cap_v2": CosineBetas(),
}


class Wave(torch.nn.Module):
    """A network that is no denoiser: bounded, and different at every place and time."""

    def forward(self, x: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
        phase = torch.arange(x[0].numel(), dtype=x.dtype).reshape(x[0].shape)
        return torch.sin(2 * x + phase + time.reshape(-1, 1, 1, 1) / 100)


def ours(prediction_type: str, betas: Betas, *, clip: bool) -> Denoise:
    d = Denoiser(Wave(), Tabulated(betas, T), TARGETS[prediction_type], time_input=StepInput(T), data_std=1.0)
    one = torch.ones((), dtype=torch.float64)
    return Clipped(d, -one, one) if clip else d


def theirs(kind: str, prediction_type: str, schedule: str, *, clip: bool, **options: Any) -> Any:
    scheduler = getattr(diffusers, kind)(
        num_train_timesteps=T,
        beta_schedule=schedule,
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type=prediction_type,
        clip_sample=clip,
        **options,
    )
    scheduler.alphas_cumprod = torch.cumprod(1 - TABLES[schedule].values(T), 0)
    scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    return scheduler


def noises(count: int, *shape: int) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def state() -> Tensor:
    return noises(1, 2, 3, 4, 4)[0]


def network(x: Tensor, index: int) -> Tensor:
    return Wave()(x, torch.full((len(x),), float(index), dtype=x.dtype))


def assert_same(a: Tensor, b: Tensor) -> None:
    scale = max(1.0, float(b.abs().max()))  # x0 = (x - sigma eps)/alpha reaches 150 where alpha is 0.006
    torch.testing.assert_close(a / scale, b / scale, rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("clip", [False, True], ids=["free", "clipped"])
@pytest.mark.parametrize("spacing", GRIDS)
@pytest.mark.parametrize("prediction_type", TARGETS)
@pytest.mark.parametrize("steps", [7, 20])
def test_ddim_step_by_step(
    prediction_type: str, spacing: str, clip: bool, eta: float, steps: int, given: Callable[..., NoiseSource]
) -> None:
    """Theirs steps from each time by T // S whatever the grid; so do ours here. eps follows the clipped x0 in both."""
    scheduler = theirs("DDIMScheduler", prediction_type, "linear", clip=clip, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    d = ours(prediction_type, LinearBetas(), clip=clip)
    x, z = state(), noises(steps, 2, 3, 4, 4)
    for k, index in enumerate(scheduler.timesteps.tolist()):
        out = scheduler.step(network(x, index), index, x, eta=eta, use_clipped_model_output=True, variance_noise=z[k])
        s = max(index - T // steps, -1) + 1
        stepped = Ddim(eta=eta).step(
            d, x, t=(index + 1) / T, s=s / T, state=None, noise=given(lambda _, x, k=k: z[k]), cond=None
        )
        assert_same(stepped.prediction.x0, out.pred_original_sample)
        assert_same(stepped.x, out.prev_sample)
        x = out.prev_sample / max(1.0, float(out.prev_sample.std()))  # stay where the network is not saturated


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterator[Tensor]], None]:
    """Make diffusers' DDPM scheduler draw the given noise."""

    def script(draws: Iterator[Tensor]) -> None:
        monkeypatch.setattr(ddpm_module, "randn_tensor", lambda *args, **options: next(draws))

    return script


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("clip", [False, True], ids=["free", "clipped"])
@pytest.mark.parametrize("spacing", GRIDS)
@pytest.mark.parametrize("prediction_type", TARGETS)
def test_ddpm_step_by_step(
    prediction_type: str,
    spacing: str,
    clip: bool,
    variance: str,
    given: Callable[..., NoiseSource],
    scripted: Callable[[Iterator[Tensor]], None],
) -> None:
    """20 and 7 of 1,000 steps. On a step to data from above t = 1/T theirs adds noise; ours never does."""
    for steps in (7, 20):
        scheduler = theirs(
            "DDPMScheduler", prediction_type, "linear", clip=clip, timestep_spacing=spacing, variance_type=variance
        )
        scheduler.set_timesteps(steps)
        d = ours(prediction_type, LinearBetas(), clip=clip)
        sampler = Ancestral(Small() if variance == "fixed_small" else Large())
        z = noises(steps, 2, 3, 4, 4)
        z[-1] = 0
        scripted(iter(z))
        x = state()
        indices = scheduler.timesteps.tolist()
        for k, (index, following) in enumerate(pairwise([*indices, -1])):
            out = scheduler.step(network(x, index), index, x)
            stepped = sampler.step(
                d,
                x,
                t=(index + 1) / T,
                s=(following + 1) / T,
                state=None,
                noise=given(lambda _, x, k=k, z=z: z[k]),
                cond=None,
            )
            assert_same(stepped.prediction.x0, out.pred_original_sample)
            assert_same(stepped.x, out.prev_sample)
            x = out.prev_sample / max(1.0, float(out.prev_sample.std()))


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("table", TABLES)
def test_ddim_whole_path(table: str, spacing: str, given: Callable[..., NoiseSource]) -> None:
    """50 steps end to end over our own grid, with three tables of betas; where S divides T both grids are one."""
    scheduler = theirs("DDIMScheduler", "v_prediction", table, clip=False, timestep_spacing=spacing)
    scheduler.set_timesteps(50)
    x, z = state(), noises(50, 2, 3, 4, 4)
    d = ours("v_prediction", TABLES[table], clip=False)
    times = GRIDS[spacing].times(d.schedule, 50)
    *_, end = sample(Ddim(eta=1.0), d, x, times, noise=given(lambda k, x: z[k]))
    for k, index in enumerate(scheduler.timesteps.tolist()):
        x = scheduler.step(network(x, index), index, x, eta=1.0, variance_noise=z[k]).prev_sample
    # Rounding grows along the path, through a network of slope 2: ten times the tolerance of one step
    torch.testing.assert_close(end.x, x, rtol=0, atol=1e-11)


@pytest.mark.parametrize("table", TABLES)
def test_add_noise_and_velocity(table: str) -> None:
    scheduler = theirs("DDPMScheduler", "v_prediction", table, clip=False)
    index = torch.tensor([0, 1, 10, 500, 998, 999])
    x0, eps = noises(2, 6, 3, 4, 4)
    r = Tabulated(TABLES[table], T).rates((index + 1).double() / T)
    assert_same(marginal(x0, r).sample(eps), scheduler.add_noise(x0, eps, index))
    assert_same(Velocity().target(x0, eps, r, 1.0), scheduler.get_velocity(x0, eps, index))


@pytest.mark.parametrize("pair", [(420, 400), (980, 960), (487, 486), (999, 998)], ids=str)
def test_small_variances_are_those_of_diffusers_tests(pair: tuple[int, int]) -> None:
    """DDIM's variances of its own unit tests, to their five printed digits."""
    published = {(420, 400): 0.14771, (980, 960): 0.32460, (487, 486): 0.00979, (999, 998): 0.02}
    table = Tabulated()
    now, then = (table.rates((index + 1) / T) for index in pair)
    assert float(log_variances(then, now).small.exp()) == pytest.approx(published[pair], abs=1e-5)
