"""Networks: plain torch modules that know nothing of schedules or objectives."""

from sfumato.nn.config import NetworkConfig
from sfumato.nn.embeddings import log_spaced_frequencies, sinusoidal_embedding
from sfumato.nn.fourier_mlp import FourierMlp, FourierMlpConfig
from sfumato.nn.mlp import Mlp, MlpConfig, StepMlp, StepMlpConfig
from sfumato.nn.unet import ResidualUNet, ResidualUNetConfig

__all__ = [
    "FourierMlp",
    "FourierMlpConfig",
    "Mlp",
    "MlpConfig",
    "NetworkConfig",
    "ResidualUNet",
    "ResidualUNetConfig",
    "StepMlp",
    "StepMlpConfig",
    "log_spaced_frequencies",
    "sinusoidal_embedding",
]
