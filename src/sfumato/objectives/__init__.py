"""What training minimises: denoising losses with their weights, variational bounds, score matching."""

from sfumato.objectives.attainable import AttainableLoss, attainable_loss, attainable_noise_loss
from sfumato.objectives.continuous import ContinuousBound, ContinuousTerms
from sfumato.objectives.denoising import DenoisingLoss, Distance, Draw, Huber, Losses, Mae, Mse, Objective
from sfumato.objectives.score_matching import (
    DenoisingScoreMatching,
    ExactScoreMatching,
    Projections,
    SlicedScoreMatching,
    score,
)
from sfumato.objectives.sohl_dickstein import Entropies, SohlDicksteinBound, entropies
from sfumato.objectives.variational import BoundTerms, Hybrid, VariationalBound
from sfumato.objectives.weightings import (
    P2,
    EdmLogNormal,
    Elbo,
    ImageError,
    LikelihoodWeight,
    MinSnr,
    NoiseError,
    OutputError,
    ScoreError,
    SigmoidWeight,
    SoftMinSnr,
    StepElbo,
    Weighting,
)

__all__ = [
    "AttainableLoss",
    "attainable_loss",
    "attainable_noise_loss",
    "P2",
    "BoundTerms",
    "ContinuousBound",
    "ContinuousTerms",
    "DenoisingLoss",
    "DenoisingScoreMatching",
    "Distance",
    "Draw",
    "EdmLogNormal",
    "Elbo",
    "Entropies",
    "ExactScoreMatching",
    "Huber",
    "Hybrid",
    "ImageError",
    "LikelihoodWeight",
    "Losses",
    "Mae",
    "MinSnr",
    "Mse",
    "NoiseError",
    "Objective",
    "OutputError",
    "Projections",
    "ScoreError",
    "SigmoidWeight",
    "SlicedScoreMatching",
    "SohlDicksteinBound",
    "SoftMinSnr",
    "StepElbo",
    "VariationalBound",
    "Weighting",
    "entropies",
    "score",
]
