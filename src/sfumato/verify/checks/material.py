"""What the checks work on: a schedule of each family, times over a whole span, seeded normals."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core import CosineAngle, CosineBetas, NoiseSource, Rates, RectifiedFlow, Schedule, Tabulated, Ve, VpSde

__all__ = ["SCHEDULES", "largest", "normals", "rates_over", "times_over", "worst"]

# The names that stand in brackets in the names of checks.
SCHEDULES: dict[str, Schedule] = {
    "cosine": CosineAngle(),
    "vp": VpSde(),
    "ve": Ve(0.01, 80.0),
    "flow": RectifiedFlow(),
    "linear table": Tabulated(),
    "cosine table": Tabulated(CosineBetas()),
}


def times_over(schedule: Schedule, count: int = 501) -> Tensor:
    """Times over the whole span, both ends included: the grid of a table, or denser towards the clean end; (N,)."""
    if schedule.num_steps is not None:
        return torch.arange(1, schedule.num_steps + 1, dtype=torch.float64) / schedule.num_steps
    return schedule.t_min + (1 - schedule.t_min) * torch.linspace(0, 1, count, dtype=torch.float64) ** 2


def rates_over(schedule: Schedule, count: int = 501) -> Rates:
    """The rates at `times_over`."""
    return schedule.rates(times_over(schedule, count))


def normals(*shape: int, seed: int = 0) -> Tensor:
    """N(0, 1) of the given shape, float64, the same on every machine to the last place."""
    return NoiseSource.of(seed=seed, count=shape[0]).initial(shape, like=torch.zeros((), dtype=torch.float64))


def largest(difference: Tensor | NDArray[np.float64]) -> float:
    """max |difference|; nan where any of it is not a number."""
    return float(np.abs(np.asarray(difference)).max())


def worst(*errors: float) -> float:
    """The largest of some errors; nan where one is not a number, which Python's own `max` may pass over."""
    return float(np.max(errors))
