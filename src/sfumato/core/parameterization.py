"""What the network's output means: one affine rule for every target of the field.

    x0_hat = c_skip x_t + c_out F            target(F) = (x_0 - c_skip x_t) / c_out

A parameterization is only its pair (c_skip, c_out) as a function of the noise level; target, x0 and gain follow. The
error of the noise estimate is `gain = (alpha/sigma) c_out` times the output's error, up to sign, which is how weights
meet targets.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core.kernels import mean_weights
from sfumato.core.rates import Rates, spread
from sfumato.core.schedules import Schedule, Tabulated
from sfumato.errors import ConfigError

__all__ = ["Coefficients", "Edm", "Flow", "Image", "Noise", "Parameterization", "PreviousMean", "Score", "Velocity"]


@dataclass(frozen=True, slots=True)
class Coefficients:
    """c_skip and c_out of x0_hat = c_skip x_t + c_out F; each () or (B,), float64."""

    c_skip: Tensor
    c_out: Tensor


class Parameterization(ABC):
    """The pair (c_skip, c_out) of a target; everything else is derived."""

    __slots__ = ()

    @abstractmethod
    def coefficients(self, r: Rates, data_std: float) -> Coefficients:
        """(c_skip, c_out) at the rates r, for data of standard deviation data_std; float64, shaped as r.alpha."""

    def target(self, x0: Tensor, eps: Tensor, r: Rates, data_std: float) -> Tensor:
        """The F that gives x0 exactly, (x_0 - c_skip x_t)/c_out with x_t = alpha x_0 + sigma eps; (B, *).

        Taken from x_0 and eps, `[(1 - c_skip alpha) x_0 - c_skip sigma eps]/c_out`, whose coefficients are float64:
        from a float32 x_t the difference loses all digits as sigma goes to 0.
        """
        c = self.coefficients(r, data_std)
        of_data = (1 - c.c_skip * r.alpha) / c.c_out
        of_noise = -c.c_skip * r.sigma / c.c_out
        return spread(of_data, x0) * x0 + spread(of_noise, x0) * eps

    def x0(self, output: Tensor, x_t: Tensor, r: Rates, data_std: float) -> Tensor:
        """x0_hat = c_skip x_t + c_out F, (B, *)."""
        c = self.coefficients(r, data_std)
        return spread(c.c_skip, x_t) * x_t + spread(c.c_out, x_t) * output

    def gain(self, r: Rates, data_std: float) -> Tensor:
        """(alpha/sigma) c_out: |eps_hat - eps| = |gain| · |F_hat - F|; float64, shaped as r.alpha."""
        return r.alpha / r.sigma * self.coefficients(r, data_std).c_out


@dataclass(frozen=True, slots=True)
class Noise(Parameterization):
    """F = eps (Ho et al. 2020)."""

    def coefficients(self, r: Rates, data_std: float) -> Coefficients:
        return Coefficients(1 / r.alpha, -r.sigma / r.alpha)


@dataclass(frozen=True, slots=True)
class Image(Parameterization):
    """F = x_0."""

    def coefficients(self, r: Rates, data_std: float) -> Coefficients:
        return Coefficients(torch.zeros_like(r.alpha), torch.ones_like(r.alpha))


@dataclass(frozen=True, slots=True)
class Velocity(Parameterization):
    """F = v = alpha eps - sigma x_0 (Salimans & Ho 2022), for any alpha² + sigma²."""

    def coefficients(self, r: Rates, data_std: float) -> Coefficients:
        power = r.alpha**2 + r.sigma**2
        return Coefficients(r.alpha / power, -r.sigma / power)


@dataclass(frozen=True, slots=True)
class Score(Parameterization):
    """F = the score of x_t given x_0, -eps/sigma (Song & Ermon 2019)."""

    def coefficients(self, r: Rates, data_std: float) -> Coefficients:
        return Coefficients(1 / r.alpha, r.sigma**2 / r.alpha)


@dataclass(frozen=True, slots=True)
class Flow(Parameterization):
    """F = eps - x_0, the velocity of the straight path (Liu et al. 2022; Lipman et al. 2023)."""

    def coefficients(self, r: Rates, data_std: float) -> Coefficients:
        total = r.alpha + r.sigma
        return Coefficients(1 / total, -r.sigma / total)


@dataclass(frozen=True, slots=True)
class Edm(Parameterization):
    """Karras et al. 2022, table 1, for any alpha: a target of unit variance at every noise level.

    c_skip = alpha d²/(alpha² d² + sigma²), c_out = sigma d/sqrt(alpha² d² + sigma²), d = data_std.
    """

    def coefficients(self, r: Rates, data_std: float) -> Coefficients:
        power = r.alpha**2 * data_std**2 + r.sigma**2
        return Coefficients(r.alpha * data_std**2 / power, r.sigma * data_std / power.sqrt())


@dataclass(frozen=True, slots=True)
class PreviousMean(Parameterization):
    """F = the mean of q(x_s | x_t, x_0), s a step of the table before t: keep x_t + pull x_0 (Ho et al. 2020).

    c_skip = -keep/pull and c_out = 1/pull; on the interval that ends at data F = x_0.

    schedule: the table whose steps are meant, the same as the experiment's.
    """

    schedule: Schedule = Tabulated()

    def __post_init__(self) -> None:
        if self.schedule.num_steps is None:
            raise ConfigError(
                f"parameterization.schedule is {type(self.schedule).__name__}, which has no steps",
                expected="a table, whose grid says which mean is meant",
                fix="set parameterization.schedule: Tabulated, or choose another parameterization",
            )

    def coefficients(self, r: Rates, data_std: float) -> Coefficients:
        num_steps = self.schedule.num_steps
        assert num_steps is not None  # checked at construction
        step = (r.t * num_steps).round()
        first = step <= 1
        s = self.schedule.rates((step - 1).clamp(min=1) / num_steps)
        t = self.schedule.rates(torch.where(first, 2.0, step).clamp(max=max(num_steps, 2)) / num_steps)
        if num_steps == 1:
            return Coefficients(torch.zeros_like(r.alpha), torch.ones_like(r.alpha))
        weights = mean_weights(s, t)
        c_skip = torch.where(first, 0.0, -weights.keep / weights.pull)
        c_out = torch.where(first, 1.0, 1 / weights.pull)
        return Coefficients(c_skip, c_out)
