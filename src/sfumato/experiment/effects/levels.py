"""Noise and image error by log-SNR across the arms of a sweep: where schedules can be compared, at equal noise levels.

    noise error    E |eps_hat - eps|²  per value,  log-SNR uniform in a bin
    image error    E |x0_hat - x_0|²   = (sigma/alpha)² of it at each level

A loss averages these over the noise levels of its own schedule, so losses of two schedules are of two quantities. In a
bin they are of one, for every target and loss too: what differs is how well the arm denoises there. The curve of a
point is the mean over its seeds, with the scatter among seeds (or, of one seed, the error of measuring).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sfumato.errors import UsageError
from sfumato.experiment.effects.contrasts import Place
from sfumato.experiment.effects.numbers import numbers_of
from sfumato.experiment.effects.remedies import measuring
from sfumato.experiment.evaluations import Number
from sfumato.experiment.sweep.stored import Sweep
from sfumato.experiment.sweep.table import mean_over_seeds

__all__ = ["LevelCurve", "LevelCurves", "LevelPoint", "level_curves"]

_NAME = re.compile(r"loss_by_log_snr\[(-?[0-9.]+)\.\.(-?[0-9.]+)\]\[(held-out|image)\]")
PARTS = {"held-out": "noise", "image": "image"}

Of = Literal["noise", "image"]


@dataclass(frozen=True, slots=True)
class LevelPoint:
    """One bin of one curve. low, high: log-SNRs that were met, in nats; value, std_error; seeds: of its mean."""

    low: float
    high: float
    value: float
    std_error: float
    seeds: int


@dataclass(frozen=True, slots=True)
class LevelCurve:
    """The errors of one point of the grid, from noise to data."""

    settings: Mapping[str, str]
    points: tuple[LevelPoint, ...]

    @property
    def name(self) -> str:
        """The values of the axes."""
        return ", ".join(self.settings.values())


@dataclass(frozen=True, slots=True)
class LevelCurves:
    """A curve for each point of a sweep, of the error of the noise or of the image."""

    sweep: str
    of: Of
    curves: tuple[LevelCurve, ...]

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "sweep": self.sweep,
            "error": self.of,
            "curves": [
                {
                    "settings": dict(curve.settings),
                    "points": [
                        {
                            "log_snr_low": p.low,
                            "log_snr_high": p.high,
                            "value": p.value,
                            "std_error": p.std_error,
                            "seeds": p.seeds,
                        }
                        for p in curve.points
                    ],
                }
                for curve in self.curves
            ],
        }


def level_curves(sweep: Sweep | str | Path, of: Of = "noise", *, runs: str | Path = "runs") -> LevelCurves:
    """The curves of all points that were measured by noise level. Raises UsageError where none was."""
    found = sweep if isinstance(sweep, Sweep) else Sweep.load(sweep, runs)
    rows: dict[Place, list[LevelPoint]] = {}
    for name, cells in numbers_of(found).items():
        match = _NAME.fullmatch(name)
        if match is None or PARTS[match[3]] != of:
            continue
        for place, by_seed in cells.items():
            rows.setdefault(place, []).append(_point(float(match[1]), float(match[2]), list(by_seed.values())))
    if not rows:
        raise UsageError(
            f"no arm of {found.plan.name} has its {of} error by noise level",
            expected="arms measured by loss_by_log_snr, with a held-out part",
            fix=measuring(found, "loss_by_log_snr"),
        )
    keys = [axis.key for axis in found.plan.axes]
    places = dict.fromkeys(tuple(arm.settings[key] for key in keys) for arm in found.arms)
    curves = tuple(
        LevelCurve(dict(zip(keys, place, strict=True)), tuple(sorted(rows[place], key=lambda p: p.low)))
        for place in places
        if place in rows
    )
    return LevelCurves(found.plan.name, of, curves)


def _point(low: float, high: float, numbers: list[Number]) -> LevelPoint:
    """The mean over seeds in one bin."""
    ends = [(_end(n, "log_snr_low", low), _end(n, "log_snr_high", high)) for n in numbers]
    mean = mean_over_seeds([n.value for n in numbers])
    error = numbers[0].std_error if mean.std_error is None else mean.std_error
    return LevelPoint(ends[0][0], ends[0][1], mean.value, error, len(numbers))


def _end(number: Number, fact: str, otherwise: float) -> float:
    """An end of the bin as the schedule met it."""
    found = number.provenance.get(fact)
    return float(found) if isinstance(found, int | float) else otherwise
