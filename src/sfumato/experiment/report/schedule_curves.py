"""The schedule of a run as curves over t: alpha, sigma and log-SNR, of what was trained where it was learned."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sfumato.core import PiecewiseLogSnr, Schedule
from sfumato.experiment.kinds import kind_name
from sfumato.experiment.report.wording import title

__all__ = ["ScheduleCurve", "curve_of", "schedule_title"]

POINTS = 121


@dataclass(frozen=True, slots=True)
class ScheduleCurve:
    """`alpha`, `sigma` and `log_snr` (nats) at times `t`; equal ones of two runs are one schedule."""

    name: str
    t: Sequence[float]
    alpha: Sequence[float]
    sigma: Sequence[float]
    log_snr: Sequence[float]


@torch.no_grad()
def curve_of(schedule: Schedule) -> ScheduleCurve:
    """A schedule at even times from its cleanest to its noisiest, in float64."""
    t = torch.linspace(schedule.t_min, 1.0, POINTS, dtype=torch.float64)
    rates = schedule.rates(t)
    columns = (tuple(values.double().tolist()) for values in (t, rates.alpha, rates.sigma, rates.log_snr))
    return ScheduleCurve(schedule_title(schedule), *columns)


def schedule_title(schedule: Schedule) -> str:
    """The kind of a schedule, with the settings in which it differs from its kind's own; whether it was learned."""
    if isinstance(schedule, PiecewiseLogSnr):
        return f"{_titled(schedule.clock_module.settings)}, as trained"
    return _titled(schedule)


def _titled(value: object) -> str:
    assert dataclasses.is_dataclass(value)
    assert not isinstance(value, type)
    parts = []
    for field in dataclasses.fields(value):
        found = getattr(value, field.name)
        if found == field.default or not field.init:
            continue
        inner = dataclasses.is_dataclass(found) and not isinstance(found, type)
        parts.append(_titled(found) if inner else f"{field.name.replace('_', ' ')} {title(found)}")
    name = kind_name(type(value))
    return f"{name} ({', '.join(parts)})" if parts else name
