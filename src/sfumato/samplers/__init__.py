"""Samplers: methods that walk from noise to data, and the grids of times they walk on."""

from sfumato.samplers.ancestral import Ancestral
from sfumato.samplers.base import Sampler, Step, Stepped, sample
from sfumato.samplers.ddim import Ddim
from sfumato.samplers.grids import Leading, Linspace, Quadratic, TimeGrid, Trailing

__all__ = [
    "Ancestral",
    "Ddim",
    "Leading",
    "Linspace",
    "Quadratic",
    "Sampler",
    "Step",
    "Stepped",
    "TimeGrid",
    "Trailing",
    "sample",
]
