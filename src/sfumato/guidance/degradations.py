"""What is done to a picture before a network is shown it: low resolution, holes, grey, blur.

A `Degradation` makes a linear operator for pictures of a shape, y = A x0 (`operators`), and the picture of y that a
conditional network sees beside x_t (Saharia et al. 2022a, SR3; 2022b, Palette). Posterior sampling takes the same
operator with a network that was trained without it. Random ones are functions of uniform numbers, so that what is drawn
is decided elsewhere. Everything is in the units of x0, where 0 is the middle of the range of prepared pictures.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import ConfigError, UsageError
from sfumato.guidance.operators import (
    Blurring,
    Downsampling,
    Greying,
    Masking,
    PictureOperator,
    check_divisible,
)

__all__ = ["Blur", "Degradation", "Grey", "Holes", "LowResolution"]


class Degradation(ABC):
    """A loss of information that a conditional network learns to undo; frozen, its own configuration."""

    __slots__ = ()

    @property
    def num_uniforms(self) -> int:
        """Numbers in [0, 1) that decide what happens to one example; 0 for what is always the same."""
        return 0

    @abstractmethod
    def image_channels(self, channels: int) -> int:
        """C' of `picture` for pictures of C channels. Raises ConfigError where there is nothing to undo."""

    @abstractmethod
    def operator(self, shape: tuple[int, ...], uniforms: Tensor | None = None) -> PictureOperator:
        """A for examples of shape (C, H, W); uniforms (B, num_uniforms) where it is random.

        Raises ConfigError for a shape that it does not fit, UsageError where uniforms are missing.
        """

    def picture(self, x0: Tensor, uniforms: Tensor | None = None) -> Tensor:
        """What the network sees of x0 (B, C, H, W): (B, C', H, W), in the dtype and on the device of x0."""
        operator = self.operator(tuple(x0.shape[1:]), uniforms)
        return operator.shown(operator.apply(x0))

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse examples of shape (C, H, W) that it does not fit. Raises ConfigError."""
        if len(shape) != 3:
            raise ConfigError(
                f"condition.image is {type(self).__name__}, and the data are of shape {shape}",
                expected="pictures: channels, height and width",
                fix="set condition.image: null",
            )
        self.image_channels(shape[0])
        self.operator(shape, torch.full((1, self.num_uniforms), 0.5))


@dataclass(frozen=True, slots=True)
class LowResolution(Degradation):
    """Means over blocks of pixels, enlarged again by repeating them: what super-resolution starts from.

    factor: side of a block in pixels, which divides the picture's height and width.
    """

    factor: int = 4

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise ConfigError(
                f"condition.image.factor is {self.factor}",
                expected="how many times smaller the picture becomes: 2 or more",
                fix="set condition.image.factor: 4",
            )

    def image_channels(self, channels: int) -> int:
        return channels

    def operator(self, shape: tuple[int, ...], uniforms: Tensor | None = None) -> Downsampling:
        check_divisible(shape, self.factor)
        return Downsampling(self.factor)


@dataclass(frozen=True, slots=True)
class Holes(Degradation):
    """Rectangles set to 0, at random places and of random sizes, and the mask of what is left as one more channel.

    A hole's height and width are shares of the picture's, each uniform between `smallest` and `largest`; it lies wholly
    within the picture, everywhere as likely. Holes may overlap.

    count: rectangles per picture.
    smallest: least height and width of a hole, as a share of the picture's.
    largest: greatest height and width of a hole, as a share of the picture's.
    """

    count: int = 1
    smallest: float = 0.25
    largest: float = 0.5

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(
                f"condition.image.count is {self.count}",
                expected="one hole or more in each picture",
                fix="set condition.image.count: 1",
            )
        if not 0 < self.smallest <= self.largest <= 1:
            raise ConfigError(
                f"condition.image.smallest and condition.image.largest are {self.smallest} and {self.largest}",
                expected="two shares of a picture's side, 0 < smallest <= largest <= 1",
                fix="set condition.image.smallest: 0.25 and condition.image.largest: 0.5",
            )

    @property
    def num_uniforms(self) -> int:
        return 4 * self.count

    def image_channels(self, channels: int) -> int:
        return channels + 1

    def operator(self, shape: tuple[int, ...], uniforms: Tensor | None = None) -> Masking:
        if uniforms is None or uniforms.ndim != 2 or uniforms.shape[1] != self.num_uniforms:
            raise UsageError(
                "holes without the numbers that decide where they are",
                expected=f"uniform numbers in [0, 1) of shape (B, {self.num_uniforms})",
                fix="draw them, or use Masking(mask) for a hole of your own",
            )
        high, wide, down, right = uniforms.to(torch.float64).reshape(len(uniforms), self.count, 4).unbind(2)
        rows, columns = self._inside(high, down, shape[1]), self._inside(wide, right, shape[2])
        holes = rows[:, :, :, None] & columns[:, :, None, :]
        return Masking(~holes.any(dim=1, keepdim=True))

    def _inside(self, size: Tensor, place: Tensor, side: int) -> Tensor:
        """Which of `side` pixels each hole covers: (B, count) uniforms twice -> bool (B, count, side)."""
        length = (side * (self.smallest + (self.largest - self.smallest) * size)).round().clamp(1, side)
        start = (place * (side - length + 1)).floor()
        pixels = torch.arange(side, dtype=torch.float64, device=size.device)
        return (pixels >= start[..., None]) & (pixels < (start + length)[..., None])


@dataclass(frozen=True, slots=True)
class Grey(Degradation):
    """Brightness without colour, one channel: what colourisation starts from. Luma 0.299 R + 0.587 G + 0.114 B."""

    def image_channels(self, channels: int) -> int:
        if channels == 1:
            raise ConfigError(
                "condition.image is Grey, and the data have one channel",
                expected="pictures with colours to lose",
                fix="set condition.image: null, or data.channels: 3 for data that have them",
            )
        return 1

    def operator(self, shape: tuple[int, ...], uniforms: Tensor | None = None) -> Greying:
        return Greying(shape[0])


@dataclass(frozen=True, slots=True)
class Blur(Degradation):
    """A Gaussian blur, mirrored at the borders.

    std: standard deviation of the blur, in pixels.
    """

    std: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.std < float("inf"):
            raise ConfigError(
                f"condition.image.std is {self.std}",
                expected="a number of pixels above 0",
                fix="set condition.image.std: 2",
            )

    def image_channels(self, channels: int) -> int:
        return channels

    def operator(self, shape: tuple[int, ...], uniforms: Tensor | None = None) -> Blurring:
        return Blurring(self.std)
