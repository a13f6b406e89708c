"""What a trained model is worth: `evaluate` and the numbers it gives."""

from sfumato.experiment.evaluation.metrics import METRICS, Evaluation, default_metrics, evaluate

__all__ = ["METRICS", "Evaluation", "default_metrics", "evaluate"]
