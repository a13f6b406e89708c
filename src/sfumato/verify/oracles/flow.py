"""The probability flow, integrated without schedules: a truth for deterministic samplers.

In y = x/alpha and u = sigma/alpha every schedule has the same equation, dy/du = eps(y, u) (Song et al. 2021, eq. 13;
Karras et al. 2022, eq. 1 with s = 1), with eps the oracle's at (1, u). It is integrated in ln u by the classical
Runge-Kutta method. NumPy only, float64.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfumato.verify.oracles.worlds import Oracle

__all__ = ["probability_flow"]

Array = NDArray[np.float64]


def probability_flow(oracle: Oracle, y: ArrayLike, *, start: float, stop: float, steps: int) -> Array:
    """y (B, *) at the noise level u = `start` carried to `stop`, in `steps` equal steps of ln u; error O(steps⁻⁴)."""
    h = (math.log(stop) - math.log(start)) / steps

    def velocity(log_u: float, at: Array) -> Array:
        """dy/d(ln u) = u eps(y, u)."""
        u = math.exp(log_u)
        return u * oracle.eps(at, 1.0, u)

    moved = np.asarray(y, np.float64)
    for i in range(steps):
        log_u = math.log(start) + i * h
        k1 = velocity(log_u, moved)
        k2 = velocity(log_u + h / 2, moved + h / 2 * k1)
        k3 = velocity(log_u + h / 2, moved + h / 2 * k2)
        k4 = velocity(log_u + h, moved + h * k3)
        moved = moved + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return moved
