"""Gaussian data with a differentiable ideal denoiser, and noise that a test hands out itself."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sfumato.core import Prediction, Schedule
from sfumato.core.rates import spread


@dataclass(frozen=True)
class GaussianLaw:
    """x_0 ~ N(mean, Q diag(eigenvalues) Q'), float64; its posterior mean as a `Denoise` that autograd sees through."""

    mean: Tensor
    eigenvalues: Tensor
    axes: Tensor
    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        r = self.schedule.rates(t)
        a, s = spread(r.alpha, x_t), spread(r.sigma, x_t)
        gain = a * self.eigenvalues / (a**2 * self.eigenvalues + s**2)
        return Prediction(x_t, r, self.mean + ((x_t - a * self.mean) @ self.axes * gain) @ self.axes.T)

    def log_p(self, x: Tensor, alpha: float = 1.0, noise_var: float = 0.0) -> Tensor:
        """log N(x; alpha mean, alpha² C + noise_var I), nats: (B,)."""
        spread_of = alpha**2 * self.eigenvalues + noise_var
        centred = (x - alpha * self.mean) @ self.axes
        return -0.5 * (centred**2 / spread_of + (2 * math.pi * spread_of).log()).sum(1)

    def draw(self, eps: Tensor) -> Tensor:
        return self.mean + (eps * self.eigenvalues.sqrt()) @ self.axes.T


@pytest.fixture(scope="session")
def eight() -> Callable[[Schedule], GaussianLaw]:
    """Eight correlated dimensions with variances from 0.05 to 4 along their axes, and a mean that is not 0."""
    generator = torch.Generator().manual_seed(0)
    axes, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))
    mean = 0.3 * torch.randn(8, generator=generator, dtype=torch.float64)
    eigenvalues = torch.tensor([0.05, 0.15, 0.35, 0.6, 1.2, 1.5, 2.8, 4.0], dtype=torch.float64)
    return lambda schedule: GaussianLaw(mean, eigenvalues, axes, schedule)
