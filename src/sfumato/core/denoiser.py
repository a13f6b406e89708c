"""The trained thing: a network, a schedule and a parameterization make a denoiser.

`Denoise` is all that samplers, guidance and likelihood ever see: (x_t, t) -> `Prediction`. `Denoiser` is the one that
is trained; wrappers (clipping, guidance, counting) are others. The network sees `c_in x_t` and a time input,

    c_in = 1 / sqrt(alpha² data_std² + sigma²)      (Karras et al. 2022; 1 for a network that counts steps)
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from sfumato.condition import Condition
from sfumato.core.learned import NAME, LearnedClock
from sfumato.core.parameterization import Parameterization
from sfumato.core.prediction import Prediction
from sfumato.core.rates import Rates, spread
from sfumato.core.schedules import MAX_LOG_SNR, Schedule
from sfumato.errors import ConfigError

__all__ = [
    "Cond",
    "Denoise",
    "Denoiser",
    "LogSnrInput",
    "NoiseVarianceInput",
    "Said",
    "StepInput",
    "TimeInput",
    "check_terminal_signal",
]

Cond = Condition


class Denoise(Protocol):
    """Anything that predicts data from noisy data: a trained denoiser, an oracle, or a wrapper of either."""

    @property
    def schedule(self) -> Schedule:
        """The schedule whose times `__call__` takes."""
        ...

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        """Prediction for x_t (B, *) at times t, () or (B,), float64."""
        ...


class TimeInput(ABC):
    """The number that tells the network how noisy its input is."""

    __slots__ = ()

    @abstractmethod
    def value(self, r: Rates) -> Tensor:
        """The network's time input at the rates r; float64, shaped as r.t."""

    @property
    @abstractmethod
    def span(self) -> float:
        """The length of the range of `value`: what an embedding of the time input calls one unit."""

    @abstractmethod
    def input_scale(self, r: Rates, data_std: float) -> Tensor:
        """c_in, which multiplies x_t before the network; float64, shaped as r.t."""


def unit_variance(r: Rates, data_std: float) -> Tensor:
    """1/sqrt(alpha² data_std² + sigma²): x_t times this has unit variance at every noise level (Karras et al. 2022)."""
    return (r.alpha**2 * data_std**2 + r.sigma**2).rsqrt()


@dataclass(frozen=True, slots=True)
class StepInput(TimeInput):
    """t T - 1: the zero-based index of the step, as in DDPM; fractional between grid points; x_t goes in unscaled.

    steps: T, the same number as the schedule's.
    """

    steps: int = 1000

    def value(self, r: Rates) -> Tensor:
        return r.t * self.steps - 1

    @property
    def span(self) -> float:
        return float(self.steps)

    def input_scale(self, r: Rates, data_std: float) -> Tensor:
        return torch.ones_like(r.t)


@dataclass(frozen=True, slots=True)
class NoiseVarianceInput(TimeInput):
    """sigma²/(alpha² + sigma²), the share of noise in the power of x_t, in (0, 1) (Béres 2022)."""

    def value(self, r: Rates) -> Tensor:
        return (-r.log_snr).sigmoid()

    @property
    def span(self) -> float:
        return 1.0

    def input_scale(self, r: Rates, data_std: float) -> Tensor:
        return unit_variance(r, data_std)


@dataclass(frozen=True, slots=True)
class LogSnrInput(TimeInput):
    """-log_snr/8, which is Karras et al.'s ¼ ln sigma, in about (-2.5, 2.5)."""

    def value(self, r: Rates) -> Tensor:
        return -r.log_snr / 8

    @property
    def span(self) -> float:
        return MAX_LOG_SNR / 4

    def input_scale(self, r: Rates, data_std: float) -> Tensor:
        return unit_variance(r, data_std)


MAX_TERMINAL_SIGNAL = 0.01


