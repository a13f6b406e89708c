"""Samples against real pictures, by features: distances, each beside its floor, and what is made and missed.

    kid[E]              KID over all pairs, the default                kid[E][subsets]   as papers report it
    kid[E][floor]       the same of real pictures                      fid[E]            FID at this n
    fid[E][floor]       FID of as many real pictures                   fid[E][infinite]  extrapolated to infinite n
    precision[E], recall[E], density[E], coverage[E]                   …[real]           what real pictures score

E is the extractor. The reference is the part of the data that is measured, the held-out one unless another is asked
for; real pictures for floors are those of the other part, as many as there are samples, so that no picture is compared
with itself. Every error is that of the samples, the reference being given.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sfumato.core import derived_generator
from sfumato.data import evenly_from, fingerprint_of
from sfumato.errors import DataError, UsageError
from sfumato.experiment.evaluation.drawing import GOLDEN, how_drawn
from sfumato.experiment.evaluation.features import features_of
from sfumato.experiment.evaluation.means import Means
from sfumato.experiment.evaluation.pace import clocked
from sfumato.experiment.evaluation.subject import SLOW, Subject
from sfumato.metrics import (
    Estimate,
    Extractor,
    Fact,
    coverage,
    density,
    fid,
    fid_extrapolated,
    fid_floor,
    kernel_mean,
    kid,
    kid_subsets,
    precision,
    recall,
)

__all__ = ["PICTURE_METRICS", "Featured", "Pictures", "entries_of", "pictures_of", "real_parts", "scattered"]

PICTURE_METRICS = ("kid", "fid", "precision", "recall", "density", "coverage")
MOST_REFERENCE = 50_000
FEWEST = 2  # pictures of a reference
MOST_IN_SUBSETS = 3e8  # pairs of 100 subsets of 1,000
DISTANCES = 60  # that FID with its error, its floor and its extrapolation takes, about
Entry = tuple[str, Estimate]
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """Samples (n, H, W, C), the reference (m, H, W, C), other real pictures (N, H, W, C) for floors; uint8.

    real: none where all real pictures are in the reference. reference_name, real_name: what they are, in words.
    facts: where the samples are from.
    """

    samples: Tensor
    reference: Tensor
    real: Tensor
    reference_name: str
    real_name: str
    facts: Mapping[str, Fact]
    seed: int = 0


def real_parts(reference: Tensor, others: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices of the reference, at most 50,000 evenly taken, and of up to 4 `count` of the others, scattered."""
    return evenly_from(reference, MOST_REFERENCE), scattered(others)[: 4 * count]


def scattered(indices: Tensor) -> Tensor:
    """The same indices in an order any run of which is spread evenly over them all: data are often sorted by class.

    That of the golden section: the i-th is the one whose place is that of frac((i + ½) g) among all of these.
    """
    place = (torch.arange(len(indices), dtype=torch.float64) + 0.5) * GOLDEN % 1.0
    return indices[place.argsort().argsort()]


class Featured:
    """The features of `Pictures` by one extractor; each set is computed when it is first needed, by all processes."""

    def __init__(self, pictures: Pictures, extractor: Extractor, means: Means) -> None:
        self.pictures, self.extractor, self.means = pictures, extractor, means

    def features(self, images: Tensor, what: str) -> Tensor:
        """Features (N, d), float64, of pictures (N, H, W, C)."""
        return features_of(self.extractor, images, what, self.means).double()

    @cached_property
    def x(self) -> Tensor:
        """Of the samples, (n, d)."""
        return self.features(self.pictures.samples, "the samples")

    @cached_property
    def y(self) -> Tensor:
        """Of the reference, (m, d)."""
        return self.features(self.pictures.reference, "the reference")

    @cached_property
    def z(self) -> Tensor:
        """Of as many other real pictures as there are samples, or fewer, (N, d)."""
        return self.features(self.pictures.real[: len(self.pictures.samples)], "real pictures")

    @cached_property
    def all_z(self) -> Tensor:
        """Of all the other real pictures, (N, d)."""
        rest = self.pictures.real[len(self.z) :]
        return torch.cat([self.z, self.features(rest, "more real pictures")]) if len(rest) else self.z

    @cached_property
    def among_reference(self) -> float:
        """The part of KID that no sample changes."""
        return kernel_mean(self.y)

    @cached_property
    def has_real(self) -> bool:
        """Whether there are other real pictures to compare with the reference."""
        return len(self.pictures.real) >= 2

    @property
    def name(self) -> str:
        """The extractor's."""
        return self.extractor.name

    @cached_property
    def facts(self) -> dict[str, Fact]:
        """The provenance that every number of the samples shares."""
        return {**self.pictures.facts, **self.real_facts}

    @cached_property
    def real_facts(self) -> dict[str, Fact]:
        """The provenance of the extractor and of the reference."""
        return {
            "extractor": self.name,
            "extractor_digest": self.extractor.digest[:12],
            "resize": self.extractor.resize,
            "reference": self.pictures.reference_name,
            "reference_digest": fingerprint_of(self.pictures.reference, None)[:12],
        }


