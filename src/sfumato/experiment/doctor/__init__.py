"""The doctor: what an experiment suffers from, found in a minute, before it is trained for hours."""

from sfumato.experiment.doctor.examination import Diagnosis, doctor
from sfumato.experiment.doctor.learning import Layer, Learning, overfit
from sfumato.experiment.doctor.rates import RateCurve, find_rate
from sfumato.experiment.doctor.remarks import Remark

__all__ = ["Diagnosis", "Layer", "Learning", "RateCurve", "Remark", "doctor", "find_rate", "overfit"]
