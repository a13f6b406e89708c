"""One noise level: the schedule of a score model that never saw another.

Denoising score matching at a single level (Vincent 2011; Song & Ermon 2019, eqs. 2 and 5) trains on

    x_1 = x_0 + sigma eps        alpha = 1, sigma = noise_level at the only time there is, t = 1

and Langevin dynamics samples from its score. As a schedule it is a chain of one step: t_min = 1, every grid of times
is [1, 0], log_snr is a constant that `time` maps back to 1, and there is no slope. It never reaches noise: a sampler
starts at N(0, start² I), which is a choice and no marginal, so training on it needs `allow_terminal_signal`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core.schedules import MAX_LOG_SNR, VarianceExploding
from sfumato.errors import ConfigError

__all__ = ["OneLevel"]


@dataclass(frozen=True, slots=True)
class OneLevel(VarianceExploding):
    """alpha = 1, sigma = noise_level, at t = 1 alone: for Langevin sampling from a score (Song & Ermon 2019).

    noise_level: standard deviation of the noise, in units of the prepared data.
    start: standard deviation of the points where Langevin sampling starts.
    """

    noise_level: float = 0.01
    start: float = 1.0

    def __post_init__(self) -> None:
        largest = math.exp(MAX_LOG_SNR / 2)
        for name, value, usual in (("noise_level", self.noise_level, 0.01), ("start", self.start, 1)):
            if not 1 / largest <= value <= largest:
                raise ConfigError(
                    f"schedule.{name} is {value}",
                    expected=f"a number from {1 / largest:.2g} to {largest:.6g}",
                    fix=f"set schedule.{name}: {usual}",
                )

    def log_snr(self, t: Tensor) -> Tensor:
        return torch.full_like(t, -2 * math.log(self.noise_level))

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.ones_like(log_snr, dtype=torch.float64)

    def remedy(self, log_snr: float, key: str = "schedule") -> str:
        return f"choose another {key}, one that ends in noise: a single level never does"

    @property
    def t_min(self) -> float:
        return 1.0

    @property
    def num_steps(self) -> int:
        return 1

    @property
    def prior_std(self) -> float:
        return self.start
