"""Dormand and Prince's 5(4) pair with every sample of a batch on a clock of its own.

    dy/du = f(y, u),   y(u0) given,   y(u1) wanted

Six evaluations make a step of order 5 and, with its end point as a seventh stage, an estimate of order 4 whose
difference is the local error (Dormand & Prince 1980). The seventh is the first of the next step, so it is free. Each
sample has its own u and its own step h: what a sample becomes does not depend on its neighbours. f is always given the
whole batch, so that shapes never change; samples that have arrived, stand still and are not counted.

The error norm is the root mean square of error/(atol + rtol |y|), the largest over the parts of the state. Steps are
chosen by the PI controller of Hairer, Nørsett & Wanner 1993 (section II.4; Gustafsson 1991), the first one by theirs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfumato.core.rates import spread
from sfumato.errors import ConfigError, NumericsError

__all__ = ["Field", "Solution", "State", "Tolerances", "solve"]

State = tuple[Tensor, ...]
Field = Callable[[State, Tensor], State]

NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),  # the step itself, of order 5
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)  # of order 5 less order 4
SAFETY, LEAST, MOST = 0.9, 0.2, 10.0  # of the factor between one step and the next
MEMORY = 0.04  # how much the controller heeds the last error
SMALLEST = 1e-14  # step, as a share of the whole interval


@dataclass(frozen=True, slots=True)
class Tolerances:
    """What error each step may make, and how many steps each sample may take.

    rtol: local error allowed, as a share of the state.
    atol: local error allowed besides, in units of the state.
    max_steps: steps of one sample, rejected ones included, before the solver gives up.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 1000

    def __post_init__(self) -> None:
        if not (0 < self.rtol < 1 and 0 < self.atol < float("inf")):
            raise ConfigError(
                f"rtol is {self.rtol} and atol is {self.atol}",
                expected="tolerances above 0, rtol below 1",
                fix="set both to 1e-3 for samples, to 1e-5 for likelihoods",
            )
        if self.max_steps < 1:
            raise ConfigError(f"max_steps is {self.max_steps}", expected="1 or more", fix="set max_steps: 1000")


@dataclass(frozen=True, slots=True)
class Solution:
    """The state at u1, and what it took: `calls`, `accepted` and `rejected`, each (B,) int64, per sample.

    evaluations: how often f was asked, for the whole batch at once.
    """

    state: State
    calls: Tensor
    accepted: Tensor
    rejected: Tensor
    evaluations: int


@dataclass(frozen=True, slots=True)
class _Progress:
    """Where every sample stands: state and slope at u, the next step, the last accepted error; u, h, error (B,)."""

    state: State
    slope: State
    u: Tensor
    h: Tensor
    last_error: Tensor
    after_rejection: Tensor
    accepted: Tensor
    rejected: Tensor


def solve(
    f: Field,
    state: State,
    *,
    start: float,
    end: float,
    tolerances: Tolerances,
    max_step: float = float("inf"),
    place: Callable[[float], str] = "u = {:.4g}".format,
) -> Solution:
    """Integrate dy/du = f from `start` to `end`, either way; parts of the state are (B, *), of any dtype and device.

    f takes the parts and u, (B,) float64 on the CPU. `place` words a u for messages. Raises NumericsError when a sample
    does not arrive within `max_steps`, or its slope is not finite.
    """
    now = _begin(f, state, start=start, end=end, tolerances=tolerances, max_step=max_step, place=place)
    evaluations = 2
    while bool((now.u != end).any()):
        if int((now.accepted + now.rejected).max()) >= tolerances.max_steps:
            _refuse(now, end, f"after {tolerances.max_steps} steps", place)
        now = _advance(f, now, end=end, tolerances=tolerances, max_step=max_step)
        evaluations += len(NODES)
        if bool((now.h.abs() < SMALLEST * abs(end - start))[now.u != end].any()):
            _refuse(now, end, "with steps too small for its numbers", place)
    calls = 2 + len(NODES) * (now.accepted + now.rejected)
    return Solution(now.state, calls, now.accepted, now.rejected, evaluations)


def _begin(
    f: Field,
    state: State,
    *,
    start: float,
    end: float,
    tolerances: Tolerances,
    max_step: float,
    place: Callable[[float], str],
) -> _Progress:
    """The first slope and step of every sample: h such that an explicit Euler step would err by a hundredth."""
    count = len(state[0])
    u = torch.full((count,), start, dtype=torch.float64)
    whole, way = min(abs(end - start), max_step), 1.0 if end > start else -1.0
    slope = f(state, u)
    if not all(bool(part.isfinite().all()) for part in slope):
        raise NumericsError(
            f"the slope of the ODE is not finite at its start, {place(start)}",
            expected="a denoiser with finite answers",
            fix="use float32, or an earlier checkpoint",
        )
    size, speed = _norm(state, state, tolerances), _norm(slope, state, tolerances)
    guess = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed).clamp(max=whole)
    ahead = f(_moved(state, (slope,), (1.0,), way * guess), u + way * guess)
    bend = _norm(tuple(a - b for a, b in zip(ahead, slope, strict=True)), state, tolerances)
    fastest = torch.maximum(speed, bend / guess)
    h = torch.where(fastest <= 1e-15, guess * 1e3, (0.01 / fastest.clamp(min=1e-300)) ** 0.2)
    h = way * torch.minimum(100 * guess, h).clamp(max=whole)
    none, zero = torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.int64)
    return _Progress(state, slope, u, h, torch.full_like(u, 1e-4), none, zero, zero)


