"""The forward strip: examples under q(x_t | x_0) at several times, a row for each schedule.

    x_t = alpha x_0 + sigma eps

with one eps for each example, the same at all times and under all schedules: what differs between two tiles is the
noise level alone. t = 0 stands for the data. Where alpha² + sigma² > 1 (variance-exploding schedules) x_t is shown
divided by sqrt(alpha² + sigma²); the strip then says so.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sfumato.core import Rates, Schedule, batch_noise
from sfumato.data import Normalization
from sfumato.errors import UsageError
from sfumato.figures.material import Material, Points, material
from sfumato.figures.named import NamedSchedule, Schedules, named_schedules
from sfumato.figures.strips import Limits, PictureTile, PointTile, Row, Tile, limits_of, strip
from sfumato.figures.style import number, tenths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TENTHS", "check_shape", "forward", "noised", "rates_at"]

TENTHS = tuple(k / 10 for k in range(11))


def forward(
    x0: Tensor | ArrayLike,
    schedules: Schedules,
    *,
    normalization: Normalization,
    times: Sequence[float] = TENTHS,
    seed: int = 0,
) -> "Figure":
    """The forward strip of stored examples: uint8 (N, H, W, C), a row each, or floats (N, 2), a panel for all.

    `times` lie in [0, 1], one column each; below a schedule's first time that first time is shown. Raises UsageError.
    """
    named = named_schedules(schedules)
    _check_times(times)
    raw = torch.as_tensor(x0)
    check_shape(raw, normalization)
    start = normalization.to_model(raw)
    eps = batch_noise(tuple(start.shape), seed, "forward-figure")
    shown = {
        (index, t): material(normalization.to_data(noised(start, eps, rates_at(item.schedule, t))))
        for index, item in enumerate(named)
        for t in times
    }
    limits = limits_of([found.places for found in shown.values() if isinstance(found, Points)])
    rows: list[Row] = []
    for index, item in enumerate(named):
        rows += _rows(item, times, [shown[index, t] for t in times], limits)
    exploding = any(_size(rates_at(item.schedule, t)) > 1 + 1e-6 for item in named for t in times)
    notes = ["shown: x_t / √(α² + σ²) where that root exceeds 1"] if exploding else []
    notes += dict.fromkeys(found.note for found in shown.values() if found.note)
    header = [number(t) for t in times]
    return strip(rows, header=header, header_name="time t", caption_name="log SNR (nats)", note="; ".join(notes))


def noised(x0: Tensor, eps: Tensor, rates: Rates) -> Tensor:
    """alpha x_0 + sigma eps, shape of x0 (B, *), divided by sqrt(alpha² + sigma²) where that exceeds 1."""
    r = rates.like(x0)
    return (r.alpha * x0 + r.sigma * eps) / max(1.0, _size(rates))


def rates_at(schedule: Schedule, t: float) -> Rates:
    """The rates at t in [0, 1]: those of data at 0, those of the first time between 0 and it."""
    return Rates.data() if t == 0 else schedule.rates(max(t, schedule.t_min))


def _size(rates: Rates) -> float:
    return float((rates.alpha**2 + rates.sigma**2).sqrt())


def _rows(item: NamedSchedule, times: Sequence[float], shown: Sequence[Material], limits: Limits) -> list[Row]:
    """The rows of one schedule: one for each picture, or one for all points; log-SNR below the last."""
    if isinstance(shown[0], Points):
        lines: list[list[Tile]] = [[PointTile(found.places, limits) for found in shown if isinstance(found, Points)]]
    else:
        pixels = [found.pixels for found in shown if not isinstance(found, Points)]
        lines = [[PictureTile(moment[index]) for moment in pixels] for index in range(len(pixels[0]))]
    captions = [tenths(float(rates_at(item.schedule, t).log_snr)) for t in times]
    middle, last = (len(lines) - 1) // 2, len(lines) - 1
    return [
        Row(item.name if index == middle else "", tiles, captions if index == last else (), apart=index == 0)
        for index, tiles in enumerate(lines)
    ]


def _check_times(times: Sequence[float]) -> None:
    if not times or not all(0 <= t <= 1 for t in times):
        raise UsageError(
            f"the times {list(times)} cannot be shown",
            expected="one or more times from 0 (data) to 1 (noise)",
            fix="for example 0, 0.25, 0.5, 0.75, 1",
        )


def check_shape(raw: Tensor, normalization: Normalization) -> None:
    """Refuse examples that the normalization was not measured on. Raises UsageError."""
    channels = len(normalization.mean)
    if normalization.is_image:
        fits = raw.dtype == torch.uint8 and raw.ndim == 4 and raw.shape[0] > 0 and raw.shape[3] == channels
        expected = f"stored pictures, uint8 (N, H, W, {channels})"
    else:
        fits = raw.is_floating_point() and raw.ndim >= 2 and raw.shape[0] > 0 and raw.shape[1] == channels
        expected = f"stored values, floats (N, {channels}, …)"
    if not fits:
        raise UsageError(
            f"examples of shape {tuple(raw.shape)} and type {raw.dtype} do not go with the normalization",
            expected=expected,
            fix="take the examples from the data set that was measured: packed.values[:4]",
        )
