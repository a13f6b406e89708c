"""Clipping x0: data lie in known bounds, so a prediction outside them can only be wrong (Ho et al. 2020, code)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core import Cond, Denoise, Prediction, Schedule
from sfumato.core.rates import spread

__all__ = ["Clipped"]


@dataclass(frozen=True, slots=True)
class Clipped:
    """A denoiser whose x0 is clamped to [low, high]; eps, score and v follow. Bounds are () or one per channel, (C,)."""

    denoise: Denoise
    low: Tensor
    high: Tensor

    @property
    def schedule(self) -> Schedule:
        return self.denoise.schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        p = self.denoise(x_t, t, cond)
        low, high = (per_channel(bound, x_t) for bound in (self.low, self.high))
        return p.with_x0(torch.maximum(torch.minimum(p.x0, high), low))


def per_channel(bound: Tensor, x: Tensor) -> Tensor:
    """A () or (C,) bound, ready to broadcast over x (B, C, *)."""
    return spread(bound, x[0]) if bound.ndim else spread(bound, x)
