"""Trackers: TensorBoard and others, told of a run beside its own record. (`tracking.track` tells them afterwards.)"""

from sfumato.experiment.tracking.choosing import open_trackers, require_trackers
from sfumato.experiment.tracking.histogram import Histogram
from sfumato.experiment.tracking.tensorboard import EventFiles, event_files
from sfumato.experiment.tracking.tracker import Tracker, Trackers

__all__ = [
    "EventFiles",
    "Histogram",
    "Tracker",
    "Trackers",
    "event_files",
    "open_trackers",
    "require_trackers",
]
