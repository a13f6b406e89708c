"""The variational bound of a continuous schedule as a loss (Kingma et al. 2021, eqs. 11-13 and 17).

    -log p(x_0) ≤ KL(q(x_1 | x_0) ‖ prior) + ½ ∫ |eps - eps_hat|² dlog_snr - log p(x_0 | x_{t_min})

One t is drawn per example for the integral, -½ dlog_snr/dt |eps - eps_hat|² over [t_min, 1], and a second eps for the
x_{t_min} from which the decoder looks at x_0. Losses are means over elements, so the unit is **nats per element**:
times D it is the bound in nats, of densities of the prepared data or, by a decoder of levels, of probabilities.

Given log_snr at the two ends, its mean is the same whatever the schedule does between (their eq. 18); the ends decide
it. Compared with `DenoisingLoss(weighting=Elbo())`, whose gradient for the network is that of the integral alone, it
knows what the ends cost, so that they can be trained (`LearnedLogSnr(learn_ends=True)`), and teaches the network twice:
every example is also seen at t_min.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core import Cond, Decoder, Denoiser, GaussianDecoder, Large, Rates, Schedule, marginal, reverse
from sfumato.core.denoiser import Said
from sfumato.core.rates import spread
from sfumato.errors import ConfigError
from sfumato.objectives.denoising import DenoisingLoss, Draw, Losses, Objective
from sfumato.objectives.variational import prior_term
from sfumato.objectives.weightings import Elbo

__all__ = ["ContinuousBound", "ContinuousTerms"]


@dataclass(frozen=True, slots=True)
class ContinuousTerms:
    """The terms of one example's bound, each (B,), in nats per element.

    diffusion: the integrand of L_inf at the t drawn, times the length of the span; its mean over uniform t is L_inf.
    prior: KL(q(x_1 | x_0) ‖ prior).
    reconstruction: -log p(x_0 | x_{t_min}).
    """

    diffusion: Tensor
    prior: Tensor
    reconstruction: Tensor


@dataclass(frozen=True, slots=True)
class ContinuousBound(Objective):
    """The whole bound in continuous time, prior and reconstruction included, in nats per element (Kingma et al. 2021).

    For continuous schedules; a chain of steps has VariationalBound. What is reported of a run is its bound itself, the
    number that `sfumato evaluate` finds by the bound where it measures with the same decoder (GaussianDecoder for
    points, DiscretizedGaussian for 8-bit pictures), less the change of units. The last Gaussian has the variance that
    is left at t_min, sigma². Times of any density; a schedule that is trained wants UniformTimes.

    decoder: the probability of the data given the cleanest x_t.
    """

    decoder: Decoder = GaussianDecoder()

    @property
    def whole_chain(self) -> bool:
        return True

    @property
    def num_probes(self) -> int:
        return 1

    @property
    def variance(self) -> Large:
        """Of the step from t_min to data: sigma², all of the noise that is left."""
        return Large()

    def __call__(self, d: Denoiser, x0: Tensor, draw: Draw, cond: Cond | None = None) -> Losses:
        terms = self.terms(d, x0, draw, cond)
        drawn = spread(draw.inv_density, terms.diffusion) * terms.diffusion
        return Losses(drawn + terms.prior + terms.reconstruction, of_times=drawn)

    def terms(self, d: Denoiser, x0: Tensor, draw: Draw, cond: Cond | None = None) -> ContinuousTerms:
        """The three terms; `inv_density` plays no part. One call of the network, on twice the batch."""
        schedule = d.schedule
        require_continuous(type(self).__name__, schedule)
        (probe,) = draw.probes
        r, last = schedule.rates(draw.t), schedule.rates(schedule.t_min)
        x_t, x_last = marginal(x0, r).sample(draw.eps), marginal(x0, last).sample(probe)
        both = None if cond is None else cond.repeated(2)
        said = d.said(torch.cat([x_t, x_last]), joined(r, last), both)
        error = DenoisingLoss(weighting=Elbo()).of_output(d, said.output[: len(x0)], x0, draw.eps, r)
        p = d.prediction(Said(said.output[len(x0) :], None), x_last, last)
        found = self.decoder.log_prob(x0, reverse(p, Rates.data(), self.variance))
        return ContinuousTerms((1 - schedule.t_min) * error, prior_term(x0, schedule), -found.flatten(1).mean(1))


def joined(each: Rates, last: Rates) -> Rates:
    """The rates of a batch at times of its own (B,), followed by as many at one time ()."""
    pairs = ((each.t, last.t), (each.alpha, last.alpha), (each.sigma, last.sigma))
    return Rates(*(torch.cat([own, one.expand(own.shape)]) for own, one in pairs))


def require_continuous(objective: str, schedule: Schedule) -> None:
    """Refuse a table, whose bound is a sum over its steps. Raises ConfigError."""
    if schedule.num_steps is not None:
        raise ConfigError(
            f"objective is {objective} and schedule is {type(schedule).__name__}, a chain of steps",
            expected="a continuous schedule, whose bound is an integral over log-SNR",
            fix="set objective: VariationalBound, or schedule: LogSnrLinear",
        )
