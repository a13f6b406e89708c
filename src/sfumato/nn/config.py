"""What a network's configuration promises.

A configuration is a frozen dataclass of scalars. It says which data it can take (`check`) and makes the network
(`build`), whose call is `network(x (B, C, *space), time (B,), cond=None) -> (B, C_out, *space)`. `time` is whatever the
model's time input gives; the network is told its scale once, when it is built. `cond` is a `Condition` of what the
network was built for; None stands for a batch in which all examples are dropped.
"""

from abc import ABC, abstractmethod

from torch import nn

from sfumato.condition import NO_CONDITION, ConditionShape
from sfumato.errors import ConfigError

__all__ = [
    "NetworkConfig",
    "require_no_condition",
    "require_no_image",
    "require_positive",
    "require_share",
    "require_values",
    "require_widths",
]


class NetworkConfig(ABC):
    """Configuration of a network: checks the data's shape, builds the module."""

    __slots__ = ()

    @abstractmethod
    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ConfigError unless the network can take examples of this shape (channels first, no batch axis)."""

    def check_condition(self, condition: ConditionShape) -> None:  # noqa: B027  most networks take any
        """Raise ConfigError unless the network can be told these conditions; by default it can be told any."""

    def fitted(self, shape: tuple[int, ...]) -> "NetworkConfig":
        """The configuration with every size decided for examples of this shape; itself where none is left open."""
        return self

    @abstractmethod
    def build(
        self,
        shape: tuple[int, ...],
        *,
        steps: int | None,
        time_span: float,
        out_channels: int | None = None,
        condition: ConditionShape = NO_CONDITION,
    ) -> nn.Module:
        """Make the network for examples of `shape`, with fresh weights from torch's global generator.

        `steps` is the T of a tabulated schedule, None for a continuous one. `time_span` is the length of the range of
        the time input in its own unit: 1 for a noise variance, 5 for −log_snr/8, T for a step index (`embeddings`).
        `out_channels` defaults to the channels of the data; learned variances ask for twice as many. `condition` is
        what the network will be told besides.
        """


def require_positive(name: str, *values: int) -> None:
    """Raise ConfigError unless every value of the field `name` is a whole number above zero."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(
                f"network.{name} contains {value!r}" if len(values) > 1 else f"network.{name} is {value!r}",
                expected="whole numbers of 1 or more",
                fix=f"set network.{name}: " + (f"[{', '.join(['64'] * len(values))}]" if len(values) > 1 else "2"),
            )


def require_widths(widths: tuple[int, ...], *, fix: str, per: str = "level") -> None:
    """Raise ConfigError unless `widths` holds one or more whole numbers above zero; `fix` names some that will do."""
    require_positive("widths", *widths)
    if not widths:
        raise ConfigError("network.widths is empty", expected=f"one width per {per}", fix=f"set network.widths: {fix}")


def require_share(name: str, value: float, *, least: float = 0.0, most: float = 0.95) -> None:
    """Raise ConfigError unless the field `name` is a number from `least` to `most`; a dropout must leave something."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ConfigError(
            f"network.{name} is {value!r}",
            expected=f"a number from {least:g} to {most:g}",
            fix=f"set network.{name}: {least if least == 0 else most:g}",
        )


def require_values(network: str, shape: tuple[int, ...]) -> None:
    """Raise ConfigError unless an example of this shape holds at least one value."""
    if not shape or min(shape) < 1:
        raise ConfigError(
            f"network {network} was given data of shape {shape}",
            expected="vectors (D,) or arrays (C, …) with at least one value",
            fix="give each example one value or more",
        )


def require_no_image(network: str, condition: ConditionShape) -> None:
    """Raise ConfigError when a network of points and vectors would be given a picture to go by."""
    if condition.image_channels:
        raise ConfigError(
            f"network {network} takes points and vectors and has no place for a picture beside them",
            expected="labels or values as conditions, no image",
            fix="turn condition.image off, or choose a U-Net",
        )


def require_no_condition(network: nn.Module, cond: object) -> None:
    """Raise ConfigError when a condition reaches a network that has no input for it."""
    if cond is not None:
        raise ConfigError(
            f"{type(network).__name__} was given a condition but has no input for one",
            expected="cond=None (this network is unconditional)",
            fix="leave out the labels, or choose a network that takes a condition",
        )
