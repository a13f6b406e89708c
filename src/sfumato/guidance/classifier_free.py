"""Classifier-free guidance: away from what the data are like in general (Ho & Salimans 2022).

    D_w(x_t, t, c) = D(x_t, t) + w (D(x_t, t, c) - D(x_t, t))

from one network that was trained with its condition now and then dropped. In scores, by Bayes' rule,

    score_w = score + w ∇ log p(c | x_t, t)

so w = 0 is the unconditional model, w = 1 the conditional one, and w > 1 takes c more literally than the data do. The
field at w > 1 is the score of no diffused law: samples come from about p(x) p(c | x)^w, not from it exactly. Papers
that write (1 + w) D_c - w D_u have our w less 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core import Cond, Denoise, Prediction, Schedule
from sfumato.guidance.extrapolation import (
    Interval,
    Weight,
    check_interval,
    check_weight,
    extrapolated,
    weight_at,
)

__all__ = ["Guided"]


@dataclass(frozen=True, slots=True, eq=False)
class Guided:
    """D_u + w (D_c - D_u) of one denoiser, told the condition and not told (Ho & Salimans 2022, eq. 6).

    One call where w is 1 or 0 for every sample, which gives that prediction to the last bit, and two otherwise; one
    call as well where there is nothing to drop. The variance that a network learned is the conditional one's, for
    samples come from steps of the conditional process; with w = 0 the unconditional one's.

    weight: w, a number or one per sample (B,). interval: noise levels sigma/alpha between which w acts; outside them
    D_c alone (Kynkäänniemi et al. 2024); None for all. Raises UsageError for a weight that is not finite or an empty
    interval.
    """

    denoise: Denoise
    weight: Weight
    interval: Interval | None = None

    def __post_init__(self) -> None:
        check_weight(self.weight, "weight of guidance")
        check_interval(self.interval)

    @property
    def schedule(self) -> Schedule:
        return self.denoise.schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        if cond is None or not droppable(cond):
            return self.denoise(x_t, t, cond)
        weight = weight_at(self.weight, self.interval, self.schedule.rates(t), x_t)
        if bool((weight == 1).all()):
            return self.denoise(x_t, t, cond)
        unconditional = self.denoise(x_t, t, cond.unconditional())
        if bool((weight == 0).all()):
            return unconditional
        return extrapolated(unconditional, self.denoise(x_t, t, cond), weight)


def droppable(cond: Cond) -> bool:
    """Whether a label or values of any example can be dropped."""
    if cond.labels is None and cond.values is None:
        return False
    return cond.dropped is None or not bool(torch.all(cond.dropped))
