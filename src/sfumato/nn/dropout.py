"""Dropout whose random numbers come four to a draw on a CPU.

    y = x · keep / (1 − q),   keep ~ Bernoulli(1 − q) for each value,   q = round(2^16 share)/2^16

PyTorch's own draws one number for each value, which on a CPU takes longer than the convolution beside it: 11.4 ms for
16×128×32×32 on two cores with AMX, where the convolution takes 2.7. Sixteen bits decide here. Both draw from PyTorch's
global stream, which training seeds anew at every step. Source: Srivastava et al. 2014, section 4.
"""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["dropout"]

LEVELS = 1 << 16


def dropout(x: Tensor, share: float, *, training: bool) -> Tensor:
    """x (any shape) with a share of its values at 0 and the others scaled up; x itself outside of training."""
    if not training or share == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return functional.dropout(x, share, training=True)
    count, level = x.numel(), round(share * LEVELS)
    stream = torch.default_generator  # that of PyTorch's own dropout
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(1 << 63), None, generator=stream)
    bits = draws.view(torch.int16)[:count]
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    shape = (x.shape[0], *x.shape[2:], x.shape[1]) if last else x.shape
    keep = (bits >= level - LEVELS // 2).to(x.dtype).view(shape)  # laid out in memory as x is
    return x * (keep.permute(0, 3, 1, 2) if last else keep) * (LEVELS / (LEVELS - level))
