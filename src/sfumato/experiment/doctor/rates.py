"""The learning-rate range test: one short training in which the rate rises from next to nothing to too much.

    rate_k = low (high/low)^(k/(K-1)),   k = 0 … K-1          (Smith 2017, "Cyclical learning rates", sec. 3.3)

After every step the loss is measured on one fixed batch with fixed times and noise, so that the curve shows the weights
and not the luck of the draw; with the statistics of that batch, as in training, where a network normalises by batches:
running averages of them would lag behind the weights, and show a rise where there is none. It falls, and turns up where
steps become too long. Of its running mean over three measurements the test names

    best         where it is lowest before it has risen again by as much as it had fallen
    steepest     where it falls fastest per factor of the rate
    diverged     where it has risen that much, or is not finite any more
    recommended  best/3: the lowest point of so short a test is reached at the brink, and a run is long

On 300 steps of the recipe `digits` the held-out loss is lowest around best/2, and best/10 loses to it by a tenth
(docs/doctor.md).

The weights, batches, times and noise all follow from the seed: the same experiment on the same machine gives the same
curve, digit by digit.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sfumato.errors import ConfigError, NumericsError
from sfumato.experiment.session import Session
from sfumato.objectives import Draw
from sfumato.training.conditioner import Examples

__all__ = ["RateCurve", "find_rate", "loss_on", "rates_between", "read_curve", "smoothed"]

LOW, HIGH, COUNT = 1e-6, 1.0, 90
LEAST_FALL = 0.01  # of the first loss: a curve that falls less names no rate
LEAST_RISE = 0.1  # of the first loss: less is no divergence
MARGIN = 3.0
AFTER = 6  # steps that are shown of what has diverged
WORK = 6e12  # FLOPs of the whole test on a CPU: half a minute of two cores, about
FEWEST = 8  # examples in a batch of the test
PASSES = 4  # forward passes that a step and its measurement cost for each example


@dataclass(frozen=True, slots=True)
class RateCurve:
    """The curve and what is read from it.

    rates, losses: of each step, the loss after it. start: the loss before the first step. examples: in a batch of the
    test. best, steepest, recommended: rates; None where the loss fell at none. diverged: None where it never did.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    start: float
    examples: int
    best: float | None
    steepest: float | None
    recommended: float | None
    diverged: float | None

    @property
    def finite(self) -> bool:
        """Whether any loss was."""
        return any(map(math.isfinite, self.losses))

    @property
    def flag(self) -> str:
        """What is recommended, to two digits; empty where nothing is."""
        return "" if self.recommended is None else f"{float(f'{self.recommended:.1e}'):g}"

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "rates": list(self.rates),
            "losses": list(self.losses),
            "first_loss": self.start,
            "examples": self.examples,
            "best": self.best,
            "steepest": self.steepest,
            "recommended": self.recommended,
            "diverged": self.diverged,
        }


def rates_between(low: float, high: float, count: int) -> tuple[float, ...]:
    """`count` rates from low to high, each the same multiple of the one before. Raises ConfigError for no range."""
    if not (0 < low < high <= 10 and count >= 10):
        raise ConfigError(
            f"learning rates from {low:g} to {high:g} in {count} steps",
            expected="0 < lowest < highest <= 10, in 10 steps or more",
            fix="leave them out: from 1e-6 to 1 in 90 steps",
        )
    return tuple(low * (high / low) ** (k / (count - 1)) for k in range(count))


def smoothed(losses: Sequence[float]) -> list[float]:
    """Means of each value and its finite neighbours; the ends as they are. What is not finite is infinite."""
    found = [value if math.isfinite(value) else math.inf for value in losses]
    means = list(found)
    for k in range(1, len(found) - 1):
        near = [value for value in found[k - 1 : k + 2] if math.isfinite(value)]
        means[k] = sum(near) / len(near) if math.isfinite(found[k]) else math.inf
    return means


def read_curve(rates: Sequence[float], losses: Sequence[float], start: float, *, examples: int = 0) -> RateCurve:
    """Name the rates of a curve; `start` is the loss before the first step."""
    smooth = smoothed(losses)
    lowest, end, diverged = 0, len(smooth), None
    for k, value in enumerate(smooth):
        if value < smooth[lowest]:
            lowest = k
        rise = max(start - smooth[lowest], LEAST_RISE * abs(start))
        if not math.isfinite(losses[k]) or value > smooth[lowest] + rise:
            end, diverged = k, rates[k]
            break
    before = smooth[:end]
    fell = bool(before) and start - min(before) > LEAST_FALL * abs(start)
    best = rates[lowest] if fell else None
    return RateCurve(
        rates=tuple(rates),
        losses=tuple(losses),
        start=start,
        examples=examples,
        best=best,
        steepest=rates[_steepest(before, lowest)] if fell else None,
        recommended=None if best is None else best / MARGIN,
        diverged=diverged,
    )


def _steepest(smooth: Sequence[float], lowest: int) -> int:
    """Where the curve falls fastest before its lowest point; the rates being geometric, per factor of the rate."""
    falls = [(smooth[k - 1] - smooth[k + 1], k) for k in range(1, min(lowest, len(smooth) - 2) + 1)]
    return max(falls, default=(0.0, lowest), key=lambda fall: fall[0])[1]


def find_rate(
    session: Session,
    *,
    flops: int,
    low: float = LOW,
    high: float = HIGH,
    count: int = COUNT,
    progress: Callable[[int, int], None] | None = None,
) -> RateCurve:
    """Train a fresh session, without dropout, at rising rates; its weights are spoilt.

    flops: of one forward pass for one example.

    On a CPU the batches are cut to what half a minute can do, to 8 examples at least: which is said, and is the same on
    every CPU.
    """
    rates = rates_between(low, high, count)
    step, settings = copy.copy(session.step), session.experiment.training
    own = settings.batch_size // session.engine.processes
    if session.engine.device.type == "cpu":
        own = min(own, max(FEWEST, int(WORK / (PASSES * count * max(1, flops)))))
    fixed = replace(settings, batch_size=own * session.engine.processes, accumulate=1, warmup_steps=0, decay="constant")
    step.settings = fixed
    examples, draw = next(iter(step.parts(count)))  # the batch after those that are trained on
    start = loss_on(session, examples, draw)
    losses: list[float] = []
    for k, rate in enumerate(rates):
        step.settings = replace(fixed, learning_rate=rate)
        try:
            step(k)
            step.check(k + 1)
        except NumericsError:  # that is where the curve ends
            losses.append(math.inf)
            break
        losses.append(loss_on(session, examples, draw))
        if progress is not None:
            progress(k + 1, count)
        if not math.isfinite(losses[-1]) or _is_over(rates, losses, start):
            break
    return read_curve(rates[: len(losses)], losses, start, examples=own)


def _is_over(rates: Sequence[float], losses: Sequence[float], start: float) -> bool:
    """Whether the curve has diverged some steps ago: nothing that follows changes a reading."""
    diverged = read_curve(rates[: len(losses)], losses, start).diverged
    return diverged is not None and rates.index(diverged) + AFTER < len(losses)


@torch.no_grad()
def loss_on(session: Session, examples: Examples, draw: Draw) -> float:
    """The loss on the fixed batch as training has it."""
    found = session.experiment.objective(session.denoiser, examples.x0, draw, examples.cond).values.detach()
    return float(found.double().mean())
