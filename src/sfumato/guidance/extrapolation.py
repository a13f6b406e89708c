"""Going beyond a prediction, away from a poorer one, with a weight that may depend on the noise level and the sample.

    D_w = D_poor + w (D_good - D_poor)

on x0, and so alike on eps, score and v, each of which is linear in x0 at a given x_t. w = 1 is D_good, w = 0 is D_poor,
w > 1 extrapolates. The weight acts at noise levels sigma/alpha within an interval, and is 1 outside (Kynkäänniemi et
al. 2024, eq. 3).
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from sfumato.core import Prediction, Rates
from sfumato.core.rates import spread
from sfumato.errors import UsageError

__all__ = ["Interval", "Weight", "check_interval", "check_weight", "extrapolated", "weight_at"]

Weight = float | Tensor  # one for all samples, or (B,)
Interval = tuple[float, float]  # noise levels, the lowest and the highest at which there is guidance


def check_weight(weight: Weight, name: str) -> None:
    """Refuse a weight that is not finite, or not one number or one per sample. Raises UsageError."""
    each = torch.as_tensor(weight, dtype=torch.float64)
    if each.ndim > 1 or not bool(each.isfinite().all()):
        given = weight if isinstance(weight, float | int) else each.tolist()
        raise UsageError(
            f"the {name} is {given}",
            expected="a finite number, or one for each sample",
            fix=f"choose a {name} such as 2; 1 is the model as it was trained",
        )


def check_interval(interval: Interval | None) -> None:
    """Refuse an interval that is empty or not of noise levels. Raises UsageError."""
    if interval is not None and not 0 <= interval[0] < interval[1] <= math.inf:
        raise UsageError(
            f"guidance acts between the noise levels {interval[0]} and {interval[1]}",
            expected="two increasing noise levels sigma/alpha, 0 or above",
            fix="choose an interval such as 0.3 to 5, or none for guidance at every noise level",
        )


def weight_at(weight: Weight, interval: Interval | None, r: Rates, x: Tensor, *, outside: float = 1.0) -> Tensor:
    """The weight at the rates r of x (B, *): as it is within the interval, `outside` elsewhere; () or (B,), float64.

    Raises UsageError where weights are of another number of samples.
    """
    each = torch.as_tensor(weight, dtype=torch.float64, device="cpu")
    if each.ndim and len(each) != len(x):
        raise UsageError(
            f"{len(each)} weights of guidance for {len(x)} samples",
            expected="one weight, or one for each sample",
            fix="give as many weights as samples",
        )
    if interval is None:
        return each
    level = r.noise_level.to(each)
    return torch.where((level >= interval[0]) & (level <= interval[1]), each, outside)


def extrapolated(poor: Prediction, good: Prediction, weight: Tensor) -> Prediction:
    """D_poor + w (D_good - D_poor), w () or (B,); D_good where w = 1 and D_poor where w = 0, to the last bit.

    What the network said of the variance is taken from the good prediction, as it is: a log-variance that it learned
    for its own steps. Beyond what was learned there is none.
    """
    w = spread(weight, good.x0)
    beyond = poor.x0 + w * (good.x0 - poor.x0)
    x0 = torch.where(w == 1, good.x0, torch.where(w == 0, poor.x0, beyond))
    if good.var_output is None or poor.var_output is None:
        return good.with_x0(x0)
    return replace(good, x0=x0, var_output=torch.where(w == 0, poor.var_output, good.var_output))
