"""Clipping x0: data lie in known bounds, so a prediction outside them can only be wrong (Ho et al. 2020, code)."""

from dataclasses import dataclass

from torch import Tensor

from sfumato.core import Cond, Denoise, Prediction, Schedule

__all__ = ["Clipped"]


@dataclass(frozen=True, slots=True)
class Clipped:
    """A denoiser whose x0 is clamped to [low, high]; eps, score and v follow. Bounds are (), or (C, 1, 1)."""

    denoise: Denoise
    low: Tensor
    high: Tensor

    @property
    def schedule(self) -> Schedule:
        return self.denoise.schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        p = self.denoise(x_t, t, cond)
        return p.with_x0(p.x0.clamp(self.low.to(p.x0), self.high.to(p.x0)))
