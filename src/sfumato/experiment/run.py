"""Runs: made by `train`, continued by `resume`, opened by `load`, written to one file by `export`.

runs/NAME/  config.yaml  environment.json  metrics.jsonl  checkpoints/  samples/
"""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from sfumato.errors import CheckpointError, ConfigError, ResourceError
from sfumato.experiment.build import prepare_data, resolved
from sfumato.experiment.changes import require_allowed, warn_of_differences, with_record_of
from sfumato.experiment.comparability import LOSS, LOSS_ERROR
from sfumato.experiment.config import Experiment, Overrides, can_name_a_folder, experiment_yaml, load_experiment
from sfumato.experiment.differing import differing, differing_data
from sfumato.experiment.environment import environment
from sfumato.experiment.load import find_run, load, read_run_config, stored_settings
from sfumato.experiment.memory import require_memory
from sfumato.experiment.notes import extension_notes, opening_lines, starting_notes
from sfumato.experiment.reporting import Silent
from sfumato.experiment.schema import to_plain
from sfumato.experiment.session import Session
from sfumato.experiment.stored import RESUMED, require_state
from sfumato.experiment.tracking import require_trackers
from sfumato.training.best import Best
from sfumato.training.checkpoint import CheckpointStore, Snapshot
from sfumato.training.ema import bare_state
from sfumato.training.engine import launch_line, launched_processes, threads
from sfumato.training.lock import RunLock
from sfumato.training.manifest import silent
from sfumato.training.record import METRICS, MetricsLog
from sfumato.training.signals import listening
from sfumato.training.storage import LocalStorage, explained, make_folders, replace_file
from sfumato.training.tensors import check_names
from sfumato.training.trainer import Reporter

__all__ = ["Run", "resume", "train"]


@dataclass(frozen=True, slots=True)
class Run:
    """A finished stretch of training; `seconds` and `images_per_second` are its own, 0 when nothing was left to do.

    `best` says which checkpoint is the best, where one is kept.
    """

    folder: Path
    experiment: Experiment
    parameters: int
    steps: int
    images_per_second: float
    seconds: float
    held_out_loss: float | None
    held_out_std_error: float | None
    is_image: bool
    best: Best | None = None


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
    require_trackers(experiment.training.trackers)
    with threads(experiment.training.threads):
        data = prepare_data(experiment)
        experiment = resolved(experiment, shape=data.record.shape, is_image=data.record.is_image)
        require_memory(experiment, data.record.shape, data.record.condition_shape(experiment.condition))
        for note in (*data.record.report, *starting_notes(experiment, data)):
            reporter.note(note)
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
    before = read_run_config(folder, reporter.note)
    experiment = load_experiment(before, overrides)
    require_allowed(to_plain(before), experiment, allow_change)
    require_trackers(experiment.training.trackers)
    store = CheckpointStore(folder, keep=experiment.training.keep_checkpoints)
    finished = finished_run(store, experiment, reporter)
    if finished is not None:
        return finished
    with locked(folder), threads(experiment.training.threads):
        snapshot = last_snapshot(store, reporter)
        data = prepare_data(experiment)
        for note in extension_notes(before.training, experiment.training):
            reporter.note(note)
        if snapshot is not None:
            require_state(snapshot, RESUMED)
            require_allowed(snapshot.state["experiment"], experiment, ("",))
            data = with_record_of(snapshot, data, allow_change)
        experiment = resolved(experiment, shape=data.record.shape, is_image=data.record.is_image)
        require_memory(experiment, data.record.shape, data.record.condition_shape(experiment.condition))
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
    trainer = session.trainer(resume_command=launch_line(f"sfumato resume {shlex.quote(str(session.folder))}"))
    if snapshot is not None:
        trainer.restore(snapshot)
    elif session.experiment.training.init_from is not None:
        start_from(session, session.experiment.training.init_from)
    if session.engine.is_main:
        if start == 0:
            trainer.require_free_space()
        write_config(session.folder, session.experiment)  # nothing can be refused any more
        last, due = trainer.log.truncate_after(start), start - trainer.window.count
        if last < due:  # they waited for a disk that was full when the process was killed
            lost = f"it ends at step {last}, and lines to {due} are lost"
            session.reporter.note(f"{trainer.log.path} is incomplete: {lost}")
        trainer.averages.cut_after(start)
    for line in opening_lines(session, start):
        session.reporter.note(line)
    with listening() as stop, session.engine.together(trainer.resume_command), session.tracked(start):
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
        held_out_loss=latest(session.folder, LOSS),
        held_out_std_error=latest(session.folder, LOSS_ERROR),
        is_image=session.data.record.is_image,
        best=trainer.best,
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
    if name is not None:
        require_run_name(name, experiment_name)
    make_folders(runs, LocalStorage())
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


def require_run_name(name: str, experiment_name: str) -> None:
    """Refuse a name that is a path, that `runs` would pass over, or that `load` would take for an exported file."""
    if name in ("", ".", "..") or Path(name).name != name:
        raise ConfigError(
            f"--name is {name!r}",
            expected="a name, not a path; --runs says where the run folder is made",
            fix=f"--name {Path(name).name or experiment_name}",
        )
    if not can_name_a_folder(name) or name.lower().endswith(".safetensors"):
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("._-")
        better = re.sub(r"\.safetensors$", "", plain, flags=re.IGNORECASE)[:100]
        raise ConfigError(
            f"--name is {name!r}",
            expected="up to 100 letters, digits, dots, dashes and underscores, a letter or digit first, "
            "and no ending .safetensors",
            fix=f"--name {better or experiment_name}",
        )


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
    """Write the complete, resolved settings, atomically; nothing happens when they stand there already.

    A damaged file is kept as config.yaml.corrupt.
    """
    path, text = folder / "config.yaml", experiment_yaml(experiment).encode()
    there = path.read_bytes() if path.exists() else None
    if there == text:
        return
    if there is not None:
        try:
            stored_settings(path)
        except ConfigError:
            replace_file(path.with_name("config.yaml.corrupt"), [there], LocalStorage())
    replace_file(path, [text], LocalStorage())


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
    model = load(source, runs=session.folder.parent, report=session.reporter.note)
    found = bare_state(model.denoiser.network)
    live = bare_state(session.denoiser.network)
    because = (
        *differing(session.experiment, to_plain(model.experiment)),
        *differing_data(session.data.record, model.record),
    )
    check_names(live, found, f"training.init_from {source}", because=because)
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
    loss, error = (latest(store.run_folder, key) for key in (LOSS, LOSS_ERROR))
    return Run(store.run_folder, experiment, parameters, done, 0.0, 0.0, loss, error, model.record.is_image)
