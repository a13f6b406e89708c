"""Whether a model copies: its samples beside the training and the held-out examples nearest to them (`metrics`).

    memorisation[SPACE]           the share of samples that are copies of training examples, with an interval
    memorisation[SPACE][floor]    what chance would make copies of
    memorisation[SPACE][leaning]  how much more often than by chance the nearest example is a training one

SPACE is where distances are measured: `pixels` for pictures, `values` for everything else, and the extractor's features
of pictures. A model that is told something of each sample is told what it was of training and of held-out examples in
turn, so that it favours neither.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sfumato.errors import DataError
from sfumato.experiment.build import PreparedData
from sfumato.experiment.evaluation.drawing import drawn_like_data, how_drawn
from sfumato.experiment.evaluation.features import features_of
from sfumato.experiment.evaluation.means import Means
from sfumato.experiment.evaluation.subject import Subject
from sfumato.experiment.likeness import Space, Values, alternately, beside, unshared
from sfumato.experiment.model import Model
from sfumato.metrics import Estimate, Extractor, Fact
from sfumato.metrics.memorisation import (
    Closeness,
    chance_share,
    copy_share,
    copy_threshold,
    equal_parts,
    interval_of,
    leaning,
)

__all__ = ["ClosestPairs", "closest_pairs", "memorisation_entries", "require_unpictured"]

PAIRS = 10  # that are shown
TOLD = "what training and held-out examples are, in turn"
Entry = tuple[str, Estimate]
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureSpace:
    """The features of an extractor, which are computed once and kept."""

    extractor: Extractor
    means: Means

    @property
    def name(self) -> str:
        return self.extractor.name

    @property
    def digest(self) -> str:
        return self.extractor.digest[:12]

    def __call__(self, raw: Tensor) -> Tensor:
        return self._features(raw, "the samples", None)

    def of_examples(self, values: Tensor, places: Tensor) -> Tensor:
        return self._features(values, "examples", places)

    def _features(self, images: Tensor, what: str, places: Tensor | None) -> Tensor:
        return features_of(self.extractor, images, what, self.means, places=places)


@dataclass(frozen=True, slots=True, eq=False)
class ClosestPairs:
    """The samples that are most like training examples, the most so first, each with its neighbours on both sides.

    space: where likeness was measured.
    samples, originals, unseen: (k, *) as the data hold them: samples, nearest training and nearest held-out examples.
    ratio: (k,) distance to the training example over that to a held-out one.
    seeds: (k,) int64, which draw each sample alone.
    training, held_out: (k,) int64, places of the neighbours in the data set.
    """

    space: str
    samples: NDArray[Any]
    originals: NDArray[Any]
    unseen: NDArray[Any]
    ratio: NDArray[np.float64]
    seeds: NDArray[np.int64]
    training: NDArray[np.int64]
    held_out: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.seeds)

    def to_plain(self) -> list[dict[str, Any]]:
        """As JSON data, without the examples."""
        columns = (self.seeds, self.training, self.held_out, self.ratio)
        names = ("seed", "training_example", "held_out_example", "ratio")
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [dict(zip(names, row, strict=True)) for row in rows]


def require_unpictured(model: Model) -> None:
    """Refuse a model that goes by pictures of the examples, which are to be like them. Raises DataError."""
    if model.experiment.condition.image is not None:
        raise DataError(
            f"memorisation: {model.experiment.name!r} goes by a picture of each example, which its samples are like",
            expected="a model that is told nothing, classes or numbers",
            fix="look at the loss by noise level instead (--metrics loss_by_log_snr)",
        )


def memorisation_entries(
    subject: Subject,
    count: int,
    extractor: Callable[[], Extractor],
    means: Means,
    note: Note,
    keep: Callable[[ClosestPairs], None],
) -> Iterator[Entry]:
    """The three numbers of each space, from `count` samples; `keep` is handed the closest pairs of pictures.

    Raises DataError for a model that goes by pictures, and where too few examples are held out.
    """
    data, held_out = subject.data, fresh_examples(subject, note)
    raw, flip = drawn_for_both(subject, count, means), subject.model.experiment.data.flip
    for space in spaces_of(subject, extractor, means):
        found = beside(raw, data, held_out, space, mirrored=flip)
        threshold = copy_threshold(found)
        facts = subject.facts(**how_drawn(subject, TOLD), **how_compared(space, data, held_out))
        share = copy_share(found, threshold, facts)
        yield f"memorisation[{space.name}]", share
        yield f"memorisation[{space.name}][floor]", chance_share(found, threshold, facts)
        yield f"memorisation[{space.name}][leaning]", leaning(found, facts)
        if subject.model.record.is_image:
            keep(pairs_of(found, raw, subject, held_out, space.name))
        note(in_words(space.name, share, threshold, found.size))


def in_words(space: str, share: Estimate, threshold: float, size: int) -> str:
    """How many samples are copies, how sure that is, and what a copy is."""
    sure = interval_of(share)
    return (
        f"memorisation[{space}]: {share.value:.2%} of {share.n:,} samples are copies (95 %: {sure.low:.2%} to "
        f"{sure.high:.2%}): nearer to a training example than {threshold:.3g} times the distance to the nearest of as "
        f"many ({size:,}) held-out ones; [floor] is what chance makes of them; [leaning] is 0 for a model that "
        "does not know which examples it was trained on, 1 for one that does nothing but copy"
    )


def closest_pairs(subject: Subject, count: int, means: Means, note: Note) -> ClosestPairs:
    """Of `count` samples the ten whose pixels are most like a training example's.

    Raises DataError as `memorisation_entries`, and for data that are no pictures.
    """
    record = subject.model.record
    if not record.is_image:
        raise DataError(
            "the closest pairs are shown as pictures, and these data are none",
            expected="pictures",
            fix="measure them instead (sfumato evaluate RUN --metrics memorisation)",
        )
    held_out = fresh_examples(subject, note)
    raw = drawn_for_both(subject, count, means)
    space, flip = Values(record.normalization), subject.model.experiment.data.flip
    found = beside(raw, subject.data, held_out, space, mirrored=flip)
    return pairs_of(found, raw, subject, held_out, space.name)


def fresh_examples(subject: Subject, note: Note) -> Tensor:
    """The held-out examples to compare with; refuses what cannot be compared before anything is drawn."""
    require_unpictured(subject.model)
    data = subject.data
    held_out = unshared(data.packed, data.parts)
    equal_parts(len(data.parts.train), len(held_out))  # for its refusal
    if len(held_out) < len(data.parts.held_out):
        shared = len(data.parts.held_out) - len(held_out)
        note(f"{shared:,} held-out examples are trained on too, as copies: memorisation compares with the others")
    return held_out


def spaces_of(subject: Subject, extractor: Callable[[], Extractor], means: Means) -> Iterator[Space]:
    """The values themselves, and for pictures the features of an extractor, unless that is `pixels` too."""
    yield Values(subject.model.record.normalization)
    if subject.model.record.is_image and (chosen := extractor()).name != "pixels":
        yield FeatureSpace(chosen, means)


def drawn_for_both(subject: Subject, count: int, means: Means) -> Tensor:
    """`count` samples as the data hold them, told what training and held-out examples were, in turn."""
    return drawn_like_data(subject, count, means, examples=alternately(subject.data.parts, count))


def how_compared(space: Space, data: PreparedData, held_out: Tensor) -> dict[str, Fact]:
    """Where distances were measured, and to how many examples."""
    return {
        "extractor": space.name,
        "extractor_digest": space.digest,
        "training_examples": len(data.parts.train),
        "held_out_examples": len(held_out),
    }


def pairs_of(
    found: Closeness, raw: Tensor, subject: Subject, held_out: Tensor, space: str, count: int = PAIRS
) -> ClosestPairs:
    """The `count` samples of smallest ratio with their neighbours."""
    data, chosen = subject.data, found.closest(count)
    originals, unseen = data.parts.train[found.original(chosen)], held_out[found.held_out_neighbour(chosen)]
    values = data.packed.values
    return ClosestPairs(
        space,
        raw[chosen].numpy(),
        values[originals].numpy(),
        values[unseen].numpy(),
        found.ratio[chosen].numpy(),
        subject.seed + chosen.numpy(),
        originals.numpy(),
        unseen.numpy(),
    )
