"""Arms as jobs of Slurm, through submitit (extra `slurm`); `cluster=local` starts them on this machine instead.

A job starts the arm's own process and waits for it, so an arm is trained there exactly as on one's own machine. Before
Slurm's time limit (and where the job is preempted) submitit asks for a checkpoint: the arm is stopped at a step
boundary, saves, and the job is queued again.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sfumato.errors import PlatformError, UsageError
from sfumato.experiment.records import read_run
from sfumato.experiment.sweep.launching import Job, Launcher, Told, arm_command, arm_environment
from sfumato.experiment.sweep.plan import Arm
from sfumato.experiment.sweep.stored import Sweep, newest_step

__all__ = ["ArmJob", "Submitit", "slurm_options"]

CLUSTERS = ("slurm", "local")
GRACE = 60.0  # seconds that an arm has to finish its step and save
LOST = 70


def slurm_options(words: Mapping[str, str]) -> dict[str, Any]:
    """Parameters of submitit's executor, numbers as numbers. Raises UsageError for another cluster."""
    found: dict[str, Any] = {key: int(text) if text.isdecimal() else text for key, text in words.items()}
    if found.get("cluster", "slurm") not in CLUSTERS:
        raise UsageError(
            f"--slurm cluster={found['cluster']}", expected=" or ".join(CLUSTERS), fix="leave it out for Slurm"
        )
    return found


@dataclass(slots=True)
class ArmJob:
    """What a job runs: the process of an arm, with its command and environment. Called where the job runs."""

    command: list[str]
    environment: dict[str, str]
    child: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def __call__(self) -> int:
        self.child = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=self._here(), start_new_session=True
        )
        before = {number: signal.signal(number, self._hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            return self.child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _here(self) -> dict[str, str]:
        """The environment of the job, with what the arm needs laid over it: its GPUs are the job's own."""
        return {**os.environ, **self.environment}

    def _hand_on(self, number: int, frame: object) -> None:
        """A job that is to end asks its arm to save first."""
        if self.child is not None and not _has_ended(self.child):
            self.child.terminate()

    def checkpoint(self) -> Any:
        """The same job again, once the arm has saved: what submitit calls before the time is up."""
        import submitit

        if self.child is not None and not _has_ended(self.child):
            self.child.terminate()
            end = time.monotonic() + GRACE
            while not _has_ended(self.child) and time.monotonic() < end:
                time.sleep(0.1)
        return submitit.helpers.DelayedSubmission(ArmJob(self.command, self.environment))


def _has_ended(child: "subprocess.Popen[bytes]") -> bool:
    """Whether a process has ended, asked within a signal handler, which may stand in the middle of `wait` or `poll`."""
    try:
        return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


class Submitted(Job):
    """An arm that was handed to submitit. How far it is, its checkpoints say."""

    def __init__(self, arm: Arm, job: Any, told: Told) -> None:
        self.arm, self.job, self.told = arm, job, told
        self.stopped: float | None = None  # when it was asked to

    def poll(self) -> int | None:
        step = newest_step(self.arm)
        if step is not None:
            self.told(self.arm.name, step)
        if not self.job.done():
            return None
        if self.stopped is not None and time.monotonic() < self.stopped + GRACE and self._is_saving():
            return None  # a job may be gone before its arm
        try:
            return int(self.job.result())
        except Exception:  # cancelled, lost, or refused by the cluster: submitit's own classes
            cancelled = self.stopped is not None or str(self.job.state).upper().startswith("CANCEL")
            return -signal.SIGTERM if cancelled else LOST

    def _is_saving(self) -> bool:
        return (self.arm.folder / "config.yaml").is_file() and read_run(self.arm.folder).state == "running"

    def stop(self) -> None:
        self.stopped = time.monotonic()
        self.job.cancel(check=False)

    def kill(self) -> None:
        self.job.cancel(check=False)


class Submitit(Launcher):
    """Jobs of Slurm, or of submitit's local executor. `options` are parameters of its executor."""

    def __init__(self, sweep: Sweep, options: Mapping[str, Any]) -> None:
        try:
            import submitit
        except ModuleNotFoundError:
            raise PlatformError(
                "--launcher slurm needs the package submitit",
                expected="an environment with submitit",
                fix="pip install 'sfumato[slurm]'",
            ) from None
        given = dict(options)
        cluster = given.pop("cluster", "slurm")
        self.executor = submitit.AutoExecutor(folder=sweep.folder / "logs" / "slurm", cluster=cluster)
        usual = {
            "name": sweep.plan.name,
            "timeout_min": 24 * 60,
            "cpus_per_task": sweep.plan.base.training.threads or 1,
        }
        self.executor.update_parameters(**{**usual, **given})

    def start(self, sweep: Sweep, arm: Arm, slot: int, told: Told) -> Job:
        own = arm_environment(sweep, arm)
        needed: dict[str, str] = {key: own[key] for key in ("PYTHONPATH", "OMP_NUM_THREADS") if key in own}
        return Submitted(arm, self.executor.submit(ArmJob(arm_command(sweep, arm), needed)), told)
