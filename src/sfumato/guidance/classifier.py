"""Classifier guidance: towards where a classifier of noisy data is surer of a label (Dhariwal & Nichol 2021).

    score + scale ∇ log p(k | x_t, t),   that is   x0 + scale (sigma²/alpha) ∇ log p(k | x_t, t)

for every schedule: their algorithm 2, eps - scale sigma ∇ log p, in continuous form. With the denoiser of all the data
and the exact classifier, scale 1 gives the score of the data with label k, and any scale the same field as
classifier-free guidance of that weight, by Bayes' rule. The classifier must have seen noisy data, with their times.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core import Cond, Denoise, Prediction, Schedule
from sfumato.core.rates import spread
from sfumato.guidance.extrapolation import Interval, Weight, check_interval, check_weight, weight_at

__all__ = ["ClassifierGuided", "LogProb"]

LogProb = Callable[[Tensor, Tensor, Tensor], Tensor]  # x_t (B, *), t () or (B,), labels (B,) -> log p(k | x_t, t) (B,)


@dataclass(frozen=True, slots=True, eq=False)
class ClassifierGuided:
    """x0 + scale (sigma²/alpha) ∇ log p(k | x_t, t) for the labels k of the condition (Dhariwal & Nichol 2021, alg. 2).

    One call of the denoiser and one gradient of the classifier; none where the scale is 0 or no example has a label.
    Examples that are dropped are not guided. The denoiser is told the condition too: one that takes none ignores it.
    The gradient is taken under `no_grad` as well, and may itself be differentiated where x_t is.

    log_prob: (x_t, t, labels) -> log p(k | x_t, t), (B,), differentiable in x_t, each example alone. scale: a number or
    one per sample (B,). interval: noise levels sigma/alpha between which there is guidance; None for all. Raises
    UsageError for a scale that is not finite or an empty interval.
    """

    denoise: Denoise
    log_prob: LogProb
    scale: Weight
    interval: Interval | None = None

    def __post_init__(self) -> None:
        check_weight(self.scale, "scale of classifier guidance")
        check_interval(self.interval)

    @property
    def schedule(self) -> Schedule:
        return self.denoise.schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        p = self.denoise(x_t, t, cond)
        scale = weight_at(self.scale, self.interval, p.rates, x_t, outside=0.0)
        if cond is None or cond.labels is None or bool((scale == 0).all()):
            return p
        if cond.dropped is not None:
            scale = torch.where(cond.dropped.to(scale.device), 0.0, scale)
        gradient = self.gradient(x_t, t, cond.labels)
        moved = spread(scale * p.rates.sigma**2 / p.rates.alpha, x_t) * gradient
        # where, not a product with 0: what the classifier says of an example that is not guided may be anything
        return p.with_x0(torch.where(spread(scale, x_t) == 0, p.x0, p.x0 + moved))

    def gradient(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """∇ log p(k | x_t, t) with respect to x_t, (B, *)."""
        differentiable = torch.is_grad_enabled() and x_t.requires_grad
        with torch.enable_grad():
            x = x_t if differentiable else x_t.detach().requires_grad_()
            log_prob = self.log_prob(x, t, labels)
            (gradient,) = torch.autograd.grad(log_prob.sum(), x, create_graph=differentiable)
        return gradient
