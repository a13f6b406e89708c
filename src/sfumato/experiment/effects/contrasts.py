"""Contrasts of a grid: which arms are subtracted from which, one difference for each setting of the other axes.

    main effect of A, a -> b                  y(b, rest) - y(a, rest)
    interaction of A, a -> b and B, c -> d    y(b, d, rest) - y(a, d, rest) - y(b, c, rest) + y(a, c, rest)

The contrast is the mean of these over the settings `rest` of all other axes at which every arm of the difference is
there; a and c are the first values of their axes, with which all others are compared. Each difference is one of arms
that are alike in everything else, so what the other axes do drops out of it, whatever they do.
"""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sfumato.experiment.sweep.axes import Axis

__all__ = ["Contrast", "Place", "contrasts_of"]

Place = tuple[str, ...]  # the value of each axis, in the order of the axes


@dataclass(frozen=True, slots=True)
class Contrast:
    """One main effect (one axis) or interaction (two).

    axes: the keys.
    levels: of each axis the value that is the base, and the value that is compared with it.
    parts: for each setting of the other axes the arms of the difference and their signs.
    """

    axes: tuple[str, ...]
    levels: tuple[tuple[str, str], ...]
    parts: tuple[Mapping[Place, float], ...]

    @property
    def weights(self) -> dict[Place, float]:
        """The share of each arm in the mean of the parts; they sum to 0."""
        return {place: sign / len(self.parts) for part in self.parts for place, sign in part.items()}


def contrasts_of(axes: Sequence[Axis], places: Collection[Place]) -> Iterator[Contrast]:
    """Every main effect, then every interaction of two axes; one without parts where no pair of arms is there."""
    for order in (1, 2):
        for chosen in itertools.combinations(range(len(axes)), order):
            for others in itertools.product(*(axes[index].values[1:] for index in chosen)):
                levels = tuple((axes[index].values[0], other) for index, other in zip(chosen, others, strict=True))
                keys = tuple(axes[index].key for index in chosen)
                yield Contrast(keys, levels, tuple(_parts(axes, chosen, levels, places)))


def _parts(
    axes: Sequence[Axis], chosen: Sequence[int], levels: Sequence[tuple[str, str]], places: Collection[Place]
) -> Iterator[dict[Place, float]]:
    """The difference at each setting of the other axes, where all its arms are among `places`."""
    for rest in itertools.product(*(("",) if i in chosen else axis.values for i, axis in enumerate(axes))):
        part = {}
        for picks in itertools.product((0, 1), repeat=len(chosen)):
            place = list(rest)
            for index, pair, pick in zip(chosen, levels, picks, strict=True):
                place[index] = pair[pick]
            part[tuple(place)] = (-1.0) ** (len(chosen) - sum(picks))
        if all(place in places for place in part):
            yield part
