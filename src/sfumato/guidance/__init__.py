"""Wrappers of a denoiser that are denoisers themselves, so that every sampler has them, and what pictures lose."""

from sfumato.guidance.autoguidance import AutoGuided
from sfumato.guidance.classifier import ClassifierGuided
from sfumato.guidance.classifier_free import Guided
from sfumato.guidance.clipping import Clipped
from sfumato.guidance.counting import Counting
from sfumato.guidance.degradations import Blur, Degradation, Grey, Holes, LowResolution
from sfumato.guidance.measurement import Measurement
from sfumato.guidance.operators import (
    Blurring,
    Dense,
    Downsampling,
    Greying,
    LinearOperator,
    Masking,
    PictureOperator,
)
from sfumato.guidance.posterior import Dps, MomentMatched, PseudoInverseGuided
from sfumato.guidance.thresholding import Thresholded

__all__ = [
    "AutoGuided",
    "Blur",
    "Blurring",
    "ClassifierGuided",
    "Clipped",
    "Counting",
    "Degradation",
    "Dense",
    "Downsampling",
    "Dps",
    "Grey",
    "Greying",
    "Guided",
    "Holes",
    "LinearOperator",
    "LowResolution",
    "Masking",
    "Measurement",
    "MomentMatched",
    "PictureOperator",
    "PseudoInverseGuided",
    "Thresholded",
]
