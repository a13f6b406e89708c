"""Runs: made by `train`, continued by `resume`, opened by `load`, written to one file by `export`.

runs/NAME/  config.yaml  environment.json  metrics.jsonl  checkpoints/  samples/
"""

import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sfumato.errors import CheckpointError, ConfigError, DataError, ResourceError
from sfumato.experiment.build import PreparedData, prepare_data
from sfumato.experiment.config import Experiment, Overrides, experiment_yaml, load_experiment
from sfumato.experiment.environment import environment
from sfumato.experiment.load import find_run, load, read_run_config
from sfumato.experiment.reporting import Silent
from sfumato.experiment.schema import flatten, to_plain
from sfumato.experiment.session import Session
from sfumato.training.checkpoint import CheckpointStore, Snapshot
from sfumato.training.ema import bare_state
from sfumato.training.engine import launched_processes, resolve
from sfumato.training.lock import RunLock
from sfumato.training.manifest import silent
from sfumato.training.record import METRICS, MetricsLog
from sfumato.training.signals import listening
from sfumato.training.storage import LocalStorage, explained, make_folders, replace_file
from sfumato.training.tensors import check_names
from sfumato.training.trainer import Reporter

__all__ = ["Run", "resume", "train"]

# What a resumed run may change without being asked twice …
FREE = ("training.steps", "training.device", "training.threads", "training.keep_checkpoints", "training.on_disk_full")
FREE_DATA = ("data.path", "data.cache")
# … and what it may never change, because the weights mean nothing without it.
FIXED = (
    "name",
    "seed",
    "schedule",
    "parameterization",
    "time_input",
    "network",
    "data.size",
    "data.channels",
    "data.pad",
    "data.normalize",
)


@dataclass(frozen=True, slots=True)
class Run:
    """A finished stretch of training; `seconds` and `images_per_second` are its own, 0 when nothing was left to do."""

    folder: Path
    experiment: Experiment
    parameters: int
    steps: int
    images_per_second: float
    seconds: float
    held_out_loss: float | None


def train(
    recipe: str | Path | Experiment,
    overrides: Overrides | None = None,
    *,
    runs: str | Path = "runs",
    name: str | None = None,
    reporter: Reporter | None = None,
) -> Run:
    """Train a new run of a recipe, a YAML file or an Experiment; it lives in `runs`/NAME and NAME is never reused.

    Raises SfumatoError: settings, data, space or numbers that will not do; Interrupted (saved) after SIGTERM or Ctrl-C.
    """
    reporter = Silent() if reporter is None or not is_main_process() else reporter
    experiment = load_experiment(recipe, overrides)
    data = prepare_data(experiment)
    for note in data.record.report:
        reporter.note(note)
    experiment = replace(experiment, training=resolve(experiment.training, is_image=data.record.is_image))
    note_repetition(experiment, data, reporter)
    with new_folder(Path(runs), experiment.name, name) as folder:
        session = Session(experiment, data, folder=folder, reporter=reporter)
        with prepared_folder(session):
            return run_session(session, None)