def _advance(f: Field, now: _Progress, *, end: float, tolerances: Tolerances, max_step: float) -> _Progress:
    """One attempt at a step by every sample that has not arrived."""
    left = end - now.u
    moving = left != 0
    last = now.h.abs() * 1.01 >= left.abs()  # a rest of less than a hundredth of a step would cost a whole one
    h = torch.where(last, left, now.h)
    slopes = [now.slope]
    for node, weights in zip(NODES, STAGES, strict=True):
        reached = _moved(now.state, slopes, weights, h)
        slopes.append(f(reached, now.u + node * h))
    largest = tuple(torch.maximum(a.abs(), b.abs()) for a, b in zip(now.state, reached, strict=True))
    zero = tuple(torch.zeros_like(part) for part in now.state)
    error = _norm(_moved(zero, slopes, ERROR, h), largest, tolerances)
    error = torch.where(error.isfinite(), error, torch.inf)
    good, bad = moving & (error <= 1), moving & (error > 1)
    return replace(
        now,
        state=_chosen(good, reached, now.state),
        slope=_chosen(good, slopes[-1], now.slope),
        u=torch.where(good, torch.where(last, end, now.u + h), now.u),
        h=_next_step(h, error, now, max_step=max_step),
        last_error=torch.where(good, error.clamp(min=1e-4), now.last_error),
        after_rejection=bad,
        accepted=now.accepted + good,
        rejected=now.rejected + bad,
    )


def _next_step(h: Tensor, error: Tensor, now: _Progress, *, max_step: float) -> Tensor:
    """h times 0.9 error^-0.17 last^0.04 after a step that was good, 0.9 error^-0.17 after one that was not.

    A step that follows a rejection does not grow. Samples that arrive keep h: it is not used again.
    """
    error = error.clamp(min=1e-10)
    plain = error ** (0.75 * MEMORY - 0.2)
    grown = (SAFETY * plain * now.last_error**MEMORY).clamp(LEAST, MOST)
    grown = torch.where(now.after_rejection, grown.clamp(max=1.0), grown)
    factor = torch.where(error <= 1, grown, (SAFETY * plain).clamp(LEAST, 1.0))
    return (h * factor).clamp(-max_step, max_step)


def _moved(state: State, slopes: Sequence[State], weights: tuple[float, ...], h: Tensor) -> State:
    """state + h Σ weights_j slopes_j, part by part."""
    moved = []
    for index, part in enumerate(state):
        total = torch.zeros_like(part)
        for slope, weight in zip(slopes, weights, strict=True):
            if weight != 0:
                total = total + weight * slope[index]
        moved.append(part + spread(h, part) * total)
    return tuple(moved)


def _chosen(mask: Tensor, yes: State, no: State) -> State:
    """`yes` for the samples where mask (B,) is true, `no` elsewhere."""
    picks = (mask.to(a.device).reshape(-1, *[1] * (a.ndim - 1)) for a in yes)
    return tuple(torch.where(pick, a, b) for pick, a, b in zip(picks, yes, no, strict=True))


def _norm(value: State, scale: State, tolerances: Tolerances) -> Tensor:
    """Root mean square of value/(atol + rtol |scale|) per sample, the largest of the parts; (B,) float64, CPU."""
    parts = []
    for part, size in zip(value, scale, strict=True):
        ratio = (part / (tolerances.atol + tolerances.rtol * size.abs())).flatten(1)
        parts.append(ratio.square().mean(1).sqrt().cpu().to(torch.float64))
    return torch.stack(parts).amax(0)


def _refuse(now: _Progress, end: float, why: str, place: Callable[[float], str]) -> None:
    behind = (now.u != end).nonzero().flatten()
    slowest = behind[(now.u[behind] - end).abs().argmax()]
    raise NumericsError(
        f"the ODE solver did not converge: {len(behind)} of {len(now.u)} samples had not arrived {why}, "
        f"the slowest (sample {int(slowest)} of the batch) stands at {place(float(now.u[slowest]))}",
        expected="a path smooth enough for the tolerances",
        fix="allow more steps (max_steps), or larger tolerances (rtol, atol)",
    )
