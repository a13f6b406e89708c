"""Decoders: the probability of data given the last Gaussian of a chain, p(x_0 | x_1).

For data on levels (8-bit pictures) it is the mass of the Gaussian within the bin of each level,

    p(x_0) = Phi((x_0 + half - mean)/std) - Phi((x_0 - half - mean)/std),    half = (high - low)/(2 (levels - 1))

with the first bin open to -inf and the last to +inf, so that the masses of all levels sum to 1 whatever the Gaussian
(Ho et al. 2020, eq. 13, with the exact normal distribution function). For continuous data it is the density itself.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core.gaussian import Gaussian
from sfumato.errors import ConfigError, DataError

__all__ = ["Decoder", "DiscretizedGaussian", "GaussianDecoder", "log_mass", "log_ndtr"]

OFF_GRID = 1e-2  # of a bin: float32 data lie within 1e-5 of their level, data of another kind do not


class Decoder(ABC):
    """log p(x_0 | x_1) from the Gaussian p(x_0 | x_1) of a chain."""

    __slots__ = ()

    @abstractmethod
    def log_prob(self, x0: Tensor, kernel: Gaussian) -> Tensor:
        """log p(x0) per element of x0 (B, *), nats, in the wider dtype of x0 and kernel.mean (B, *)."""

    @abstractmethod
    def require(self, x0: Tensor) -> None:
        """Refuse data that this decoder gives no probability to. Raises DataError."""


@dataclass(frozen=True, slots=True)
class DiscretizedGaussian(Decoder):
    """Mass of the bin around each level, the outer bins open-ended (Ho et al. 2020, eq. 13).

    levels: how many values a datum may take, equally spaced from low to high (256 for 8-bit pictures).
    low: the lowest level, in the units of the prepared data.
    high: the highest level.
    """

    levels: int = 256
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.levels < 2 or not self.low < self.high < float("inf") or self.low == -float("inf"):
            raise ConfigError(
                f"a decoder of {self.levels} levels from {self.low} to {self.high}",
                expected="two or more levels between two increasing finite numbers",
                fix="leave them out for 8-bit data scaled to [-1, 1]: 256 levels",
            )

    @property
    def bin_width(self) -> float:
        """(high - low)/(levels - 1), the distance of two levels."""
        return (self.high - self.low) / (self.levels - 1)

    def log_prob(self, x0: Tensor, kernel: Gaussian) -> Tensor:
        half, distance, per_std = self.bin_width / 2, x0 - kernel.mean, (-kernel.log_var / 2).exp()
        above, below = (distance + half) * per_std, (distance - half) * per_std
        inner = log_mass(below, above)
        first, last = x0 < self.low + half, x0 > self.high - half
        inner = torch.where(first, log_ndtr(above), inner)
        return torch.where(last, log_ndtr(-below), inner)

    def require(self, x0: Tensor) -> None:
        steps = (x0 - self.low) / self.bin_width
        bad = ~(((steps - steps.round()).abs() < OFF_GRID) & (steps > -0.5) & (steps < self.levels - 0.5))
        if bool(bad.any()):
            value = float(x0[bad].flatten()[0])
            raise DataError(
                f"{int(bad.sum())} of {x0.numel()} values are none of the {self.levels} levels "
                f"from {self.low:g} to {self.high:g} (the first is {value:g})",
                expected="data of these levels alone: a probability of bits is not defined for others",
                fix="use unpadded 8-bit data scaled to that range, or GaussianDecoder for continuous data",
            )


@dataclass(frozen=True, slots=True)
class GaussianDecoder(Decoder):
    """The density of the last Gaussian, for continuous data."""

    def log_prob(self, x0: Tensor, kernel: Gaussian) -> Tensor:
        return kernel.log_prob(x0)

    def require(self, x0: Tensor) -> None:
        if not bool(x0.isfinite().all()):
            raise DataError(
                f"{int((~x0.isfinite()).sum())} of {x0.numel()} values are not finite",
                expected="finite data",
                fix="remove or replace them",
            )


def log_mass(low: Tensor, high: Tensor) -> Tensor:
    """log(Phi(high) - Phi(low)) for finite low < high, elementwise; never -inf while log Phi(low) is finite.

    An interval on the right of 0 is reflected to the left, where Phi is small and its logarithm exact; then
    log Phi(high) + log(1 - Phi(low)/Phi(high)), the share as the expm1 of a difference of logarithms.
    """
    right = low + high > 0
    near, far = torch.where(right, -low, high), torch.where(right, -high, low)
    log_near = log_ndtr(near)
    log_ratio = (log_ndtr(far) - log_near).clamp(max=-torch.finfo(log_near.dtype).tiny)
    return log_near + (-torch.expm1(log_ratio)).log()


def log_ndtr(z: Tensor) -> Tensor:
    """log Phi(z), elementwise, with a gradient that is exact in the tail.

    torch's own has a backward that takes exp of a difference of numbers of size z²/2: at z = -1e4 in float32 it is off
    by factors. Below -1, Phi(z) = erfcx(-z/√2) e^(-z²/2)/2 instead, whose logarithm needs no such difference.
    """
    tail, body = z.clamp(max=-1.0), z.clamp(min=-1.0)
    of_tail = (torch.special.erfcx(-tail / math.sqrt(2)) / 2).log() - tail**2 / 2
    return torch.where(z < -1.0, of_tail, torch.log1p(-torch.special.erfc(body / math.sqrt(2)) / 2))
