"""Paths between noises that stay as likely as noise.

N(0, I) in many dimensions lives near a sphere of radius sqrt(d), which the straight line between two samples leaves:
half-way its norm is smaller by sqrt(2). Spherical interpolation (Shoemake 1985; White 2016) stays on it,

    direction = [sin((1 - w) angle) a/|a| + sin(w angle) b/|b|] / sin(angle),    norm = (1 - w) |a| + w |b|
"""

import torch
from torch import Tensor

from sfumato.errors import UsageError

__all__ = ["slerp"]


def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """From a (B, *) at share 0 to b (B, *) at share 1, per sample; shares (K,) -> (K, B, *), or () -> (B, *).

    The directions turn at constant speed, the norms change linearly: equal norms are kept. Parallel vectors are joined
    by a straight line, which is their arc. Computed in float64, in the dtype of a.

    Raises UsageError for different shapes and for opposite vectors, between which no arc is shortest.
    """
    if a.shape != b.shape or share.ndim > 1:
        raise UsageError(
            f"interpolating between shapes {tuple(a.shape)} and {tuple(b.shape)} at shares of {tuple(share.shape)}",
            expected="two batches of one shape (B, *), and a scalar or a vector of shares",
            fix="draw both noises with one shape",
        )
    first, second = (x.to(torch.float64).flatten(1) for x in (a, b))
    norms = [x.norm(dim=1, keepdim=True) for x in (first, second)]
    ends = [x / norm.clamp(min=torch.finfo(torch.float64).tiny) for x, norm in zip((first, second), norms, strict=True)]
    # twice the half angle, exact near 0 and near pi, where the arc cosine of a product is not
    angle = 2 * torch.atan2((ends[0] - ends[1]).norm(dim=1), (ends[0] + ends[1]).norm(dim=1))[:, None]
    check_opposite(angle)
    w = share.to(device=a.device, dtype=torch.float64)[..., None, None]
    along = [w_end * torch.sinc(w_end * angle / torch.pi) / torch.sinc(angle / torch.pi) for w_end in (1 - w, w)]
    direction = along[0] * ends[0] + along[1] * ends[1]
    path = ((1 - w) * norms[0] + w * norms[1]) * direction
    return path.reshape(share.shape + a.shape).to(a.dtype)


def check_opposite(angle: Tensor) -> None:
    """Refuse vectors whose angle is pi to rounding."""
    opposite = (angle.flatten() > torch.pi - 1e-6).nonzero().flatten().tolist()
    if opposite:
        raise UsageError(
            f"sample {opposite[0]} of the batch is to turn into its opposite",
            expected="vectors less than half a turn apart: all arcs between opposite ones are equally long",
            fix="take another seed for one of the two noises",
        )
