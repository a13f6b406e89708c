"""Noise: the hash's numbers are normal and independent, one Brownian path serves every grid, batches do not matter.

Statistics are in standard errors over 400,000 numbers of fixed seeds: they either hold or do not, on every run.
"""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core import LogSnrLinear, NoiseSource, Rates
from sfumato.samplers import Ancestral
from sfumato.verify.check import AtMost, Check, proves
from sfumato.verify.checks.material import largest, worst
from sfumato.verify.checks.samplers import same_picture

__all__ = ["CHECKS"]

SCHEDULE = LogSnrLinear()
KINDS = ("initial", "normal", "increment")
# E x^p and Var x^p of N(0, 1)
MOMENTS = {1: (0.0, 1.0), 2: (1.0, 2.0), 3: (0.0, 15.0), 4: (3.0, 96.0)}


def at(log_snr: float) -> Rates:
    return SCHEDULE.rates(SCHEDULE.time(torch.tensor(log_snr, dtype=torch.float64)))


def draws(kind: str, seeds: int, count: int, *, seed: int = 1, first: int = 0) -> Tensor:
    """(seeds, count) numbers of one kind, float64."""
    source = NoiseSource.of(seed=seed, count=seeds, first=first)
    like = torch.zeros(seeds, count, dtype=torch.float64)
    match kind:
        case "initial":
            return source.initial((seeds, count), like=like)
        case "normal":
            return source.normal(like, draw=3)
        case _:
            return source.increment(at(-2.0), at(1.0), like)


def moments(kind: str) -> float:
    """Largest departure of the first four moments from N(0, 1)'s, in standard errors."""
    x = draws(kind, 400, 1000).flatten()
    return worst(*(abs(float((x**p).mean()) - mean) / math.sqrt(var / len(x)) for p, (mean, var) in MOMENTS.items()))


def kolmogorov(kind: str) -> float:
    """sqrt(n) sup |F_n - Phi|: 1.95 is passed once in a thousand seeds (Kolmogorov 1933)."""
    x = draws(kind, 400, 1000).flatten().sort().values
    n, phi = len(x), torch.special.ndtr(x).numpy()
    steps: NDArray[np.float64] = np.arange(n + 1, dtype=np.float64) / n
    return math.sqrt(n) * worst(largest(phi - steps[:-1]), largest(phi - steps[1:]))


def correlation(kind: str) -> float:
    """Largest correlation of neighbouring seeds, elements and halves, of values and squares, in standard errors."""
    x = draws(kind, 512, 512, seed=7)
    found: list[float] = []
    for a, b in ((x[:-1], x[1:]), (x[:, :-1], x[:, 1:]), (x[:, :256], x[:, 256:])):
        for f, g in ((a, b), ((a**2 - 1) / math.sqrt(2), (b**2 - 1) / math.sqrt(2))):
            found.append(abs(float((f * g).mean())) * math.sqrt(f.numel()))
    return worst(*found)


def purposes() -> float:
    """Largest correlation of initial noise, free draws and increments of the same seeds, in standard errors."""
    streams = [draws(kind, 64, 1024, seed=0) for kind in KINDS]
    pairs = [(i, j) for i in range(3) for j in range(i)]
    return worst(*(abs(float((streams[i] * streams[j]).mean())) * math.sqrt(64 * 1024) for i, j in pairs))


def additive() -> float:
    """An increment over a union is the weighted sum of those over its parts; float32 paths."""
    source, like = NoiseSource.of(seed=3, count=50), torch.zeros(50, 40, dtype=torch.float64)
    cuts = [-9.0, -8.9, -3.0, 0.25, 0.5, 7.0, 12.0]
    parts = [math.sqrt(high - low) * source.increment(at(low), at(high), like) for low, high in pairwise(cuts)]
    whole = source.increment(at(cuts[0]), at(cuts[-1]), like)
    return largest(torch.stack(parts).sum(0) / math.sqrt(cuts[-1] - cuts[0]) - whole)


def disjoint() -> float:
    """Largest departure of the covariance of four disjoint increments from the identity, in standard errors."""
    source, like = NoiseSource.of(seed=11, count=200), torch.zeros(200, 500, dtype=torch.float64)
    cuts = [-6.0, -2.0, -1.9, 1.0, 5.0]
    rows = torch.stack([source.increment(at(a), at(b), like).flatten() for a, b in pairwise(cuts)])
    n = rows.shape[1]
    scale = torch.full((4, 4), 1 / math.sqrt(n), dtype=torch.float64) * (1 + (math.sqrt(2) - 1) * torch.eye(4))
    return largest((rows @ rows.T / n - torch.eye(4)) / scale)


def batch(kind: str) -> float:
    """Largest difference between samples 3 to 6 of a batch of 9 and the same drawn by themselves: 0, bit for bit."""
    return largest(draws(kind, 9, 105, seed=5)[3:7] - draws(kind, 4, 105, seed=5, first=3))


CHECKS = (
    *(
        check
        for kind in KINDS
        for check in (
            Check(f"noise[moments, {kind}]", proves(moments), AtMost(5), partial(moments, kind)),
            Check(f"noise[kolmogorov, {kind}]", proves(kolmogorov), AtMost(1.95), partial(kolmogorov, kind)),
            Check(f"noise[neighbours, {kind}]", proves(correlation), AtMost(5), partial(correlation, kind)),
            Check(f"noise[batch independence, {kind}]", proves(batch), AtMost(0), partial(batch, kind)),
        )
    ),
    Check("noise[purposes]", proves(purposes), AtMost(5), purposes),
    # the path is float32: 1e-7 of values up to 10, and a lattice of 6e-5 nats over the shortest interval of 0.1
    Check("noise[brownian increments add]", proves(additive), AtMost(1e-3), additive),
    Check("noise[brownian increments are independent]", proves(disjoint), AtMost(5), disjoint),
    Check(
        "noise[same picture in 50 and 400 steps]",
        "distance between step counts over that between seeds: one path, ever finer",
        AtMost(0.2),
        lambda: same_picture(Ancestral()),
        quick=False,
    ),
)
