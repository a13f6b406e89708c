"""Multilayer perceptrons for points, with the time by rows of a table or without time at all.

    StepMlp   h_0 = x;   h_i = softplus(g_i[k] · (W_i h_{i−1} + b_i)),  i = 1 … L;   output = W_{L+1} h_L + b_{L+1}
    Mlp       the same with g_i = 1

where k = 0 … T−1 is the step index and g_i is a T × width table that starts uniform on [0, 1). The output layer is
plain. A class and values are embedded and added to b_1, where the data enter as well. With T = 100, StepMlp
2-128-128-128-2 has 72,066 parameters and 2-128-128-4 (mean and log-variance) 43,012; Mlp 2-128-128-2 (the score at one
noise level) has 17,154. The tables tie StepMlp to its T: neighbouring steps share nothing, which is why indices are
rounded. Source: esling.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sfumato.condition import NO_CONDITION, Condition, ConditionShape
from sfumato.errors import ConfigError
from sfumato.nn.conditioning import ConditionEmbedding, require_understood
from sfumato.nn.config import (
    NetworkConfig,
    require_no_condition,
    require_no_image,
    require_positive,
    require_values,
    require_widths,
)

__all__ = ["ConditionalLinear", "Mlp", "MlpConfig", "StepMlp", "StepMlpConfig"]


@dataclass(frozen=True, slots=True)
class StepMlpConfig(NetworkConfig):
    """A perceptron with its own gains for every step of a chain, for points and vectors.

    widths: units of each hidden layer.
    """

    widths: tuple[int, ...] = (128, 128, 128)

    def __post_init__(self) -> None:
        per = "hidden layer (without one the network would not see the step)"
        require_widths(self.widths, fix="[128, 128, 128]", per=per)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ConfigError unless `shape` holds at least one value; any shape is flattened to a vector."""
        require_values("StepMlp", shape)

    def check_condition(self, condition: ConditionShape) -> None:
        """Raise ConfigError for an image: a perceptron has no place to join it."""
        require_no_image("StepMlp", condition)

    def build(
        self,
        shape: tuple[int, ...],
        *,
        steps: int | None,
        time_span: float,
        out_channels: int | None = None,
        condition: ConditionShape = NO_CONDITION,
    ) -> "StepMlp":
        """Make the network; its tables need a T-step schedule whose steps the time input counts."""
        self.check(shape)
        self.check_condition(condition)
        if steps is None or time_span != steps:
            raise ConfigError(
                "network StepMlp holds one row per step, "
                + ("and the schedule has no steps" if steps is None else "and the time input does not count steps"),
                expected="a Tabulated schedule together with time_input: StepInput",
                fix="set schedule: Tabulated and time_input: StepInput, or choose another network",
            )
        out = shape[0] if out_channels is None else out_channels
        return StepMlp(shape, out, widths=self.widths, steps=steps, condition=condition)


class ConditionalLinear(nn.Module):
    """Linear layer whose outputs are scaled by a learned row per step: g[k] · (W x + b + c)."""

    def __init__(self, in_features: int, out_features: int, *, steps: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.gain = nn.Embedding(steps, out_features)
        nn.init.uniform_(self.gain.weight)

    def forward(self, x: Tensor, index: Tensor, told: Tensor | None = None) -> Tensor:
        """(B, in), whole step indices (B,) and the embedding c of a condition (B, out), if there is one → (B, out)."""
        h = self.linear(x)
        return self.gain(index) * (h if told is None else h + told)


class StepMlp(nn.Module):
    """The perceptron of this module: (B, *shape) and step index (B,) → (B, out_channels, *shape[1:])."""

    def __init__(
        self,
        shape: tuple[int, ...],
        out_channels: int,
        *,
        widths: tuple[int, ...],
        steps: int,
        condition: ConditionShape = NO_CONDITION,
    ) -> None:
        super().__init__()
        self.steps = steps
        self.takes = condition
        self.out_shape = (out_channels, *shape[1:])
        inputs = [math.prod(shape), *widths[:-1]]
        self.hidden = nn.ModuleList(ConditionalLinear(i, w, steps=steps) for i, w in zip(inputs, widths, strict=True))
        self.out = nn.Linear(widths[-1], math.prod(self.out_shape))
        self.condition_embedding = ConditionEmbedding(condition, widths[0])

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None = None) -> Tensor:
        """Predict for noisy points `x` at step index `time`, rounded (ties to even) and clamped to the table."""
        require_understood(self, cond, self.takes, len(x))
        index = time.round().clamp(0, self.steps - 1).to(torch.int64)
        told = self.condition_embedding(cond, len(x))
        h = x.flatten(1)
        for layer in self.hidden:
            h = functional.softplus(layer(h, index, told))
            told = None  # the first layer alone hears it
        return self.out(h).unflatten(1, self.out_shape)


@dataclass(frozen=True, slots=True)
class MlpConfig(NetworkConfig):
    """A perceptron that does not see the time: for a score at one noise level, of points and vectors.

    widths: units of each hidden layer; none at all makes an affine map.
    """

    widths: tuple[int, ...] = (128, 128)

    def __post_init__(self) -> None:
        require_positive("widths", *self.widths)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ConfigError unless `shape` holds at least one value; any shape is flattened to a vector."""
        require_values("Mlp", shape)

    def check_condition(self, condition: ConditionShape) -> None:
        """Raise ConfigError for any condition: this network is told nothing but x."""
        if condition:
            raise ConfigError(
                "network Mlp sees x_t alone and has no input for a condition",
                expected="no labels, no values and no image",
                fix="choose network: FourierMlp, or turn condition.labels, condition.values and condition.image off",
            )

    def build(
        self,
        shape: tuple[int, ...],
        *,
        steps: int | None,
        time_span: float,
        out_channels: int | None = None,
        condition: ConditionShape = NO_CONDITION,
    ) -> "Mlp":
        """Make the network; it takes any schedule, and answers the same at every time of it."""
        self.check(shape)
        self.check_condition(condition)
        return Mlp(shape, shape[0] if out_channels is None else out_channels, widths=self.widths)


class Mlp(nn.Module):
    """The perceptron without time: (B, *shape) and any time (B,) → (B, out_channels, *shape[1:])."""

    def __init__(self, shape: tuple[int, ...], out_channels: int, *, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.out_shape = (out_channels, *shape[1:])
        sizes = [math.prod(shape), *widths]
        self.hidden = nn.ModuleList(nn.Linear(i, w) for i, w in zip(sizes[:-1], widths, strict=True))
        self.out = nn.Linear(sizes[-1], math.prod(self.out_shape))

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None = None) -> Tensor:
        """Predict for noisy points `x`; `time` is ignored."""
        require_no_condition(self, cond)
        h = x.flatten(1)
        for layer in self.hidden:
            h = functional.softplus(layer(h))
        return self.out(h).unflatten(1, self.out_shape)
