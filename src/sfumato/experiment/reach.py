"""The data against a schedule: does its noise drown them at one end, and let all of them be seen at the other?

    x_t = alpha x + sigma eps,   alpha² var/sigma² <= 0.01 at t = 1      (sampling starts from the prior alone)

`var` is the variance of a value. Along the direction in which the examples vary most, of pictures usually their
brightness, the variance λ is many times that, and so is what is left of it; λ is found by power iteration on a part of
the training examples. What the noisy end costs in likelihood is the prior term of the bound, here per dimension,

    KL( N(alpha x, sigma²) || N(0, p²) ) = ln p/sigma + (sigma² + alpha² x²)/(2 p²) - 1/2,   its mean over the data

(Ho et al. 2020, eq. 5, L_T), exactly, from the second moment of the data.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sfumato.core import Schedule
from sfumato.data import Normalization, Packed, data_std
from sfumato.data.normalization import level_shares
from sfumato.data.packed import evenly
from sfumato.experiment.kinds import kind_name

__all__ = ["Reach", "principal_std", "reach", "second_moment"]

MOST_EXAMPLES, MOST_VALUES = 1000, 30_000_000  # that the strongest direction is found from
ITERATIONS = 60


@dataclass(frozen=True, slots=True)
class Reach:
    """What of the data a schedule leaves at its ends; everything in model space, where the data are normalised.

    data_std: of all values. principal_std: along the direction in which the examples vary most. log_snr_low,
    log_snr_high: the schedule's ends, in nats. noise_low, noise_high: sigma/alpha there. terminal, principal_terminal:
    power of the data over that of the noise at t = 1, per value and along that direction. prior_bits: the prior term in
    bits per dimension. halfway: the time at which the noise has the standard deviation of the data; None beyond the
    ends. grey_levels: the noise at the clean end in 8-bit levels; None for what is no picture.
    """

    schedule: str
    data_std: float
    principal_std: float
    log_snr_low: float
    log_snr_high: float
    noise_low: float
    noise_high: float
    terminal: float
    principal_terminal: float
    prior_bits: float
    halfway: float | None
    grey_levels: float | None

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


def reach(schedule: Schedule, packed: Packed, normalization: Normalization, train: torch.Tensor) -> Reach:
    """Hold the training part `train` against a schedule. Raises DataError where every value is the same."""
    std = data_std(packed, normalization, train)
    strongest = principal_std(packed, normalization, train)
    noisy, clean = schedule.rates(1.0), schedule.rates(schedule.t_min)
    level = -2 * math.log(std)  # alpha² std² = sigma²
    within = float(noisy.log_snr) <= level <= float(clean.log_snr)
    halfway = float(schedule.time(torch.tensor(level, dtype=torch.float64))) if within else None
    left = float(noisy.alpha / noisy.sigma) ** 2
    alpha, sigma, prior = float(noisy.alpha), float(noisy.sigma), schedule.prior_std
    power = second_moment(packed, normalization, train)
    nats = math.log(prior / sigma) + (sigma**2 + alpha**2 * power) / (2 * prior**2) - 0.5
    scale = sum(normalization.scale) / len(normalization.scale)
    return Reach(
        schedule=kind_name(type(schedule)),
        data_std=std,
        principal_std=strongest,
        log_snr_low=float(noisy.log_snr),
        log_snr_high=float(clean.log_snr),
        noise_low=float(clean.noise_level),
        noise_high=float(noisy.noise_level),
        terminal=left * std**2,
        principal_terminal=left * strongest**2,
        prior_bits=nats / math.log(2),
        halfway=halfway,
        grey_levels=float(clean.noise_level) * scale if packed.is_image else None,
    )


def second_moment(packed: Packed, normalization: Normalization, train: torch.Tensor) -> float:
    """Mean of x² over all values of the training part in model space, padding included; float64."""
    if not packed.is_image:
        return float(normalization.to_model(packed.values[train]).double().square().mean())
    share = level_shares(packed, train, normalization) / len(normalization.mean)
    levels = torch.arange(256, dtype=torch.float64)
    mean, scale = torch.tensor([normalization.mean, normalization.scale], dtype=torch.float64)[:, :, None]
    return float((share * ((levels - mean) / scale) ** 2).sum())


def principal_std(packed: Packed, normalization: Normalization, train: torch.Tensor) -> float:
    """Standard deviation along the direction in which (a part of) the training examples vary most.

    Power iteration v <- XᵀX v / |XᵀX v| from the example that is farthest from the mean; λ = |X v|²/n.
    """
    values = max(1, math.prod(packed.shape))
    count = min(MOST_EXAMPLES, max(2, MOST_VALUES // values))
    chosen = train[torch.tensor(evenly(len(train), count))]
    rows = normalization.to_model(packed.values[chosen]).flatten(1)
    rows = rows - rows.mean(dim=0)
    direction = rows[rows.square().sum(dim=1).argmax()]
    if not bool(direction.any()):
        return 0.0
    for _ in range(ITERATIONS):
        direction = direction / direction.norm()
        direction = rows.T @ (rows @ direction)
    direction = direction / direction.norm()
    return math.sqrt(float((rows @ direction).square().mean()))
