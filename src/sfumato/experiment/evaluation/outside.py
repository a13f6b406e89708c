"""Anybody's samples against anybody's data: files, whatever made them.

Samples are what `data.path` takes: a folder of pictures, an array file. What they are compared with, and what beside it
serves for floors, `sides` decides.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

from sfumato.data import measure
from sfumato.errors import DataError, UsageError
from sfumato.experiment.conditions import names_of
from sfumato.experiment.config import Overrides
from sfumato.experiment.evaluation.classes import Balance
from sfumato.experiment.evaluation.document import Evaluation, Notebook
from sfumato.experiment.evaluation.features import chosen_extractor, known_extractor
from sfumato.experiment.evaluation.kept import Kept
from sfumato.experiment.evaluation.means import Means
from sfumato.experiment.evaluation.memorisation import Suspects, copy_entries, fresh_sides, spaces_of
from sfumato.experiment.evaluation.metrics import require_known
from sfumato.experiment.evaluation.pace import Progress
from sfumato.experiment.evaluation.pictures import PICTURE_METRICS, Featured, Pictures, entries_of
from sfumato.experiment.evaluation.sides import ReferencePart, Sides, sides_of
from sfumato.experiment.evaluation.team import claim_device, gathered_team
from sfumato.experiment.judging import judge_of
from sfumato.experiment.model import require_seed
from sfumato.metrics import (
    EnergyDistance,
    Estimate,
    Extractor,
    Fact,
    Judge,
    Mmd,
    PointDistance,
    SlicedWasserstein,
    class_shares,
    floor,
)
from sfumato.training.engine import choose_device

__all__ = ["SAMPLE_FILE_METRICS", "ReferencePart", "evaluate_samples"]

Entry = tuple[str, Estimate]
DISTANCES: dict[str, PointDistance] = {
    "sliced_wasserstein": SlicedWasserstein(),
    "energy_distance": EnergyDistance(),
    "mmd": Mmd(),
}
SAMPLE_FILE_METRICS = (*PICTURE_METRICS, "class_balance", *DISTANCES, "memorisation")
FLOOR_PAIRS = 8


def evaluate_samples(
    samples: str | Path,
    reference: str | Path,
    metrics: Sequence[str] | str | None = None,
    *,
    n: int | None = None,
    seed: int = 0,
    part: ReferencePart = "held-out",
    device: str = "auto",
    runs: str | Path = "runs",
    data: Overrides | None = None,
    extractor: str | None = None,
    extractor_weights: str | Path | None = None,
    report: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure samples in a file or folder against a reference: a path, the name of a set, or a run (a name in `runs`).

    metrics: None for kid (pictures) or the distances (points). n: of the samples, evenly taken; None: all. part: of the
    reference. data: settings of the data section for both, as {"size": 64}. The rest as in `evaluate`. Raises
    UsageError for what cannot be meant, DataError for samples and references that do not fit together.
    """
    claim_device()
    require_seed(seed)
    if part not in get_args(ReferencePart):
        raise UsageError(
            f"part is {part!r}", expected=" or ".join(get_args(ReferencePart)), fix="leave it out (--part)"
        )
    if extractor is not None:
        known_extractor(extractor)
    named = [name.strip() for name in metrics.split(",")] if isinstance(metrics, str) else metrics
    for name in named or ():
        require_known(name)
        require_of_files(name)
    quiet = report if report is not None else lambda text: None
    book = Notebook()
    sides = sides_of(samples, reference, n=n, part=part, data=data, seed=seed, runs=Path(runs), book=book)
    usual = ("kid",) if sides.samples.is_image else tuple(DISTANCES)
    for name in named or ():
        require_kind(name, sides.samples.is_image)
    found: dict[str, Estimate] = {}
    with gathered_team() as team:
        means = Means(Kept.of(sides.config), team, quiet, progress)
        place = choose_device(device)
        judge = cache(lambda: team.first(lambda: judge_of(sides.real, sides.config, device=place, report=quiet)))
        features = cache(lambda: chosen_extractor(extractor, sides.real, judge, extractor_weights, place))
        tools = Tools(means, judge, features, cache(lambda: featured(sides, means, features())))
        for name in usual if named is None else named:
            found.update(file_entries(name, sides, tools, book))
    return Evaluation(found, tuple(book.notes), "", book.closest)


@dataclass(frozen=True, slots=True)
class Tools:
    """With what files are measured: each is made once, when first asked for."""

    means: Means
    judge: Callable[[], Judge]
    extractor: Callable[[], Extractor]
    pictures: Callable[[], Featured]


