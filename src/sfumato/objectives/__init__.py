"""What training minimises: denoising losses, their distances and their weights."""

from sfumato.objectives.denoising import DenoisingLoss, Distance, Draw, Huber, Losses, Mae, Mse, Objective
from sfumato.objectives.weightings import (
    EdmLogNormal,
    Elbo,
    ImageError,
    MinSnr,
    NoiseError,
    OutputError,
    ScoreError,
    SigmoidWeight,
    StepElbo,
    Weighting,
)

__all__ = [
    "DenoisingLoss",
    "Distance",
    "Draw",
    "EdmLogNormal",
    "Elbo",
    "Huber",
    "ImageError",
    "Losses",
    "Mae",
    "MinSnr",
    "Mse",
    "NoiseError",
    "Objective",
    "OutputError",
    "ScoreError",
    "SigmoidWeight",
    "StepElbo",
    "Weighting",
]
