"""A noise level is a pair.

Every process here is `x_t = alpha x_0 + sigma eps` with `eps ~ N(0, I)`; a `Rates` is the pair (alpha, sigma)
at a time t,

    log_snr     = log(alpha² / sigma²)      (Kingma et al. 2021, eq. 2)
    noise_level = sigma / alpha             (Karras et al. 2022: their sigma)

DDPM's alpha-bar is alpha², VP has alpha² + sigma² = 1, VE has alpha = 1, rectified flow alpha + sigma = 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Rates", "spread"]


@dataclass(frozen=True, slots=True)
class Rates:
    """Signal and noise rates at time t; each () or (B,), float64 on the CPU unless `like` has moved them."""

    t: Tensor
    alpha: Tensor
    sigma: Tensor

    @classmethod
    def data(cls) -> "Rates":
        """The destination 0: data itself, alpha = 1 and sigma = 0 at t = 0, whatever the schedule."""
        zero = torch.zeros((), dtype=torch.float64)
        return cls(zero, torch.ones((), dtype=torch.float64), zero)

    @property
    def is_data(self) -> bool:
        """Whether this is the destination 0, where sigma = 0 and log_snr is infinite."""
        return bool((self.sigma == 0).all())

    @property
    def log_snr(self) -> Tensor:
        """log(alpha² / sigma²), in nats."""
        return 2 * (self.alpha.log() - self.sigma.log())

    @property
    def noise_level(self) -> Tensor:
        """sigma / alpha, the standard deviation of the noise in units of clean data."""
        return self.sigma / self.alpha

    def like(self, x: Tensor) -> "Rates":
        """The same rates as (B, 1, …, 1) in the dtype and on the device of x (B, *): the one place of broadcasting."""
        return Rates(*(spread(value, x) for value in (self.t, self.alpha, self.sigma)))


def spread(value: Tensor, x: Tensor) -> Tensor:
    """A () or (B,) tensor as () or (B, 1, …, 1), ready to multiply x (B, *), in its dtype and on its device."""
    shape = value.shape + (1,) * (x.ndim - 1) if value.ndim else value.shape
    return value.reshape(shape).to(device=x.device, dtype=x.dtype, non_blocking=True)
