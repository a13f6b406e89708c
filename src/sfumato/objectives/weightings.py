"""Weights, all defined in one space: on the squared error of the noise estimate, |eps_hat - eps|².

The objective is the integral over t in [t_min, 1] of `w(t) |eps_hat - eps|²`; as |eps_hat - eps| = |gain| |F_hat - F|,
a weighting is handed out as the factor `w · gain²` on the output's squared error, so every weighting fits every
target. With s = exp(log_snr), up to constants:

    plain output loss   1/gain²        DDPM's L_simple   1           x0 loss   1/s
    min-SNR             min(s, γ)/s    score, λ = 1      1/sigma²    ELBO      -½ dlog_snr/dt
    soft min-SNR        γ/(s + γ)      P2                1/(k + s)^γ

Weights that papers give as w(log_snr) enter as -½ dlog_snr/dt · w (Kingma & Gao 2023, eq. 2).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core import (
    Edm,
    LogNormalTimes,
    Parameterization,
    Rates,
    Schedule,
    log_variances,
)
from sfumato.errors import ConfigError

__all__ = [
    "EdmLogNormal",
    "Elbo",
    "ImageError",
    "LikelihoodWeight",
    "MinSnr",
    "NoiseError",
    "OutputError",
    "P2",
    "ScoreError",
    "SigmoidWeight",
    "SoftMinSnr",
    "StepElbo",
    "Weighting",
]


class Weighting(ABC):
    """A weight per noise level, handed out as the factor on the output's squared error."""

    __slots__ = ()

    @abstractmethod
    def output_factor(
        self, r: Rates, schedule: Schedule, parameterization: Parameterization, data_std: float
    ) -> Tensor:
        """w · gain² at the rates r of the schedule; float64, shaped as r.t."""


class NoiseSpaceWeighting(Weighting):
    """A weighting given by its w on |eps_hat - eps|²."""

    __slots__ = ()

    @abstractmethod
    def noise_weight(self, r: Rates, schedule: Schedule, data_std: float) -> Tensor:
        """w on |eps_hat - eps|² with respect to dt; float64, shaped as r.t."""

    def output_factor(
        self, r: Rates, schedule: Schedule, parameterization: Parameterization, data_std: float
    ) -> Tensor:
        return self.noise_weight(r, schedule, data_std) * parameterization.gain(r, data_std) ** 2


def require_above_zero(name: str, value: float, example: float) -> None:
    """Raise ConfigError unless the field `name` of a weighting is a finite number above 0."""
    if not 0 < value < float("inf"):
        raise ConfigError(
            f"objective.weighting.{name} is {value}",
            expected="a number above 0",
            fix=f"set objective.weighting.{name}: {example}",
        )


@dataclass(frozen=True, slots=True)
class OutputError(Weighting):
    """The plain loss on the network's output, whatever its target: a factor of exactly 1, by no division."""

    def output_factor(
        self, r: Rates, schedule: Schedule, parameterization: Parameterization, data_std: float
    ) -> Tensor:
        return torch.ones_like(r.t)


@dataclass(frozen=True, slots=True)
class NoiseError(NoiseSpaceWeighting):
    """w = 1: DDPM's L_simple (Ho et al. 2020, eq. 14)."""

    def noise_weight(self, r: Rates, schedule: Schedule, data_std: float) -> Tensor:
        return torch.ones_like(r.t)


@dataclass(frozen=True, slots=True)
class ImageError(NoiseSpaceWeighting):
    """w = (sigma/alpha)²: the plain loss on x0."""

    def noise_weight(self, r: Rates, schedule: Schedule, data_std: float) -> Tensor:
        return r.noise_level**2


