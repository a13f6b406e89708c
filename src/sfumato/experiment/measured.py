"""The numbers that `sfumato evaluate` stored of a run as it is now, one of each name. Read without torch.

Of several the one is taken that is of the averaged weights; of most examples; measured last. A number of weights that
training has changed since is none of the run as it is now, and numbers of the data alone (floors, ceilings) are not of
the run at all. The held-out loss of the log is a number like these, with the settings that decide what it is.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sfumato.errors import SfumatoError
from sfumato.experiment.comparability import is_reference, loss_settings
from sfumato.experiment.evaluations import (
    MOST_BYTES,
    Fact,
    Number,
    StoredEvaluation,
    evaluation_of,
    read_evaluation,
)

__all__ = ["StoredNumber", "logged_loss", "measured_of", "stored_numbers"]

INFLUENCES = b'\n  "influences": {'  # what `evaluate` writes last, each list on a line: long, and not needed here

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class StoredNumber:
    """A number, its name, and when its file was written (nanoseconds)."""

    name: str
    number: Number
    when: int


def measured_of(folder: Path, step: int | None, report: Report) -> dict[str, Number]:
    """The numbers of the run in a folder whose newest checkpoint is that of `step`. What is damaged is noted."""
    best: dict[str, tuple[tuple[bool, int, int], Number]] = {}
    for one in stored_numbers(folder, step, report):
        rank = (one.number.is_averaged, one.number.n, one.when)
        if one.name not in best or rank > best[one.name][0]:
            best[one.name] = (rank, one.number)
    return {name: number for name, (_, number) in best.items()}


def stored_numbers(folder: Path, step: int | None, report: Report, *, whole: bool = False) -> Iterator[StoredNumber]:
    """Every number of the run as it is now, in the order of the files. whole: with influences, which take time."""
    for path in sorted((folder / "evaluations").glob("*.json")):
        try:
            stored = read_evaluation(path) if whole else _numbers(path)
            when = path.stat().st_mtime_ns
        except (SfumatoError, OSError) as error:
            report(f"{error.what if isinstance(error, SfumatoError) else error}; passed over")
            continue
        for name, number in stored.metrics.items():
            if not is_reference(name) and number.provenance.get("steps_trained", step) == step:
                yield StoredNumber(name, number, when)


def logged_loss(settings: Mapping[str, object], value: float, std_error: float | None) -> Number:
    """The last held-out loss of a run's log, with all that decides of which quantity it is; without influences."""
    count = settings.get("evaluation.count")
    facts: dict[str, Fact] = {**loss_settings(settings), "split": f"of seed {settings.get('seed')}"}
    return Number(value, 0.0 if std_error is None else std_error, count if isinstance(count, int) else 0, facts)


def _numbers(path: Path) -> StoredEvaluation:
    """An evaluation without its influences, where they stand as `evaluate` writes them; else as it is."""
    if path.is_file() and path.stat().st_size <= MOST_BYTES:
        head, found, _ = path.read_bytes().partition(INFLUENCES)
        if found:
            try:
                return evaluation_of(json.loads(head.rstrip().removesuffix(b",") + b"\n}"), path)
            except (ValueError, RecursionError):
                pass  # not as we write it: read whole
    return read_evaluation(path)
