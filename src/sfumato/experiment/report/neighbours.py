"""The samples of the page beside the examples of the data set that are nearest to them, in the pixels themselves.

    ratio = distance to the nearest training example / mean distance to the nearest held-out one,

both among as many examples (`metrics.memorisation`): 1 for a sample that is as near to what the model has never seen as
to what it was trained on, 0 for a copy. Which examples those are is said by their places in the data set; their
pictures are shown only where the page is asked to (`real`), since a page travels further than a data set's licence.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data import Split
from sfumato.errors import UsageError
from sfumato.experiment.build import PreparedData
from sfumato.experiment.evaluation.subject import data_of
from sfumato.experiment.likeness import Values, beside, unshared
from sfumato.experiment.model import Model

__all__ = ["DataShelf", "Neighbours", "neighbours_of"]

SHOWN = 8


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """The samples that are most like training examples, the most so first.

    chosen: their places among the samples. ratio: see the module. training, held_out: places of the nearest examples in
    the data set. originals, unseen: their pictures, (k, H, W, C); None where they are not to be shown. size: examples a
    side. median: of the ratios of all samples. count: samples compared.
    """

    chosen: tuple[int, ...]
    ratio: tuple[float, ...]
    training: tuple[int, ...]
    held_out: tuple[int, ...]
    size: int
    median: float
    count: int
    originals: NDArray[np.uint8] | None = None
    unseen: NDArray[np.uint8] | None = None


@dataclass(slots=True)
class DataShelf:
    """The data of the runs of a page, read once for all runs that share them."""

    known: dict[str, PreparedData] = field(default_factory=dict)
    fresh: dict[str, Tensor] = field(default_factory=dict)

    def of(self, model: Model) -> PreparedData:
        """The data that a model was trained on. Raises DataError where they are gone or have changed."""
        key = _key(model)
        if key not in self.known:
            self.known[key] = data_of(model)
        return self.known[key]

    def held_out(self, model: Model) -> Tensor:
        """The held-out examples that are no training examples too."""
        key = _key(model)
        if key not in self.fresh:
            data = self.of(model)
            self.fresh[key] = unshared(data.packed, data.parts)
        return self.fresh[key]

    def real_pictures(self, model: Model, count: int, *, allowed: bool) -> NDArray[np.uint8]:
        """Held-out pictures for a model that goes by them. Raises UsageError where they may not be shown."""
        if not allowed:
            raise UsageError(
                f"{model.experiment.name!r} draws from pictures of the data set, which are not shown unasked",
                expected="leave to show them",
                fix="add --real, if you may pass these pictures on",
            )
        data, places = self.of(model), self.held_out(model)
        places = places if len(places) else data.parts.train
        chosen = places[torch.arange(count) * len(places) // count]
        return np.asarray(data.packed.values[chosen].numpy(), dtype=np.uint8)


def _key(model: Model) -> str:
    e = model.experiment
    return f"{model.record.fingerprint} {e.seed} {e.data.held_out} {e.data!r}"


def neighbours_of(
    model: Model, values: NDArray[np.generic], data: PreparedData, shelf: DataShelf, *, real: bool
) -> Neighbours:
    """The samples (n, H, W, C) that are most like training examples. Raises DataError for too few examples."""
    held_out, space = shelf.held_out(model), Values(model.record.normalization)
    raw = torch.from_numpy(np.ascontiguousarray(values))
    sides = Split(data.parts.train, held_out)
    found = beside(raw, data.packed.values, sides, space, mirrored=model.experiment.data.flip)
    chosen = found.closest(SHOWN)
    training, unseen = data.parts.train[found.original(chosen)], held_out[found.held_out_neighbour(chosen)]
    pictures = data.packed.values
    return Neighbours(
        chosen=tuple(chosen.tolist()),
        ratio=tuple(found.ratio[chosen].tolist()),
        training=tuple(training.tolist()),
        held_out=tuple(unseen.tolist()),
        size=found.size,
        median=float(found.ratio.median()),
        count=len(found),
        originals=pictures[training].numpy() if real else None,
        unseen=pictures[unseen].numpy() if real else None,
    )
