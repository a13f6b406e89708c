"""One arm in a process of its own: `python -m sfumato.experiment.sweep arm SWEEP ARM`.

A process of its own for every arm keeps arms apart: memory that ran out, a crash or a compiler's cache of one is
nothing to the next, and what an arm computes cannot depend on what was computed before it. It says how far it is on
stdout, a JSON line at a time; it stops at a step boundary and saves on SIGTERM, and also when its stdin ends, which is
how it learns that whoever started it is gone.

    exit code   0 done     75 stopped, saved     76 another process trains this arm     else failed: failures/ARM.json
"""

import contextlib
import json
import os
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from sfumato.errors import ConfigError, Interrupted, PlatformError, ResourceError, SfumatoError
from sfumato.experiment.arms import Failure, forget_failure, note_failure
from sfumato.experiment.evaluation import evaluate
from sfumato.experiment.evaluation.files import write_evaluation
from sfumato.experiment.records import read_run
from sfumato.experiment.run import resume, train
from sfumato.experiment.sweep.plan import Arm, departures
from sfumato.experiment.sweep.stored import Sweep
from sfumato.training.engine import threads
from sfumato.training.lock import RunLock
from sfumato.training.storage import LocalStorage
from sfumato.training.trainer import Progress, Reporter

__all__ = ["BUSY", "DONE", "STOPPED", "main", "run_arm"]

DONE, STOPPED, BUSY = 0, 75, 76
SECONDS = 0.2  # between two lines of progress, at least


def run_arm(sweep: Sweep, arm: Arm, reporter: Reporter) -> int:
    """Train an arm, or go on with it, and measure it; gives the exit code. A failure is kept in the sweep's folder."""
    forget_failure(sweep.folder, arm.name)
    try:
        _train(sweep, arm, reporter)
        _measure(sweep, arm, reporter)
    except Interrupted:
        return STOPPED
    except Exception as error:
        if isinstance(error, ResourceError) and _is_held(arm):
            return BUSY
        failure = _told(error)
        note_failure(sweep.folder, arm.name, Failure.of(failure))
        traceback.print_exception(error)
        return failure.exit_code
    return DONE


def _train(sweep: Sweep, arm: Arm, reporter: Reporter) -> None:
    """All the steps of an arm that are left."""
    if (arm.folder / "config.yaml").is_file():
        _require_its_own(sweep, arm)
        resume(arm.folder, reporter=reporter)
        return
    if arm.folder.exists():  # killed before its settings were written: nothing was trained
        with RunLock(arm.folder):
            pass  # nobody else is at it
        LocalStorage().remove(arm.folder)
    train(sweep.experiment(arm), runs=arm.folder.parent, name=arm.name, reporter=reporter)


def _require_its_own(sweep: Sweep, arm: Arm) -> None:
    """Refuse to go on with a run that was begun with the settings of something else. More steps may be asked of it."""
    record = sweep.record(arm)
    told = [] if record is None else departures(sweep.experiment(arm), record.settings)
    told = [one for one in told if not one.startswith("training.steps ")]
    if told:
        raise ConfigError(
            f"{arm.folder} holds a run of other settings: {', '.join(told[:6])}",
            expected="a run of this arm, as the sweep began it",
            fix=f"move it away: mv {shlex.quote(str(arm.folder))} elsewhere",
        )


def _measure(sweep: Sweep, arm: Arm, reporter: Reporter) -> None:
    """What is to be measured of an arm and is not yet, with the threads that it was trained with."""
    missing, measures = sweep.unmeasured(arm), sweep.plan.measures
    if not missing:
        return
    with threads(sweep.experiment(arm).training.threads):
        found = evaluate(
            arm.folder,
            missing,
            n=measures.n,
            device=sweep.experiment(arm).training.device,
            extractor=measures.extractor,
            report=reporter.note,
        )
    write_evaluation(arm.folder, "ema-held-out-seed0", found.stored())


def _is_held(arm: Arm) -> bool:
    """Whether a living process holds the arm's folder."""
    return arm.folder.exists() and read_run(arm.folder).state == "running"


def _told(error: Exception) -> SfumatoError:
    """An error as one of ours, where it comes from below."""
    if isinstance(error, SfumatoError):
        return error
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and not (error.name or "sfumato").startswith("sfumato"):
        return PlatformError(text, expected=f"an environment with {error.name}", fix=f"pip install {error.name}")
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text:
        return ResourceError(
            text.splitlines()[0][:300],
            expected="sizes that fit into the memory, with as many arms at a time as there are workers",
            fix="fewer --workers, or a smaller --training.batch_size (--training.accumulate splits it)",
        )
    return SfumatoError(text[:300], expected="no such error: this is a bug in sfumato", fix="look into the arm's log")


class Said:
    """Progress and notes as JSON lines on a stream."""

    def __init__(self) -> None:
        self.stream = sys.stdout
        self.last = -SECONDS

    def progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self.last >= SECONDS or progress.step == progress.steps:
            self.last = now
            self._say({"step": progress.step, "steps": progress.steps})

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def _say(self, entry: dict[str, object]) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody listens any more
            print(json.dumps(entry), file=self.stream, flush=True)


def main(words: Sequence[str]) -> int:
    """Run one arm, given the folder of its sweep and its name; the exit code."""
    folder, name = words
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started this, who asks by SIGTERM
    sys.argv = [sys.argv[0], "sweep", folder, "--only", name]  # what environment.json says this run is made by
    threading.Thread(target=_stop_when_alone, daemon=True).start()
    reporter = Said()
    sys.stdout = sys.stderr  # progress alone goes to the pipe
    sweep = Sweep.load(Path(folder))
    return run_arm(sweep, sweep.arm(name), reporter)


def _stop_when_alone() -> None:
    """Ask this process to stop when its stdin ends: nobody is left to take what it does."""
    with contextlib.suppress(OSError):
        while os.read(0, 1):  # not sys.stdin, whose lock this thread would hold when the process ends
            pass
    os.kill(os.getpid(), signal.SIGTERM)
