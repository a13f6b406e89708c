"""Measures of samples and models, each an `Estimate` with its error and its provenance."""

from sfumato.metrics.classes import (
    ChiSquare,
    agreement,
    chi_square,
    class_shares,
    confusion,
    confusions,
    total_variation,
    total_variation_floor,
)
from sfumato.metrics.estimate import (
    Estimate,
    Fact,
    difference,
    jackknife_error,
    mean_of,
    paired_difference,
    require_enough,
)
from sfumato.metrics.judge import Judge, JudgeRecord, Labelled, train_judge
from sfumato.metrics.points import (
    EnergyDistance,
    Mmd,
    PointDistance,
    SlicedWasserstein,
    directions,
    floor,
    mode_coverage,
    wasserstein_1d,
)

__all__ = [
    "ChiSquare",
    "EnergyDistance",
    "Estimate",
    "Fact",
    "Judge",
    "JudgeRecord",
    "Labelled",
    "Mmd",
    "PointDistance",
    "SlicedWasserstein",
    "agreement",
    "chi_square",
    "class_shares",
    "confusion",
    "confusions",
    "difference",
    "directions",
    "floor",
    "jackknife_error",
    "mean_of",
    "mode_coverage",
    "paired_difference",
    "require_enough",
    "total_variation",
    "total_variation_floor",
    "train_judge",
    "wasserstein_1d",
]
