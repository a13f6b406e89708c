"""Attention between tokens, fused where that is possible and twice differentiable where that is needed.

    attend(q, k, v) = softmax(q kᵀ / √d) v          (Vaswani et al. 2017, eq. 1)

PyTorch's fused kernels never hold the weights of all pairs, but their gradient has no gradient. Objectives that
differentiate a network by its input and then by its weights (score matching) need one, so a network whose input
requires a gradient asks for the plain formula. Both give the same numbers to rounding.
"""

import math

from torch import Tensor
from torch.nn import functional

__all__ = ["attend"]


def attend(q: Tensor, k: Tensor, v: Tensor, *, twice: bool) -> Tensor:
    """softmax(q kᵀ/√d) v of (B, heads, N, d) each, → (B, heads, N, d); `twice`: can be differentiated twice."""
    if not twice:
        return functional.scaled_dot_product_attention(q, k, v)
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return weights.to(v.dtype) @ v
