"""What is known of a run before anything is drawn: read off its folder, without torch.

An `Entry` is one run of the page: the run that was named, or an arm of a sweep. Whatever is missing or damaged is left
out and said in `notes`; a page is made of what there is.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfumato.errors import SfumatoError
from sfumato.experiment.evaluations import Number, StoredEvaluation, stored_evaluations
from sfumato.experiment.places import checkpoint_at, place_of
from sfumato.experiment.records import RunRecord, read_run
from sfumato.experiment.remarks import Remarks, remarks_of
from sfumato.training.record import METRICS, MetricsLog

__all__ = ["Entry", "Measurement", "digest_of_file", "is_finite", "measurements", "read_entry"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One stored evaluation, and the sentences that one must know to read it."""

    numbers: Mapping[str, Number]
    notes: tuple[str, ...]
    file: str

    @property
    def step(self) -> int | None:
        """The steps that the weights were trained for; None where the file does not say."""
        return next((s for n in self.numbers.values() if isinstance(s := n.provenance.get("steps_trained"), int)), None)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One run of the page.

    name: what the page calls it. place: how commands name it, None where there is no run yet. folder: None for an
    exported file. record, environment, log, measurements: what lies in the folder. state: running, finished,
    interrupted, broken, or that of an arm. step: of the weights shown. axes: what an arm differs in. error: why an arm
    failed. settings: every setting by its dotted key. said: labels and notes.
    """

    name: str
    place: str | None
    folder: Path | None = None
    record: RunRecord | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    log: Sequence[Mapping[str, Any]] = ()
    measurements: tuple[Measurement, ...] = ()
    state: str = ""
    step: int | None = None
    axes: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    error: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    said: Remarks = Remarks()

    def setting(self, key: str) -> object:
        """A setting by its key; of a class its name."""
        return self.settings.get(key, self.settings.get(f"{key}.kind"))

    def last(self, key: str) -> float | None:
        """The last value of a figure of the log, up to the step of the weights; NaN where it was not finite then."""
        until = math.inf if self.step is None else self.step
        found = [line[key] for line in self.log if key in line and line["step"] <= until]
        return None if not found else float(found[-1]) if is_finite(found[-1]) else math.nan

    @property
    def current(self) -> tuple[Measurement, ...]:
        """The evaluations of the weights that are shown."""
        return tuple(m for m in self.measurements if self.step is None or m.step in (None, self.step))


def read_entry(
    place: str | Path,
    runs: Path,
    *,
    name: str | None = None,
    state: str | None = None,
    axes: Mapping[str, str] | None = None,
    seed: int | None = None,
    error: str | None = None,
) -> Entry:
    """What is known of a run, or of one checkpoint of it. Raises CheckpointError where there is no such run."""
    found = place_of(str(place), runs)
    folder, notes = found.folder, list[str]()
    record = read_run(folder)
    if record.note is not None:
        notes.append(f"{record.name}: {record.note}")
    log = _log(folder, notes)
    one = checkpoint_at(Path(place), runs) is not None
    return Entry(
        name=name if name is not None else f"{folder.name} at step {found.step:,}" if one else folder.name,
        place=str(place) if one else str(folder),
        folder=folder,
        record=record,
        environment=_environment(folder),
        log=log,
        measurements=measurements(folder, notes),
        state=record.state if state is None else state,
        step=found.step,
        axes={} if axes is None else axes,
        seed=seed,
        error=error,
        settings=record.settings,
        said=remarks_of(folder, notes.append),
        notes=tuple(notes),
    )


def is_finite(value: object) -> bool:
    """Whether a value of the log is a number that can be drawn; a flag is none, nor is one beyond every float."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _log(folder: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The lines of a run's log; what is torn is noted."""
    try:
        return MetricsLog.read(folder / METRICS, notes.append)
    except SfumatoError as error:
        notes.append(error.what)
        return []


def _environment(folder: Path) -> Mapping[str, Any]:
    """What the run was made with; nothing where the file is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads((folder / "environment.json").read_bytes())
        if isinstance(found, dict):
            return found
    return {}


def measurements(folder: Path, notes: list[str]) -> tuple[Measurement, ...]:
    """The stored evaluations of a run, those of the latest steps first; what is damaged is noted."""
    found = [
        Measurement(stored.metrics, _notes_of(stored), "" if stored.file is None else stored.file.name)
        for stored in stored_evaluations(folder, notes.append)
        if stored.metrics
    ]
    return tuple(sorted(found, key=lambda m: (-(m.step or 0), m.file)))


def _notes_of(stored: StoredEvaluation) -> tuple[str, ...]:
    """The sentences of an evaluation file."""
    if stored.file is None:
        return ()
    with contextlib.suppress(OSError, ValueError, RecursionError):
        notes = json.loads(stored.file.read_bytes()).get("notes", [])
        return tuple(note for note in notes if isinstance(note, str)) if isinstance(notes, list) else ()
    return ()


def digest_of_file(path: Path) -> str | None:
    """SHA-256 of a file; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
