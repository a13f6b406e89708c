"""Processes that train together. By hand, as torchrun starts them:

    torchrun --nproc_per_node 2 tests/reliability/together.py train RUNS SETTINGS.json
    torchrun --nproc_per_node 2 tests/reliability/together.py resume RUN SETTINGS.json

test_processes.py has many such pairs to start, and each process takes seconds to import PyTorch. It hands all jobs to
one process, which imports once, computes nothing, and forks the pairs: `together.py JOBS.json` prints a JSON document.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

# Imported lazily by torch's optimizers and by Accelerate: once here, not once for each child.
import torch._dynamo
import torch.distributed.tensor

import sfumato
import sfumato.experiment.run
from sfumato.errors import SfumatoError
from sfumato.experiment.session import Session
from sfumato.training.checkpoint import CheckpointStore
from sfumato.training.trainer import Progress, Trainer

PATIENCE = 60.0  # seconds that one process may outlive another


@dataclass(frozen=True)
class Job:
    """`act` (train, resume) on `place` with one set of settings and one working folder for each of two processes.

    die_at: process 1 is killed after that step.
    """

    act: str
    place: str
    settings: tuple[dict[str, Any], dict[str, Any]]
    folders: tuple[str, str] = (".", ".")
    die_at: int = -1


@dataclass(frozen=True)
class Ended:
    """Exit codes and messages of both, seconds from the end of one to that of the other, and the steps then stored."""

    codes: tuple[int, int]
    texts: tuple[str, str]
    seconds_apart: float
    steps: dict[str, list[int]]


class Reporter:
    """Says who speaks."""

    def progress(self, progress: Progress) -> None: ...

    def note(self, text: str) -> None:
        print(f"[{rank()}] {text}", file=sys.stderr, flush=True)


def rank() -> int:
    return int(os.environ["RANK"])


def keep_draws(folder: Path) -> None:
    """Write what this process draws for step 3: examples, times and noise."""
    real = Session.trainer

    def trainer(self: Session, **rest: Any) -> Any:
        parts = list(self.step.parts(3))
        drawn = {name: torch.cat([getattr(draw, name) for _, draw in parts]) for name in ("t", "eps", "inv_density")}
        drawn["x0"] = torch.cat([batch.x0 for batch, _ in parts])
        torch.save(drawn, folder / f"drawn-{self.engine.rank}-of-{self.engine.processes}.pt")
        return real(self, **rest)

    Session.trainer = trainer  # type: ignore[method-assign]


def die_after(done: int) -> None:
    """Kill process 1 when that many steps are done."""
    real = Trainer._report

    def report(self: Trainer, now: int, *rest: Any) -> None:
        real(self, now, *rest)
        if (rank(), now) == (1, done):
            os.kill(os.getpid(), signal.SIGKILL)

    Trainer._report = report  # type: ignore[method-assign]


def run(act: str, place: str, settings: dict[str, Any], *, die_at: int) -> int:
    """One process: train or resume, and exit as the command line would."""
    die_after(die_at)
    try:
        if act == "train":
            done = sfumato.train("swiss-roll", settings, runs=place, reporter=Reporter())
        else:
            done = sfumato.resume(place, settings, reporter=Reporter())
    except SfumatoError as error:
        print(f"[{rank()}] {error}", file=sys.stderr, flush=True)
        return error.exit_code
    print(f"[{rank()}] folder {done.folder} held-out {done.held_out_loss}", file=sys.stderr, flush=True)
    return 0


def fork(job: Job, number: int, port: int, said: Path) -> int:
    """Start process `number` of a job; what it says goes to a file."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    with contextlib.suppress(BaseException):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.chdir(job.folders[number])
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number)}
        try:
            keep_draws(said.parent)
            code = run(job.act, job.place, job.settings[number], die_at=job.die_at)
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
    os._exit(code)


def both(job: Job, folder: Path) -> Ended:
    """Start a pair and wait for both; one that outlives the other for too long is killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = [folder / f"said-{number}.txt" for number in (0, 1)]
    alive = {fork(job, number, port, said[number]): number for number in (0, 1)}
    codes, ends, end = [0, 0], [0.0, 0.0], time.monotonic() + PATIENCE
    while alive:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            number = alive.pop(pid)
            codes[number], ends[number] = os.waitstatus_to_exitcode(status), time.monotonic()
            end = time.monotonic() + PATIENCE
        elif time.monotonic() > end:
            for pid in alive:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    place = Path(job.place)
    steps = {found.parent.name: CheckpointStore(found.parent).steps() for found in place.glob("**/checkpoints")}
    return Ended((codes[0], codes[1]), (said[0].read_text(), said[1].read_text()), abs(ends[0] - ends[1]), steps)


def main(words: list[str]) -> int:
    if "WORLD_SIZE" in os.environ:
        act, place, settings = words
        return run(act, place, json.loads(Path(settings).read_text()), die_at=int(os.environ.get("DIE_AT", "-1")))
    jobs = [Job(**job) for job in json.loads(Path(words[0]).read_text())]
    json.dump([asdict(both(job, Path(words[0]).parent)) for job in jobs], sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
