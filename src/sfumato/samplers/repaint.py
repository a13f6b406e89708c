"""Filling in what is missing from pictures by walking to and fro (RePaint; Lugmayr et al. 2022).

After each step from t to s the known part is put in place, as noisy as it would be at s,

    x_s <- mask (alpha_s known + sigma_s n) + (1 - mask) x_s

The unknown part was made without knowing which noise the known one would get, so the two do not fit together. Noise is
therefore added again, from s back to an earlier time by the forward process, and the steps are repeated: with many
resamplings the unknown part comes to be drawn given the known one. Noise that was mixed in while there was more of it
than of signal is not undone, so the law of what comes out is near the posterior, and not quite it.

This changes the walk and not the denoiser, which is why it stands among the samplers; `guidance` has methods that any
sampler may use.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from sfumato.core import Cond, Denoise, NoiseSource, log_variances
from sfumato.errors import UsageError
from sfumato.samplers.base import Sampler, Step, check_finite, check_times, rates_at

__all__ = ["Move", "repaint", "repaint_moves"]

S = TypeVar("S")
OF_THE_KNOWN, OF_THE_WAY_BACK = 1 << 33, (1 << 33) + 1  # draws that no sampler takes


@dataclass(frozen=True, slots=True)
class Move:
    """From one place of the grid to another: down, to the next time, or back up by several."""

    start: int
    stop: int


def repaint_moves(steps: int, *, resamplings: int, jump: int) -> list[Move]:
    """The walk over the places 0 (noise) … `steps` (data) of a grid, as Lugmayr et al.'s appendix B draws it.

    At the last place before data, and at every `jump`-th one counted from there back to noise, the walk goes `jump`
    places back up and down again, `resamplings` - 1 times. Moves down are
    `steps` + (resamplings - 1) jump floor((steps - 1)/jump). Raises UsageError for a number below 1.
    """
    if min(steps, resamplings, jump) < 1:
        raise UsageError(
            f"a walk of {steps} steps with {resamplings} resamplings over jumps of {jump}",
            expected="numbers of 1 or more",
            fix="choose resamplings 10 and jump 1; resamplings 1 goes straight down",
        )
    moves: list[Move] = []
    for place in range(steps):
        moves.append(Move(place, place + 1))
        here = place + 1
        if jump <= here < steps and (steps - 1 - here) % jump == 0:
            again = [Move(k, k + 1) for k in range(here - jump, here)]
            moves += (resamplings - 1) * [Move(here, here - jump), *again]
    return moves


def check_known(x: Tensor, mask: Tensor, known: Tensor) -> None:
    """Refuse a mask or a known picture that does not fit the samples."""
    for what, value in (("mask", mask), ("known picture", known)):
        sides = (1,) * (x.ndim - value.ndim) + tuple(value.shape)
        if len(sides) != x.ndim or any(side not in (1, wanted) for side, wanted in zip(sides, x.shape, strict=True)):
            raise UsageError(
                f"a {what} of shape {tuple(value.shape)} for samples of shape {tuple(x.shape)}",
                expected="a shape that broadcasts to that of the samples",
                fix="give (1, 1, H, W) for one mask, (B, C, H, W) for one known picture each",
            )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise UsageError(
            "a mask with values between 0 and 1, or outside",
            expected="1 where the picture is known and 0 where it is to be filled in",
            fix="round the mask first: (mask > 0.5)",
        )


@torch.no_grad()
def repaint(
    sampler: Sampler[S],
    d: Denoise,
    x: Tensor,
    times: Sequence[float],
    *,
    known: Tensor,
    mask: Tensor,
    noise: NoiseSource,
    resamplings: int = 10,
    jump: int = 1,
    cond: Cond | None = None,
) -> Iterator[Step]:
    """Walk x (B, *) down `times` to pictures that are `known` where mask is 1; one `Step` for every move down.

    known: clean data, of which only what the mask shows is read. mask: 1 where known, 0 where to be filled in; both
    broadcast to x. resamplings: how often each stretch of `jump` steps is walked, 1 for replacement alone; the paper
    takes 10 and a jump of 10. Every step starts the sampler's memory anew and draws fresh noise. `times` end at 0.

    Raises UsageError for an adaptive sampler, or shapes that do not fit; NumericsError for samples that are not finite.
    """
    check_times(times)
    check_known(x, mask, known)
    if sampler.adaptive:
        raise UsageError(
            f"RePaint with {sampler!r}",
            expected="a sampler that takes the steps of the grid",
            fix="take Ancestral(), as the paper does, or Ddim()",
        )
    shown, done = mask.to(x), 0
    known = torch.where(shown == 1, known.to(x), 0)  # whatever stands where it is not known
    for number, move in enumerate(repaint_moves(len(times) - 1, resamplings=resamplings, jump=jump)):
        t, s, fresh = times[move.start], times[move.stop], noise.fresh(number)
        now, then = rates_at(d, t), rates_at(d, s)
        if s > t:
            spread = float(log_variances(now, then).large.exp()) ** 0.5
            x = float(then.alpha / now.alpha) * x + spread * fresh.normal(x, draw=OF_THE_WAY_BACK)
            continue
        stepped = sampler.step(d, x, t=t, s=s, state=sampler.init(x), noise=fresh, cond=cond)
        done += stepped.calls
        noisy = float(then.alpha) * known + float(then.sigma) * fresh.normal(x, draw=OF_THE_KNOWN)
        x = shown * noisy + (1 - shown) * stepped.x
        if move.stop == len(times) - 1:
            check_finite(x, s)
        yield Step(x, t, s, stepped.prediction, done, torch.full((len(x),), done))
