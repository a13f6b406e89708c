"""Residual perceptron for points and vectors at any noise level, with Fourier features of the time.

    e = (τ, sin 2π f τ, cos 2π f τ),   τ = time/time_span
    h_0 = W x + b;   h_i = h_{i−1} + C_i silu(A_i silu(h_{i−1}) + B_i e);   output = W' silu(h_L) + b'

The output layer starts at zero, so that an untrained network predicts 0 for every input. The frequencies run from a
quarter to sixteen turns over the span of the time input: the lowest tells its two ends apart, and the highest resolves
what differs between neighbouring noise levels, no more (of thousand turns, as pictures have them, a net this small
learns ripples in t). Silu is smooth, as losses that differentiate the network need. A class and values are embedded in
as many numbers as the layers are wide, which join e, so that every block hears them as it hears the time.
Source: features as in `embeddings`; residual blocks with zero start, Goyal et al. 2017 and Ho et al. 2020 (code).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sfumato.condition import NO_CONDITION, Condition, ConditionShape
from sfumato.nn.conditioning import ConditionEmbedding, require_understood
from sfumato.nn.config import NetworkConfig, require_no_image, require_positive, require_values
from sfumato.nn.embeddings import log_spaced_frequencies, sinusoidal_embedding

__all__ = ["FourierBlock", "FourierMlp", "FourierMlpConfig"]

LOWEST, HIGHEST = 0.25, 16.0  # turns over the span of the time input


@dataclass(frozen=True, slots=True)
class FourierMlpConfig(NetworkConfig):
    """A residual perceptron that sees the time through sines and cosines, for points and vectors.

    width: units of every layer.
    depth: residual blocks, of two layers each.
    frequencies: pairs of a sine and a cosine of the time.
    """

    width: int = 128
    depth: int = 3
    frequencies: int = 8

    def __post_init__(self) -> None:
        require_positive("width", self.width)
        require_positive("depth", self.depth)
        require_positive("frequencies", self.frequencies)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ConfigError unless `shape` holds at least one value; any shape is flattened to a vector."""
        require_values("FourierMlp", shape)

    def check_condition(self, condition: ConditionShape) -> None:
        """Raise ConfigError for an image: a perceptron has no place to join it."""
        require_no_image("FourierMlp", condition)

    def build(
        self,
        shape: tuple[int, ...],
        *,
        steps: int | None,
        time_span: float,
        out_channels: int | None = None,
        condition: ConditionShape = NO_CONDITION,
    ) -> "FourierMlp":
        """Make the network; any number of `steps` will do, since it sees the time only through its features."""
        self.check(shape)
        self.check_condition(condition)
        return FourierMlp(
            shape,
            shape[0] if out_channels is None else out_channels,
            width=self.width,
            depth=self.depth,
            frequencies=self.frequencies,
            time_span=time_span,
            condition=condition,
        )


class FourierBlock(nn.Module):
    """h + C silu(A silu(h) + B e)."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.of_state = nn.Linear(width, width)
        self.of_time = nn.Linear(features, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, features: Tensor) -> Tensor:
        """(B, width) and the features of time and condition (B, F) → (B, width)."""
        return h + self.out(functional.silu(self.of_state(functional.silu(h)) + self.of_time(features)))


class FourierMlp(nn.Module):
    """The perceptron of this module: (B, *shape) and time (B,) → (B, out_channels, *shape[1:])."""

    def __init__(
        self,
        shape: tuple[int, ...],
        out_channels: int,
        *,
        width: int,
        depth: int,
        frequencies: int,
        time_span: float,
        condition: ConditionShape = NO_CONDITION,
    ) -> None:
        super().__init__()
        self.takes = condition
        self.out_shape = (out_channels, *shape[1:])
        self.frequencies, self.time_span = frequencies, time_span
        self.enter = nn.Linear(math.prod(shape), width)
        features = 1 + 2 * frequencies + (width if condition.droppable else 0)
        self.blocks = nn.ModuleList(FourierBlock(width, features) for _ in range(depth))
        self.out = nn.Linear(width, math.prod(self.out_shape))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.condition_embedding = ConditionEmbedding(condition, width)

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None = None) -> Tensor:
        """Predict for noisy points `x` at `time`, in the units of the time input."""
        require_understood(self, cond, self.takes, len(x))
        moment = time / self.time_span
        frequencies = log_spaced_frequencies(self.frequencies, lowest=LOWEST, highest=HIGHEST, like=moment)
        features = torch.cat([moment[:, None].to(frequencies.dtype), sinusoidal_embedding(moment, frequencies)], dim=1)
        told = self.condition_embedding(cond, len(x))
        if told is not None:
            features = torch.cat([features, told.to(features.dtype)], dim=1)
        h = self.enter(x.flatten(1))
        for block in self.blocks:
            h = block(h, features.to(h.dtype))
        return self.out(functional.silu(h)).unflatten(1, self.out_shape)
