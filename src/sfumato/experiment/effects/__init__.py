"""Effects: what each axis of a sweep does to a metric, and what two of them do together, with errors."""

from sfumato.experiment.effects.contrasts import Contrast, contrasts_of
from sfumato.experiment.effects.finding import effects
from sfumato.experiment.effects.levels import LevelCurve, LevelCurves, level_curves
from sfumato.experiment.effects.results import Effect, Effects

__all__ = ["Contrast", "Effect", "Effects", "LevelCurve", "LevelCurves", "contrasts_of", "effects", "level_curves"]