def entries_of(name: str, f: Featured, note: Note) -> Iterator[Entry]:
    """The numbers of one of PICTURE_METRICS. Raises DataError for a reference that is too small to compare with."""
    if len(f.pictures.reference) < FEWEST:
        raise DataError(
            f"{name} compares samples with {len(f.pictures.reference)} pictures ({f.pictures.reference_name})",
            expected=f"a reference of at least {FEWEST} pictures",
            fix="hold out more of the data (data.held_out), or compare with the training part (--part training)",
        )
    if not f.has_real:
        note(f"{name} has nothing real beside it: all real pictures are in the reference")
    if name == "kid":
        yield from kid_entries(f)
    elif name == "fid":
        yield from fid_entries(f, note)
    else:
        yield from share_entries(name, f, note)


def foretell(f: Featured, what: str, products: float) -> None:
    """Say how long sums over features will take, where that is long: `products` of two numbers, timed on a few."""
    few = f.y[:512]
    began = time.perf_counter()
    kernel_mean(few)
    left = (time.perf_counter() - began) / (len(few) ** 2 * few.shape[1]) * products
    if left > SLOW:
        sizes = f"{len(f.x):,} samples with {len(f.y):,} real pictures"
        f.means.report(f"{what}: comparing the features of {sizes}, about {clocked(left)}")


def kid_entries(f: Featured) -> Iterator[Entry]:
    """KID over all pairs, the mean over subsets, and that of real pictures."""
    (n, dim), m, others = f.x.shape, len(f.y), len(f.z)
    pairs = float(n * n + n * m + m * m)
    foretell(f, "kid", dim * (pairs + min(pairs, MOST_IN_SUBSETS) + others * (others + m)))
    whole = kid(f.x, f.y, f.facts, among_reference=f.among_reference)
    yield f"kid[{f.name}]", whole
    generator = derived_generator(f.pictures.seed, "kid subsets")
    yield f"kid[{f.name}][subsets]", kid_subsets(f.x, f.y, f.facts, whole=whole, generator=generator)
    if f.has_real:
        facts: dict[str, Fact] = {**f.real_facts, "floor": f.pictures.real_name}
        yield f"kid[{f.name}][floor]", kid(f.z, f.y, facts, among_reference=f.among_reference)


def fid_entries(f: Featured, note: Note) -> Iterator[Entry]:
    """FID at this n, that of as many real pictures, and what it tends to."""
    n, dim = f.x.shape
    rank = min(n, len(f.y), dim)
    foretell(f, "fid", DISTANCES * rank * (float(n * dim) + 10 * rank**2))
    yield f"fid[{f.name}]", fid(f.x, f.y, f.facts)
    if f.has_real:
        facts: dict[str, Fact] = {**f.real_facts, "floor": f.pictures.real_name}
        yield f"fid[{f.name}][floor]", fid_floor(f.all_z, f.y, facts, n=n)
        if len(f.all_z) < n:
            note(
                f"fid[{f.name}][floor] is that of {len(f.all_z):,} pictures, no more are left, and higher than that of "
                f"{n:,} would be"
            )
    smaller = min(n, len(f.y))
    if smaller <= dim:
        note(
            f"fid: {smaller:,} pictures for {dim:,} features: the covariance is rank-deficient, FID biased far up, "
            "its extrapolation too; read it beside its floor, or take kid"
        )
    try:
        yield f"fid[{f.name}][infinite]", fid_extrapolated(f.x, f.y, f.facts)
    except UsageError as error:
        note(f"no fid[{f.name}][infinite]: {error.what}")
    note("FID depends on n: compare it at equal n only; [infinite] is its extrapolation to infinitely many pictures")


def share_entries(name: str, f: Featured, note: Note) -> Iterator[Entry]:
    """Precision, recall, density or coverage of the samples, and of as many real pictures."""
    measure = {"precision": precision, "recall": recall, "density": density, "coverage": coverage}[name]
    yield f"{name}[{f.name}]", measure(f.x, f.y, f.facts)
    if not f.has_real:
        return
    try:
        yield f"{name}[{f.name}][real]", measure(f.z, f.y, {**f.real_facts, "real": f.pictures.real_name})
    except UsageError as error:
        note(f"no {name}[{f.name}][real]: {error.what}")
    if len(f.z) < len(f.x):
        note(f"{name}[…][real] is that of {len(f.z):,} pictures: the other part has no more")


def pictures_of(subject: Subject, samples: Tensor) -> Pictures:
    """Samples of a run beside the part that is measured, and the other part for floors."""
    packed, parts = subject.data.packed, subject.data.parts
    sides = (parts.held_out, parts.train) if subject.part == "held-out" else (parts.train, parts.held_out)
    names = ("the held-out part", "the training part")
    chosen, others = real_parts(*sides, len(samples))
    reference_name, real_name = names if subject.part == "held-out" else names[::-1]
    return Pictures(
        samples,
        packed.values[chosen],
        packed.values[others],
        reference_name,
        f"pictures of {real_name}",
        subject.facts(**how_drawn(subject)),
        subject.seed,
    )
