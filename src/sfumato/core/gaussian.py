"""Diagonal Gaussians, the currency of chains and bounds."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Gaussian"]


@dataclass(frozen=True, slots=True)
class Gaussian:
    """N(mean, exp(log_var)), independent per element; log_var broadcasts against mean (B, *)."""

    mean: Tensor
    log_var: Tensor

    @property
    def std(self) -> Tensor:
        """exp(log_var / 2), shaped as log_var."""
        return (0.5 * self.log_var).exp()

    def kl(self, other: "Gaussian") -> Tensor:
        """KL(self || other) per element, nats: ½ [log_var_o - log_var_s + (var_s + (mean_s - mean_o)²)/var_o - 1]."""
        log_ratio = self.log_var - other.log_var
        distance = (self.mean - other.mean) ** 2 * (-other.log_var).exp()
        return 0.5 * (torch.expm1(log_ratio) - log_ratio + distance)

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(x; mean, var) per element, in nats."""
        distance = (x - self.mean) ** 2 * (-self.log_var).exp()
        return -0.5 * (distance + self.log_var + math.log(2 * math.pi))

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std · noise, for noise ~ N(0, I) of the shape of mean."""
        return self.mean + self.std * noise
