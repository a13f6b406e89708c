"""The variational bound of a T-step chain as a loss, and its mixture with L_simple.

    -log p(x_0) ≤ L_T + Σ_{t ≥ 2} L_{t-1} + L_0                                             (Ho et al. 2020, eq. 5)
    L_T     = KL(q(x_T | x_0) ‖ prior)
    L_{t-1} = KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t)),  s = t - 1/T
    L_0     = -log p(x_0 | x_1), by a decoder

One t is drawn per example: T times its term, plus L_T, has the bound as its expectation. Losses are means over
elements, so the unit is **nats per element**: times D it is the bound in nats, divided by log 2 it is bits per
dimension of the scaled data (for a discretised decoder, of the data themselves).

With the small variance and a Gaussian decoder the same gradient comes from one weighted error of eps:
`DenoisingLoss(weighting=StepElbo())`, which needs no kernels. What is here learns variances, takes decoders of
pictures, and gives the value of the bound. A network that predicts the mean and the log-variance of x_s itself
(esling's first) is `VariationalBound(Learned(steps=T))` on the target `PreviousMean`.
"""

from dataclasses import dataclass

from torch import Tensor

from sfumato.core import (
    Cond,
    Decoder,
    Denoiser,
    GaussianDecoder,
    LearnedRange,
    Prediction,
    Rates,
    Schedule,
    Variance,
    marginal,
)
from sfumato.core.rates import spread
from sfumato.errors import ConfigError
from sfumato.objectives.chain import decoder_nll, inner_kl, require_chain, steps_of
from sfumato.objectives.denoising import DenoisingLoss, Draw, Losses, Objective
from sfumato.objectives.weightings import NoiseError, Weighting

__all__ = ["BoundTerms", "Hybrid", "VariationalBound"]


@dataclass(frozen=True, slots=True)
class BoundTerms:
    """The terms of one example's bound, each (B,), in nats per element.

    step is L_{t-1} at the t drawn, L_0 where t = 1/T; prior is L_T. The bound is Σ_t step + prior.
    """

    step: Tensor
    prior: Tensor


@dataclass(frozen=True, slots=True)
class VariationalBound(Objective):
    """T L_{t-1} + L_T, whose mean over t is the whole bound, in nats per element (Ho et al. 2020, eq. 5).

    Times are those of the chain (`GridTimes`); others are refused.

    variance: of the reverse steps, and of the decoder; LearnedRange and Learned train it with the mean.
    decoder: the probability of the data at the last step.
    """

    variance: Variance = LearnedRange()
    decoder: Decoder = GaussianDecoder()

    @property
    def whole_chain(self) -> bool:
        return True

    @property
    def learns_variance(self) -> bool:
        return self.variance.learned

    def __call__(self, d: Denoiser, x0: Tensor, draw: Draw, cond: Cond | None = None) -> Losses:
        num_steps = require_chain(type(self).__name__, d.schedule, self.variance)
        terms = self.terms(d, x0, draw, cond)
        per_example = num_steps * terms.step + terms.prior
        return Losses(spread(draw.inv_density, per_example) * per_example)

    def terms(self, d: Denoiser, x0: Tensor, draw: Draw, cond: Cond | None = None) -> BoundTerms:
        """L_{t-1} at the t drawn, and L_T; `inv_density` plays no part."""
        require_chain(type(self).__name__, d.schedule, self.variance)
        r = d.schedule.rates(draw.t)
        x_t = marginal(x0, r).sample(draw.eps)
        p = d.prediction(d.said(x_t, r, cond), x_t, r)
        return BoundTerms(step_term(p, x0, d.schedule, self.variance, self.decoder), prior_term(x0, d.schedule))


@dataclass(frozen=True, slots=True)
class Hybrid(Objective):
    """L_simple + weight · L_vlb with the mean of L_vlb detached (Nichol & Dhariwal 2021, eq. 16).

    The bound is that of `VariationalBound`, T L_{t-1} + L_T in nats per element, and teaches the variance alone; the
    mean, whatever the target, learns from the simple part. The paper's code scales one term, L_{t-1} in *bits* per
    dimension, by T/1000, which is 0.001 of T L_{t-1} for any T: set weight to 0.001/log 2 = 0.00144 for its numbers.

    weight: of the bound; small, so that its noise does not reach the mean's features.
    variance: of the reverse steps, one that is learned.
    decoder: the probability of the data at the last step.
    weighting: of the simple part; NoiseError is L_simple, OutputError the plain loss on the target.
    """

    weight: float = 0.001
    variance: Variance = LearnedRange()
    decoder: Decoder = GaussianDecoder()
    weighting: Weighting = NoiseError()

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ConfigError(
                f"objective.weight is {self.weight}",
                expected="a number above 0",
                fix="set objective.weight: 0.001",
            )
        if not self.variance.learned:
            raise ConfigError(
                f"objective is Hybrid and objective.variance is {type(self.variance).__name__}, which is not learned",
                expected="LearnedRange or Learned: the bound in it trains the variance alone",
                fix="set objective.variance: LearnedRange, or objective: DenoisingLoss",
            )

    @property
    def whole_chain(self) -> bool:
        return True

    @property
    def learns_variance(self) -> bool:
        return True

    def __call__(self, d: Denoiser, x0: Tensor, draw: Draw, cond: Cond | None = None) -> Losses:
        num_steps = require_chain(type(self).__name__, d.schedule, self.variance)
        r = d.schedule.rates(draw.t)
        x_t = marginal(x0, r).sample(draw.eps)
        said = d.said(x_t, r, cond)
        simple = DenoisingLoss(weighting=self.weighting).of_output(d, said.output, x0, draw.eps, r)
        p = d.prediction(said, x_t, r)
        still = p.with_x0(p.x0.detach())  # the bound must not move the mean
        step = step_term(still, x0, d.schedule, self.variance, self.decoder)
        bound = num_steps * step + prior_term(x0, d.schedule)
        per_example = simple + self.weight * bound
        return Losses(spread(draw.inv_density, per_example) * per_example)


def step_term(p: Prediction, x0: Tensor, schedule: Schedule, variance: Variance, decoder: Decoder) -> Tensor:
    """L_{t-1}, or L_0 where t = 1/T: (B,), in nats per element."""
    assert schedule.num_steps is not None
    k = steps_of(p.rates.t, schedule.num_steps)
    of_steps = inner_kl(p, x0, k, schedule, variance)
    return (of_steps + decoder_nll(p, x0, k, schedule, variance, decoder)).flatten(1).mean(1)


def prior_term(x0: Tensor, schedule: Schedule) -> Tensor:
    """L_T = KL(q(x_T | x_0) ‖ prior): (B,), in nats per element. No network has a part in it."""
    end: Rates = schedule.rates(1.0)
    return marginal(x0, end).kl(schedule.prior).flatten(1).mean(1)
