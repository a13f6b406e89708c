"""Attention between tokens, fused where that is faster and twice differentiable where that is needed.

    attend(q, k, v) = softmax(q kᵀ / √d) v          (Vaswani et al. 2017, eq. 1)

PyTorch's fused kernels never hold the weights of all pairs, but their gradient has no gradient. Objectives that
differentiate a network by its input and then by its weights (score matching) need one, so a network whose input
requires a gradient asks for the plain formula. Both give the same numbers to rounding.

On a CPU the fused gradient is slow in 16 bits for few tokens: 32 × 4 heads × 49 tokens × 32, forward and back on one
core with AMX, takes 20.5 ms against 4.6 ms by the formula, 256 tokens of 4 heads × 64 take 39.9 against 35.8, and 1,024
tokens 79 against 158. Up to 256 tokens training there takes the formula.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["attend"]

FEW_TOKENS = 256


def attend(q: Tensor, k: Tensor, v: Tensor, *, twice: bool) -> Tensor:
    """softmax(q kᵀ/√d) v of (B, heads, N, d) each, → (B, heads, N, d); `twice`: can be differentiated twice."""
    if not twice and not _slow_gradient(q):
        return functional.scaled_dot_product_attention(q, k, v)
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return weights.to(v.dtype) @ v


def _slow_gradient(q: Tensor) -> bool:
    """Whether there will be a gradient, and the fused kernel's is slower than the formula's."""
    short = q.dtype in (torch.bfloat16, torch.float16)
    return short and q.device.type == "cpu" and q.shape[-2] <= FEW_TOKENS and q.requires_grad
