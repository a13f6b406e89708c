"""Ideal denoisers as the samplers see them, and noise that a test hands out itself."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from sfumato.core import Denoise, NoiseSource, Prediction, Rates, Schedule
from sfumato.verify.oracles import Oracle


@dataclass(frozen=True)
class Ideal:
    """An oracle of the data law as a `Denoise`: exact to float64."""

    oracle: Oracle
    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        r = self.schedule.rates(t)
        x0 = self.oracle.denoiser(x_t.double().numpy(), r.alpha.numpy(), r.sigma.numpy())
        return Prediction(x_t, r, torch.from_numpy(x0).to(x_t.dtype))


@dataclass
class Given:
    """Stands in for a `NoiseSource`: the k-th increment asked for is `draw(k, x)`; the intervals are remembered."""

    draw: Callable[[int, Tensor], Tensor]
    intervals: list[tuple[float, float]] = field(default_factory=list)

    def increment(self, t: Rates, s: Rates, x: Tensor) -> Tensor:
        self.intervals.append((float(t.t), float(s.t)))
        return self.draw(len(self.intervals) - 1, x)


@pytest.fixture
def ideal() -> Callable[[Oracle, Schedule], Denoise]:
    """Oracle and schedule -> a denoiser that cannot be beaten."""
    return Ideal


@pytest.fixture
def given() -> Callable[[Callable[[int, Tensor], Tensor]], NoiseSource]:
    """A source whose increments the test decides."""
    return Given  # type: ignore[return-value]
