"""Figures: arrays and objects become matplotlib figures, sheets of pictures and animations; `save` writes them."""

from sfumato.figures.arms import ArmRow, arms
from sfumato.figures.both_ways import both_ways
from sfumato.figures.by_level import by_level
from sfumato.figures.contact import contact_sheet
from sfumato.figures.curves import schedules
from sfumato.figures.density import Densities, densities
from sfumato.figures.edits import Column, edit_sheet
from sfumato.figures.effects import effects
from sfumato.figures.ema import ema
from sfumato.figures.field import ScoreField, score_fields
from sfumato.figures.files import MOVING, STILL, check_target, is_moving, save
from sfumato.figures.gamma import gamma
from sfumato.figures.heatmap import embedding
from sfumato.figures.history import losses
from sfumato.figures.langevin import LangevinWalk, langevin_animation, langevin_paths, usual_starts
from sfumato.figures.levels import levels
from sfumato.figures.neighbours import neighbours
from sfumato.figures.network import network
from sfumato.figures.noising import forward
from sfumato.figures.progress import Moment, progress
from sfumato.figures.quality import StepCurve, steps
from sfumato.figures.reversing import Animation, animation, reverse
from sfumato.figures.sheets import grid

__all__ = [
    "MOVING",
    "STILL",
    "Animation",
    "ArmRow",
    "Column",
    "Densities",
    "LangevinWalk",
    "Moment",
    "ScoreField",
    "StepCurve",
    "animation",
    "arms",
    "both_ways",
    "by_level",
    "check_target",
    "contact_sheet",
    "densities",
    "edit_sheet",
    "effects",
    "ema",
    "embedding",
    "forward",
    "gamma",
    "grid",
    "is_moving",
    "langevin_animation",
    "langevin_paths",
    "levels",
    "losses",
    "neighbours",
    "network",
    "progress",
    "reverse",
    "save",
    "schedules",
    "score_fields",
    "steps",
    "usual_starts",
]