def resume(
    run: str | Path,
    overrides: Overrides | None = None,
    *,
    runs: str | Path = "runs",
    allow_change: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Run:
    """Go on with a run from its newest valid checkpoint, exactly as if it had never stopped.

    `training.steps` extends a finished run. Other changes need `allow_change`; schedule, parameterization, network and
    image size can never change. A run that was stopped before its first checkpoint starts at step 0. Raises
    CheckpointError when no checkpoint is sound, DataError for other data.
    """
    reporter = Silent() if reporter is None or not is_main_process() else reporter
    refuse_exported(Path(run))
    folder = find_run(run, Path(runs))
    before = read_run_config(folder)
    experiment = load_experiment(before, overrides)
    require_allowed(to_plain(before), experiment, allow_change)
    store = CheckpointStore(folder, keep=experiment.training.keep_checkpoints)
    finished = finished_run(store, experiment, reporter)
    if finished is not None:
        return finished
    with locked(folder):
        snapshot = last_snapshot(store, reporter)
        data = prepare_data(experiment)
        if snapshot is not None:
            require_allowed(snapshot.state["experiment"], experiment, ("",))
            require_same_data(snapshot, data, allow_change)
        experiment = replace(experiment, training=resolve(experiment.training, is_image=data.record.is_image))
        session = Session(experiment, data, folder=folder, reporter=reporter)
        if snapshot is not None:
            warn_of_differences(snapshot, session, reporter)
        return run_session(session, snapshot)


def last_snapshot(store: CheckpointStore, reporter: Reporter) -> Snapshot | None:
    """The newest whole checkpoint; None in a run that was stopped before its first one. Damaged ones are moved aside.

    Raises CheckpointError when checkpoints have been there and none is whole.
    """
    never_saved = not store.steps() and not (store.run_folder / METRICS).exists()
    path = None
    if is_main_process():
        store.clean()
        path = store.newest(reporter.note)
    if path is None and never_saved:
        reporter.note(f"{store.run_folder} was stopped before its first checkpoint; it starts at step 0")
        return None
    return store.load(store.find() if path is None else path, reporter.note)


def run_session(session: Session, snapshot: Snapshot | None) -> Run:
    """Train a session from a snapshot, or from the start, to its end and say how it went."""
    start = 0 if snapshot is None else snapshot.step
    session.folder = Path(session.engine.from_main(str(session.folder)))  # others do not know its number
    session.engine.require_agreement("starting step", hashlib.sha256(str(start).encode()).hexdigest())
    trainer = session.trainer(resume_command=f"sfumato resume {shlex.quote(str(session.folder))}")
    if snapshot is not None:
        trainer.restore(snapshot)
    elif session.experiment.training.init_from is not None:
        start_from(session, session.experiment.training.init_from)
    if session.engine.is_main:
        if start == 0:
            trainer.require_free_space()
        write_config(session.folder, session.experiment)  # nothing can be refused any more
        trainer.log.truncate_after(start)
    with listening() as stop, session.engine.together(trainer.resume_command):
        trainer.run(start, stop)
        session.engine.wait_for_all()
    images = (session.experiment.training.steps - start) * session.experiment.training.batch_size
    return Run(
        folder=session.folder,
        experiment=session.experiment,
        parameters=session.num_parameters(),
        steps=session.experiment.training.steps,
        images_per_second=images / max(trainer.seconds_training, 1e-9),
        seconds=trainer.seconds_training,
        held_out_loss=latest(session.folder, "held_out_loss"),
    )


def latest(folder: Path, key: str) -> float | None:
    """The last value of a figure in the run's log."""
    values = [entry[key] for entry in MetricsLog.read(folder / METRICS) if key in entry]
    return values[-1] if values else None


def is_main_process() -> bool:
    """Whether this process is the one that writes; known before the engine has started."""
    return launched_processes() == 1 or int(os.environ.get("RANK", "0")) == 0


def make_run_folder(runs: Path, experiment_name: str, name: str | None) -> Path:
    """Make `runs`/NAME, or `runs`/EXPERIMENT-K with the first free K. A name is never reused."""
    make_folders(runs, LocalStorage())
    if name is not None and (name in ("", ".", "..") or Path(name).name != name):
        raise ConfigError(
            f"--name is {name!r}",
            expected="a name, not a path",
            fix=f"--name {Path(name).name or experiment_name}, and --runs for its place",
        )
    try:
        if name is not None:
            (runs / name).mkdir()
            return runs / name
        number = 1
        while True:
            folder = runs / f"{experiment_name}-{number}"
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1
    except FileExistsError:
        raise ConfigError(
            f"a run or a file called {runs / (name or '')} exists already",
            expected="a new name: runs are never overwritten",
            fix=f"choose another --name, or go on with it: sfumato resume {runs / (name or '')}",
        ) from None
    except OSError as error:
        raise ResourceError(
            f"the run folder cannot be made in {runs}: {error.strerror or error}",
            expected="a folder that can be written to",
            fix="choose another place with --runs",
        ) from None


@contextmanager
def new_folder(runs: Path, experiment_name: str, name: str | None) -> Iterator[Path]:
    """The folder of a new run; taken away again when what follows fails before its first checkpoint."""
    if not is_main_process():
        yield runs / (experiment_name if name is None else name)
        return
    folder = make_run_folder(runs, experiment_name, name)
    try:
        yield folder
    except BaseException:
        if not CheckpointStore(folder).steps():
            with suppress(OSError):
                LocalStorage().remove(folder)
        raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The run's lock, held by the process that writes."""
    if not is_main_process():
        yield
        return
    with RunLock(folder):
        yield


@contextmanager
def prepared_folder(session: Session) -> Iterator[None]:
    """Write what a run starts with, and hold its lock."""
    if not session.engine.is_main:
        yield
        return
    folder = session.folder
    try:
        with RunLock(folder):
            text = json.dumps({**environment(), "parameters": session.num_parameters()}, indent=2)
            replace_file(folder / "environment.json", [text.encode()], LocalStorage())
            write_config(folder, session.experiment)  # from here on this is a run, which `resume` can go on with
            yield
    except OSError as error:
        if isinstance(error, ResourceError):
            raise
        raise explained(error, f"writing {folder}", path=folder, storage=LocalStorage()) from None


def write_config(folder: Path, experiment: Experiment) -> None:
    """Write the complete, resolved settings, atomically; nothing happens when they stand there already."""
    path, text = folder / "config.yaml", experiment_yaml(experiment).encode()
    if not path.exists() or path.read_bytes() != text:
        replace_file(path, [text], LocalStorage())


def note_repetition(experiment: Experiment, data: PreparedData, reporter: Reporter) -> None:
    """Say so when one batch takes the data more than once."""
    count, batch_size = len(data.parts.train), experiment.training.batch_size
    if batch_size > count:
        reporter.note(
            f"training.batch_size is {batch_size} and there are {count} training examples: "
            f"every step sees each of them {batch_size / count:.3g} times"
        )


def refuse_exported(path: Path) -> None:
    """A single file can be sampled from, not trained on."""
    if path.is_file():
        raise CheckpointError(
            f"{path} is one file, with averaged weights alone: no optimizer's state, no raw weights",
            expected="a run folder, or the name of a run",
            fix=f"start a new run from it: sfumato train RECIPE --training.init_from {shlex.quote(str(path))}",
        )


def start_from(session: Session, source: str) -> None:
    """Take the averaged weights of another run or exported file as this run's first weights."""
    model = load(source)
    found = bare_state(model.denoiser.network)
    live = bare_state(session.denoiser.network)
    check_names(live, found, f"training.init_from {source}")
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(found[name])
    session.ema.load_state_dict({name: tensor.detach().clone() for name, tensor in live.items()}, num_updates=0)


def finished_run(store: CheckpointStore, experiment: Experiment, reporter: Reporter) -> Run | None:
    """The run itself if it has all its steps already; nothing is touched then."""
    if max(store.steps(), default=-1) < experiment.training.steps:
        return None
    model = load(store.run_folder, report=silent)
    done = model.steps_trained
    if done < experiment.training.steps:  # the newest checkpoint is damaged; resuming will say so
        return None
    if done > experiment.training.steps:
        raise ConfigError(
            f"training.steps is {experiment.training.steps}, and {store.run_folder} has {done} steps already",
            expected=f"more than {done}",
            fix=f"--training.steps {2 * done}, or train a new run",
        )
    reporter.note(
        f"{store.run_folder} is already at {done:,}/{done:,} steps; extend it with --training.steps {2 * done}"
    )
    parameters = sum(p.numel() for p in model.denoiser.network.parameters())
    return Run(store.run_folder, experiment, parameters, done, 0.0, 0.0, latest(store.run_folder, "held_out_loss"))


def require_allowed(before: object, after: Experiment, allow_change: Sequence[str]) -> None:
    """Refuse changes of a resumed run that nobody allowed, listing all of them; `before` are settings as plain data.

    What a checkpoint itself says counts too: `config.yaml` may have been edited. "" allows all that can change at all.
    """
    old, new = flatten(before), flatten(to_plain(after))
    changed = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    never = [key for key in changed if any(within(key, fixed) for fixed in FIXED)]
    if never:
        raise ConfigError(
            "a run cannot be resumed with other " + ", ".join(f"{k} ({old.get(k)} -> {new.get(k)})" for k in never),
            expected="the schedule, parameterization, network, data preparation and seed it was started with",
            fix="train a new run; training.init_from starts from this one's weights",
        )
    allowed = (*FREE, *FREE_DATA, *allow_change)
    asked = [key for key in changed if not any(within(key, free) for free in allowed)]
    if asked:
        raise ConfigError(
            "the run was started with other settings: "
            + ", ".join(f"{k} ({old.get(k)} -> {new.get(k)})" for k in asked),
            expected="the settings it was started with; only training.steps and the device may change unasked",
            fix="add " + " ".join(f"--allow-change {key}" for key in asked) + " if that is meant",
        )


def within(key: str, section: str) -> bool:
    """Whether a dotted key is the section or lies in it."""
    return section in ("", key) or key.startswith(section + ".")


def require_same_data(snapshot: Snapshot, data: PreparedData, allow_change: Sequence[str]) -> None:
    """Refuse to go on with other data than the run was started with."""
    then, now = snapshot.state["data"], data.record
    if then["fingerprint"] != now.fingerprint and "data" not in allow_change:
        raise DataError(
            f"the data have changed: {then['count']} examples with fingerprint {then['fingerprint'][:12]} then, "
            f"{now.count} with {now.fingerprint[:12]} now",
            expected="the data that the run was started with",
            fix="point --data.path to them, or add --allow-change data (the order of examples then starts anew)",
        )


def warn_of_differences(snapshot: Snapshot, session: Session, reporter: Reporter) -> None:
    """One line when the run goes on, but not bit for bit."""
    state = snapshot.state
    now = session._state()
    names = ("threads", "processes", "device", "precision")
    changed = [f"{name} {state[name]} -> {now[name]}" for name in names if state[name] != now[name]]
    changed += [
        f"{name} {state['versions'].get(name)} -> {version}"
        for name, version in now["versions"].items()
        if name in ("torch", "numpy") and state["versions"].get(name) != version
    ]
    if changed:
        reporter.note("continues, but not bit-identical: " + ", ".join(changed))