def require_of_files(name: str) -> None:
    """Refuse a metric that looks at a model. Raises UsageError."""
    if name not in SAMPLE_FILE_METRICS:
        raise UsageError(
            f"{name} measures a model, and these are samples alone",
            expected="some of " + ", ".join(SAMPLE_FILE_METRICS),
            fix="--metrics kid, or name the run",
        )


def require_kind(name: str, is_image: bool) -> None:
    """Refuse a metric of pictures for points, and the other way round. Raises DataError."""
    if (name in DISTANCES) == is_image and name != "memorisation":
        found, fix = ("pictures", "kid,fid") if is_image else ("values", ",".join(DISTANCES))
        raise DataError(
            f"{name} means nothing for {found}",
            expected="points" if is_image else "8-bit pictures",
            fix=f"--metrics {fix}",
        )


def featured(sides: Sides, means: Means, extractor: Extractor) -> Featured:
    """Both sides by their features."""
    images = sides.real.values
    pictures = Pictures(
        sides.samples.values[sides.chosen],
        images[sides.reference],
        images[sides.others[: 4 * len(sides.chosen)]],
        sides.reference_name,
        "pictures of the reference that are kept aside, or of its other part",
        sides.facts,
        sides.seed,
    )
    return Featured(pictures, extractor, means)


def file_entries(name: str, sides: Sides, tools: Tools, book: Notebook) -> Iterator[Entry]:
    """The numbers of one metric."""
    if name in DISTANCES:
        yield from distance_entries(name, sides, book.add)
    elif name == "class_balance":
        yield from balance_of(sides, tools.judge(), book.add)
    elif name == "memorisation":
        yield from copies_of(sides, tools, book)
    else:
        yield from entries_of(name, tools.pictures(), book.add)


def distance_entries(name: str, sides: Sides, note: Callable[[str], None]) -> Iterator[Entry]:
    """A distance of points, and its floor: the same of disjoint pieces of the others, or of the reference."""
    distance = DISTANCES[name]
    x, y = (side.double().flatten(1) for side in (sides.samples.values[sides.chosen], sides.real.values))
    facts: dict[str, Fact] = {**sides.facts, "reference": sides.reference_name}
    reference, others = y[sides.reference], y[sides.others]
    yield name, distance(x, reference, facts)
    size = min(len(x), len(others))
    pairs = [(others[k : k + size], reference) for k in range(0, size * (len(others) // max(size, 1)), max(size, 1))]
    if len(pairs) >= 2:
        yield f"{name}[floor]", floor(distance, pairs[:FLOOR_PAIRS], {"reference": sides.reference_name})
    elif size >= 4:
        yield f"{name}[floor]", distance(others, reference, {"reference": sides.reference_name})
    else:
        note(f"{name} has no floor beside it: too few real points are left for one")
    if 4 <= size < len(x):
        note(f"{name}[floor] is that of {size:,} points, no more are left, and higher than that of {len(x):,} would be")


def balance_of(sides: Sides, judge: Judge, note: Callable[[str], None]) -> Iterator[Entry]:
    """class_balance against the labels of the reference."""
    assert sides.real.labels is not None  # a judge was trained on them
    judged = judge.judged(sides.samples.values[sides.chosen])
    shares = class_shares(sides.real.labels[sides.reference], sides.real.num_classes)
    facts: dict[str, Fact] = {**sides.facts, "judge": judge.digest[:12], "judge_accuracy": judge.record.accuracy}
    facts["reference"] = sides.reference_name
    yield from Balance(judged, shares, facts, sides.reference_name).entries(judge, names_of(sides.real), note)


def copies_of(sides: Sides, tools: Tools, book: Notebook) -> Iterator[Entry]:
    """How many samples are copies of what the reference says was trained on. Raises DataError where it does not."""
    if sides.parts is None:
        raise DataError(
            "memorisation: nothing says which examples of the reference were trained on and which held out",
            expected="a reference with a test part (x_train and x_test), or a run, whose split is known",
            fix="--reference RUN, an .npz file with both parts, or --data.held_out 0.1 --seed K as in training",
        )
    real, raw = sides.real, sides.samples.values[sides.chosen]
    normalization = measure(real, sides.parts, sides.config)
    both = fresh_sides(real, sides.parts, book.add)
    suspects = Suspects(raw, real, both, sides.config.flip, sides.chosen, "sample")
    spaces = spaces_of(normalization, tools.extractor, tools.means)
    yield from copy_entries(suspects, spaces, sides.facts, book.add, book.keep)
