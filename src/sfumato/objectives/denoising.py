"""The denoising loss: one network call, one affine target, one weight.

    x_t = alpha x_0 + sigma eps,   loss = inv_density · mean over elements of d( sqrt(w gain²) (F_hat - F) )

with d(r) = r² unless another distance is chosen. Pure in the draw (t, eps): the same draw gives the same loss.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core import Cond, Denoiser, Rates, marginal
from sfumato.core.rates import spread
from sfumato.errors import ConfigError
from sfumato.objectives.weightings import OutputError, Weighting

__all__ = ["DenoisingLoss", "Distance", "Draw", "Huber", "Losses", "Mae", "Mse", "Objective"]


@dataclass(frozen=True, slots=True)
class Draw:
    """What one training step draws: t (B,) float64, eps ~ N(0, I) (B, *), inv_density (B,) float64.

    probes: as many further N(0, I) like eps as the objective's `num_probes` says.
    """

    t: Tensor
    eps: Tensor
    inv_density: Tensor
    probes: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class Losses:
    """One value per example, (B,) float32 on the device: what is minimised is their mean.

    of_times: (B,), the part of each value that the times drawn have a hand in; None where that is all of it.
    """

    values: Tensor
    of_times: Tensor | None = None

    @property
    def judged(self) -> Tensor:
        """(B,), what a trained schedule and times that remember losses go by: a part that t leaves alone is no news."""
        return self.values if self.of_times is None else self.of_times


class Distance(ABC):
    """d(residual), elementwise, and non-negative."""

    __slots__ = ()

    @abstractmethod
    def __call__(self, residual: Tensor) -> Tensor:
        """d(residual), shaped as the residual."""


@dataclass(frozen=True, slots=True)
class Mse(Distance):
    """r²: its minimiser is the conditional mean."""

    def __call__(self, residual: Tensor) -> Tensor:
        return residual.square()


@dataclass(frozen=True, slots=True)
class Mae(Distance):
    """|r|: its minimiser is the conditional median, so likelihoods computed from it are loose."""

    def __call__(self, residual: Tensor) -> Tensor:
        return residual.abs()


@dataclass(frozen=True, slots=True)
class Huber(Distance):
    """r²/2 up to |r| = delta, delta (|r| - delta/2) beyond; delta is in units of the weighted residual (Huber 1964).

    delta: where the parabola becomes a line.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise ConfigError(
                f"objective.distance.delta is {self.delta}",
                expected="a number above 0",
                fix="set objective.distance.delta: 1",
            )

    def __call__(self, residual: Tensor) -> Tensor:
        return torch.nn.functional.huber_loss(residual, torch.zeros_like(residual), reduction="none", delta=self.delta)


class Objective(ABC):
    """What is minimised: a score of a denoiser on a batch, pure in what was drawn; its own configuration."""

    __slots__ = ()

    @property
    def learns_variance(self) -> bool:
        """Whether the network must speak of a variance as well: `Denoiser(learn_variance=True)`."""
        return False

    @property
    def whole_chain(self) -> bool:
        """Whether the mean over every time is meant, as a bound is, and a few fixed noise levels would not show it."""
        return False

    @property
    def num_probes(self) -> int:
        """How many further N(0, I) like eps one draw holds."""
        return 0

    @abstractmethod
    def __call__(self, d: Denoiser, x0: Tensor, draw: Draw, cond: Cond | None = None) -> Losses:
        """One loss per example of x0 (B, *)."""


@dataclass(frozen=True, slots=True)
class DenoisingLoss(Objective):
    """The denoising objective; its configuration is the object itself.

    distance: between the network's output and its target.
    weighting: how much each noise level counts.
    """

    distance: Distance = Mse()
    weighting: Weighting = OutputError()

    def __call__(self, d: Denoiser, x0: Tensor, draw: Draw, cond: Cond | None = None) -> Losses:
        r = d.schedule.rates(draw.t)
        x_t = marginal(x0, r).sample(draw.eps)
        per_example = self.of_output(d, d.output(x_t, r, cond), x0, draw.eps, r)
        return Losses(spread(draw.inv_density, per_example) * per_example)

    def of_output(self, d: Denoiser, output: Tensor, x0: Tensor, eps: Tensor, r: Rates) -> Tensor:
        """The mean of d(sqrt(w gain²) (F_hat - F)) over the elements of each example, for the F_hat given; (B,)."""
        target = d.parameterization.target(x0, eps, r, d.data_std)
        factor = self.weighting.output_factor(r, d.schedule, d.parameterization, d.data_std)
        residual = spread(factor.sqrt(), x0) * (output - target)
        return self.distance(residual).flatten(1).mean(1)