@dataclass(frozen=True, slots=True)
class MinSnr(NoiseSpaceWeighting):
    """w = min(SNR, gamma)/SNR: the x0 loss weighted by the SNR up to gamma (Hang et al. 2023; 5 is the paper's).

    gamma: the SNR from which on the weight no longer grows.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        require_above_zero("gamma", self.gamma, 5)

    def noise_weight(self, r: Rates, schedule: Schedule, data_std: float) -> Tensor:
        return (math.log(self.gamma) - r.log_snr).clamp(max=0.0).exp()


@dataclass(frozen=True, slots=True)
class SoftMinSnr(NoiseSpaceWeighting):
    """w = gamma/(SNR + gamma): min-SNR without its corner, SNR gamma/(SNR + gamma) on x0 (Crowson et al. 2024).

    It is half of `MinSnr` where SNR = gamma, the most that they differ by, and equal to it at both ends.

    gamma: the SNR at which the weight on the noise error is one half; 4 is the paper's.
    """

    gamma: float = 4.0

    def __post_init__(self) -> None:
        require_above_zero("gamma", self.gamma, 4)

    def noise_weight(self, r: Rates, schedule: Schedule, data_std: float) -> Tensor:
        return (math.log(self.gamma) - r.log_snr).sigmoid()


@dataclass(frozen=True, slots=True)
class P2(NoiseSpaceWeighting):
    """w = 1/(k + SNR)^gamma: less weight on the finest details, as multiples of L_simple (Choi et al. 2022, eq. 8).

    k: keeps the weight finite towards noise; 1 is the paper's.
    gamma: how steeply the weight falls towards the data; 1 or 0.5 in the paper, and 0 is L_simple.
    """

    k: float = 1.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        require_above_zero("k", self.k, 1)
        if not 0 <= self.gamma < float("inf"):
            raise ConfigError(
                f"objective.weighting.gamma is {self.gamma}",
                expected="a number of 0 or more",
                fix="set objective.weighting.gamma: 1",
            )

    def noise_weight(self, r: Rates, schedule: Schedule, data_std: float) -> Tensor:
        log_k = torch.full_like(r.log_snr, math.log(self.k))
        return (-self.gamma * torch.logaddexp(log_k, r.log_snr)).exp()


@dataclass(frozen=True, slots=True)
class ScoreError(NoiseSpaceWeighting):
    """w = 1/sigma²: the plain loss on the score, score matching with λ = 1 (Song & Ermon 2019, eq. 5)."""

    def noise_weight(self, r: Rates, schedule: Schedule, data_std: float) -> Tensor:
        return r.sigma**-2


@dataclass(frozen=True, slots=True)
class Elbo(NoiseSpaceWeighting):
    """w = -½ dlog_snr/dt: the variational bound in continuous time, in nats (Kingma et al. 2021, eq. 17).

    It is the likelihood weighting too: Song, Durkan et al. 2021 (theorem 1) put g² on ½ |score_hat - score|², which is
    ½ (g²/sigma²) |eps_hat - eps|² with g² = -sigma² dlog_snr/dt.
    """

    def noise_weight(self, r: Rates, schedule: Schedule, data_std: float) -> Tensor:
        return -schedule.slope(r.t) / 2


LikelihoodWeight = Elbo


@dataclass(frozen=True, slots=True)
class StepElbo(NoiseSpaceWeighting):
    """w = T/2 expm1(log_snr_s - log_snr_t), s = t - 1/T: the bound of a T-step table with the small variance, in nats.

    Ho et al. 2020, eq. 12, in Kingma et al. 2021's form (eq. 14). The step that ends at data is scored by a Gaussian
    decoder with the small variance of the step before: w = T/2 (sigma/alpha)²/var. With `Mse` this is the exact
    weighted eps loss: `VariationalBound(Small(), GaussianDecoder())` less what no network changes, the prior term and
    ½ log(2 pi var) of the decoder.
    """

    def noise_weight(self, r: Rates, schedule: Schedule, data_std: float) -> Tensor:
        num_steps = schedule.num_steps
        if num_steps is None:
            raise ConfigError(
                f"objective.weighting is StepElbo and schedule is {type(schedule).__name__}, which has no steps",
                expected="a table for StepElbo, or the weighting Elbo for continuous time",
                fix="set objective.weighting: Elbo",
            )
        step = (r.t * num_steps).round()
        if num_steps == 1:
            return 0.5 * torch.ones_like(r.t) * r.noise_level**2 / r.sigma**2
        s = schedule.rates((step - 1).clamp(min=1) / num_steps)
        of_step = num_steps / 2 * torch.expm1((s.log_snr - r.log_snr).clamp(min=0.0))
        first, second = (schedule.rates(k / num_steps) for k in (1, 2))
        decoder_log_var = log_variances(Rates.data(), first, before=second).small
        of_decoder = num_steps / 2 * r.noise_level**2 * (-decoder_log_var).exp()
        return torch.where(step <= 1, of_decoder, of_step)


@dataclass(frozen=True, slots=True)
class SigmoidWeight(NoiseSpaceWeighting):
    """w(log_snr) = sigmoid(bias - log_snr), entering as -½ dlog_snr/dt · w (Kingma & Gao 2023).

    bias: the log-SNR at which the weight is one half.
    """

    bias: float = 2.0

    def noise_weight(self, r: Rates, schedule: Schedule, data_std: float) -> Tensor:
        return -schedule.slope(r.t) / 2 * (self.bias - r.log_snr).sigmoid()


@dataclass(frozen=True, slots=True)
class EdmLogNormal(NoiseSpaceWeighting):
    """EDM's objective (Karras et al. 2022, table 1): uniform on EDM's own output under ln(noise_level) ~ N(mean, std²).

    The density p(log_snr) is part of the weight, w = p |dlog_snr/dt| / gain_edm²; with `LogNormalTimes(mean, std)` and
    the target `Edm` the factor on the output is therefore 1, and with other times only the variance changes.

    mean: of the logarithm of the noise level.
    std: of the logarithm of the noise level.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        LogNormalTimes(self.mean, self.std)

    def noise_weight(self, r: Rates, schedule: Schedule, data_std: float) -> Tensor:
        density = LogNormalTimes(self.mean, self.std).density(schedule, r.t)
        return density / Edm().gain(r, data_std) ** 2
