"""`track`: tell trackers of a run that is there already, from its own record."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfumato.errors import ResourceError
from sfumato.experiment.load import read_run_config
from sfumato.experiment.places import find_run
from sfumato.experiment.tracking.choosing import TENSORBOARD, introduction_of, require_trackers, starting, wanted
from sfumato.experiment.tracking.replaying import Clock, replay, started
from sfumato.experiment.tracking.tensorboard import EventFiles, event_files
from sfumato.experiment.tracking.tracker import Tracker, Trackers
from sfumato.training.lock import RunLock

__all__ = ["Tracked", "track"]

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Tracked:
    """What was told to whom.

    trackers: by name. lines, previews: how many of the run's. files: the event files of the run, if TensorBoard is
    among the trackers.
    """

    folder: Path
    trackers: tuple[str, ...]
    lines: int
    previews: int
    files: tuple[Path, ...]


def track(
    run: str | Path,
    trackers: Sequence[str] = (TENSORBOARD,),
    *,
    runs: str | Path = "runs",
    report: Report | None = None,
) -> Tracked:
    """Tell trackers everything that a run recorded; TensorBoard's files are written anew.

    Raises ConfigError and PlatformError for trackers that are unknown or not installed, ResourceError for a run that is
    being trained, and for a tracker that failed.
    """
    note = report if report is not None else lambda text: None
    require_trackers(trackers, "--tracker")
    folder = find_run(run, Path(runs))
    experiment = read_run_config(folder, note)
    began = started(folder)
    clock = Clock(0.0 if began is None else began)
    with RunLock(folder):
        named: dict[str, Tracker] = {}
        for one in wanted(trackers):
            if one.name == TENSORBOARD:
                files = EventFiles(folder, report=note, clock=clock)
                files.clear()
                files.begin(0)
                files.introduce(introduction_of(experiment))
                named[one.name] = files
            else:
                named[one.name] = starting(one, experiment, folder)()
        told = Trackers(named, note)
        found = replay(folder, told, report=note, clock=clock)
        told.close()
    if told.failed:
        raise ResourceError(
            "; ".join(f"{name} failed: {why}" for name, why in told.failed.items()),
            expected="trackers that take what they are told",
            fix="mend what they complain of, and give the command again",
        )
    return Tracked(folder, tuple(named), found.lines, found.previews, tuple(event_files(folder)))
