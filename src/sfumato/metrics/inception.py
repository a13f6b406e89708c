"""Inception-v3 as FID has it: pictures of any size to the 2,048 features before the classifier.

The network of Szegedy et al. 2015 (arXiv 1512.00567, table 1) in the variant of 2015-12-05 that Heusel et al. 2017
measured with: average pools that do not count their padding, a maximum instead of an average in the last block, 1,008
classes. Every convolution is followed by batch norm, sqrt(var + 0.001), and relu. The names of its tensors are those of
the converted weights that the field shares.

    resize to 299×299 as TensorFlow 1 does: source place = target place · in/out, linear in between;   (v - 128)/128
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["SIDE", "WIDTH", "InceptionNetwork", "resized"]

SIDE, WIDTH, CLASSES = 299, 2048, 1008
Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Conv:
    """One convolution: its name in the block, channels in and out, kernel (height, width) and stride."""

    name: str
    channels: int
    out: int
    kernel: Size = (1, 1)
    stride: int = 1

    def build(self, *, padded: bool = True) -> nn.Module:
        """Padded to keep the size, except where it has a stride or is told not to be."""
        keeps = padded and self.stride == 1
        padding = (self.kernel[0] // 2, self.kernel[1] // 2) if keeps else (0, 0)
        return _Unit(nn.Conv2d(self.channels, self.out, self.kernel, stride=self.stride, padding=padding, bias=False))


class _Unit(nn.Module):
    """Convolution, batch norm, relu."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm2d(conv.out_channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


@dataclass(frozen=True, slots=True)
class _Pool:
    """A 3×3 pool: the mean of what is there or, `largest`, the maximum; it keeps the size unless it has a stride."""

    largest: bool = False
    stride: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        padding = 1 if self.stride == 1 else 0
        if self.largest:
            return functional.max_pool2d(x, 3, stride=self.stride, padding=padding)
        return functional.avg_pool2d(x, 3, stride=self.stride, padding=padding, count_include_pad=False)


Branch = tuple[_Conv | _Pool | tuple[_Conv, _Conv], ...]  # one after the other; a pair is side by side


class _Mixed(nn.Module):
    """Branches side by side, their channels joined."""

    def __init__(self, branches: tuple[Branch, ...]) -> None:
        super().__init__()
        self.branches = branches
        for branch in branches:
            for part in branch:
                for conv in part if isinstance(part, tuple) else (part,):
                    if isinstance(conv, _Conv):
                        self.add_module(conv.name, conv.build())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._along(branch, x) for branch in self.branches], dim=1)

    def _along(self, branch: Branch, x: Tensor) -> Tensor:
        for part in branch:
            if isinstance(part, tuple):
                x = torch.cat([self.get_submodule(conv.name)(x) for conv in part], dim=1)
            else:
                x = part(x) if isinstance(part, _Pool) else self.get_submodule(part.name)(x)
        return x


def fine(channels: int, pooled: int) -> _Mixed:
    """Blocks 5b to 5d, 35×35: 1×1, 5×5, twice 3×3, and a pool of `pooled` channels."""
    return _Mixed(
        (
            (_Conv("branch1x1", channels, 64),),
            (_Conv("branch5x5_1", channels, 48), _Conv("branch5x5_2", 48, 64, (5, 5))),
            (
                _Conv("branch3x3dbl_1", channels, 64),
                _Conv("branch3x3dbl_2", 64, 96, (3, 3)),
                _Conv("branch3x3dbl_3", 96, 96, (3, 3)),
            ),
            (_Pool(), _Conv("branch_pool", channels, pooled)),
        )
    )


def halving(channels: int) -> _Mixed:
    """Block 6a: from 35×35 to 17×17."""
    return _Mixed(
        (
            (_Conv("branch3x3", channels, 384, (3, 3), 2),),
            (
                _Conv("branch3x3dbl_1", channels, 64),
                _Conv("branch3x3dbl_2", 64, 96, (3, 3)),
                _Conv("branch3x3dbl_3", 96, 96, (3, 3), 2),
            ),
            (_Pool(largest=True, stride=2),),
        )
    )


