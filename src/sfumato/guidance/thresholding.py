"""Dynamic thresholding: strong guidance pushes x0 out of the data's range; pull all of it back (Saharia et al. 2022).

With the middle m and the half-width h of the data's bounds, and z = (x0 - m)/h, which data keep within [-1, 1],

    s = max(1, the `share`-quantile of |z| over one sample),     x0 <- m + h clamp(z, -s, s)/s

Clipping saturates what lies outside; this also lowers the contrast of the rest, so that pixels do not pile up at the
bounds. A sample that lies within is left as it is.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core import Cond, Denoise, Prediction, Schedule
from sfumato.core.rates import spread
from sfumato.errors import UsageError

__all__ = ["Thresholded"]

ROUNDING = 1e-6  # of a rank: 0.07 of 100 values are 7 of them, though the product is 7.000000000000001


@dataclass(frozen=True, slots=True, eq=False)
class Thresholded:
    """A denoiser whose x0 is thresholded dynamically to [low, high] (Saharia et al. 2022); eps, score, v follow.

    share: of a sample's values that lie within the threshold, 0.995 in the paper; 1 scales the largest value to the
    bound. The quantile is the smallest |z| that a share of the values does not exceed. low, high: bounds of the data,
    () or (C, 1, 1). Raises UsageError for a share outside (0, 1] or bounds that do not increase.
    """

    denoise: Denoise
    share: float
    low: Tensor
    high: Tensor

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(
                f"the share of the dynamic threshold is {self.share}",
                expected="the share of a sample's values that stay within the bounds, above 0 and at most 1",
                fix="choose 0.995",
            )
        if not bool((self.low < self.high).all()):
            raise UsageError(
                f"the data's bounds are {self.low.tolist()} and {self.high.tolist()}",
                expected="bounds with low < high",
                fix="leave the dynamic threshold out for data without bounds",
            )

    @property
    def schedule(self) -> Schedule:
        return self.denoise.schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        p = self.denoise(x_t, t, cond)
        low, high = self.low.to(p.x0), self.high.to(p.x0)
        middle, half = (high + low) / 2, (high - low) / 2
        z = (p.x0 - middle) / half
        flat = z.detach().abs().flatten(1).to(torch.promote_types(z.dtype, torch.float32))
        rank = max(1, math.ceil(self.share * flat.shape[1] - ROUNDING))
        s = spread(flat.kthvalue(rank, dim=1).values.clamp(min=1), z)
        pulled = middle + half * (z.clamp(-s, s) / s)
        return p.with_x0(torch.where((z.abs() <= 1).flatten(1).all(1).reshape(s.shape), p.x0, pulled))
