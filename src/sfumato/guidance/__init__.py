"""Wrappers of a denoiser that are denoisers themselves, so that every sampler has them."""

from sfumato.guidance.clipping import Clipped
from sfumato.guidance.counting import Counting

__all__ = ["Clipped", "Counting"]
