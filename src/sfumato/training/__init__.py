"""Training: the step, the loop around it, and everything that makes a run survive."""

from sfumato.training.settings import TrainingConfig

__all__ = ["TrainingConfig"]
