"""Networks: plain torch modules that know nothing of schedules or objectives."""

from sfumato.nn.additive_mlp import AdditiveMlp, AdditiveMlpConfig
from sfumato.nn.additive_unet import AdditiveUNet, AdditiveUNetConfig
from sfumato.nn.bottleneck_unet import BottleneckUNet, BottleneckUNetConfig
from sfumato.nn.config import NetworkConfig
from sfumato.nn.ddpm_unet import DdpmUNet, DdpmUNetConfig
from sfumato.nn.dit import Dit, DitConfig
from sfumato.nn.edm2_unet import Edm2UNet, Edm2UNetConfig
from sfumato.nn.embeddings import log_spaced_frequencies, sinusoidal_embedding, step_frequencies
from sfumato.nn.film_unet import FilmUNet, FilmUNetConfig
from sfumato.nn.fourier_mlp import FourierMlp, FourierMlpConfig
from sfumato.nn.mlp import Mlp, MlpConfig, StepMlp, StepMlpConfig
from sfumato.nn.sizes import BaseConfig, SmallConfig, TinyConfig
from sfumato.nn.unet import ResidualUNet, ResidualUNetConfig
from sfumato.nn.unet1d import UNet1d, UNet1dConfig

__all__ = [
    "BaseConfig",
    "DdpmUNet",
    "DdpmUNetConfig",
    "SmallConfig",
    "TinyConfig",
    "AdditiveMlp",
    "AdditiveMlpConfig",
    "AdditiveUNet",
    "AdditiveUNetConfig",
    "BottleneckUNet",
    "BottleneckUNetConfig",
    "Dit",
    "DitConfig",
    "Edm2UNet",
    "Edm2UNetConfig",
    "FilmUNet",
    "FilmUNetConfig",
    "UNet1d",
    "UNet1dConfig",
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
    "step_frequencies",
]
