"""Kills a short training run with SIGKILL, over and over, and counts what was lost. Run by test_kills.py; by hand:

    python tests/reliability/kill.py /tmp/kills --kills 200 --seed 0

PyTorch takes two seconds to import and the run takes one, so this process imports once, never computes anything, and
forks a child for every attempt. Half of the kills come after a random time, half at a random storage operation of a
save, done by half: a file half written, a folder half removed. The run is then resumed, and killed again. What is left
of each run that reaches its end is compared with a run that nobody killed. Prints one JSON document.
"""

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork has no threads but the one that forked

# Imported lazily by torch's optimizers and by Accelerate: once here, not once for each child.
import torch._dynamo
import torch.distributed.tensor  # noqa: F401
from PIL import Image

import sfumato.experiment.run as runs
from sfumato.experiment.places import best_of, step_folder
from sfumato.experiment.tracking.event_files import records
from sfumato.experiment.tracking.tensorboard import event_files
from sfumato.training import storage
from sfumato.training.checkpoint import CheckpointStore
from sfumato.training.record import MetricsLog

SETTINGS: dict[str, Any] = {
    "training.steps": 16,
    "training.batch_size": 8,
    "training.checkpoint_every": 3,
    "training.log_every": 4,
    "training.evaluate_every": 5,
    "training.keep_best": "loss",
    "training.preview_every": 8,
    "training.preview_count": 2,
    "training.ema_decay": 0.9,
    "data.limit": 60,
    "data.flip": True,
    "network.widths": (8, 16),
    "network.depth": 1,
    "network.embedding": 8,
    "sampling.steps": 2,
    "evaluation.count": 4,
    "evaluation.noise_levels": 2,
}
CHANGING = ("mkdir", "write", "fsync", "fsync_dir", "rename", "remove")
PATIENCE = 60.0  # seconds after which a child that neither ends nor dies is a hang


@dataclass
class Tally:
    """What happened. `failures` are runs that could not go on; `different` are files that are not as they should be."""

    kills: int = 0
    inside_a_save: int = 0
    before_step_0_was_saved: int = 0
    after_a_checkpoint: int = 0  # one beyond step 0
    completed: int = 0
    checkpoints_lost: int = 0
    failures: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    seconds: float = 0.0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_a_save(at: int) -> None:
    """Arm this process: its `at`-th changing storage operation on checkpoints is done by half, and it is dead."""
    left = at

    def armed(name: str) -> Callable[..., Any]:
        real = getattr(storage.LocalStorage, name)

        def operation(self: storage.LocalStorage, path: Path, *rest: Any) -> Any:
            nonlocal left
            if "checkpoints" in path.parts:
                left -= 1
                if left == 0:
                    half_done(real, self, path, rest, name)
            return real(self, path, *rest)

        return operation

    for name in CHANGING:
        setattr(storage.LocalStorage, name, armed(name))


