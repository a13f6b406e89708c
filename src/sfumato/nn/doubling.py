"""Doubling a feature map by repeating its pixels."""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["doubled"]


def doubled(x: Tensor) -> Tensor:
    """Every pixel as a square of four: (B, C, H, W) → (B, C, 2H, 2W), channels last where x is.

    Compiled code repeats by indexing: TorchInductor's gradient of PyTorch's own function, behind attention on a CPU, is
    wrong without a word (torch 2.13). Outside of compiled code the gradient of indexing is the slower one.
    """
    if not torch.compiler.is_compiling():
        return functional.interpolate(x, scale_factor=2, mode="nearest")
    batch, channels, height, width = x.shape
    each = x.permute(0, 2, 3, 1)[:, :, None, :, None].expand(batch, height, 2, width, 2, channels)
    return each.reshape(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
