"""Any other tracker by its name, through Accelerate: Weights & Biases, trackio, MLflow, Comet, Aim, ClearML, …

Accelerate knows how each of them is spoken to; what it does not know is which of its runs this one is, so that a
resumed run goes on where it was. That is one value for each tracker (`Manner`): what it is told when it starts, and
which of its own names for the run is kept in `tracking.json` in the run folder and given back to it the next time.

    {"wandb": {"id": "k3x9…"}, "mlflow": {"run_id": "…"}}

A tracker that was told of steps which a resumed run computes again is told the same numbers again, to the bit.
"""

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sfumato.experiment.tracking.histogram import Histogram
from sfumato.training.storage import LocalStorage, replace_file

__all__ = ["IDENTITIES", "ByAccelerate", "Manner", "identities"]

IDENTITIES = "tracking.json"
MOST_LETTERS = 200  # of a name that a tracker gave a run
_WRITING = threading.Lock()  # trackers that start at once each add their own to one file


@dataclass(frozen=True, slots=True)
class Manner:
    """How a tracker is told which run this is.

    first: its options for a run's name and folder.
    again: options beside them for a run that it knows.
    own: its own names for the run, each under the option that takes it back, read off what it started.
    one_picture: whether it takes a picture at a time instead of a list.
    named: what it calls a number; some refuse the brackets of kid[judge].
    """

    first: Callable[[str, Path], dict[str, Any]] = lambda name, folder: {}
    again: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Callable[[Any], str]] = field(default_factory=dict)
    one_picture: bool = False
    named: Callable[[str], str] = str


def without_brackets(name: str) -> str:
    """kid[judge] as kid.judge, and nothing but letters, digits, dots, dashes, slashes, underscores and spaces."""
    return re.sub(r"[^\w./ -]", "_", name.replace("[", ".").replace("]", ""))


MANNERS: dict[str, Manner] = {
    "wandb": Manner(
        lambda name, folder: {"name": name, "dir": str(folder)}, {"resume": "allow"}, {"id": lambda run: run.id}
    ),
    "trackio": Manner(lambda name, folder: {"name": name}, {"resume": "allow"}, {"name": lambda run: run.name}),
    "mlflow": Manner(
        lambda name, folder: {"run_name": name}, own={"run_id": lambda run: run.info.run_id}, named=without_brackets
    ),
    "comet_ml": Manner(own={"experiment_key": lambda run: run.get_key()}),
    "aim": Manner(own={"run_hash": lambda run: run.hash}, one_picture=True),
    "clearml": Manner(
        lambda name, folder: {"task_name": name}, own={"continue_last_task": lambda task: task.id}, one_picture=True
    ),
    "dvclive": Manner(lambda name, folder: {"dir": str(folder / "dvclive")}, {"resume": True}),
    "swanlab": Manner(lambda name, folder: {"experiment_name": name}),
}


class _Speaks(Protocol):
    """What Accelerate's trackers have in common."""

    requires_logging_directory: bool
    tracker: Any

    def start(self) -> None: ...

    def store_init_configuration(self, values: dict[str, Any]) -> None: ...

    def log(self, values: dict[str, Any], step: int | None = None) -> None: ...

    def finish(self) -> None: ...


@runtime_checkable
class _Shows(Protocol):
    """What those of them have that take pictures."""

    def log_images(self, values: dict[str, Any], step: int | None = None) -> None: ...


@final
class ByAccelerate:
    """One of Accelerate's trackers as ours. It is told numbers and, where it takes them, pictures; no histograms."""

    def __init__(self, tracker: _Speaks, manner: Manner) -> None:
        self._tracker, self._manner = tracker, manner

    @classmethod
    def start(cls, name: str, project: str, folder: Path, settings: Mapping[str, object]) -> "ByAccelerate":
        """Start a tracker for the run in `folder`, or let it go on with that run. Raises whatever it raises."""
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # its trackers ask which process this is; training has made it already
        manner, known = MANNERS.get(name, Manner()), identities(folder).get(name)
        options = manner.first(folder.name, folder)
        if known is not None:
            options |= {**manner.again, **{option: known[option] for option in manner.own if option in known}}
        made: type[Any] = LOGGER_TYPE_TO_CLASS[name]
        where = (str(folder),) if made.requires_logging_directory else ()
        tracker: _Speaks = made(project, *where, **options)
        tracker.start()
        keep_identity(folder, name, {option: str(told(tracker.tracker)) for option, told in manner.own.items()})
        if known is None:
            tracker.store_init_configuration(dict(settings))
        return cls(tracker, manner)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """All numbers of a step at once."""
        self._tracker.log({self._manner.named(name): value for name, value in values.items()}, step=step)

    def images(self, step: int, name: str, pictures: NDArray[np.uint8]) -> None:
        """The pictures, by a tracker that takes any; they lie in samples/ as well."""
        if not isinstance(self._tracker, _Shows):
            return
        if not self._manner.one_picture:
            self._tracker.log_images({name: list(pictures)}, step=step)
            return
        for number, picture in enumerate(pictures, start=1):
            self._tracker.log_images({name if len(pictures) == 1 else f"{name}/{number}": picture}, step=step)

    def histogram(self, step: int, name: str, values: Histogram) -> None:
        """Nothing: there is no form of a histogram that they share; the numbers by level are told as numbers."""

    def text(self, step: int, name: str, text: str) -> None:
        """Nothing: the settings are their configuration of the run."""

    def close(self) -> None:
        """Let it send what it has."""
        self._tracker.finish()


def identities(folder: Path) -> dict[str, dict[str, str]]:
    """By what names trackers know the run in a folder; what is not as we write it counts for nothing."""
    try:
        found = json.loads((folder / IDENTITIES).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: dict(names) for name, names in found.items() if isinstance(names, dict) and _are_names(names)}


def _are_names(names: Mapping[str, object]) -> bool:
    return all(isinstance(text, str) and len(text) <= MOST_LETTERS for text in names.values())


def keep_identity(folder: Path, name: str, own: Mapping[str, str]) -> None:
    """Keep by what names a tracker knows the run, perhaps none: it was started, then. Raises OSError."""
    with _WRITING:
        found = {**identities(folder), name: dict(own)}
        content = json.dumps(found, indent=2) + "\n"
        replace_file(folder / IDENTITIES, [content.encode()], LocalStorage())
