"""Betas: the discrete variance schedules of DDPM and its successors, for any number of steps T.

A chain of T steps is `q(x_k | x_{k-1}) = N(sqrt(1 - beta_k) x_{k-1}, beta_k I)`, hence
`alpha_k² = alpha-bar_k = prod_{j<=k} (1 - beta_j)` and `sigma_k² = 1 - alpha-bar_k` (Ho et al. 2020, eq. 4).
A formula may drive a beta to 1, where a step would forget everything; betas are clipped at 0.999 (Nichol & Dhariwal).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import ConfigError

__all__ = [
    "MAX_BETA",
    "Betas",
    "ConstantBetas",
    "CosineBetas",
    "JsdBetas",
    "LinearBetas",
    "QuadraticBetas",
    "SigmoidBetas",
    "WarmupBetas",
]

MAX_BETA = 0.999


class Betas(ABC):
    """A rule that gives beta_1 … beta_T for any T."""

    __slots__ = ()

    @abstractmethod
    def unclipped(self, steps: int) -> Tensor:
        """The formula's own beta_k, k = 1 … T; shape (T,), float64."""

    def values(self, steps: int) -> Tensor:
        """beta_k as used, `min(unclipped, 0.999)`; shape (T,), float64. Raises ConfigError for a beta not above 0."""
        betas = self.unclipped(steps)
        bad = (~(betas > 0)).nonzero()
        if len(bad):
            index = int(bad[0])
            raise ConfigError(
                f"schedule.betas: {self!r} gives beta_{index + 1} = {betas[index].item()} for T = {steps}",
                expected="every beta_k above 0 (values from 0.999 up are clipped there)",
                fix="raise the smaller end of the range",
            )
        return betas.clamp(max=MAX_BETA)

    def remedies(self, key: str) -> list[str]:
        """What of these betas to set for more noise at the end of a short chain; `key` is their place in settings."""
        return []

    def num_clipped(self, steps: int) -> int:
        """How many betas the formula drove to 0.999 or more: said in the record of a run."""
        return int((self.unclipped(steps) >= MAX_BETA).sum())


def _check_range(start: float, end: float) -> None:
    for name, value, usual in (("start", start, 1e-4), ("end", end, 0.02)):
        if not 0 < value < 1:
            raise ConfigError(
                f"schedule.betas.{name} is {value}",
                expected="a number above 0 and below 1",
                fix=f"set schedule.betas.{name}: {usual}",
            )


def _ramp(start: float, end: float, steps: int) -> Tensor:
    """`steps` numbers from start to end, both included; with one step, the end (all the noise there is)."""
    if steps == 1:
        return torch.tensor([end], dtype=torch.float64)
    return torch.linspace(start, end, steps, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class LinearBetas(Betas):
    """beta from start to end in equal steps, both times `1000/T` when rescaled (Ho et al. 2020; Nichol & Dhariwal).

    Without the rescaling a short chain ends far from its prior: T = 200 with the usual range stops at alpha-bar 0.132.

    start: the first beta, of a chain of 1000 steps when rescaled.
    end: the last beta.
    rescale: multiply by 1000/T, so that a chain of any length ends in noise.
    """

    start: float = 1e-4
    end: float = 0.02
    rescale: bool = True

    def __post_init__(self) -> None:
        _check_range(self.start, self.end)

    def unclipped(self, steps: int) -> Tensor:
        scale = 1000 / steps if self.rescale else 1.0
        return scale * _ramp(self.start, self.end, steps)

    def remedies(self, key: str) -> list[str]:
        return [f"set {key}.end: 0.02" if self.rescale else f"set {key}.rescale: true"]


@dataclass(frozen=True, slots=True)
class QuadraticBetas(Betas):
    """Equal steps of the square root: `linspace(sqrt(start), sqrt(end))²` (Ho et al. 2020, code).

    start: the first beta.
    end: the last beta.
    """

    start: float = 1e-4
    end: float = 0.02

    def __post_init__(self) -> None:
        _check_range(self.start, self.end)

    def unclipped(self, steps: int) -> Tensor:
        return _ramp(math.sqrt(self.start), math.sqrt(self.end), steps) ** 2


@dataclass(frozen=True, slots=True)
class SigmoidBetas(Betas):
    """`start + (end - start) · sigmoid(linspace(-6, 6))` (Esling's notebooks; GeoDiff).

    start: the beta that the first steps approach.
    end: the beta that the last steps approach.
    """

    start: float = 1e-4
    end: float = 0.02

    def __post_init__(self) -> None:
        _check_range(self.start, self.end)

    def unclipped(self, steps: int) -> Tensor:
        return self.start + (self.end - self.start) * _ramp(-6.0, 6.0, steps).sigmoid()


@dataclass(frozen=True, slots=True)
class ConstantBetas(Betas):
    """The same beta at every step.

    value: that beta.
    """

    value: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.value < 1:
            raise ConfigError(
                f"schedule.betas.value is {self.value}",
                expected="a number above 0 and below 1",
                fix="set schedule.betas.value: 0.02",
            )

    def unclipped(self, steps: int) -> Tensor:
        return torch.full((steps,), self.value, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class CosineBetas(Betas):
    """alpha-bar(k) = f(k/T)/f(0), `f(u) = cos²((u + offset)/(1 + offset) · pi/2)` (Nichol & Dhariwal 2021, eq. 17).

    offset: keeps the first betas from vanishing; the paper's is 0.008.
    """

    offset: float = 0.008

    def __post_init__(self) -> None:
        if not 0 <= self.offset < 1:
            raise ConfigError(
                f"schedule.betas.offset is {self.offset}",
                expected="a number in [0, 1)",
                fix="set schedule.betas.offset: 0.008",
            )

    def unclipped(self, steps: int) -> Tensor:
        u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        survival = ((u + self.offset) / (1 + self.offset) * math.pi / 2).cos() ** 2
        return 1 - survival[1:] / survival[:-1]


@dataclass(frozen=True, slots=True)
class JsdBetas(Betas):
    """beta_k = 1/(T - k + 1): every step removes the same share of the signal (Sohl-Dickstein et al. 2015)."""

    def unclipped(self, steps: int) -> Tensor:
        return 1 / torch.arange(steps, 0, -1, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class WarmupBetas(Betas):
    """Linear from start to end over the first `fraction` of the steps, then constant (Ho et al. 2020, code).

    start: the first beta.
    end: the beta after the rise.
    fraction: share of the steps that rise.
    """

    start: float = 1e-4
    end: float = 0.02
    fraction: float = 0.1

    def __post_init__(self) -> None:
        _check_range(self.start, self.end)
        if not 0 < self.fraction <= 1:
            raise ConfigError(
                f"schedule.betas.fraction is {self.fraction}",
                expected="a number above 0, at most 1",
                fix="set schedule.betas.fraction: 0.1",
            )

    def unclipped(self, steps: int) -> Tensor:
        rising = int(steps * self.fraction)
        betas = torch.full((steps,), self.end, dtype=torch.float64)
        if rising > 0:
            betas[:rising] = torch.linspace(self.start, self.end, rising, dtype=torch.float64)
        return betas
