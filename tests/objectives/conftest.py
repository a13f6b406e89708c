"""Targets and schedules that every weight is held against, and a small network whose weights can be set."""

from collections.abc import Callable
from dataclasses import dataclass

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
    Noise,
    Parameterization,
    PreviousMean,
    RectifiedFlow,
    Schedule,
    Score,
    Tabulated,
    Ve,
    Velocity,
    marginal,
)
from sfumato.objectives import Draw

TABLE = Tabulated(CosineBetas(), 12)
SCHEDULES: dict[str, Schedule] = {"angle": CosineAngle(), "ve": Ve(), "flow": RectifiedFlow(), "table": TABLE}
TARGETS: dict[str, Parameterization] = {
    "noise": Noise(),
    "image": Image(),
    "velocity": Velocity(),
    "score": Score(),
    "flow": Flow(),
    "edm": Edm(),
}
PAIRS: dict[str, tuple[Parameterization, Schedule]] = {
    **{f"{p}-{s}": (target, schedule) for p, target in TARGETS.items() for s, schedule in SCHEDULES.items()},
    "previous-mean-table": (PreviousMean(TABLE), TABLE),
}


@pytest.fixture(params=SCHEDULES.values(), ids=list(SCHEDULES))
def schedule(request: pytest.FixtureRequest) -> Schedule:
    """Each family, and a table."""
    return request.param


@pytest.fixture(params=PAIRS.values(), ids=list(PAIRS))
def pair(request: pytest.FixtureRequest) -> tuple[Parameterization, Schedule]:
    """Each target with each schedule that it fits."""
    return request.param


class Affine(torch.nn.Module):
    """F = tanh(weight x + time) + bias: a network that is wrong everywhere, whose weights are plain tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.tensor([0.7, -0.3, 1.1], dtype=torch.float64)
        self.bias = torch.tensor([0.2, 0.1, -0.4], dtype=torch.float64)

    def forward(self, x: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
        weight, bias = (v.to(x.dtype) for v in (self.weight, self.bias))
        return torch.tanh(weight * x + time[:, None, None]) + bias


@dataclass
class Scene:
    """A denoiser, a batch and a draw, all float64 but where a test changes them."""

    denoiser: Denoiser
    network: Affine
    x0: Tensor
    draw: Draw

    def eps_error(self) -> Tensor:
        """|eps_hat - eps|² of the denoiser's own prediction, mean over elements: (B,)."""
        r = self.denoiser.schedule.rates(self.draw.t)
        p = self.denoiser(marginal(self.x0, r).sample(self.draw.eps), self.draw.t)
        return (p.eps - self.draw.eps).square().flatten(1).mean(1)


@pytest.fixture
def scene() -> Callable[[Parameterization, Schedule], Scene]:
    """Build a scene: eleven examples (2, 3) of standard deviation 0.6, times all over the span or the grid."""

    def build(parameterization: Parameterization, schedule: Schedule) -> Scene:
        generator = torch.Generator().manual_seed(0)
        x0, eps = torch.randn(2, 11, 2, 3, generator=generator, dtype=torch.float64)
        t = torch.linspace(schedule.t_min, 1, 11, dtype=torch.float64)
        if schedule.num_steps is not None:
            t = torch.arange(1, 12, dtype=torch.float64) / schedule.num_steps
        inv_density = torch.rand(11, generator=generator, dtype=torch.float64) + 0.5
        network = Affine()
        d = Denoiser(network, schedule, parameterization, time_input=LogSnrInput(), data_std=0.6)
        return Scene(d, network, 0.6 * x0, Draw(t, eps, inv_density))

    return build
