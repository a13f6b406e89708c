"""Editing pictures with a trained model: what can be done, how, and the doing."""

from sfumato.experiment.edits.editing import Edited, method_named, usual_method
from sfumato.experiment.edits.methods import METHODS, Choice, Condition, Dps, Method, Moments, Pigdm, Repaint
from sfumato.experiment.edits.paths import between
from sfumato.experiment.edits.quality import psnr
from sfumato.experiment.edits.tasks import STRIDE, Colourise, Deblur, Edit, Inpaint, Restoration, Upscale, Vary

__all__ = [
    "METHODS",
    "STRIDE",
    "Choice",
    "Colourise",
    "Condition",
    "Deblur",
    "Dps",
    "Edit",
    "Edited",
    "Inpaint",
    "Method",
    "Moments",
    "Pigdm",
    "Repaint",
    "Restoration",
    "Upscale",
    "Vary",
    "between",
    "method_named",
    "psnr",
    "usual_method",
]
