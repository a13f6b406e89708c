"""Linear measurements of data, y = A x0, and their exact adjoints A*.

    <A x, y> = <x, A* y>      for all x and y, with the inner product of all values of an example

is what posterior sampling needs of A, and all that it needs. Every operator maps each example of a batch alone, keeps
the dtype and the device of what it is given, and is linear: A 0 = 0. A measurement with noise is y = A x0 + noise_std n
with n ~ N(0, I). A `PictureOperator` also says how a measurement looks at the size of the picture, `shown(y)`, which a
network that is given a picture as its condition sees.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sfumato.errors import ConfigError, UsageError

__all__ = ["Blurring", "Dense", "Downsampling", "Greying", "LinearOperator", "Masking", "PictureOperator"]


class LinearOperator(ABC):
    """A linear map of examples, x (B, *) -> y (B, *), and its adjoint."""

    __slots__ = ()

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """A x: (B, *) -> (B, *)."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A* y: (B, *) -> (B, *), the transpose of `apply`."""


class PictureOperator(LinearOperator):
    """A measurement of pictures that is a picture itself."""

    __slots__ = ()

    @abstractmethod
    def shown(self, y: Tensor) -> Tensor:
        """A measurement as a picture as high and wide as x: (B, C', H, W), in the units of x."""


@dataclass(frozen=True, slots=True, eq=False)
class Dense(LinearOperator):
    """y = M x for examples of `shape`, flattened; y is (B, rows).

    matrix: M (rows, D). shape: the shape of one example, D values in all.
    """

    matrix: Tensor
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or self.matrix.shape[1] != math.prod(self.shape):
            raise UsageError(
                f"a matrix of {tuple(self.matrix.shape)} for examples of shape {self.shape}",
                expected=f"a matrix with {math.prod(self.shape)} columns, one for each value of an example",
                fix="give the matrix as (rows, D)",
            )

    def apply(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.to(x).T

    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.to(y)).reshape(len(y), *self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Masking(PictureOperator):
    """y = mask x: what is known keeps its place, 0 elsewhere; its own adjoint.

    mask: 1 where x is known and 0 where it is not; (B, 1, H, W), (1, 1, H, W), or any shape that broadcasts to x.
    """

    mask: Tensor

    def __post_init__(self) -> None:
        if self.mask.dtype != torch.bool and not bool(((self.mask == 0) | (self.mask == 1)).all()):
            raise UsageError(
                "a mask with values between 0 and 1, or outside",
                expected="1 where the picture is known and 0 where it is to be filled in",
                fix="round the mask first: (mask > 0.5)",
            )

    def apply(self, x: Tensor) -> Tensor:
        return self.mask.to(x) * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.mask.to(y) * y

    def shown(self, y: Tensor) -> Tensor:
        """The known part, 0 elsewhere, and the mask as one more channel: (B, C + 1, H, W).

        Raises UsageError for a mask that hides channels of a pixel one by one.
        """
        if self.mask.ndim > 2 and self.mask.shape[-3] != 1:
            raise UsageError(
                f"a mask of shape {tuple(self.mask.shape)} was to be shown as one channel",
                expected="one mask for all channels, (B, 1, H, W) or (1, 1, H, W)",
                fix="hide a pixel in all of its channels: mask.amin(1, keepdim=True)",
            )
        return torch.cat([y, self.mask.to(y).expand(len(y), 1, *y.shape[2:])], dim=1)


@dataclass(frozen=True, slots=True)
class Downsampling(PictureOperator):
    """y = means over blocks of factor × factor pixels, (B, C, H, W) -> (B, C, H/factor, W/factor).

    A* spreads a value over its block, divided by factor²; A A* = 1/factor².
    """

    factor: int

    def apply(self, x: Tensor) -> Tensor:
        check_divisible(x.shape[1:], self.factor)
        (b, c, h, w), f = x.shape, self.factor
        return x.reshape(b, c, h // f, f, w // f, f).mean(dim=(3, 5))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.shown(y) / self.factor**2

    def shown(self, y: Tensor) -> Tensor:
        """Each pixel repeated over its block: the picture of smallest norm with these means, A* (A A*)⁻¹ y."""
        return y.repeat_interleave(self.factor, dim=2).repeat_interleave(self.factor, dim=3)


def check_divisible(shape: tuple[int, ...], factor: int) -> None:
    """Refuse pictures that are not made of whole blocks. Raises ConfigError."""
    if any(side % factor for side in shape[1:]):
        raise ConfigError(
            f"pictures of {' × '.join(map(str, shape[1:]))} in blocks of {factor} × {factor} pixels",
            expected="a height and a width that are multiples of the factor",
            fix="choose a factor that divides both, such as 2 or 4",
        )


@dataclass(frozen=True, slots=True)
class Blurring(PictureOperator):
    """y = x convolved with a Gaussian along each side, as if the picture were mirrored at its borders; same shape.

        A x = K_H x K_W',    K[i, j] = Σ over mirror images j' of j of k(i - j'),    k(n) ∝ exp(-n²/(2 std²))

    with k cut at 4 std and of sum 1: rows of K sum to 1, so that a picture of one colour stays what it is, and K is
    symmetric, so that A is its own adjoint.

    std: in pixels.
    """

    std: float

    def apply(self, x: Tensor) -> Tensor:
        high, wide = (blur_matrix(side, self.std).to(x) for side in x.shape[-2:])
        return high @ x @ wide.T

    def adjoint(self, y: Tensor) -> Tensor:
        high, wide = (blur_matrix(side, self.std).to(y) for side in y.shape[-2:])
        return high.T @ y @ wide

    def shown(self, y: Tensor) -> Tensor:
        """As it is."""
        return y


@lru_cache(maxsize=16)
def blur_matrix(side: int, std: float) -> Tensor:
    """K (side, side), float64: convolution with a Gaussian of `std` pixels, mirrored at the borders."""
    reach = math.ceil(4 * std)
    offsets = torch.arange(-reach, reach + 1)
    kernel = (-0.5 * (offsets.to(torch.float64) / std) ** 2).exp()
    places = (torch.arange(side)[:, None] + offsets) % (2 * side)
    mirrored = torch.where(places < side, places, 2 * side - 1 - places)
    return torch.zeros(side, side, dtype=torch.float64).scatter_add_(
        1, mirrored, (kernel / kernel.sum()).repeat(side, 1)
    )


LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what Pillow's conversion to "L" and most file formats take


@dataclass(frozen=True, slots=True)
class Greying(PictureOperator):
    """y = Σ_c w_c x_c, (B, C, H, W) -> (B, 1, H, W); weights of sum 1: luma of red, green, blue, else equal ones.

    channels: C.
    """

    channels: int

    def weights(self, like: Tensor) -> Tensor:
        """w (C, 1, 1): 0.299, 0.587, 0.114 for three channels, 1/C each for any other number."""
        each = LUMA if self.channels == len(LUMA) else (1 / self.channels,) * self.channels
        return torch.tensor(each, dtype=torch.float64).to(like)[:, None, None]

    def apply(self, x: Tensor) -> Tensor:
        return (self.weights(x) * x).sum(dim=1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.weights(y) * y

    def shown(self, y: Tensor) -> Tensor:
        """As it is: one channel."""
        return y