def half_done(real: Callable[..., Any], self: Any, path: Path, rest: tuple[Any, ...], name: str) -> None:
    """Do half of an operation that has halves, or flip a coin; then die."""
    if name == "write":
        data = b"".join(bytes(chunk) for chunk in rest[0])
        real(self, path, [data[: len(data) // 2]])
    elif name == "remove" and path.is_dir():
        real(self, min(path.iterdir()))
    elif random.random() < 0.5:
        real(self, path, *rest)
    die()


def fork(work: Callable[[], object], errors: Path) -> int:
    """Start a child that does the work and ends with 0, or 1 with its traceback in `errors`."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    with contextlib.suppress(BaseException):
        try:
            work()
            code = 0
        except BaseException:
            errors.write_text(traceback.format_exc())
    os._exit(code)


def wait(pid: int, *, kill_after: float) -> int:
    """The child's exit code; negative for the signal that ended it. SIGKILL comes after `kill_after` seconds."""
    end = time.monotonic() + kill_after
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            os.kill(pid, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        time.sleep(0.002)


def go_on(folder: Path, *, die_at: int | None, seed: int) -> None:
    """In a child: begin the run or resume it."""
    random.seed(seed)
    storage._flush = lambda descriptor: None  # a kill does not forget what was written; only a power cut does
    if die_at is not None:
        die_in_a_save(die_at)
    if (folder / "config.yaml").exists():
        runs.resume(folder)
        return
    if folder.exists():  # it was killed between making its folder and writing its settings: a lock may lie in it
        shutil.rmtree(folder)
    runs.train("digits", SETTINGS, runs=folder.parent, name=folder.name)


def fingerprint(folder: Path) -> dict[str, str]:
    """What a finished run left behind: every file's hash, and the log without the speed."""
    last = folder / "checkpoints" / f"step-{SETTINGS['training.steps']:08d}"
    best = step_folder(folder, best_of(folder).step)
    files = [*sorted({*last.iterdir(), *best.iterdir()}), *sorted((folder / "samples").iterdir())]
    files.append(folder / "config.yaml")
    found = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    log = MetricsLog.read(folder / "metrics.jsonl")
    found["metrics.jsonl"] = json.dumps([{k: v for k, v in line.items() if k != "images_per_second"} for line in log])
    found["event files"] = json.dumps(events(folder))
    return found


def events(folder: Path) -> list[tuple[int, str, str]]:
    """What TensorBoard's files of a run say, in the order in which they say it; nothing where it is not installed."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
    except ImportError:
        return []
    told = []
    for path in event_files(folder):
        for data in records(path.read_bytes()):
            event = Event.FromString(data)
            for value in event.summary.value:
                if value.tag != "images_per_second":
                    said = b"" if value.tag.startswith("_hparams_") else value.SerializeToString()  # maps have no order
                    told.append((event.step, value.tag, hashlib.sha256(said).hexdigest()))
    return told


class Campaign:
    """Attempts at one run after another, until enough of them were killed."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        self.folder, self.random, self.tally = folder, random.Random(seed), Tally()
        self.errors, self.number, self.known = folder / "errors.txt", 0, -1
        folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        whole = folder / "whole"
        code = wait(fork(lambda: go_on(whole, die_at=None, seed=0), self.errors), kill_after=PATIENCE)
        if code:
            raise SystemExit(f"the run that nobody killed ended with {code}\n{self._error()}")
        self.whole, self.duration = fingerprint(whole), time.monotonic() - began

    @property
    def run(self) -> Path:
        return self.folder / f"run-{self.number}"

    def kill(self, kills: int) -> Tally:
        began = time.monotonic()
        while self.tally.kills < kills and not self.tally.failures:
            in_save = self.random.random() < 0.5
            at = self.random.randint(1, 90) if in_save else None
            patience = PATIENCE if in_save else self.random.uniform(0, 0.8 * self.duration)
            self.attempt(die_at=at, kill_after=patience)
        if not self.tally.failures:
            self.attempt(die_at=None, kill_after=PATIENCE)  # the last one may reach its end
        self.tally.seconds = time.monotonic() - began
        return self.tally

    def attempt(self, *, die_at: int | None, kill_after: float) -> None:
        seed, began = self.random.getrandbits(32), time.monotonic()
        code = wait(fork(lambda: go_on(self.run, die_at=die_at, seed=seed), self.errors), kill_after=kill_after)
        hung = kill_after == PATIENCE and time.monotonic() - began >= PATIENCE
        if code == -signal.SIGKILL and not hung:
            self.count_kill(in_save=die_at is not None)
        elif code == 0:
            self.compare()
        else:
            what = "hung" if hung else f"ended with {code}"
            self.tally.failures.append(f"{self.run.name}, attempt {self.tally.kills}: {what}\n{self._error()}")

    def count_kill(self, *, in_save: bool) -> None:
        store = CheckpointStore(self.run)
        left = [path.name for path in store.folder.glob(".*")] if store.folder.exists() else []
        newest = max(store.steps(), default=-1)
        self.tally.kills += 1
        self.tally.inside_a_save += in_save or bool(left)
        self.tally.before_step_0_was_saved += newest < 0
        self.tally.after_a_checkpoint += newest > 0
        self.tally.checkpoints_lost += newest < self.known
        self.known = newest

    def compare(self) -> None:
        found = fingerprint(self.run)
        names = {**self.whole, **found}
        self.tally.different += [f"{self.run.name}/{n}" for n in names if found.get(n) != self.whole.get(n)]
        self.tally.completed += 1
        if not self.tally.different:
            shutil.rmtree(self.run)
        self.number, self.known = self.number + 1, -1

    def _error(self) -> str:
        return self.errors.read_text() if self.errors.exists() else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    Image.init()  # Pillow too imports late
    for name in ("compat.proto.event_pb2", "plugins.text.summary_v2", "plugins.hparams.summary_v2"):
        with contextlib.suppress(ImportError):
            importlib.import_module(f"tensorboard.{name}")
    tally = Campaign(args.folder, seed=args.seed).kill(args.kills)
    json.dump(asdict(tally), sys.stdout, indent=1)
    return int(bool(tally.failures or tally.different or tally.checkpoints_lost))


if __name__ == "__main__":
    sys.exit(main())
