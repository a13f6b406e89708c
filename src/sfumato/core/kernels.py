"""Transition kernels between any two times s < t, from their rates alone.

With r = exp(log_snr_t - log_snr_s) in (0, 1), the forward step from s to t adds noise of variance

    large = sigma_t² (1 - r)                  the variance of q(x_t | x_s)
    small = large · sigma_s² / sigma_t²       the variance of q(x_s | x_t, x_0)

For neighbours of a DDPM table, large = beta_t and small = beta-tilde_t (Ho et al. 2020, eq. 7); for any subset of its
steps they are the respaced ones (Nichol & Dhariwal 2021, eq. 19) without a table of their own.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.core.gaussian import Gaussian
from sfumato.core.prediction import Prediction
from sfumato.core.rates import Rates, spread
from sfumato.errors import ConfigError, UsageError

__all__ = [
    "Large",
    "Learned",
    "LearnedRange",
    "Small",
    "Variance",
    "log_variances",
    "marginal",
    "mean_weights",
    "posterior",
    "reverse",
]


def marginal(x0: Tensor, r: Rates) -> Gaussian:
    """q(x_t | x_0) = N(alpha x_0, sigma² I), in the dtype of x0 (B, *). Ho et al. 2020, eq. 4."""
    rates = r.like(x0)
    return Gaussian(rates.alpha * x0, 2 * rates.sigma.log())


@dataclass(frozen=True, slots=True)
class LogVariances:
    """Logarithms of the two variances of a step, in nats, shaped as the rates.

    `log_pull` is the logarithm of the weight of x_0 in the posterior's mean: with it the uncertainty of a guess of x_0
    enters that of x_s. `at_data` says that s is data, where log_pull is 0 and `small` is borrowed.
    """

    small: Tensor
    large: Tensor
    log_pull: Tensor
    at_data: bool = False


def log_variances(s: Rates, t: Rates, *, before: Rates | None = None) -> LogVariances:
    """log small and log large of the step between s and t (see the module); both shaped as `t.alpha`, float64.

    At s = data, small would be 0. There it is taken from the interval before, between t and the noisier time `before`
    (Ho's clipping of the first entry); with a single interval (`before` None) it is the large one. Never -inf.
    """
    log_large = 2 * t.sigma.log() + log_share(s, t)
    log_pull = s.alpha.log() + log_share(s, t)
    if not s.is_data:
        return LogVariances(log_large + 2 * (s.sigma.log() - t.sigma.log()), log_large, log_pull)
    if before is None:
        return LogVariances(log_large, log_large, log_pull, at_data=True)
    return LogVariances(log_variances(t, before).small, log_large, log_pull, at_data=True)


def log_share(s: Rates, t: Rates) -> Tensor:
    """log(1 - exp(log_snr_t - log_snr_s)): the share of sigma_t² that the step from s to t added; 0 when s is data."""
    if s.is_data:
        return torch.zeros_like(t.alpha)
    return (-torch.expm1(t.log_snr - s.log_snr)).log()


@dataclass(frozen=True, slots=True)
class MeanWeights:
    """The posterior mean is `keep · x_t + pull · x_0`; float64, shaped as the rates."""

    keep: Tensor
    pull: Tensor


def mean_weights(s: Rates, t: Rates) -> MeanWeights:
    """keep = (alpha_t/alpha_s)(sigma_s/sigma_t)² and pull = alpha_s large/sigma_t² (Ho et al. 2020, eq. 7)."""
    keep = (t.alpha / s.alpha) * (s.sigma / t.sigma) ** 2
    pull = s.alpha * log_share(s, t).exp()
    return MeanWeights(keep, pull)


def posterior(x0: Tensor, x_t: Tensor, *, s: Rates, t: Rates, before: Rates | None = None) -> Gaussian:
    """q(x_s | x_t, x_0) = N(keep x_t + pull x_0, small I) for x0, x_t (B, *), any s < t (Ho et al. 2020, eqs. 6-7)."""
    weights = mean_weights(s, t)
    mean = spread(weights.keep, x_t) * x_t + spread(weights.pull, x_t) * x0
    return Gaussian(mean, spread(log_variances(s, t, before=before).small, x_t))


class Variance(ABC):
    """The variance of the reverse kernel p(x_s | x_t).

    `learned` says whether the network must speak of it: whether it is trained with `learn_variance`.
    """

    __slots__ = ()
    learned: ClassVar[bool] = False

    @property
    def chain_steps(self) -> int | None:
        """T, where the variance speaks of single steps of a T-step chain only; None where it fits any s < t."""
        return None

    @abstractmethod
    def log_var(self, bounds: LogVariances, p: Prediction) -> Tensor:
        """log variance, () or (B, *), broadcasting against p.x_t in its dtype."""


@dataclass(frozen=True, slots=True)
class Small(Variance):
    """The posterior's own variance, beta-tilde: optimal when data are a single point (Ho et al. 2020, sec. 3.2)."""

    def log_var(self, bounds: LogVariances, p: Prediction) -> Tensor:
        return spread(bounds.small, p.x_t)


@dataclass(frozen=True, slots=True)
class Large(Variance):
    """The forward step's variance, beta: optimal when data are N(0, I) (Ho et al. 2020, sec. 3.2)."""

    def log_var(self, bounds: LogVariances, p: Prediction) -> Tensor:
        return spread(bounds.large, p.x_t)


@dataclass(frozen=True, slots=True)
class LearnedRange(Variance):
    """log var = v log large + (1 - v) log small, v = (var_output + 1)/2 (Nichol & Dhariwal 2021, eq. 15).

    The network's output is not squashed, as in their code: v may leave [0, 1].
    """

    learned: ClassVar[bool] = True

    def log_var(self, bounds: LogVariances, p: Prediction) -> Tensor:
        mix = (said_of_variance(p, "LearnedRange") + 1) / 2
        small, large = spread(bounds.small, p.x_t), spread(bounds.large, p.x_t)
        return mix * large + (1 - mix) * small


@dataclass(frozen=True, slots=True)
class Learned(Variance):
    """log var = var_output, straight from the network, for single steps of a chain (esling's first network).

    A network that was trained on single steps says nothing of longer ones, which are refused.

    steps: T, the length of the chain.
    """

    learned: ClassVar[bool] = True
    steps: int = 1000

    @property
    def chain_steps(self) -> int | None:
        return self.steps

    def log_var(self, bounds: LogVariances, p: Prediction) -> Tensor:
        return said_of_variance(p, "Learned")


def said_of_variance(p: Prediction, variance: str) -> Tensor:
    """The prediction's var_output. Raises ConfigError where the network was not trained to say any."""
    if p.var_output is None:
        raise ConfigError(
            "this denoiser does not predict a variance",
            expected=f"a network trained with learn_variance for the variance {variance}",
            fix="use the small or the large variance",
        )
    return p.var_output


def reverse(p: Prediction, s: Rates, variance: Variance, *, before: Rates | None = None) -> Gaussian:
    """p(x_s | x_t): the posterior with the prediction for x_0 and the given variance (Ho et al. 2020, eq. 11)."""
    check_length(variance, s, p.rates)
    q = posterior(p.x0, p.x_t, s=s, t=p.rates, before=before)
    return Gaussian(q.mean, variance.log_var(log_variances(s, p.rates, before=before), p))


def check_length(variance: Variance, s: Rates, t: Rates) -> None:
    """Refuse a step that the variance says nothing of. Raises UsageError."""
    if variance.chain_steps is None:
        return
    length = (t.t - s.t) * variance.chain_steps
    if not bool(((length - 1).abs() < 1e-6).all()):
        steps = variance.chain_steps
        raise UsageError(
            f"the variance {type(variance).__name__} speaks of single steps of a chain of {steps}, "
            f"and {float(length.max()):.3g} at once were asked for",
            expected=f"every one of the {steps} steps of the chain",
            fix=f"set sampling.steps: {steps}, or train with the variance LearnedRange, which fits any step",
        )
