"""Which trackers a run has: those that `training.trackers` names, and TensorBoard wherever it is installed.

    auto                TensorBoard, if the extra `track` is installed (the default)
    tensorboard         TensorBoard, refused where it is not installed
    wandb, mlflow, …    any that Accelerate knows; the project is the experiment's name, or what follows a colon:
                        wandb:my-project
    []                  none

Only a tracker that is named can open a connection: TensorBoard writes files.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sfumato.errors import ConfigError, PlatformError
from sfumato.experiment.config import Experiment, experiment_yaml
from sfumato.experiment.kinds import nearest
from sfumato.experiment.schema import flatten, to_plain
from sfumato.experiment.tracking.apart import Apart
from sfumato.experiment.tracking.by_accelerate import ByAccelerate
from sfumato.experiment.tracking.replaying import replay
from sfumato.experiment.tracking.tensorboard import EventFiles, introduced
from sfumato.experiment.tracking.tracker import Tracker, Trackers, reason

__all__ = [
    "TENSORBOARD",
    "Wanted",
    "introduction_of",
    "open_trackers",
    "require_trackers",
    "settings_of",
    "starting",
    "wanted",
]

AUTO, TENSORBOARD = "auto", "tensorboard"
SETTING = "training.trackers"

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A tracker by name, and the project that its runs belong to; None for the experiment's name."""

    name: str
    project: str | None = None


def has_tensorboard() -> bool:
    """Whether TensorBoard is installed; a folder of that name in the present one looks like a package, and is none."""
    found = find_spec(TENSORBOARD)
    return found is not None and found.origin is not None


def wanted(names: Sequence[str]) -> Iterator[Wanted]:
    """The trackers that names mean here, each once: `auto` is TensorBoard, or nothing where it is not installed."""
    met: set[str] = set()
    for text in names:
        name, _, project = text.partition(":")
        if name == AUTO:
            if not has_tensorboard():
                continue
            name = TENSORBOARD
        if name not in met:
            met.add(name)
            yield Wanted(name, project or None)


def require_trackers(names: Sequence[str], option: str = SETTING) -> None:
    """Refuse a tracker that nobody knows (ConfigError) or whose package is not installed (PlatformError).

    option: where the names come from, in the words of the refusal.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    known = [TENSORBOARD, *(str(name) for name in LOGGER_TYPE_TO_CLASS if str(name) != TENSORBOARD)]
    there = {str(found) for found in get_available_trackers()}
    built_in = {str(kind) for kind in LoggerType}
    for name in (one.name for one in wanted(names)):
        if name not in known:
            near = nearest(name, [AUTO, *known])
            raise ConfigError(
                f"{option} names {name!r}, which is no tracker",
                expected=f"some of {', '.join([AUTO, *known])}, or none: []",
                fix=f"{option} {near or TENSORBOARD}" if option != SETTING else f"set {SETTING}: [{near or AUTO}]",
            )
        if name == TENSORBOARD and not has_tensorboard():
            raise _absent(name, "pip install 'sfumato[track]'", option)
        if name != TENSORBOARD and name in built_in and name not in there:
            raise _absent(name, f"pip install {name}", option)


def _absent(name: str, install: str, option: str) -> PlatformError:
    return PlatformError(
        f"{option} names {name}, and the package {name} is not installed",
        expected=f"an environment with {name}, or {option} without it",
        fix=f"{install}, or set {SETTING}: []" if option == SETTING else install,
    )


def open_trackers(experiment: Experiment, folder: Path, *, after: int, report: Report) -> Trackers:
    """The trackers of the run in a folder, which goes on after so many steps. One that does not start is a note.

    All but TensorBoard, which only writes files, are told on threads of their own.
    """
    found: dict[str, Tracker] = {}
    for one in wanted(experiment.training.trackers):
        try:
            if one.name == TENSORBOARD:
                found[one.name] = _event_files(experiment, folder, after, report)
            else:
                found[one.name] = Apart(one.name, starting(one, experiment, folder), report)
        except Exception as error:  # whatever foreign code raises: a tracker is not worth a run
            report(f"{one.name} is told nothing of this run: {reason(error)}. metrics.jsonl has everything")
    return Trackers(found, report)


def starting(one: Wanted, experiment: Experiment, folder: Path) -> Callable[[], Tracker]:
    """What starts one of Accelerate's trackers for the run in a folder."""
    project = experiment.name if one.project is None else one.project
    return lambda: ByAccelerate.start(one.name, project, folder, settings_of(experiment))


def _event_files(experiment: Experiment, folder: Path, after: int, report: Report) -> EventFiles:
    """TensorBoard's files, cut back; where they are new to a run that goes on, with all that was recorded before."""
    files = EventFiles(folder, report=report)
    introduction = introduction_of(experiment)
    if not files.begin(after, introduction):
        files.introduce(introduction)
        if after:
            replay(folder, Trackers({TENSORBOARD: files}, report), upto=after, report=report)
    return files


def introduction_of(experiment: Experiment) -> object:
    """What TensorBoard shows of a run beside its figures: the settings."""
    return introduced(experiment_yaml(experiment), settings_of(experiment))


def settings_of(experiment: Experiment) -> dict[str, object]:
    """The settings by dotted key, as trackers keep them: numbers, yes or no, and text."""
    flat = flatten(to_plain(experiment))
    return {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in flat.items()}
