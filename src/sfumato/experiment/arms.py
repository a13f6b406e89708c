"""What became of one arm of a sweep, read off its folders without torch. Nothing else decides it.

    runs/SWEEP/  sweep.yaml  arms/ARM/ (a run)  failures/ARM.json (why it failed)

An arm is done when its last checkpoint is whole and all that was to be measured of it is stored. A failure is a file
that says why, removed when the arm is tried again; of an arm that is done all the same it says nothing.
"""

import contextlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from sfumato.errors import SfumatoError
from sfumato.experiment.evaluations import Number
from sfumato.experiment.measured import measured_of
from sfumato.training.storage import LocalStorage, make_folders, replace_file

__all__ = [
    "ArmState",
    "Failure",
    "arm_state",
    "failed_arms",
    "failure_of",
    "forget_failure",
    "lacking",
    "measured_of_arm",
    "note_failure",
]

ArmState = Literal["waiting", "running", "half-done", "done", "failed"]
FAILURES = "failures"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an arm failed: the three sentences of its error, its kind (`NUMERICS`), and when."""

    code: str
    what: str
    expected: str
    fix: str
    when: str

    @classmethod
    def of(cls, error: SfumatoError) -> "Failure":
        """An error that ended an arm just now."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(error.code, error.what, error.expected, error.fix, when)

    @property
    def would_repeat(self) -> bool:
        """Whether the same arm would fail in the same way: settings and numbers do, disks and machines may not."""
        return self.code in ("CONFIG", "USAGE", "NUMERICS")


def arm_state(run: str | None, *, lacking: Collection[str], failure: Failure | None) -> ArmState:
    """What became of an arm.

    run: the state of its run folder, as `read_run` gives it; None where there is none yet. lacking: what was to be
    measured of it and is not stored. failure: why it failed, where a file says so.
    """
    if run == "running":
        return "running"
    if run == "finished" and not lacking:
        return "done"
    if failure is not None:
        return "failed"
    return "waiting" if run is None else "half-done"


def measured_of_arm(folder: Path, step: int | None) -> dict[str, Number]:
    """What is stored of an arm's averaged weights, as they are since `step`, its newest checkpoint."""
    found = measured_of(folder, step, lambda text: None)
    return {name: number for name, number in found.items() if number.is_averaged}


def lacking(wanted: Collection[str], measured: Mapping[str, Number]) -> tuple[str, ...]:
    """The metrics that were to be measured and are not; `recall[k=3]` is of the family `recall`."""
    names = {*measured, *(name.partition("[")[0] for name in measured)}
    return tuple(metric for metric in wanted if metric not in names)


def failure_of(sweep: Path, arm: str) -> Failure | None:
    """Why an arm of the sweep in a folder failed, where it did."""
    path = _file(sweep, arm)
    told = Failure("BUG", f"it failed, and {path} does not say why", "a reason", "give the command again", "")
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found["what"], str):
            return told
        names = ("code", "what", "expected", "fix", "when")
        return replace(told, **{key: str(found[key]) for key in names if key in found})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return told


def failed_arms(sweep: Path) -> tuple[str, ...]:
    """The names of the arms of which a file says why they failed."""
    return tuple(sorted(path.stem for path in (sweep / FAILURES).glob("*.json")))


def note_failure(sweep: Path, arm: str, failure: Failure) -> None:
    """Keep why an arm failed. A disk that refuses costs the reason, nothing else."""
    path, storage = _file(sweep, arm), LocalStorage()
    try:
        make_folders(path.parent, storage)
        replace_file(path, [json.dumps(asdict(failure), indent=2).encode() + b"\n"], storage)
    except (OSError, SfumatoError):
        pass


def forget_failure(sweep: Path, arm: str) -> None:
    """An arm is tried again."""
    with contextlib.suppress(OSError):
        _file(sweep, arm).unlink(missing_ok=True)


def _file(sweep: Path, arm: str) -> Path:
    return sweep / FAILURES / f"{arm}.json"
