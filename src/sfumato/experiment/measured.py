"""The numbers that `sfumato evaluate` stored of a run as it is now, one of each name. Read without torch.

Of several the one is taken that is of the averaged weights; of most examples; measured last. A number of weights that
training has changed since is none of the run as it is now, and numbers of the data alone (floors, ceilings) are not of
the run at all.
"""

import json
from collections.abc import Callable
from pathlib import Path

from sfumato.errors import SfumatoError
from sfumato.experiment.comparability import is_reference
from sfumato.experiment.evaluations import MOST_BYTES, Number, StoredEvaluation, evaluation_of, read_evaluation

__all__ = ["measured_of"]

INFLUENCES = b'\n  "influences": {'  # what `evaluate` writes last, each list on a line: long, and not needed here

Report = Callable[[str], None]


def measured_of(folder: Path, step: int | None, report: Report) -> dict[str, Number]:
    """The numbers of the run in a folder whose newest checkpoint is that of `step`. What is damaged is noted."""
    best: dict[str, tuple[tuple[bool, int, int], Number]] = {}
    for path in sorted((folder / "evaluations").glob("*.json")):
        try:
            stored, when = _numbers(path), path.stat().st_mtime_ns
        except (SfumatoError, OSError) as error:
            report(f"{error.what if isinstance(error, SfumatoError) else error}; passed over")
            continue
        for name, number in stored.metrics.items():
            if is_reference(name) or number.provenance.get("steps_trained", step) != step:
                continue
            rank = (number.provenance.get("weights", "ema") == "ema", number.n, when)
            if name not in best or rank > best[name][0]:
                best[name] = (rank, number)
    return {name: number for name, (_, number) in best.items()}


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
