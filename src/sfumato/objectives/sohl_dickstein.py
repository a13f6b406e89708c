"""The bound of the first diffusion paper, with its entropies (Sohl-Dickstein et al. 2015, eq. 14).

    K = -Σ_{t=2}^{T} E KL(q(x_{t-1} | x_t, x_0) ‖ p(x_{t-1} | x_t)) + H_q(X_T|X_0) - H_q(X_1|X_0) - H_p(X_T)

in steps t = 1 … T; the sum has T - 1 terms, and the entropies are those of Gaussians, ½ log(2 pi e var) per dimension
with var = sigma_T², sigma_1² and prior_std². What is minimised is -K, in **nats per element**.

There is no decoder: the last reverse step is fixed to the kernel of the first forward one, p(x_0 | x_1) =
N(sqrt(1 - beta_1) x_1, beta_1 I), and the cross-entropies of x_T, x_1 and x_0 with the prior are all taken for
H_p(X_T), which is right for data whose second moment m per dimension is 1. Kept as they are, they give that model's
bound -K + ½ (m - 1)(A_T + 1 - A_1) per dimension, A = alpha². So -K is a bound of -log p for m ≤ 1 and may fall below
it for m > 1: data must be scaled. For the exact reverse chain -K = H(X_1) + H_p - H(X_T), with the true entropies of
the noisy data.

Not to be copied from the notebook that trains with it (esling): T terms instead of T - 1, log-variances handed on as
variances.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core import Cond, Denoiser, LearnedRange, Schedule, Variance, marginal
from sfumato.core.rates import spread
from sfumato.errors import ConfigError
from sfumato.objectives.chain import inner_kl, require_chain, steps_of
from sfumato.objectives.denoising import Draw, Losses, Objective

__all__ = ["Entropies", "SohlDicksteinBound", "entropies"]


@dataclass(frozen=True, slots=True)
class Entropies:
    """Entropies of the bound, nats per element, () float64: H_q(X_1|X_0), H_q(X_T|X_0) and H_p(X_T)."""

    first: Tensor
    last: Tensor
    prior: Tensor

    @property
    def total(self) -> Tensor:
        """What they add to -K: first - last + prior."""
        return self.first - self.last + self.prior

    def relative_bits(self, bound: Tensor) -> Tensor:
        """-K (any shape, nats per element) less H_p, in bits per element: esling's and the paper's code's figure.

        0 is the isotropic Gaussian of the prior; a model of structure is below.
        """
        return (bound - self.prior) / math.log(2)


def entropies(schedule: Schedule) -> Entropies:
    """½ log(2 pi e var) for sigma², after the first step and the last, and for the prior."""
    ends = schedule.rates(torch.tensor([schedule.t_min, 1.0], dtype=torch.float64))
    of_unit = 0.5 * math.log(2 * math.pi * math.e)
    first, last = of_unit + ends.sigma.log()
    return Entropies(first, last, of_unit + schedule.prior.log_var / 2)


@dataclass(frozen=True, slots=True)
class SohlDicksteinBound(Objective):
    """-K of Sohl-Dickstein et al. 2015, eq. 14, one t per example: T KL_t + the entropies, in nats per element.

    t is drawn from the whole chain (`GridTimes`), and the first step counts 0: the mean is the sum over t = 2 … T. Data
    should have a second moment of 1 per dimension, see the module.

    variance: of the reverse steps; LearnedRange and Learned train it with the mean.
    """

    variance: Variance = LearnedRange()

    @property
    def whole_chain(self) -> bool:
        return True

    @property
    def learns_variance(self) -> bool:
        return self.variance.learned

    def __call__(self, d: Denoiser, x0: Tensor, draw: Draw, cond: Cond | None = None) -> Losses:
        num_steps = require_chain(type(self).__name__, d.schedule, self.variance)
        per_example = num_steps * self.step(d, x0, draw, cond) + entropies(d.schedule).total
        return Losses(spread(draw.inv_density, per_example) * per_example)

    def step(self, d: Denoiser, x0: Tensor, draw: Draw, cond: Cond | None = None) -> Tensor:
        """KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t)) at the t drawn, 0 at the first step: (B,), in nats per element."""
        num_steps = require_chain(type(self).__name__, d.schedule, self.variance)
        if num_steps < 2:
            raise ConfigError(
                "objective is SohlDicksteinBound and schedule has one step",
                expected="two steps or more: the first is fixed and teaches nothing",
                fix="set schedule.steps: 100",
            )
        r = d.schedule.rates(draw.t)
        x_t = marginal(x0, r).sample(draw.eps)
        p = d.prediction(d.said(x_t, r, cond), x_t, r)
        return inner_kl(p, x0, steps_of(draw.t, num_steps), d.schedule, self.variance).flatten(1).mean(1)
