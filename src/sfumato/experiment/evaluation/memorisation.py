"""Whether a model copies: its samples beside the training and the held-out examples nearest to them (`metrics`).

    memorisation[SPACE]           the share of samples that are copies of training examples, with an interval
    memorisation[SPACE][floor]    what chance would make copies of
    memorisation[SPACE][leaning]  how much more often than by chance the nearest example is a training one

SPACE is where distances are measured: `pixels` for pictures, `values` for everything else, and the extractor's features
of pictures. A model that is told something of each sample is told what it was of training and of held-out examples in
turn, so that it favours neither.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data import Normalization, Packed, Split
from sfumato.errors import DataError
from sfumato.experiment.evaluation.drawing import drawn_like_data, how_drawn
from sfumato.experiment.evaluation.features import features_of
from sfumato.experiment.evaluation.means import Means
from sfumato.experiment.evaluation.pictures import scattered
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

__all__ = [
    "ClosestPairs",
    "Suspects",
    "closest_pairs",
    "copy_entries",
    "fresh_sides",
    "memorisation_entries",
    "require_unpictured",
    "spaces_of",
]

PAIRS = 10  # that are shown
READING = (
    "memorisation[…][floor] is what chance makes copies of; [leaning] is 0 for a model that does not know which "
    "examples it was trained on, 1 for one that does nothing but copy"
)
JUDGED = (
    "the judge was trained on training examples too, and sees them otherwise than those held out: what [leaning] and "
    "[floor] say of chance is exact in pixels, and not in its features"
)
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
        order = scattered(torch.arange(len(places)))  # that of floors, whose features are kept in parts
        return self._features(values, "examples", places[order])[order.argsort()]

    def _features(self, images: Tensor, what: str, places: Tensor | None) -> Tensor:
        return features_of(self.extractor, images, what, self.means, places=places)


@dataclass(frozen=True, slots=True, eq=False)
class Suspects:
    """Samples, and the examples of both sides that they may be copies of.

    raw: (n, *) samples as the data hold examples: uint8 (n, H, W, C), or float32 (n, *).
    packed: all examples. sides: which of them were trained on, and which held out from it.
    mirrored: whether training mirrored its pictures.
    numbers: (n,) int64, what each sample is known by. called: what those numbers are.
    """

    raw: Tensor
    packed: Packed
    sides: Split
    mirrored: bool
    numbers: Tensor
    called: str

    def beside(self, space: Space) -> Closeness:
        """How near they lie to both sides."""
        return beside(self.raw, self.packed.values, self.sides, space, mirrored=self.mirrored)

    def pairs(self, found: Closeness, space: str, count: int = PAIRS) -> "ClosestPairs":
        """The `count` samples of smallest ratio with their neighbours."""
        values, chosen = self.packed.values, found.closest(count)
        originals = self.sides.train[found.original(chosen)]
        unseen = self.sides.held_out[found.held_out_neighbour(chosen)]
        return ClosestPairs(
            space,
            self.raw[chosen].numpy(),
            values[originals].numpy(),
            values[unseen].numpy(),
            found.ratio[chosen].numpy(),
            self.numbers[chosen].numpy(),
            originals.numpy(),
            unseen.numpy(),
            self.called,
        )


@dataclass(frozen=True, slots=True, eq=False)
class ClosestPairs:
    """The samples that are most like training examples, the most so first, each with its neighbours on both sides.

    space: where likeness was measured.
    samples, originals, unseen: (k, *) as the data hold them: samples, nearest training and nearest held-out examples.
    ratio: (k,) distance to the training example over that to a held-out one.
    seeds: (k,) int64, which draw each sample alone; of samples in a file their places.
    training, held_out: (k,) int64, places of the neighbours in the data set.
    called: what the numbers of the samples are: `seed`, or `sample` for places.
    """

    space: str
    samples: NDArray[Any]
    originals: NDArray[Any]
    unseen: NDArray[Any]
    ratio: NDArray[np.float64]
    seeds: NDArray[np.int64]
    training: NDArray[np.int64]
    held_out: NDArray[np.int64]
    called: str = "seed"

    def __len__(self) -> int:
        return len(self.seeds)

    def to_plain(self) -> list[dict[str, Any]]:
        """As JSON data, without the examples."""
        columns = (self.seeds, self.training, self.held_out, self.ratio)
        names = (self.called, "training_example", "held_out_example", "ratio")
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
    suspects = suspects_of(subject, count, means, note)
    spaces = spaces_of(subject.model.record.normalization, extractor, means)
    yield from copy_entries(suspects, spaces, subject.facts(**how_drawn(subject, TOLD)), note, keep)


def copy_entries(
    suspects: Suspects,
    spaces: Iterable[Space],
    facts: Mapping[str, Fact],
    note: Note,
    keep: Callable[[ClosestPairs], None],
) -> Iterator[Entry]:
    """The three numbers of each space, whoever made the samples; `facts` are of them."""
    for space in spaces:
        found = suspects.beside(space)
        threshold = copy_threshold(found)
        about = {**facts, **how_compared(space, suspects.sides)}
        share = copy_share(found, threshold, about)
        yield f"memorisation[{space.name}]", share
        yield f"memorisation[{space.name}][floor]", chance_share(found, threshold, about)
        yield f"memorisation[{space.name}][leaning]", leaning(found, about)
        if suspects.packed.is_image:
            keep(suspects.pairs(found, space.name))
        note(in_words(space.name, share, threshold, found.size))
        if space.name == "judge":
            note(JUDGED)
    note(READING)


def in_words(space: str, share: Estimate, threshold: float, size: int) -> str:
    """How many samples are copies, how sure that is, and what a copy is."""
    sure = interval_of(share)
    return (
        f"memorisation[{space}]: {share.value:.2%} of {share.n:,} samples are copies (95 %: {sure.low:.2%} to "
        f"{sure.high:.2%}): nearer to a training example than {threshold:.3g} times the distance to the nearest of as "
        f"many ({size:,}) held-out ones"
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
    suspects, space = suspects_of(subject, count, means, note), Values(record.normalization)
    return suspects.pairs(suspects.beside(space), space.name)


def suspects_of(subject: Subject, count: int, means: Means, note: Note) -> Suspects:
    """`count` samples of a run beside its data; what cannot be compared is refused before anything is drawn."""
    require_unpictured(subject.model)
    data = subject.data
    sides = fresh_sides(data.packed, data.parts, note)
    raw = drawn_for_both(subject, count, means)
    flip = subject.model.experiment.data.flip
    return Suspects(raw, data.packed, sides, flip, subject.seed + torch.arange(count), "seed")


def fresh_sides(packed: Packed, parts: Split, note: Note) -> Split:
    """Both parts without held-out examples that are trained on too. Raises DataError where too few are left."""
    held_out = unshared(packed, parts)
    equal_parts(len(parts.train), len(held_out))  # for its refusal
    if len(held_out) < len(parts.held_out):
        shared = len(parts.held_out) - len(held_out)
        note(f"{shared:,} held-out examples are trained on too, as copies: memorisation compares with the others")
    return Split(parts.train, held_out)


def spaces_of(normalization: Normalization, extractor: Callable[[], Extractor], means: Means) -> Iterator[Space]:
    """The values themselves, and for pictures the features of an extractor, unless that is `pixels` too."""
    yield Values(normalization)
    if normalization.is_image and (chosen := extractor()).name != "pixels":
        yield FeatureSpace(chosen, means)


def drawn_for_both(subject: Subject, count: int, means: Means) -> Tensor:
    """`count` samples as the data hold them, told what training and held-out examples were, in turn."""
    return drawn_like_data(subject, count, means, examples=alternately(subject.data.parts, count))


def how_compared(space: Space, sides: Split) -> dict[str, Fact]:
    """Where distances were measured, and to how many examples."""
    return {
        "extractor": space.name,
        "extractor_digest": space.digest,
        "training_examples": len(sides.train),
        "held_out_examples": len(sides.held_out),
    }
