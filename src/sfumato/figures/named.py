"""Schedules by name: a kind (`CosineAngle`, `{kind: VpSde, beta_max: 10}`), a recipe, a settings file, a run folder.

A run that learned its schedule means the trained one, that of its averaged weights.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sfumato.core import PiecewiseLogSnr, Schedule
from sfumato.errors import ConfigError, UsageError
from sfumato.experiment.config import Experiment, flag_nodes, load_experiment
from sfumato.experiment.kinds import canonical, kind_name, kinds, nearest, spellings
from sfumato.experiment.schema import read_field

__all__ = ["NamedSchedule", "Schedules", "named_schedules", "schedule_of", "title_of"]

Schedules = Schedule | str | Iterable[Schedule | str] | Mapping[str, Schedule | str]


@dataclass(frozen=True, slots=True)
class NamedSchedule:
    """A schedule and what figures call it."""

    name: str
    schedule: Schedule


def named_schedules(schedules: Schedules) -> tuple[NamedSchedule, ...]:
    """The schedules meant, in order; a mapping gives the names that figures show.

    Raises UsageError for none, ConfigError for a name that is neither a kind nor a recipe.
    """
    if isinstance(schedules, Schedule | str):
        schedules = [schedules]
    if isinstance(schedules, Mapping):
        found = tuple(NamedSchedule(name, _resolved(item).schedule) for name, item in schedules.items())
    else:
        found = tuple(_resolved(item) for item in schedules)
    if not found:
        raise UsageError("no schedule was given", expected="one or more schedules", fix="for example CosineAngle VpSde")
    return found


def _resolved(item: Schedule | str) -> NamedSchedule:
    if isinstance(item, Schedule):
        return NamedSchedule(title_of(item), item)
    word = item.strip()
    if not word.startswith("{") and canonical(word) not in spellings(Schedule, kinds(Schedule)):
        return NamedSchedule(Path(word).name, _of_experiment(word))
    (_, node), *_ = flag_nodes([("schedule", word)])
    schedule = read_field(Experiment, "schedule", node)
    return NamedSchedule(title_of(schedule), schedule)


def _of_experiment(word: str) -> Schedule:
    """The schedule of a recipe, settings file or run."""
    try:
        return schedule_of(load_experiment(word), Path(word))
    except ConfigError as error:
        near = nearest(word, list(kinds(Schedule)))
        if not error.what.startswith("there is no recipe"):
            raise
        raise ConfigError(
            f"there is no schedule and no recipe {word!r}",
            expected=f"a kind of schedule ({', '.join(kinds(Schedule))}), or {error.expected}",
            fix=f"did you mean {near}?" if near else error.fix,
        ) from None


def schedule_of(experiment: Experiment, place: Path) -> Schedule:
    """The schedule of an experiment; the trained one, where `place` is a run that learned just this.

    Raises CheckpointError for a run whose weights cannot be read.
    """
    if experiment.schedule.clock() is None or not (place / "config.yaml").is_file():
        return experiment.schedule
    from sfumato.experiment.load import load, read_run_config

    if read_run_config(place).schedule != experiment.schedule:  # other settings than the run's were given
        return experiment.schedule
    return load(place, device="cpu").denoiser.schedule


def title_of(schedule: Schedule) -> str:
    """The kind of a schedule and the settings in which it differs from its kind's defaults; whether it is trained."""
    if isinstance(schedule, PiecewiseLogSnr):
        return f"{_title(schedule.clock_module.settings)}, trained"
    return _title(schedule)


def _title(value: object) -> str:
    assert dataclasses.is_dataclass(value)
    assert not isinstance(value, type)
    parts = []
    for entry in dataclasses.fields(value):
        found = getattr(value, entry.name)
        if found == entry.default:
            continue
        if dataclasses.is_dataclass(found):
            parts.append(_title(found))
        else:
            parts.append(f"{entry.name.replace('_', ' ')} {found}")
    name = kind_name(type(value))
    return f"{name} ({', '.join(parts)})" if parts else name
