"""How the points of a sweep are chosen: all of them, drawn, or asked for one after another by Optuna.

A *point* gives each axis a value; with each of K seeds it is an arm. A random search draws point i from a hash of
(seed, i, axis), so that more trials add points and change none:

    u_i = derived_seed(seed, axis, i) / 2^63        value = values[⌊u n⌋], or the number at u of a range

A search that learns from what was measured stores the points that it asked for (`Plan.asked`).
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from sfumato.core import derived_seed
from sfumato.errors import ConfigError
from sfumato.experiment.comparability import LOSS
from sfumato.experiment.sweep.axes import Axis

__all__ = ["Grid", "Optuna", "Point", "Random", "Search"]

Point = Mapping[str, str]  # the key of each axis and its value


class Search(ABC):
    """How points are chosen."""

    __slots__ = ()
    learns: ClassVar[bool] = False  # whether points depend on what was measured of others

    @abstractmethod
    def count(self, axes: Sequence[Axis]) -> int:
        """How many points there are, or at most will be; tells it without making them."""

    @abstractmethod
    def points(self, axes: Sequence[Axis], asked: Sequence[Point]) -> Iterator[Point]:
        """The points that are known by now; `asked` are those that were asked for so far."""


@dataclass(frozen=True, slots=True)
class Grid(Search):
    """Every combination of the values."""

    def count(self, axes: Sequence[Axis]) -> int:
        for axis in axes:
            if axis.between is not None:
                raise ConfigError(
                    f"--axis {axis.key}={axis.values[0]} is a range, and a grid takes every value",
                    expected="values in a grid; ranges where points are drawn",
                    fix="--search random --trials 20, or list the values: KEY=V1,V2",
                )
        return math.prod(len(axis.values) for axis in axes)

    def points(self, axes: Sequence[Axis], asked: Sequence[Point]) -> Iterator[Point]:
        keys = [axis.key for axis in axes]
        for values in itertools.product(*(axis.values for axis in axes)):
            yield dict(zip(keys, values, strict=True))


@dataclass(frozen=True, slots=True)
class Random(Search):
    """Points drawn independently, each different from those before it.

    trials: how many.
    seed: what they follow from; not that of the training.
    """

    trials: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        _require_trials(self.trials)

    def count(self, axes: Sequence[Axis]) -> int:
        if any(axis.between is not None for axis in axes):
            return self.trials
        return min(self.trials, math.prod(len(axis.values) for axis in axes))

    def points(self, axes: Sequence[Axis], asked: Sequence[Point]) -> Iterator[Point]:
        seen: set[tuple[str, ...]] = set()
        for trial in range(20 * self.trials + 100):  # few values are soon all drawn
            if len(seen) == self.trials:
                return
            point = {axis.key: self._drawn(axis, trial) for axis in axes}
            if (values := tuple(point.values())) not in seen:
                seen.add(values)
                yield point

    def _drawn(self, axis: Axis, trial: int) -> str:
        u = derived_seed(self.seed, f"sweep {axis.key}", trial) / 2**63
        between = axis.between
        return between.at(u) if between is not None else axis.values[int(u * len(axis.values))]


@dataclass(frozen=True, slots=True)
class Optuna(Search):
    """Points that Optuna's tree-structured Parzen estimator asks for, by what was measured before (extra `hpo`).

    trials: how many points.
    seed: what its draws follow from.
    metric: what is made better: held_out_loss, or a metric that is measured of every arm.
    startup: how many points are drawn at random before it learns.
    """

    learns: ClassVar[bool] = True

    trials: int = 20
    seed: int = 0
    metric: str = LOSS
    startup: int = 8

    def __post_init__(self) -> None:
        _require_trials(self.trials)
        if self.startup < 1:
            raise ConfigError(f"startup is {self.startup}", expected="1 or more", fix="leave it out")

    def count(self, axes: Sequence[Axis]) -> int:
        return self.trials

    def points(self, axes: Sequence[Axis], asked: Sequence[Point]) -> Iterator[Point]:
        yield from asked


def _require_trials(trials: int) -> None:
    if trials < 1:
        raise ConfigError(f"--trials is {trials}", expected="1 or more", fix="--trials 20")
