"""Wrappers of a denoiser that are denoisers themselves, so that every sampler has them, and what pictures lose."""

from sfumato.guidance.clipping import Clipped
from sfumato.guidance.counting import Counting
from sfumato.guidance.degradations import Blur, Degradation, Grey, Holes, LowResolution
from sfumato.guidance.operators import (
    Blurring,
    Dense,
    Downsampling,
    Greying,
    LinearOperator,
    Masking,
    PictureOperator,
)

__all__ = [
    "Blur",
    "Blurring",
    "Clipped",
    "Counting",
    "Degradation",
    "Dense",
    "Downsampling",
    "Grey",
    "Greying",
    "Holes",
    "LinearOperator",
    "LowResolution",
    "Masking",
    "PictureOperator",
]
