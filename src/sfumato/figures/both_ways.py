"""The forward process above the reverse one: q(x_t | x_0) of examples, and a sampler's states, at the same times.

    forward   x_t = alpha x_0 + sigma eps, one eps for each example
    reverse   the states of a trajectory, noise at the left, samples at the right

A column is one noise level, so that a model that learned it well shows states that could stand in the row above. Where
alpha² + sigma² > 1 both are divided by its root.
"""

from typing import TYPE_CHECKING

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sfumato.core import Schedule, batch_noise
from sfumato.data import Normalization
from sfumato.experiment.samples import Trajectory
from sfumato.figures.material import Points, material
from sfumato.figures.noising import check_shape, noised, rates_at
from sfumato.figures.reversing import check_trajectory, moments, tile_of
from sfumato.figures.strips import Row, limits_of, strip
from sfumato.figures.style import number, tenths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["both_ways"]


def both_ways(
    path: Trajectory,
    x0: Tensor | ArrayLike,
    schedule: Schedule,
    *,
    normalization: Normalization,
    columns: int = 11,
    seed: int = 0,
) -> "Figure":
    """Stored examples x0, uint8 (N, H, W, C) or floats (N, 2), above the trajectory, at `columns` of its times.

    Pictures have a row each, points one panel for all. Raises UsageError for examples of another shape, and for a
    trajectory without steps.
    """
    raw = torch.as_tensor(x0)
    check_trajectory(path, columns=columns, examples=len(raw))
    check_shape(raw, normalization)
    chosen = moments(len(path.states), columns)
    times = [path.times[index] for index in chosen]
    start = normalization.to_model(raw)
    eps = batch_noise(tuple(start.shape), seed, "forward-figure")
    there = [material(normalization.to_data(noised(start, eps, rates_at(schedule, t)))) for t in times]
    back = [material(path.states[index]) for index in chosen]
    limits = limits_of([found.places for found in (*there, *back) if isinstance(found, Points)])
    rows: list[Row] = []
    for name, shown in (("data to noise", there), ("noise to data", back)):
        count = 1 if isinstance(shown[0], Points) else len(shown[0])
        for index in range(count):
            tiles = [tile_of(found, index, limits) for found in shown]
            rows.append(Row(name if index == 0 else "", tiles, apart=index == 0 and bool(rows)))
    captions = [tenths(float(rates_at(schedule, t).log_snr)) for t in times]
    rows[-1] = Row(rows[-1].name, rows[-1].tiles, captions, rows[-1].apart)
    notes = dict.fromkeys(found.note for found in (*there, *back) if found.note)
    header = [number(t, 2) for t in times]
    return strip(rows, header=header, header_name="time t", caption_name="log SNR (nats)", note="; ".join(notes))
