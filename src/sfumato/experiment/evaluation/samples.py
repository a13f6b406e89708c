"""Samples against real points: distances, each beside its two-sample floor, and the coverage of modes.

Where the law of the data is known the reference is drawn from it, as many points as samples, four times over;
otherwise it is the part that is measured, and the floor compares disjoint pieces of the other part. All in the units
of the data.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core import derived_seed
from sfumato.data import evenly_from
from sfumato.data.laws import Law, law_of
from sfumato.errors import DataError
from sfumato.experiment.evaluation.drawing import how_drawn, sampling_of
from sfumato.experiment.evaluation.pictures import scattered
from sfumato.experiment.evaluation.subject import Subject
from sfumato.experiment.model import Model
from sfumato.metrics import Estimate, PointDistance, floor, mode_coverage, require_enough

__all__ = ["Compared", "compared_of", "mode_entries", "require_modes", "sample_entries"]

FLOOR_PAIRS = 8
COMPARISONS = 4  # with fresh samples each, where the law is known
Entry = tuple[str, Estimate]


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """Samples (R n, D), real points of the same number, pairs of real samples for the floor, and where they are from.

    size: n, points of one comparison; R of them are made, as one alone scatters as much as the floor is high.
    """

    samples: Tensor
    real: Tensor
    size: int
    pairs: tuple[tuple[Tensor, Tensor], ...]
    reference: str


def sample_entries(
    name: str, distance: PointDistance, subject: Subject, shared: Callable[[], Compared], note: Callable[[str], None]
) -> Iterator[Entry]:
    """name and name[floor]."""
    compared = shared()
    facts = subject.facts(reference=compared.reference, **how_drawn(subject))
    batches = zip(compared.samples.split(compared.size), compared.real.split(compared.size), strict=True)
    yield name, mean_distance([distance(x, y, facts) for x, y in batches])
    if len(compared.pairs) >= 2:
        yield f"{name}[floor]", floor(distance, compared.pairs, {"reference": compared.reference})
        note("name[floor] is the same distance between two independent real samples of the same sizes")
    else:
        note(f"{name} has no floor beside it: the other part is too small for two pairs of {compared.size}")


def mean_distance(each: list[Estimate]) -> Estimate:
    """The mean of distances of independent samples of one size."""
    value, error = (sum(e.value for e in each) / len(each), math.hypot(*(e.std_error for e in each)) / len(each))
    known = [e.influences for e in each if e.influences is not None]
    influences = torch.cat(known) / len(each) if len(known) == len(each) else None
    return Estimate(value, error, each[0].n, {**each[0].provenance, "comparisons": len(each)}, influences)


def mode_entries(subject: Subject, shared: Callable[[], Compared], note: Callable[[str], None]) -> Iterator[Entry]:
    """mode_coverage and mode_coverage[floor]. Raises DataError for a law in one piece or an unknown one."""
    law = raw_law(subject.model)
    require_modes(subject.model)
    assert law is not None
    assert law.mode_shares is not None
    compared = shared()
    facts = subject.facts(reference=compared.reference, **how_drawn(subject))
    yield "mode_coverage", mode_coverage(law.mode_of(compared.samples), law.mode_shares, facts)
    real = mode_coverage(law.mode_of(compared.real), law.mode_shares, {"reference": compared.reference})
    yield "mode_coverage[floor]", real


def compared_of(subject: Subject, count: int) -> Compared:
    """Samples, at most `count`, and what they are compared with: all sample metrics of one evaluation share them.

    Raises DataError where too few points are held out, UsageError for fewer than 4 samples.
    """
    require_enough(count, 4)
    law = raw_law(subject.model)
    if law is not None:
        seed = subject.seed
        total = COMPARISONS * count
        real = law.draw(total, seed, "evaluate reference")
        seeds = [derived_seed(seed, "floor", k) for k in range(FLOOR_PAIRS)]
        pairs = tuple((law.draw(count, k, "first"), law.draw(count, k, "second")) for k in seeds)
        return Compared(samples_of(subject, total), real, count, pairs, "fresh points of the exact law")
    values, parts = subject.data.packed.values.double().flatten(1), subject.data.parts
    sides = (parts.held_out, parts.train) if subject.part == "held-out" else (parts.train, parts.held_out)
    if len(sides[0]) < 4:
        raise DataError(
            f"{len(sides[0])} points are in the {subject.part} part",
            expected="at least 4 to compare samples with",
            fix="train with a larger data.held_out",
        )
    real = values[evenly_from(sides[0], count)]  # data are often sorted: the first would be of one kind
    size = len(real)
    pieces = values[scattered(sides[1])].split(size)[: len(sides[1]) // size]
    pairs = tuple(zip(pieces[0::2], pieces[1::2], strict=False))[:FLOOR_PAIRS]
    return Compared(samples_of(subject, size), real, size, pairs, f"the {subject.part} part")


def samples_of(subject: Subject, count: int) -> Tensor:
    """`count` samples as the run draws them, in data units, (count, D) float64."""
    require_enough(count, 4)
    config = sampling_of(subject)
    labels, told = told_like_data(subject, count)
    drawn = subject.model.sample(count, seed=subject.seed, config=config, labels=labels, values=told).values
    assert drawn is not None  # points, not pictures
    values = torch.from_numpy(drawn).double().flatten(1)
    if not bool(values.isfinite().all()):
        raise DataError("some samples are not finite", expected="finite samples", fix="train on, or take more steps")
    return values


def told_like_data(subject: Subject, count: int) -> tuple[list[int] | None, NDArray[np.float32] | None]:
    """Labels and values of `count` training examples, evenly taken: what samples are told that stand for all data."""
    told, packed, train = subject.model.condition_shape, subject.data.packed, subject.data.parts.train
    chosen = train[torch.arange(count) * len(train) // count]
    labels = packed.labels[chosen].tolist() if told.num_classes and packed.labels is not None else None
    values = packed.conditions[chosen].numpy() if told.num_values and packed.conditions is not None else None
    return labels, values


def raw_law(model: Model) -> Law | None:
    """The law in the units of the data."""
    return law_of(model.experiment.data)


def require_modes(model: Model) -> None:
    """Refuse to count modes where none are known. Raises DataError."""
    law = raw_law(model)
    if law is None or law.mode_shares is None:
        raise DataError(
            "the law of the data has no modes that are known",
            expected="points of mixture, moons or another law in pieces (data.source)",
            fix="measure distances instead (--metrics sliced_wasserstein,energy_distance)",
        )
