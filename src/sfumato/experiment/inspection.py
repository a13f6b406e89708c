"""The pre-flight doctor: everything about a data set that is worth knowing before a model is trained on it.

The data are read as training would read them. Where training would refuse, because the pictures have many sizes, grey
stands among colour or files are broken, that is written down as a problem, and the data are read in the nearest way
that works, so that one look finds all there is to find.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sfumato.core import Schedule
from sfumato.data import DataConfig, Normalization, Packed, Split, load_data, measure, split
from sfumato.data.archives import is_archive
from sfumato.data.inspection import DataFacts, inspect_packed
from sfumato.data.parquet import parquet_pictures
from sfumato.data.sets import is_named_set
from sfumato.data.settings import SOURCES
from sfumato.data.survey import Survey, survey, survey_pictures
from sfumato.data.wording import counted
from sfumato.errors import ConfigError, DataError, SfumatoError, printable
from sfumato.experiment.advice import SCHEDULE, Advice, advise, fitting_size
from sfumato.experiment.config import Overrides, flag_nodes, load_experiment
from sfumato.experiment.findings import Finding, findings
from sfumato.experiment.reach import Reach, reach
from sfumato.experiment.schema import read, to_plain
from sfumato.experiment.tree import Branch, assign, overrides_of, tree_of
from sfumato.training.engine import choose_device

__all__ = ["Examined", "Inspection", "examined", "inspect"]

LARGEST_NATIVE = 1 << 30  # bytes of pictures that are read in their own size where no other is asked for


@dataclass(frozen=True, slots=True)
class Examined:
    """What is looked at.

    data: where the data are, and how they are prepared.
    schedule: what their standard deviation is held against; the recommended one where nobody asks for another.
    seed: of the split into training and held-out part.
    """

    data: DataConfig = DataConfig()
    schedule: Schedule = SCHEDULE
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Inspection:
    """What `inspect` found.

    asked: what was to be looked at; data: the settings that the data could be read with. packed, parts: the data.
    normalization: how they would be scaled. survey: the files of a folder. fit: the data against the schedule, or why
    that cannot be said. advice: settings to begin with, None for data that no network here takes.
    """

    asked: Examined
    data: DataConfig
    packed: Packed
    parts: Split
    normalization: Normalization
    survey: Survey | None
    facts: DataFacts
    fit: Reach | SfumatoError
    advice: Advice | None
    findings: tuple[Finding, ...]

    @property
    def ready(self) -> bool:
        """Whether training takes the data as they were asked for."""
        return all(finding.level != "problem" for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "ready": self.ready,
            "data": to_plain(self.data),
            "files": None if self.survey is None else self.survey.document(),
            "examples": self.facts.document(),
            "normalization": self.normalization.to_dict(),
            "schedule": self.fit.document() if isinstance(self.fit, Reach) else None,
            "recommended": None if self.advice is None else self.advice.document(),
            "findings": [{"level": f.level, "what": f.what, "fix": f.fix} for f in self.findings],
        }


def examined(what: str, overrides: Overrides = (), *, recipe: str | Path | None = None) -> Examined:
    """What a name or path and settings mean: `data.*`, `schedule.*` and `seed`, over those of a recipe.

    `what` is a path, or the name of a set that comes with sfumato where no file or folder is called so.
    """
    base = Examined()
    if recipe is not None:
        experiment = load_experiment(recipe)
        base = Examined(experiment.data, experiment.schedule, experiment.seed)
    named = what in SOURCES and what != "folder" and not os.path.exists(what)
    data = replace(base.data, source=what, path=None) if named else replace(base.data, path=what)
    tree = tree_of(to_plain(Examined(data, base.schedule, base.seed)), "settings")
    assert isinstance(tree, Branch)
    pairs = overrides_of(overrides, "overrides") if isinstance(overrides, Mapping) else flag_nodes(overrides)
    for path, node in sorted(pairs, key=lambda pair: len(pair[0])):
        tree = assign(tree, path, node)
    return read(Examined, tree, origin="settings")


def inspect(asked: Examined) -> Inspection:
    """Look a data set over. Raises DataError where nothing can be read, ConfigError for settings that do not fit."""
    files = _surveyed(asked.data)
    reading = _read(asked, files)
    packed = reading.packed
    parts = split(packed, asked.data.held_out, asked.seed)
    normalization = measure(packed, parts, asked.data)
    facts = inspect_packed(packed, parts, mirrored=asked.data.flip)
    fit = _fit(asked.schedule, packed, normalization, parts)
    advice = None
    if isinstance(fit, Reach) and len(packed.shape) <= 3:
        advice = advise(_wished(asked.data, reading.data, files), facts, files, fit.data_std)
    said = findings(facts, files, fit, asked.schedule, reading.refusals, packed.report)
    return Inspection(asked, reading.data, packed, parts, normalization, files, facts, fit, advice, said)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """Data that could be read, the settings that they were read with, and what training says to those asked for."""

    packed: Packed
    data: DataConfig
    refusals: tuple[SfumatoError, ...]


def _surveyed(data: DataConfig) -> Survey | None:
    """The files of a folder, an archive or a table of the user's own pictures; None for every other source."""
    if data.path is None or is_named_set(data):
        return None
    path = Path(data.path).expanduser()
    with suppress(DataError):  # whoever reads the data says why there are none
        if os.path.isdir(path) or (os.path.isfile(path) and is_archive(path)):
            return survey(path, data)
        if os.path.isfile(path) and path.suffix.lower() == ".parquet":
            pictures = parquet_pictures(path)
            return None if pictures is None else survey_pictures(pictures, data)
    return None


