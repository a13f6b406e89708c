"""What a sweep trains: one experiment, the axes along which it varies, and seeds; and the arms that follow from them.

    arms = points of the search x seeds seed, seed + 1, …, seed + K - 1

Arms are paired: whatever is drawn in training is a function of the seed, a name and the step, so arms of one seed see
the same examples in the same order, with the same uniform numbers behind their times and the same noise. Initial
weights are drawn by the name of each tensor (`training.initial_weights`), so they are the same wherever names and
shapes are, also in networks that differ elsewhere.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sfumato.errors import ConfigError, SfumatoError, UsageError
from sfumato.experiment.config import Experiment, load_experiment
from sfumato.experiment.records import ARMS
from sfumato.experiment.schema import flatten, to_plain
from sfumato.experiment.sweep.axes import Axis, as_written_once, slug
from sfumato.experiment.sweep.search import Grid, Optuna, Point, Random, Search

__all__ = ["MANY", "Arm", "Measures", "Plan", "Planned", "grown", "planned", "same_sweep"]

MANY = 1000  # arms; more want a yes
# What may change when a run is resumed, without another model coming out.
_OPEN = ("training.device", "training.compile", "training.precision", "training.threads", "training.keep_checkpoints",
         "training.trackers", "training.on_disk_full", "data.path", "data.cache", "data.download")  # fmt: skip
LONGEST_NAME = 80  # letters; what is longer ends in a digest


@dataclass(frozen=True, slots=True)
class Measures:
    """What is measured of every arm once it is trained, as `sfumato evaluate` does; nothing without metrics.

    metrics: names.
    n: examples and samples; null for all held-out examples up to 1,000.
    extractor: of features of pictures; null for the usual one.
    """

    metrics: tuple[str, ...] = ()
    n: int | None = None
    extractor: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All that decides the arms of a sweep.

    name: of its folder.
    base: the experiment that every arm varies.
    axes: what varies, in the order of the table.
    seeds: how often each point is repeated: seeds base.seed, base.seed + 1, ….
    search: how points are chosen.
    measures: what is measured of every arm.
    skip_unfit: leave out combinations that cannot be trained, instead of refusing the sweep.
    asked: the points that a search which learns asked for so far.
    """

    name: str
    base: Experiment
    axes: tuple[Axis, ...] = ()
    seeds: int = 1
    search: Search = Grid()
    measures: Measures = Measures()
    skip_unfit: bool = False
    asked: tuple[Point, ...] = ()

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigError(f"--seeds is {self.seeds}", expected="1 or more", fix="--seeds 3")
        if not self.axes and self.seeds == 1:
            raise ConfigError(
                "nothing varies: no axis was given, and one seed",
                expected="an axis with two values or more, or several seeds",
                fix="--axis objective.distance=mse,mae, or --seeds 3",
            )
        self.search.count(self.axes)  # an axis that it cannot take is refused

    @property
    def coming(self) -> int:
        """How many arms a search that learns has not asked for yet, at most."""
        return (self.search.count(self.axes) - len(self.asked)) * self.seeds if self.search.learns else 0

    @property
    def count(self) -> int:
        """How many arms there are, duplicates among them, without making them."""
        return self.search.count(self.axes) * self.seeds


@dataclass(frozen=True, slots=True)
class Arm:
    """One run of a sweep.

    name: of its folder below `arms`; unique and stable.
    settings: the value of each axis, by the axis's key.
    seed: of the run.
    folder: where it is trained, an ordinary run folder.
    """

    name: str
    settings: Point
    seed: int
    folder: Path

    def overrides(self, axes: Iterable[Axis]) -> list[tuple[str, str]]:
        """The settings of the arm as (key, text) pairs, the seed among them."""
        pairs = [pair for axis in axes for pair in axis.pairs(self.settings[axis.key])]
        return [*pairs, ("seed", str(self.seed))]


@dataclass(frozen=True, slots=True)
class Planned:
    """The arms of a plan, the experiment of each by its name, and what was left out, as sentences."""

    arms: tuple[Arm, ...]
    experiments: Mapping[str, Experiment]
    notes: tuple[str, ...] = ()


def planned(plan: Plan, folder: Path) -> Planned:
    """The arms of a plan. Points that mean the same experiment are one arm.

    Raises ConfigError naming the arms that cannot be trained, unless the plan leaves them out; a search that learns
    does, to which such a point is a failure.
    """
    arms: dict[str, Arm] = {}
    experiments: dict[str, Experiment] = {}
    known: dict[str, str] = {}  # what an experiment says of itself, and the arm that is it
    copies: list[str] = []
    unfit: dict[str, SfumatoError] = {}
    for point in plan.search.points(plan.axes, plan.asked):
        for seed in range(plan.base.seed, plan.base.seed + plan.seeds):
            arm = _arm(plan, point, seed, folder, arms)
            try:
                experiment = load_experiment(plan.base, arm.overrides(plan.axes))
            except UsageError as error:
                unfit[arm.name] = error
                continue
            if (told := repr(experiment)) in known:
                copies.append(f"{_in_words(point)} is {known[told]}")
                continue
            arms[arm.name], experiments[arm.name], known[told] = arm, experiment, arm.name
    if unfit and not plan.skip_unfit and not plan.search.learns:
        raise _unfit(unfit, len(arms) + len(unfit))
    return Planned(tuple(arms.values()), experiments, (*_of_copies(copies), *_of_unfit(unfit)))