def check_terminal_signal(schedule: Schedule, data_std: float) -> None:
    """Refuse a schedule with alpha_1² data_var/sigma_1² > 0.01: sampling would start where training never was.

    Lin et al. 2024 ("Common diffusion noise schedules are flawed"). Raises ConfigError with the number and the
    remedies.
    """
    signal = schedule.terminal_signal(data_std)
    if signal > MAX_TERMINAL_SIGNAL:
        end = schedule.rates(1.0)
        raise ConfigError(
            f"schedule {type(schedule).__name__} ends with alpha-bar {float(end.alpha**2):.4g}: "
            f"the data still have {signal:.3g} times the power of the noise at t = 1",
            expected=f"at most {MAX_TERMINAL_SIGNAL}, because sampling starts from noise alone",
            fix=f"{schedule.remedy(math.log(MAX_TERMINAL_SIGNAL / data_std**2))}, or set allow_terminal_signal: true",
        )


def noisiest_end(data_std: float) -> float:
    """The log_snr in nats at which alpha² data_std²/sigma² is what sampling allows, less what rounding may add."""
    return math.log(MAX_TERMINAL_SIGNAL / data_std**2) - 1e-9


@dataclass(frozen=True, slots=True)
class Said:
    """The network's own words: F, and what it says of the variance where it was built to, each (B, C, *)."""

    output: Tensor
    var_output: Tensor | None


def _joined(clock: LearnedClock | None, network: nn.Module) -> LearnedClock | None:
    """The clock as a part of the network: the one that it has already, or this one, which it gets."""
    if clock is None:
        return None
    there = dict(network.named_children()).get(NAME)
    if isinstance(there, LearnedClock) and there.settings == clock.settings:
        return there
    network.add_module(NAME, clock)
    return clock


class Denoiser(nn.Module):
    """The trained denoiser: x0 = c_skip x_t + c_out F(c_in x_t, time), computed in float32 around the network.

    With `learn_variance` the network gives twice the channels; the second half is the prediction's `var_output`, which
    `LearnedRange` or `Learned` turns into a variance. A schedule that is trained has its module `clock` among those of
    the network, so that optimizers, averages and files hold it; `schedule` is then what the clock says now. Its noisy
    end, where that is trained, stays where the check of the terminal signal passes.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        parameterization: Parameterization,
        *,
        time_input: TimeInput,
        data_std: float,
        learn_variance: bool = False,
        allow_terminal_signal: bool = False,
    ) -> None:
        super().__init__()
        if not (data_std > 0 and data_std < float("inf")):
            raise ConfigError(
                f"data_std is {data_std}",
                expected="a positive number",
                fix="check that the data are not all the same value",
            )
        if not allow_terminal_signal:
            check_terminal_signal(schedule, data_std)
        self.network = network
        self.clock = _joined(schedule.clock(), network)
        if self.clock is not None and not allow_terminal_signal:
            self.clock.end_below(noisiest_end(data_std))
        self._fixed = schedule
        self.parameterization = parameterization
        self.time_input = time_input
        self.data_std = data_std
        self.learn_variance = learn_variance

    @property
    def schedule(self) -> Schedule:
        """The schedule: that of the settings, or the trained one with its present weights."""
        return self._fixed if self.clock is None else self.clock.schedule()

    def output(self, x_t: Tensor, r: Rates, cond: Cond | None = None) -> Tensor:
        """The network's F (B, C, *) in the dtype of x_t, whatever precision the network ran in, less the variance."""
        return self.said(x_t, r, cond).output

    def said(self, x_t: Tensor, r: Rates, cond: Cond | None = None) -> Said:
        """All that the network says of x_t (B, C, *), in the dtype of x_t: one call of the network."""
        scale = spread(self.time_input.input_scale(r, self.data_std), x_t)
        time = self.time_input.value(r).to(device=x_t.device, dtype=x_t.dtype).expand(len(x_t))
        channels = self.network(scale * x_t, time, cond).to(x_t.dtype)
        return Said(*channels.chunk(2, dim=1)) if self.learn_variance else Said(channels, None)

    def prediction(self, said: Said, x_t: Tensor, r: Rates) -> Prediction:
        """What the words of the network mean: x0_hat = c_skip x_t + c_out F, and the variance's words as they are."""
        return Prediction(x_t, r, self.parameterization.x0(said.output, x_t, r, self.data_std), said.var_output)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        r = self.schedule.rates(t)
        return self.prediction(self.said(x_t, r, cond), x_t, r)
