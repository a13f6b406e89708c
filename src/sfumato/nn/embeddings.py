"""Sinusoidal embedding of a scalar time.

A network sees the noise level as one number. Written as sines and cosines at geometrically spaced frequencies,

    f_i = lowest · (highest/lowest)^(i/(n−1)),   i = 0 … n−1,
    embedding = (sin 2π f_0 τ, …, sin 2π f_{n−1} τ, cos 2π f_0 τ, …, cos 2π f_{n−1} τ),

nearby values become distinguishable (large f) and distant ones comparable (small f). Frequencies count turns per unit
of τ. They suit a τ whose range has length about 1: the lowest frequency then makes one turn over it and the highest a
thousand. Time inputs come in other units as well, so networks divide by the `time_span` they were built with:

    input                        range            time_span
    NoiseVarianceInput           [0, 1]           1     (exactly falbel's embedding)
    LogSnrInput, −log_snr/8      [−2.5, 2.5]      5     (log_snr in the default span [−20, 20])
    StepInput                    0 … T−1          T     (without it whole frequencies would be blind to whole steps)

Source: falbel, after Béres 2022 (16 frequencies from 1 to 1000); Vaswani et al. 2017, section 3.5.
"""

import math

import torch
from torch import Tensor

__all__ = ["log_spaced_frequencies", "sinusoidal_embedding", "step_frequencies"]


def log_spaced_frequencies(
    count: int, *, lowest: float = 1.0, highest: float = 1000.0, like: Tensor | None = None
) -> Tensor:
    """Frequencies exp(linspace(ln lowest, ln highest, count)) in turns per unit of time.

    Shape (count,), on the device of `like` and in its dtype, but never below float32: at f = 1000 a bfloat16 frequency
    is off by up to two turns.
    """
    dtype = torch.float32 if like is None else torch.promote_types(like.dtype, torch.float32)
    device = None if like is None else like.device
    return torch.linspace(math.log(lowest), math.log(highest), count, dtype=dtype, device=device).exp()


def step_frequencies(count: int, *, like: Tensor | None = None) -> Tensor:
    """The frequencies of Vaswani et al. 2017 for a span of a thousand steps, in turns per span, lowest first: (count,).

    From 10⁻⁴ radians per step to 1 radian per step, whatever unit the time is in and however many steps there are; at
    T = 1000 exactly those of Ho et al. 2020 (code).
    """
    turns = 1000 / (2 * math.pi)  # of one radian per step
    return log_spaced_frequencies(count, lowest=1e-4 * turns, highest=turns, like=like)


def sinusoidal_embedding(time: Tensor, frequencies: Tensor) -> Tensor:
    """Sines, then cosines, of 2π f τ: (B,) and (n,) → (B, 2n), in the dtype of the frequencies."""
    angles = 2 * math.pi * (time[:, None].to(frequencies.dtype) * frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