def middle(channels: int, width: int) -> _Mixed:
    """Blocks 6b to 6e, 17×17: 7×7 convolutions as rows and columns."""
    row, column = (1, 7), (7, 1)
    return _Mixed(
        (
            (_Conv("branch1x1", channels, 192),),
            (
                _Conv("branch7x7_1", channels, width),
                _Conv("branch7x7_2", width, width, row),
                _Conv("branch7x7_3", width, 192, column),
            ),
            (
                _Conv("branch7x7dbl_1", channels, width),
                _Conv("branch7x7dbl_2", width, width, column),
                _Conv("branch7x7dbl_3", width, width, row),
                _Conv("branch7x7dbl_4", width, width, column),
                _Conv("branch7x7dbl_5", width, 192, row),
            ),
            (_Pool(), _Conv("branch_pool", channels, 192)),
        )
    )


def halving_again(channels: int) -> _Mixed:
    """Block 7a: from 17×17 to 8×8."""
    return _Mixed(
        (
            (_Conv("branch3x3_1", channels, 192), _Conv("branch3x3_2", 192, 320, (3, 3), 2)),
            (
                _Conv("branch7x7x3_1", channels, 192),
                _Conv("branch7x7x3_2", 192, 192, (1, 7)),
                _Conv("branch7x7x3_3", 192, 192, (7, 1)),
                _Conv("branch7x7x3_4", 192, 192, (3, 3), 2),
            ),
            (_Pool(largest=True, stride=2),),
        )
    )


def coarse(channels: int, pool: _Pool) -> _Mixed:
    """Blocks 7b and 7c, 8×8, which differ in their pool."""
    row, column = (1, 3), (3, 1)
    return _Mixed(
        (
            (_Conv("branch1x1", channels, 320),),
            (
                _Conv("branch3x3_1", channels, 384),
                (_Conv("branch3x3_2a", 384, 384, row), _Conv("branch3x3_2b", 384, 384, column)),
            ),
            (
                _Conv("branch3x3dbl_1", channels, 448),
                _Conv("branch3x3dbl_2", 448, 384, (3, 3)),
                (_Conv("branch3x3dbl_3a", 384, 384, row), _Conv("branch3x3dbl_3b", 384, 384, column)),
            ),
            (pool, _Conv("branch_pool", channels, 192)),
        )
    )


class InceptionNetwork(nn.Module):
    """The network of this module: float (B, 3, 299, 299), levels (v - 128)/128, to (B, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        three = (3, 3)
        self.Conv2d_1a_3x3 = _Conv("", 3, 32, three, 2).build()
        self.Conv2d_2a_3x3 = _Conv("", 32, 32, three).build(padded=False)
        self.Conv2d_2b_3x3 = _Conv("", 32, 64, three).build()
        self.Conv2d_3b_1x1 = _Conv("", 64, 80).build()
        self.Conv2d_4a_3x3 = _Conv("", 80, 192, three).build(padded=False)
        for letter, channels, pooled in (("b", 192, 32), ("c", 256, 64), ("d", 288, 64)):
            self.add_module(f"Mixed_5{letter}", fine(channels, pooled))
        self.Mixed_6a = halving(288)
        for letter, width in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
            self.add_module(f"Mixed_6{letter}", middle(768, width))
        self.Mixed_7a = halving_again(768)
        self.Mixed_7b = coarse(1280, _Pool())
        self.Mixed_7c = coarse(2048, _Pool(largest=True))
        self.fc = nn.Linear(WIDTH, CLASSES)  # not used: a part of the weights' file

    def forward(self, x: Tensor) -> Tensor:
        halve = _Pool(largest=True, stride=2)
        x = halve(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = halve(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = self.get_submodule(f"Mixed_{name}")(x)
        return x.mean((2, 3))


def resized(x: Tensor, side: int = SIDE) -> Tensor:
    """x (B, C, H, W) as TensorFlow 1's bilinear resize without aligned corners makes it (B, C, side, side)."""
    for dim in (2, 3):
        length = x.shape[dim]
        place = torch.arange(side, dtype=torch.float32, device=x.device) * (length / side)
        lower = place.floor().long().clamp(max=length - 1)
        upper = (lower + 1).clamp(max=length - 1)
        share = (place - lower).to(x.dtype)
        share = share[:, None] if dim == 2 else share
        low, high = x.index_select(dim, lower), x.index_select(dim, upper)
        x = low + (high - low) * share
    return x
