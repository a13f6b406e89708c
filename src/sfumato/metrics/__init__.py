"""Measures of samples and models, each an `Estimate` with its error and its provenance."""

from sfumato.metrics.estimate import (
    Estimate,
    Fact,
    difference,
    jackknife_error,
    mean_of,
    paired_difference,
    require_enough,
)
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
    "EnergyDistance",
    "Estimate",
    "Fact",
    "Mmd",
    "PointDistance",
    "SlicedWasserstein",
    "difference",
    "directions",
    "floor",
    "jackknife_error",
    "mean_of",
    "mode_coverage",
    "paired_difference",
    "require_enough",
    "wasserstein_1d",
]
