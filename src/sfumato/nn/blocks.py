"""The residual block of falbel's U-Net and the two levels made of it.

    R(i, o):  y = W_1 x + W_3' silu(W_3 BN(x)),

with W_1 a 1×1 convolution that is there even when i = o, W_3 (i → o) and W_3' (o → o) 3×3 convolutions, all with bias,
and BN a batch norm with learned scale and shift. Nothing normalises or activates before W_3' or after the sum.
Parameters: 10·i·o + 9·o² + 3·o + 2·i.

All blocks keep the memory format and the dtype of what they are given, so that channels-last bfloat16 stays so from end
to end. Source: falbel, after Béres 2022.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["DownLevel", "ResidualBlock", "UpLevel"]


class ResidualBlock(nn.Module):
    """R(in_channels, out_channels): (B, in, H, W) → (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(in_channels, out_channels, kernel_size=1)
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Shortcut plus main path."""
        return self.shortcut(x) + self.conv2(functional.silu(self.conv1(self.norm(x))))


class DownLevel(nn.Module):
    """`depth` blocks, each leaving its output as a skip, then 2×2 average pooling."""

    def __init__(self, in_channels: int, width: int, *, depth: int) -> None:
        super().__init__()
        inputs = [in_channels, *[width] * (depth - 1)]
        self.blocks = nn.ModuleList(ResidualBlock(i, width) for i in inputs)

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """(B, C, H, W) → (B, width, H/2, W/2); appends the blocks' outputs to `skips` in order."""
        for block in self.blocks:
            x = block(x)
            skips.append(x)
        return functional.avg_pool2d(x, kernel_size=2)


class UpLevel(nn.Module):
    """Bilinear doubling, then `depth` blocks, each joined by the most recent skip not yet used."""

    def __init__(self, width: int, out_channels: int, *, depth: int) -> None:
        super().__init__()
        inputs = [width, *[out_channels] * (depth - 1)]
        self.blocks = nn.ModuleList(ResidualBlock(i + width, out_channels) for i in inputs)

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """(B, width, H, W) → (B, out, 2H, 2W); takes one skip of `width` channels per block off the end of `skips`."""
        x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        for block in self.blocks:
            x = block(torch.cat([x, skips.pop()], dim=1))
        return x
