"""Anybody's samples against anybody's data: files, whatever made them.

Samples are what `data.path` takes: a folder of pictures, an array file. The reference is a path too, the name of a set,
or a run, whose data are meant; its pictures are brought to the size of the samples. Of a reference with a test part of
its own one part is compared with and the other serves for floors. Of any other a share is kept aside for floors, as
many pictures as there are samples and at most a third, unless all of it is asked for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from sfumato.data import SOURCES, DataConfig, Packed, load_data, split
from sfumato.errors import ConfigError, DataError, UsageError, printable
from sfumato.experiment.conditions import names_of
from sfumato.experiment.config import Overrides, flag_nodes
from sfumato.experiment.evaluation.classes import Balance
from sfumato.experiment.evaluation.document import Evaluation, Notebook
from sfumato.experiment.evaluation.features import chosen_extractor, known_extractor
from sfumato.experiment.evaluation.kept import Kept
from sfumato.experiment.evaluation.means import Means
from sfumato.experiment.evaluation.metrics import require_known
from sfumato.experiment.evaluation.pace import Progress
from sfumato.experiment.evaluation.pictures import PICTURE_METRICS, Featured, Pictures, entries_of, scattered
from sfumato.experiment.evaluation.subject import evenly_from
from sfumato.experiment.evaluation.team import claim_device, gathered_team
from sfumato.experiment.judging import judge_of
from sfumato.experiment.load import read_run_config
from sfumato.experiment.model import require_seed
from sfumato.experiment.schema import read, to_plain
from sfumato.experiment.tree import Branch, assign, overrides_of, tree_of
from sfumato.metrics import (
    EnergyDistance,
    Estimate,
    Fact,
    Judge,
    Mmd,
    PointDistance,
    SlicedWasserstein,
    class_shares,
    floor,
    require_enough,
)
from sfumato.training.engine import choose_device

__all__ = ["SAMPLE_FILE_METRICS", "ReferencePart", "evaluate_samples"]

ReferencePart = Literal["held-out", "training", "all"]
Entry = tuple[str, Estimate]
DISTANCES: dict[str, PointDistance] = {
    "sliced_wasserstein": SlicedWasserstein(),
    "energy_distance": EnergyDistance(),
    "mmd": Mmd(),
}
SAMPLE_FILE_METRICS = (*PICTURE_METRICS, "class_balance", *DISTANCES)
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
    data: Overrides | None = None,
    extractor: str | None = None,
    extractor_weights: str | Path | None = None,
    report: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure samples in a file or folder against a reference: a path, the name of a set, or a run.

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
    sides = sides_of(samples, reference, n=n, part=part, data=data, seed=seed, book=book)
    usual = ("kid",) if sides.samples.is_image else tuple(DISTANCES)
    for name in named or ():
        require_kind(name, sides.samples.is_image)
    found: dict[str, Estimate] = {}
    with gathered_team() as team:
        means = Means(Kept.of(sides.config), team, quiet, progress)
        place = choose_device(device)
        judge = cache(lambda: team.first(lambda: judge_of(sides.real, sides.config, device=place, report=quiet)))
        pictures = cache(lambda: featured(sides, means, judge, extractor, extractor_weights, place))
        for name in usual if named is None else named:
            found.update(file_entries(name, sides, pictures, judge, book.add))
    return Evaluation(found, tuple(book.notes), "")


@dataclass(frozen=True, slots=True, eq=False)
class Sides:
    """Samples and real data, which examples of each are taken, and where both are from.

    chosen: of the samples. reference, others: of the real data. config: how those were read.
    """

    samples: Packed
    real: Packed
    chosen: Tensor
    reference: Tensor
    others: Tensor
    config: DataConfig
    facts: dict[str, Fact]
    reference_name: str
    seed: int


def sides_of(
    samples: str | Path,
    reference: str | Path,
    *,
    n: int | None,
    part: ReferencePart,
    data: Overrides | None,
    seed: int,
    book: Notebook,
) -> Sides:
    """Both sides, read and brought to one size. Raises DataError where they do not fit together."""
    base = data_with(DataConfig(held_out=0.0), {} if data is None else data)
    made = load_data(replace(base, path=str(samples)), seed=seed)
    config = reference_config(str(reference), base)
    if made.is_image:
        config = fitted_to(config, made)
    real = real_side(config, made, seed)
    if real.values.shape[1:] != made.values.shape[1:] or real.is_image != made.is_image:
        raise DataError(
            f"samples of shape {tuple(made.values.shape[1:])} ({kind_of(made)}) cannot be compared with a reference "
            f"of shape {tuple(real.values.shape[1:])} ({kind_of(real)})",
            expected="samples and a reference of one kind and shape",
            fix="--data.size 64 brings pictures of both to one size",
        )
    require_enough(len(made))
    if n is not None:
        require_enough(n)
    chosen = evenly_from(torch.arange(len(made)), len(made) if n is None else n)
    measured, others, name = parted(real, part, len(chosen), book)
    where = printable(str(reference))
    book.add(f"{len(chosen):,} samples of {printable(str(samples))} against {len(measured):,} of {where} ({name})")
    for text in real.report:
        book.add(f"reference: {text}")
    facts: dict[str, Fact] = {
        "samples": str(samples),
        "samples_digest": made.fingerprint[:12],
        "data": real.fingerprint,
        "part": part,
        "seed": seed,
    }
    return Sides(made, real, chosen, measured, others, config, facts, f"{name} of {where}", seed)


def fitted_to(config: DataConfig, made: Packed) -> DataConfig:
    """The settings that bring pictures to the size and channels of samples, unless they name others."""
    height, width, channels = (int(side) for side in made.values.shape[1:])
    size = (height, width) if config.size is None else config.size
    return replace(config, size=size, channels=config.channels or channels, pad=None)


def real_side(config: DataConfig, made: Packed, seed: int) -> Packed:
    """The reference; values, which take no size, as they are: they do not fit pictures, as will be said."""
    try:
        return load_data(config, seed=seed)
    except ConfigError:
        if not made.is_image:
            raise
        return load_data(replace(config, size=None, channels=None), seed=seed)


def kind_of(packed: Packed) -> str:
    """What the examples are."""
    return "pictures" if packed.is_image else "values"


def parted(real: Packed, part: ReferencePart, count: int, book: Notebook) -> tuple[Tensor, Tensor, str]:
    """Indices of the reference and of the others, scattered, and what the reference is called."""
    every = torch.arange(len(real))
    own = len(real) - real.test_count
    if part == "all":
        return every, every[:0], "all"
    if real.test_count:
        train, test = every[:own], every[own:]
        if part == "held-out":
            return test, scattered(train), "its test part"
        return train, scattered(test), "its training part"
    drawn = split(real, min(count, len(real) // 3) / len(real), 0)  # at random: taken evenly they would be too alike
    book.add(
        f"{len(drawn.held_out):,} of the {len(real):,} reference examples are kept aside for floors; --part all "
        "compares with all of them, and has no floors"
    )
    return drawn.train, scattered(drawn.held_out), "all but those kept aside"


def reference_config(reference: str, base: DataConfig) -> DataConfig:
    """How a reference is read: the data of a run, a set by its name, or a path."""
    path = Path(reference).expanduser()
    if (path / "config.yaml").is_file():
        return read_run_config(path).data
    if reference in SOURCES and reference != "folder" and not path.exists():
        return replace(base, source=reference, path=None)
    return replace(base, path=reference)


def data_with(data: DataConfig, overrides: Overrides) -> DataConfig:
    """`data` with settings laid over it, by keys below `data`: `size`, `background`, …"""
    base = Branch({"data": tree_of(to_plain(data), "data")})
    pairs = overrides_of(overrides, "overrides") if isinstance(overrides, Mapping) else flag_nodes(overrides)
    for path, node in sorted(pairs, key=lambda pair: len(pair[0])):
        base = assign(base, ("data", *path), node)
    return read(DataConfig, base.items["data"], origin="data")


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
    if (name in DISTANCES) == is_image:
        found, fix = ("pictures", "kid,fid") if is_image else ("values", ",".join(DISTANCES))
        raise DataError(
            f"{name} means nothing for {found}",
            expected="points" if is_image else "8-bit pictures",
            fix=f"--metrics {fix}",
        )


def featured(
    sides: Sides,
    means: Means,
    judge: Callable[[], Judge],
    extractor: str | None,
    weights: str | Path | None,
    device: torch.device,
) -> Featured:
    """Both sides by their features."""
    chosen = chosen_extractor(extractor, sides.real, judge, weights, device)
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
    return Featured(pictures, chosen, means)


def file_entries(
    name: str,
    sides: Sides,
    pictures: Callable[[], Featured],
    judge: Callable[[], Judge],
    note: Callable[[str], None],
) -> Iterator[Entry]:
    """The numbers of one metric."""
    if name in DISTANCES:
        yield from distance_entries(name, sides, note)
    elif name == "class_balance":
        yield from balance_of(sides, judge(), note)
    else:
        yield from entries_of(name, pictures(), note)


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


def balance_of(sides: Sides, judge: Judge, note: Callable[[str], None]) -> Iterator[Entry]:
    """class_balance against the labels of the reference."""
    assert sides.real.labels is not None  # a judge was trained on them
    judged = judge.judged(sides.samples.values[sides.chosen])
    shares = class_shares(sides.real.labels[sides.reference], sides.real.num_classes)
    facts: dict[str, Fact] = {**sides.facts, "judge": judge.digest[:12], "judge_accuracy": judge.record.accuracy}
    facts["reference"] = sides.reference_name
    yield from Balance(judged, shares, facts, sides.reference_name).entries(judge, names_of(sides.real), note)
