"""The record of a run: `metrics.jsonl`, one JSON object per line, each with its `step`, in rising order.

Lines are appended, each in one write, and never changed. They are made durable by `sync`, which the trainer calls
before it saves a checkpoint: whatever was logged up to a checkpoint survives with it; what was logged after it is
computed again when the run resumes, because `truncate_after` cuts the record back to the checkpoint's step. So each
step appears once, and the record of a resumed run equals that of an uninterrupted one, times and speeds apart.

A record is never worth a run. When the disk refuses a line there is one warning, lines wait in memory, and are written
in order once it accepts them. A torn or foreign line is skipped with a note, never an error.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

from sfumato.training.appending import Queue
from sfumato.training.storage import LocalStorage, Storage, explained, replace_file

__all__ = ["METRICS", "MetricsLog"]

METRICS = "metrics.jsonl"

Report = Callable[[str], None]


@final
class MetricsLog:
    """Append to the record of one run. `report` hears the one warning and the notes, `told` each line as it comes."""

    def __init__(
        self,
        run_folder: Path,
        *,
        report: Report,
        storage: Storage | None = None,
        told: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.path = Path(run_folder) / METRICS
        self.storage = LocalStorage() if storage is None else storage
        self._told = told
        self._queue = Queue(self.storage, report, called="lines")
        self._step = -1

    @property
    def incomplete(self) -> bool:
        """Whether lines still wait in memory because storage refuses them."""
        return bool(self._queue.waiting)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add one line. `entry["step"]` is an integer above that of every line before; values are plain JSON data.

        A float that is not finite becomes null, since JSON knows neither NaN nor infinity. Never raises for storage.
        """
        step = entry["step"]
        assert type(step) is int, step
        assert step > self._step, f"step {step} was recorded already (the last one is {self._step})"
        self._step = step
        text = json.dumps(_plain(entry), separators=(",", ":"), allow_nan=False)
        self._queue.waiting.append(text.encode() + b"\n")
        self._queue.write(self.path)
        if self._told is not None:
            self._told(entry)

    def sync(self) -> None:
        """Write what waits and make every line durable. Never raises for storage."""
        self._queue.write(self.path)
        try:
            self.storage.fsync(self.path)
            self.storage.fsync_dir(self.path.parent)
        except OSError:
            pass  # nothing was recorded yet, or the disk is full and the warning was given

    def truncate_after(self, step: int) -> int:
        """Cut the record back to the lines of steps up to `step`, whole or not at all; for the start of a resumed run.

        Kept lines keep their bytes; torn and doubled ones go too. Gives the step of the last line kept, 0 for none.
        Raises `ResourceError` when the file cannot be replaced.
        """
        self._queue.waiting.clear()
        self._step = step
        try:
            try:
                before = bytes(self.storage.read(self.path))
            except FileNotFoundError:
                return 0
            kept = _kept(before, step)
            if (after := b"".join(kept.values())) != before:
                replace_file(self.path, [after], self.storage)
            return max(kept, default=0)
        except OSError as error:
            doing = f"cutting {self.path} back to step {step}"
            raise explained(error, doing, path=self.path.parent, storage=self.storage) from None

    @staticmethod
    def read(path: Path, report: Report | None = None, *, storage: Storage | None = None) -> list[dict[str, Any]]:
        """The lines of a record, in order; [] when there is none. Torn and foreign lines are noted and skipped."""
        storage = LocalStorage() if storage is None else storage
        try:
            text = bytes(storage.read(path))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise explained(error, f"reading {path}", path=path, storage=storage) from None
        entries = []
        for number, line in enumerate(text.split(b"\n"), start=1):
            entry = _parsed(line)
            if entry is not None:
                entries.append(entry)
            elif line and report is not None:
                report(f"{path}: line {number} is torn or not a record; skipped")
        return entries


def _kept(text: bytes, step: int) -> dict[int, bytes]:
    """The whole lines of steps up to `step` by their steps, each once (the first, as it was before what doubled it)."""
    kept: dict[int, bytes] = {}
    last = -1
    for line in text.split(b"\n")[:-1]:  # what follows the last newline is torn
        entry = _parsed(line)
        if entry is not None and last < entry["step"] <= step:
            last = entry["step"]
            kept[last] = line + b"\n"
    return kept


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and type(entry.get("step")) is int else None


def _plain(value: Any) -> Any:
    """The same data with null for floats that are not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