def _read(asked: Examined, files: Survey | None) -> Reading:
    """Read the data as asked, or in the nearest way that works. Raises what the first attempt raised if none does."""
    first: SfumatoError | None = None
    for config in _attempts(asked.data, files):
        try:
            packed = load_data(config, seed=asked.seed)
        except (DataError, ConfigError) as error:
            first = error if first is None else first
            continue
        refusals = [] if files is None else list(_refusals(asked.data, files))
        left_out = [line.removeprefix("left out ") for line in packed.report if line.startswith("left out ")]
        if left_out and asked.data.bad_files == "error":
            refusals.insert(0, _bad_files(asked.data, left_out))
        elif first is not None:
            refusals.insert(0, first)
        return Reading(packed, config, tuple(refusals))
    assert first is not None
    raise first


def _attempts(asked: DataConfig, files: Survey | None) -> Iterator[DataConfig]:
    """The settings as asked, changed by what the headers already tell; then with more and more given up."""
    known = asked
    if files is not None and files.sizes:
        own = files.sizes[0].height, files.sizes[0].width
        if asked.size is None and (files.mixed_sizes or _native_bytes(files) > LARGEST_NATIVE):
            gpu = choose_device("auto").type != "cpu"
            known = replace(known, size=fitting_size(files, (3, *own), gpu=gpu) or own, pad=None)
        if asked.channels is None and files.mixed_colours:
            known = replace(known, channels=3)
        if files.bad:
            known = replace(known, bad_files="skip")
    skipping = replace(known, bad_files="skip")
    coloured = replace(skipping, channels=3 if skipping.channels is None else skipping.channels)
    attempts = [known, skipping, coloured]
    if known.size is None:
        attempts += [replace(config, size=64, pad=None) for config in (skipping, coloured)]
    yield from dict.fromkeys(attempts)


def _native_bytes(files: Survey) -> int:
    return sum(3 * size.height * size.width * size.count for size in files.sizes)


def _refusals(asked: DataConfig, files: Survey) -> Iterator[SfumatoError]:
    """What training says to the settings as asked, as far as the headers tell of sizes and colours."""
    where = printable(str(asked.path))
    if files.mixed_sizes and asked.size is None:
        some = ", ".join(f"{s.count} of {s.height}x{s.width}" for s in files.sizes[:3]) + ", …" * (len(files.sizes) > 3)
        yield DataError(
            f"{where}: the pictures have {len(files.sizes):,} different sizes, height x width ({some})",
            expected="pictures of one size, or data.size to crop and resize them to",
            fix="--data.size 64",
        )
    if files.mixed_colours and asked.channels is None:
        yield DataError(
            f"{where}: {files.grey:,} grey and {files.colour:,} colour pictures",
            expected="only grey or only colour pictures, or data.channels",
            fix="--data.channels 3 (or 1)",
        )


def _bad_files(asked: DataConfig, lines: Sequence[str]) -> DataError:
    named = "; ".join(lines[:5]) + (f"; and {len(lines) - 5} more" if len(lines) > 5 else "")
    return DataError(
        f"{printable(str(asked.path))}: {counted(len(lines), 'file')} cannot be used: {named}",
        expected="pictures that can be decoded (JPEG, PNG, WEBP, BMP, GIF, TIFF)",
        fix="repair or remove them, or leave them out with --data.bad_files skip",
    )


def _fit(schedule: Schedule, packed: Packed, normalization: Normalization, parts: Split) -> Reach | SfumatoError:
    try:
        return reach(schedule, packed, normalization, parts.train)
    except DataError as error:  # every value is the same
        return error


def _wished(asked: DataConfig, read_with: DataConfig, files: Survey | None) -> DataConfig:
    """The settings to recommend from: as asked, with what had to be decided for the data to be read at all.

    A size that was decided on the way is decided again where the files tell more. Nobody is to download again unasked.
    """
    size = read_with.size if files is None else asked.size
    return replace(asked, size=size, channels=read_with.channels, bad_files=read_with.bad_files, download=False)
