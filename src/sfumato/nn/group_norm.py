"""Group normalisation together with what stands around it in a U-Net: a shift before, a modulation and silu behind.

    u = x + shift,   û = (u − mean_g)/√(var_g + ε)   over the pixels and channels of each group g,
    y = (û·weight + bias)·(1 + scale) + offset,   output = silu(y), or y

shift, scale and offset are one number per example and channel, (B, C). With scale and offset this is FiLM (Perez et al.
2018), which Dhariwal & Nichol 2021, section 3, call adaptive group normalisation.

PyTorch's kernel runs, on every device. Backwards in channels-last bfloat16 on a CPU it is slow: 18 ms forward and
back with silu on 16×128×32×32, beside 12 ms for the convolution that follows. The same in one pass of our own, a third
faster alone, made a training step of Ho et al.'s network no shorter (1.60 s and 1.58 s), so there is none.
Source: Wu & He 2018, eqs. 1-3 and 7.
"""

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["group_norm", "most_groups"]


def most_groups(limit: int, *widths: int) -> int:
    """The largest number of groups ≤ `limit` that divides every width."""
    return next(count for count in range(limit, 0, -1) if all(width % count == 0 for width in widths))


def group_norm(
    x: Tensor,
    norm: nn.GroupNorm,
    *,
    shift: Tensor | None = None,
    scale: Tensor | None = None,
    offset: Tensor | None = None,
    silu: bool = False,
) -> Tensor:
    """The formula of this module with the weights of `norm`: x (B, C, H, W) → the same shape, layout and dtype.

    `shift`, `scale` and `offset` are (B, C); None stands for 0.
    """
    y = norm(x if shift is None else x + _planes(shift))
    y = y if scale is None else y * (1 + _planes(scale))
    y = y if offset is None else y + _planes(offset)
    return functional.silu(y) if silu else y


def _planes(values: Tensor) -> Tensor:  # (B, C) -> (B, C, 1, 1)
    return values[:, :, None, None]
