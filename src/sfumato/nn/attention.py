"""Self-attention between the pixels of a feature map, as the U-Nets after Ho et al. 2020 have it.

    n = GN(x);   q, k, v = W_q n + b_q, W_k n + b_k, W_v n + b_v   at each of the N = H·W pixels, split into heads
    A = softmax(q kᵀ/√d) v,   d = width of a head;   output = r (x + W_o A + b_o)

`residual_scale` r is 1, or 1/√2 to keep the variance of the sum (Song et al. 2021, "skip rescaling"). With `qk_norm`
queries and keys are divided by their root mean square over the head and multiplied by a learned gain, which bounds
|q·k| by d times the gains and keeps attention from collapsing to one pixel (Henry et al. 2020; Dehghani et al. 2023,
section 2). Parameters have the names of diffusers' `Attention`: 4 C² + 6 C of them, and 2 d more with `qk_norm`.
Source: Vaswani et al. 2017, eq. 1; Wang et al. 2018 (attention between pixels).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from sfumato.nn.dot_product import attend
from sfumato.nn.group_norm import group_norm

__all__ = ["EPS", "HeadNorm", "PixelAttention"]

EPS = 1e-5  # added to the variances of group norm and to the mean squares of `qk_norm`


class HeadNorm(nn.Module):
    """Division by the root mean square over the last axis, times a learned gain, in the dtype of what is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(…, d) → (…, d)."""
        return functional.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), EPS)


class PixelAttention(nn.Module):
    """(B, C, H, W) → the same shape and layout, every pixel seeing every other."""

    def __init__(
        self,
        width: int,
        *,
        groups: int,
        head_width: int | None = None,
        residual_scale: float = 1.0,
        qk_norm: bool = False,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.head_width = width if head_width is None else head_width
        self.residual_scale = residual_scale
        self.group_norm = nn.GroupNorm(groups, width, eps=EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.norm_q = HeadNorm(self.head_width) if qk_norm else nn.Identity()
        self.norm_k = HeadNorm(self.head_width) if qk_norm else nn.Identity()
        self.to_out = nn.ModuleList([nn.Linear(width, width)])  # a list, for the name `to_out.0`
        if zero_init:
            for parameter in self.to_out.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, *, twice: bool = False) -> Tensor:
        """The formula of this module; `twice` when the gradient will be differentiated (`dot_product.attend`)."""
        tokens = group_norm(x, self.group_norm).flatten(2).transpose(1, 2)  # (B, N, C), a view where channels-last
        q, k, v = (self._heads(project(tokens)) for project in (self.to_q, self.to_k, self.to_v))
        seen = attend(self.norm_q(q), self.norm_k(k), v, twice=twice)
        out = self.to_out[0](seen.transpose(1, 2).flatten(2))
        total = x + out.transpose(1, 2).unflatten(2, x.shape[2:])
        return total if self.residual_scale == 1.0 else total * self.residual_scale

    def _heads(self, tokens: Tensor) -> Tensor:
        """(B, N, C) → (B, heads, N, d)."""
        return tokens.unflatten(2, (-1, self.head_width)).transpose(1, 2)
