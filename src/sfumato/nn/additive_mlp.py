"""nickd16's perceptron: a sinusoid of the time added to the flattened picture.

    h_0 = x + s(τ);   h_i = silu(W_i h_{i−1} + b_i),  i = 1 … L;   output = W_{L+1} h_L + b_{L+1}

x has D values, s(τ) the D/2 sines and D/2 cosines of `step_frequencies`, lowest first. With the widths 512, 256, 256,
512 a picture of 28 × 28 takes 1,132,816 parameters. A class and values are embedded in D numbers and added as well.
What nickd16 has otherwise, without a change of the count: ReLU for silu, a table of whole steps for s, and a last layer
that begins anywhere (here at zero). That time and picture share their D numbers, and that nothing passes by the narrow
layers, is its layout. Source: nickd16.
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from sfumato.condition import NO_CONDITION, Condition, ConditionShape
from sfumato.nn.conditioning import ConditionEmbedding, require_understood
from sfumato.nn.config import NetworkConfig, require_no_image, require_values, require_widths
from sfumato.nn.embeddings import sinusoidal_embedding, step_frequencies

__all__ = ["AdditiveMlp", "AdditiveMlpConfig"]


@dataclass(frozen=True, slots=True)
class AdditiveMlpConfig(NetworkConfig):
    """A plain perceptron with a sinusoid of the time added to its input, for small pictures and vectors.

    widths: units of each hidden layer.
    """

    widths: tuple[int, ...] = (512, 256, 256, 512)

    def __post_init__(self) -> None:
        require_widths(self.widths, fix="[512, 256, 256, 512]", per="hidden layer")

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ConfigError unless `shape` holds at least one value; any shape is flattened to a vector."""
        require_values("AdditiveMlp", shape)

    def check_condition(self, condition: ConditionShape) -> None:
        """Raise ConfigError for an image: a perceptron has no place to join it."""
        require_no_image("AdditiveMlp", condition)

    def build(
        self,
        shape: tuple[int, ...],
        *,
        steps: int | None,
        time_span: float,
        out_channels: int | None = None,
        condition: ConditionShape = NO_CONDITION,
    ) -> "AdditiveMlp":
        """Make the network; any number of `steps` will do, since it sees the time only through its sinusoid."""
        self.check(shape)
        self.check_condition(condition)
        out = shape[0] if out_channels is None else out_channels
        return AdditiveMlp(shape, out, widths=self.widths, time_span=time_span, condition=condition)


class AdditiveMlp(nn.Module):
    """The perceptron of this module: (B, *shape) and time (B,) → (B, out_channels, *shape[1:])."""

    def __init__(
        self,
        shape: tuple[int, ...],
        out_channels: int,
        *,
        widths: tuple[int, ...],
        time_span: float,
        condition: ConditionShape = NO_CONDITION,
    ) -> None:
        super().__init__()
        self.time_span = time_span
        self.takes = condition
        self.values = math.prod(shape)
        self.out_shape = (out_channels, *shape[1:])
        inputs = [self.values, *widths[:-1]]
        self.hidden = nn.ModuleList(nn.Linear(i, w) for i, w in zip(inputs, widths, strict=True))
        self.out = nn.Linear(widths[-1], math.prod(self.out_shape))
        self.condition_embedding = ConditionEmbedding(condition, self.values)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None = None) -> Tensor:
        """Predict for noisy `x` at `time` (in the unit whose range is `time_span` long)."""
        require_understood(self, cond, self.takes, len(x))
        frequencies = step_frequencies((self.values + 1) // 2, like=time)
        sinusoid = sinusoidal_embedding(time / self.time_span, frequencies)[:, : self.values]
        told = self.condition_embedding(cond, len(x))
        h = x.flatten(1) + sinusoid.to(x.dtype)
        h = h if told is None else h + told
        for layer in self.hidden:
            h = functional.silu(layer(h))
        return self.out(h).unflatten(1, self.out_shape)
