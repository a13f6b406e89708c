"""Counting the calls of a denoiser, so that stated costs can be checked."""

from torch import Tensor

from sfumato.core import Cond, Denoise, Prediction, Schedule

__all__ = ["Counting"]


class Counting:
    """A denoiser that counts how often it was asked; `calls` is the number so far."""

    def __init__(self, denoise: Denoise) -> None:
        self.denoise = denoise
        self.calls = 0

    @property
    def schedule(self) -> Schedule:
        return self.denoise.schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        self.calls += 1
        return self.denoise(x_t, t, cond)
