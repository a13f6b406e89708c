"""Networks by size: `Tiny`, `Small` and `Base` decide everything else from the shape of an example.

One number, the width w = 64, 128, 256, is chosen by the name. The rest follows from the shape.

images (C, H, W)      a `DdpmUNet`. Levels: halve while both sides are even and the smaller one stays at least 4, up to
                      five times; an odd side means one level. A level whose smaller side is ≤ 16 pixels has
                      w channels, ≤ 64 pixels w/2, above w/4: coarse maps hold most weights at little cost, so that the
                      number of parameters hardly depends on the resolution. Attention in heads of at most 64 channels
                      at every level with a side ≤ 16, and in the middle, between at most 1024 pixels. Two blocks per
                      level, scale-shift conditioning, w/8 groups, last convolutions zero at the start, dropout 0.1
                      except in `Tiny`.
vectors (D,)          a `FourierMlp` of 2w units with 3, 4, 6 blocks.
sequences (C, L)      a `UNet1d` with widths (w/2, w, 2w), only the last ones where L < 16.

Millions of parameters, for 3 channels (2 values; 1 channel of 128 positions):

    images     7²    8²   14²   16²   28²   32²   64²  128²  256²   vectors  sequences
    Tiny      1.1   1.9   1.9   2.7   1.8   2.6   2.8   2.6   2.0      0.11       1.4
    Small     4.3   7.6   7.6  10.9   7.3  10.3  11.0  10.4   7.8      0.55       5.6
    Base     17.0  30.2  30.2  43.4  29.1  40.9  43.9  41.5  31.0      3.21      22.4
"""

import math
from abc import ABC
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sfumato.condition import NO_CONDITION, ConditionShape
from sfumato.errors import ConfigError
from sfumato.nn.config import NetworkConfig
from sfumato.nn.ddpm_unet import DdpmUNetConfig
from sfumato.nn.fourier_mlp import FourierMlpConfig
from sfumato.nn.unet1d import UNet1dConfig

__all__ = ["BaseConfig", "NamedSize", "SmallConfig", "TinyConfig"]

MOST_LEVELS = 6
SMALLEST_SIDE = 4
COARSE, MIDDLING = 16, 64  # sides up to which a level has all of the width, half of it
MOST_TOKENS = 1024  # pixels between which attention is worth its cost
HEAD_WIDTH = 64


class NamedSize(NetworkConfig, ABC):
    """A network that is chosen by its size alone; `fitted` says which one that is."""

    __slots__ = ()

    width: ClassVar[int]
    vector_blocks: ClassVar[int]
    dropout: ClassVar[float]

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ConfigError unless examples are vectors, sequences or images, of any size."""
        self.fitted(shape).check(shape)

    def fitted(self, shape: tuple[int, ...]) -> NetworkConfig:
        """The network of this size for examples of `shape`, by the rule of this module."""
        if not shape or len(shape) > 3 or min(shape) < 1:
            raise ConfigError(
                f"network {type(self).__name__.removesuffix('Config')} was given data of shape {shape}",
                expected="vectors (D,), sequences (channels, length) or images (channels, height, width)",
                fix="give examples one of these shapes",
            )
        fits = {1: self._for_vectors, 2: self._for_sequences, 3: self._for_images}
        return fits[len(shape)](shape)

    def build(
        self,
        shape: tuple[int, ...],
        *,
        steps: int | None,
        time_span: float,
        out_channels: int | None = None,
        condition: ConditionShape = NO_CONDITION,
    ) -> nn.Module:
        """Make the fitted network."""
        fitted = self.fitted(shape)
        return fitted.build(shape, steps=steps, time_span=time_span, out_channels=out_channels, condition=condition)

    def _for_vectors(self, shape: tuple[int, ...]) -> NetworkConfig:
        return FourierMlpConfig(width=2 * self.width, depth=self.vector_blocks)

    def _for_sequences(self, shape: tuple[int, ...]) -> NetworkConfig:
        widths = (self.width // 2, self.width, 2 * self.width)
        levels = sum(shape[1] >> halvings >= SMALLEST_SIDE for halvings in range(len(widths)))
        return UNet1dConfig(widths=widths[-max(1, levels) :], embedding=2 * self.width)

    def _for_images(self, shape: tuple[int, ...]) -> NetworkConfig:
        _, height, width = shape
        sides = [min(height, width) >> halvings for halvings in range(_levels(height, width))]
        halvings = len(sides) - 1
        widths = tuple(self.width // (1 if side <= COARSE else 2 if side <= MIDDLING else 4) for side in sides)
        return DdpmUNetConfig(
            widths=widths,
            attention=tuple(
                height >> level
                for level, side in enumerate(sides)
                if side <= COARSE and (height >> level) * (width >> level) <= MOST_TOKENS
            ),
            mid_attention=(height >> halvings) * (width >> halvings) <= MOST_TOKENS,
            dropout=self.dropout,
            head_width=min(HEAD_WIDTH, widths[-1]),
            num_groups=self.width // 8,
            film=True,
            zero_init=True,
        )


def _levels(height: int, width: int) -> int:
    """How many levels an image has: halved while both sides are even and the smaller one stays large enough."""
    common = math.gcd(height, width)
    even = (common & -common).bit_length()  # one more than the number of halvings that both sides allow
    large = sum(min(height, width) >> halvings >= SMALLEST_SIDE for halvings in range(1, MOST_LEVELS)) + 1
    return min(even, large)


@dataclass(frozen=True, slots=True)
class TinyConfig(NamedSize):
    """About 2 million parameters for images of 8x8 to 256x256: minutes on a laptop."""

    width: ClassVar[int] = 64
    vector_blocks: ClassVar[int] = 3
    dropout: ClassVar[float] = 0.0


@dataclass(frozen=True, slots=True)
class SmallConfig(NamedSize):
    """About 9 million parameters for images of 8x8 to 256x256: hours on a laptop."""

    width: ClassVar[int] = 128
    vector_blocks: ClassVar[int] = 4
    dropout: ClassVar[float] = 0.1


@dataclass(frozen=True, slots=True)
class BaseConfig(NamedSize):
    """About 35 million parameters for images of 8x8 to 256x256, as many as Ho et al.'s for CIFAR-10: for a GPU."""

    width: ClassVar[int] = 256
    vector_blocks: ClassVar[int] = 6
    dropout: ClassVar[float] = 0.1
