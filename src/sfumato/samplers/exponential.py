"""What exponential integrators share: the linear part of the probability-flow ODE is solved exactly.

With lambda = log_snr/2 and h = lambda_s - lambda_t, for every pair of rates,

    x_s = (sigma_s/sigma_t) x_t + alpha_s ∫_0^h e^(tau - h) x0(tau) dtau     (Lu et al. 2022b, proposition 4.1)
    x_s = (alpha_s/alpha_t) x_t - sigma_s ∫_0^h e^(h - tau) eps(tau) dtau    (Lu et al. 2022a, proposition 3.1)

With x0 (or eps) constant over the step both are the DDIM step, `slide`. Higher orders add multiples of differences
x0(tau_k) - x0(0), so that nothing of the size of sigma/alpha is ever subtracted from its like. A polynomial through
the values at tau_0 = 0, tau_1 … tau_n is integrated by the phi functions (Hochbruck & Ostermann 2010, eq. 2.11),

    ∫_0^h e^(z (h - tau)/h) tau^k dtau = k! h^(k+1) phi_(k+1)(z),    phi_k(z) = Σ_j z^j / (j + k)!
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core import Rates, Schedule

__all__ = ["Past", "half_step", "midpoint", "phi", "polynomial_weights", "slide"]


def half_step(now: Rates, then: Rates) -> float:
    """h = lambda_s - lambda_t = (log_snr_s - log_snr_t)/2, the length of a step in the log of alpha/sigma."""
    return float(then.log_snr - now.log_snr) / 2


def slide(x: Tensor, x0: Tensor, now: Rates, then: Rates) -> Tensor:
    """(sigma_s/sigma_t) x_t + (alpha_s - alpha_t sigma_s/sigma_t) x0: exact where x0 is constant; (B, *).

    Song, Meng & Ermon 2021, eq. 12 without noise; also y_t + (u_s - u_t) eps in y = x/alpha, u = sigma/alpha.
    """
    of_noise = float(then.sigma / now.sigma)
    return of_noise * x + (float(then.alpha) - of_noise * float(now.alpha)) * x0


def midpoint(schedule: Schedule, now: Rates, then: Rates) -> float:
    """The time whose log_snr is half-way; between grid points of a table, where log_snr is linear in t."""
    return float(schedule.time((now.log_snr + then.log_snr) / 2))


def phi(order: int, z: float) -> float:
    """phi_k(z) for k = `order` >= 1: phi_1 = (e^z - 1)/z, phi_(k+1) = (phi_k - 1/k!)/z; phi_k(0) = 1/k!."""
    if abs(z) < 1:  # the recursion loses a digit per order and decade of z; the series none
        return sum(z**j / math.factorial(j + order) for j in range(20))
    value = math.expm1(z) / z
    for k in range(1, order):
        value = (value - 1 / math.factorial(k)) / z
    return value


def polynomial_weights(z: float, places: Sequence[float]) -> list[float]:
    """w_k with ∫_0^1 e^(z (1 - r)) [p(r) - p(0)] dr = Σ_k w_k [p(r_k) - p(0)] for polynomials up to degree n.

    places: r_1 … r_n, distinct and not 0, in units of the step: negative in the past, 1 at its end.
    """
    if not places:
        return []
    degrees = range(1, len(places) + 1)
    powers = torch.tensor([[r**i for r in places] for i in degrees], dtype=torch.float64)
    moments = torch.tensor([math.factorial(i) * phi(i + 1, z) for i in degrees], dtype=torch.float64)
    weights: list[float] = torch.linalg.solve(powers, moments).tolist()
    return weights


@dataclass(frozen=True, slots=True)
class Past:
    """What a multistep method remembers: values (x0 or eps), each (B, *), and their log_snr; the latest first."""

    values: tuple[Tensor, ...] = ()
    log_snrs: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def joined(self, value: Tensor, log_snr: Tensor, *, keep: int) -> "Past":
        """With one more value in front, and no more than `keep` in all."""
        return Past((value, *self.values)[:keep], (float(log_snr), *self.log_snrs)[:keep])

    def places(self, h: float) -> list[float]:
        """r_k = (lambda_k - lambda_0)/h of the values before the latest."""
        return [(log_snr - self.log_snrs[0]) / (2 * h) for log_snr in self.log_snrs[1:]]

    def differences(self) -> list[Tensor]:
        """value_k - value_0 of the values before the latest."""
        return [value - self.values[0] for value in self.values[1:]]