def _arm(plan: Plan, point: Point, seed: int, folder: Path, taken: Mapping[str, Arm]) -> Arm:
    """The arm of a point and a seed; its name ends in a digest where it would be too long, or another arm has it."""
    words = [slug(axis, point[axis.key]) for axis in plan.axes]
    name = "-".join([*(word for word in words if word), f"s{seed}"])
    if len(name) > LONGEST_NAME or (name in taken and taken[name].settings != point):
        text = repr([(axis.key, point[axis.key]) for axis in plan.axes])
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        name = f"{name[: LONGEST_NAME - 20].strip('-.')}-{digest}-s{seed}"
    return Arm(name, point, seed, folder / ARMS / name)


def _in_words(point: Point) -> str:
    return ", ".join(f"{key}={value}" for key, value in point.items()) or "no setting"


def _of_copies(copies: Sequence[str]) -> tuple[str, ...]:
    """The sentence about points that are the same as others."""
    if not copies:
        return ()
    shown = "; ".join(dict.fromkeys(copies[:3])) + (" …" if len(copies) > 3 else "")
    return (f"dropped {len(copies)} that would repeat another arm: {shown}",)


def _of_unfit(unfit: Mapping[str, SfumatoError]) -> tuple[str, ...]:
    """The sentence about arms that were left out."""
    if not unfit:
        return ()
    name, error = next(iter(unfit.items()))
    return (f"left out {len(unfit)} that cannot be trained, such as {name}: {error.what}",)


def _unfit(unfit: Mapping[str, SfumatoError], total: int) -> ConfigError:
    """The refusal of a sweep with arms that cannot be trained."""
    name, error = next(iter(unfit.items()))
    every = "none of the arms can be trained" if len(unfit) == total else f"{len(unfit)} of {total} cannot be trained"
    leave = "" if len(unfit) == total else ", or leave such arms out: --skip-unfit"
    return ConfigError(f"{every}: {name}: {error.what}", expected=error.expected, fix=f"{error.fix}{leave}")


def departures(experiment: Experiment, settings: Mapping[str, object]) -> list[str]:
    """In what a run's settings (flat, as its config.yaml has them) are not those of its arm, as `key (this -> that)`.

    What the arm leaves open (null, auto), the machine's part and where the data lie are no departures.
    """
    found = []
    for key, wanted in flatten(to_plain(experiment)).items():
        open_ = wanted is None or wanted == "auto" or key.startswith(_OPEN) or key not in settings
        if not open_ and settings[key] != wanted:
            found.append(f"{key} ({wanted} -> {settings[key]})")
    return found


def differences(one: Experiment, other: Experiment) -> list[str]:
    """The settings in which two experiments differ, as `key (this -> that)`."""
    mine, theirs = flatten(to_plain(one)), flatten(to_plain(other))
    keys = dict.fromkeys([*mine, *theirs])
    return [f"{key} ({mine.get(key)} -> {theirs.get(key)})" for key in keys if mine.get(key) != theirs.get(key)]


def same_sweep(stored: Plan, wanted: Plan) -> bool:
    """Whether a command means a stored sweep: that very one, or one with more or fewer seeds, values or trials."""
    try:
        grown(stored, wanted)
    except ConfigError:
        return False
    pairs = [
        ({*map(as_written_once, mine.values)}, {*map(as_written_once, new.values)})
        for mine, new in zip(stored.axes, wanted.axes, strict=True)
    ]
    return all(mine <= new or new <= mine for mine, new in pairs)


def grown(stored: Plan, wanted: Plan) -> Plan:
    """The stored plan with the seeds, values, trials and measures that a command adds to it: arms are never dropped.

    Raises ConfigError where the command means other arms.
    """
    changed = differences(stored.base, wanted.base)
    mine, new = (plan.axes if plan.search != Grid() else _keys(plan.axes) for plan in (stored, wanted))
    if mine != new:
        changed.append(f"axes ({_told(stored.axes)} -> {_told(wanted.axes)})")
    if _but_trials(stored.search) != _but_trials(wanted.search):
        changed.append(f"search ({stored.search} -> {wanted.search})")
    if changed:
        raise ConfigError(
            f"the sweep {stored.name} was started with other settings: {', '.join(changed[:6])}",
            expected="the same base settings, axes and search; more seeds, values of a grid and trials may be added",
            fix="choose another --name, or give the command that started it",
        )
    return replace(
        stored,
        axes=tuple(axis.with_values_of(other) for axis, other in zip(stored.axes, wanted.axes, strict=True)),
        seeds=max(stored.seeds, wanted.seeds),
        search=max(stored.search, wanted.search, key=_trials),
        measures=wanted.measures if wanted.measures.metrics else stored.measures,
        skip_unfit=stored.skip_unfit or wanted.skip_unfit,
    )


def _keys(axes: Iterable[Axis]) -> tuple[str, ...]:
    return tuple(axis.key for axis in axes)


def _told(axes: Iterable[Axis]) -> str:
    return " ".join(f"{axis.key}={','.join(axis.values)}" for axis in axes) or "none"


def _trials(search: Search) -> int:
    """How many points a search makes; 0 for a grid, of which the axes tell it."""
    return search.trials if isinstance(search, Random | Optuna) else 0


def _but_trials(search: Search) -> object:
    """A search without the number of its trials, which may grow."""
    return (type(search), {**to_plain(search), "trials": 0})
