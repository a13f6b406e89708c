"""Where everything comes from: weights, data, files with their digests, versions and machine of each run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from sfumato.experiment.report.elements import aside, facts, folded
from sfumato.experiment.report.entries import Entry, digest_of_file
from sfumato.experiment.report.markup import Child, Html, tag
from sfumato.experiment.report.naming import arm_name
from sfumato.experiment.report.page import Page, Section, Shown, section
from sfumato.experiment.report.wording import title

__all__ = ["provenance"]

SHORT = 16  # letters of a digest that are read
SMALL = "facts small"


def provenance(page: Page) -> Section | None:
    """What made the page, and each run; what all arms have alike stands once."""
    begun = [shown for shown in page.shown if shown.entry.folder is not None or page.alone]
    if not begun:
        return None
    words = "Versions and machine are those of the training. Digests are SHA-256, their first letters; hover for all."
    every = [(_known(_environment(shown.entry)), _known(_weights(shown))) for shown in begun]
    alike = [_shared([pair[part] for pair in every]) for part in (0, 1)]
    if page.alone:
        body: list[Html] = [*_parts(alike), *_files_of(begun[0].entry)]
    else:
        among = [shown.entry for shown in page.shown]
        own = [[{k: v for k, v in part.items() if k not in alike[i]} for i, part in enumerate(pair)] for pair in every]
        arms = [
            tag("div", tag("h3", arm_name(shown.entry, among)), *_parts(parts, "h4"), *_files_of(shown.entry, "h4"))
            for shown, parts in zip(begun, own, strict=True)
        ]
        body = [*_parts(alike), folded("Weights and files of each arm", arms, on_paper=False)]
    return section("provenance", "Environment and provenance", aside(words), body)


def _known(pairs: Iterable[tuple[str, Child]]) -> dict[str, Child]:
    return {name: value for name, value in pairs if value not in (None, "")}


def _shared(every: Sequence[Mapping[str, Child]]) -> dict[str, Child]:
    """The facts that all have alike."""
    return {name: value for name, value in every[0].items() if all(each.get(name) == value for each in every)}


def _parts(parts: Sequence[Mapping[str, Child]], level: str = "h3") -> list[Html]:
    """Facts of the environment, and those of weights and data, where there are any."""
    named = zip(("Environment", "Weights and data"), parts, strict=True)
    return [piece for name, each in named if each for piece in (tag(level, name), facts(each.items(), cls=SMALL))]


def _files_of(entry: Entry, level: str = "h3") -> list[Html]:
    return [tag(level, "Files"), facts(_files(entry), cls=SMALL)]


def _environment(entry: Entry) -> Iterator[tuple[str, Child]]:
    """Versions, machine and time, as environment.json has them."""
    found = entry.environment
    versions = found.get("versions")
    if isinstance(versions, Mapping):
        for name, version in versions.items():
            yield str(name), None if version is None else str(version)
    for key, name in (("platform", "platform"), ("processor", "processor"), ("threads", "threads")):
        if key in found:
            yield name, title(found[key])
    devices = found.get("devices")
    yield "GPUs", title(devices) if devices else "none"
    for key in ("training.device", "training.precision", "training.compile"):
        if entry.setting(key) is not None:
            yield key.rpartition(".")[2], title(entry.setting(key))
    if "started" in found:
        yield "started", title(found["started"])
    speed = entry.last("images_per_second")
    if speed is not None:
        yield "speed at the end", f"{speed:,.0f} examples/s"


def _weights(shown: Shown) -> Iterator[tuple[str, Child]]:
    """Which weights were drawn from, and of which data they were trained on."""
    drawn = shown.picture
    if drawn is None:
        return
    record = drawn.record
    yield "weights", _digest(drawn.digest)
    yield "trained for", f"{drawn.steps_trained:,} steps"
    yield "parameters", f"{drawn.parameters:,}"
    yield "data", _digest(record.fingerprint)
    yield "examples", f"{record.count:,}, of them {record.held_out_count:,} held out"
    yield "shape", " × ".join(map(str, record.shape))
    yield "classes", f"{record.num_classes:,}" if record.num_classes else None
    yield "data std", f"{record.data_std:.6g}"
    for key, value in drawn.sampling.items():
        if value is not None:
            yield f"sampling {key}", title(value)


def _files(entry: Entry) -> Iterator[tuple[str, Child]]:
    """The files that the page was made from."""
    folder = entry.folder
    if folder is None:
        if entry.place is not None:
            yield Path(entry.place).name, _digest(digest_of_file(Path(entry.place)))
        return
    for name in ("config.yaml", "environment.json", "metrics.jsonl"):
        yield name, _digest(digest_of_file(folder / name))
    if entry.step is not None:
        manifest = folder / "checkpoints" / f"step-{entry.step:08d}" / "MANIFEST.json"
        yield f"step-{entry.step:08d}", _digest(digest_of_file(manifest))
    for found in entry.measurements:
        yield found.file, _digest(digest_of_file(folder / "evaluations" / found.file))


def _digest(value: str | None) -> Child:
    return None if value is None else tag("code", value[:SHORT], title=value)
