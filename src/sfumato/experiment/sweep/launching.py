"""Where arms are trained: in processes of this machine, in this process, or wherever submitit puts them.

A launcher starts one arm and gives a `Job`, which can be asked whether it has ended, how far it is, and to stop. Local
processes belong to the process group of whoever started them, so that what ends the group ends them; and they stop by
themselves when that process is gone.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sfumato.errors import ResourceError
from sfumato.experiment.sweep.plan import Arm
from sfumato.experiment.sweep.stored import Sweep
from sfumato.experiment.sweep.worker import run_arm
from sfumato.training.trainer import Progress

__all__ = ["Inline", "Job", "Launcher", "Processes", "Told", "arm_command", "arm_environment", "package_paths"]

_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # by torchrun


Told = Callable[[str, int], None]  # hears the name of an arm and how many steps it has, from any thread


class Job(ABC):
    """An arm that was started."""

    arm: Arm

    @abstractmethod
    def poll(self) -> int | None:
        """The exit code (negative: the signal that ended it), or None while it goes on."""

    @abstractmethod
    def stop(self) -> None:
        """Ask it to stop at a step boundary and save."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once."""


class Launcher(ABC):
    """Starts arms."""

    @abstractmethod
    def start(self, sweep: Sweep, arm: Arm, slot: int, told: Told) -> Job:
        """Start an arm in one of the slots 0, 1, …, each of which holds one arm at a time."""


def arm_command(sweep: Sweep, arm: Arm) -> list[str]:
    """The command of a process that trains one arm."""
    return [sys.executable, "-m", "sfumato.experiment.sweep", "arm", str(sweep.folder), arm.name]


def arm_environment(sweep: Sweep, arm: Arm) -> dict[str, str]:
    """The environment of that process: this package findable, as many threads as the arm has, no torchrun."""
    kept = {name: value for name, value in os.environ.items() if name not in _LAUNCHED}
    count = sweep.experiment(arm).training.threads
    found = {**kept, "PYTHONPATH": package_paths()}
    return found if count is None else {**found, "OMP_NUM_THREADS": str(count)}


def package_paths() -> str:
    """PYTHONPATH with the place that this package was imported from in front."""
    source = str(Path(__file__).resolve().parents[3])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != source]
    return os.pathsep.join([source, *paths])


class Process(Job):
    """An arm in a process of this machine. What it says besides its progress goes to `logs/ARM.log`."""

    def __init__(self, sweep: Sweep, arm: Arm, extra: Mapping[str, str], told: Told) -> None:
        self.arm, self.told = arm, told
        log = sweep.folder / "logs" / f"{arm.name}.log"
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as errors:
                self.process = subprocess.Popen(
                    arm_command(sweep, arm),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env={**arm_environment(sweep, arm), **extra},
                )
        except OSError as error:
            raise ResourceError(
                f"no process can be started for {arm.name}: {error.strerror or error}",
                expected="a machine that can start another process, and a disk that can be written",
                fix="fewer --workers",
            ) from None
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        """Take in the progress as it comes; the pipe ends with the process."""
        assert self.process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            for line in self.process.stdout:
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    self.told(self.arm.name, int(json.loads(line)["step"]))

    def poll(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.process.terminate()

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()


class Processes(Launcher):
    """Processes of this machine, the GPUs shared out over the slots."""

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = devices

    def start(self, sweep: Sweep, arm: Arm, slot: int, told: Told) -> Job:
        own = {"CUDA_VISIBLE_DEVICES": self.devices[slot % len(self.devices)]} if self.devices else {}
        return Process(sweep, arm, own, told)


class Ended(Job):
    """An arm that had ended when it was given back."""

    def __init__(self, arm: Arm, code: int) -> None:
        self.arm, self.code = arm, code

    def poll(self) -> int | None:
        return self.code

    def stop(self) -> None:
        pass

    def kill(self) -> None:
        pass


class Inline(Launcher):
    """This very process, one arm after another: for a debugger, and where no process can be started."""

    def start(self, sweep: Sweep, arm: Arm, slot: int, told: Told) -> Job:
        return Ended(arm, run_arm(sweep, arm, _Telling(arm.name, told)))


class _Telling:
    """A reporter that hands on how far an arm is."""

    def __init__(self, arm: str, told: Told) -> None:
        self.arm, self.told = arm, told

    def progress(self, progress: Progress) -> None:
        self.told(self.arm, progress.step)

    def note(self, text: str) -> None:
        pass
