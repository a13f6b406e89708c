"""What a trained model is worth: `evaluate` and the numbers it gives; `evaluate_samples`, of samples alone."""

from sfumato.experiment.evaluation.document import Evaluation
from sfumato.experiment.evaluation.evaluating import evaluate
from sfumato.experiment.evaluation.metrics import METRICS, default_metrics
from sfumato.experiment.evaluation.outside import evaluate_samples

__all__ = ["METRICS", "Evaluation", "default_metrics", "evaluate", "evaluate_samples"]
