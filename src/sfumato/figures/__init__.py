"""Figures: arrays and objects become matplotlib figures, sheets of pictures and animations; `save` writes them."""

from sfumato.figures.curves import schedules
from sfumato.figures.files import MOVING, STILL, check_target, is_moving, save
from sfumato.figures.heatmap import embedding
from sfumato.figures.history import losses
from sfumato.figures.noising import forward
from sfumato.figures.reversing import Animation, animation, reverse
from sfumato.figures.sheets import grid

__all__ = [
    "MOVING",
    "STILL",
    "Animation",
    "animation",
    "check_target",
    "embedding",
    "forward",
    "grid",
    "is_moving",
    "losses",
    "reverse",
    "save",
    "schedules",
]
