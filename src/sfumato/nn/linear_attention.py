"""Attention whose cost grows with the number of positions N, not with its square.

    q'_n = softmax of q_n over its d features;   k'_i = softmax of feature i of the keys over the N positions
    context = k'ᵀ v  (d × d);   out_n = q'_n context

so that out_n = Σ_m A_nm v_m with A_nm = Σ_i q'_ni k'_mi: like those of softmax attention, the weights A_nm are positive
and sum to 1 over m, but the N × N matrix is never made. No further factor 1/√d: the softmaxes have scaled already.
Positions have no order: permuting the pixels permutes the output. (yukino1010's version, after a widespread one for
channels-first arrays, reshapes channels-last arrays without transposing them, and so mixes pixels with channels.)

    LinearAttention   x + LN(W_o out + b_o),   (q, k, v) = W_qkv x without bias

LN normalises the channels of each pixel. Parameters for C channels, h heads of width d: 4 C h d + 3 C.
Source: Shen et al. 2021 (Efficient attention), section 3; yukino1010 for what surrounds it.
"""

import torch
from torch import Tensor, nn

__all__ = ["LinearAttention", "linear_attention"]


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries, keys and values (B, N, heads, d), values perhaps of another width → (B, N, heads, d_v).

    The softmaxes are taken in float32 at least: that of the keys has N terms.
    """
    exact = torch.promote_types(q.dtype, torch.float32)
    q = q.softmax(dim=3, dtype=exact).to(v.dtype)
    k = k.softmax(dim=1, dtype=exact).to(v.dtype)
    context = torch.einsum("bnhi,bnhj->bhij", k, v)
    return torch.einsum("bnhi,bhij->bnhj", q, context)


class LinearAttention(nn.Module):
    """x + LN(W_o linear_attention(W_qkv x) + b_o): (B, C, *space) → (B, C, *space)."""

    def __init__(self, channels: int, *, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Every position hears from all positions."""
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, C): of a channels-last picture a view, not a copy
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).unbind(2)
        heard = self.norm(self.out(linear_attention(q, k, v).flatten(2)))
        return x + heard.transpose(1, 2).unflatten(2, x.shape[2:]).to(x.dtype)
