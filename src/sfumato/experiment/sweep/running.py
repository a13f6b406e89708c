"""The loop over the arms of a sweep: start what fits, take in what ends, stop when asked or when the time is up.

Arms that were begun go first, then those of the first seed, so that a sweep that is stopped early has the whole grid
once before it has half of it twice. A failed arm never stops another. When somebody asks to stop (SIGTERM, Ctrl-C) or
the budget is spent, no arm is started any more and those that run are asked to save; a second Ctrl-C ends them at once.
"""

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sfumato.errors import ResourceError, SfumatoError
from sfumato.experiment.arms import Failure, forget_failure, note_failure
from sfumato.experiment.sweep.launching import Inline, Job, Launcher
from sfumato.experiment.sweep.plan import Arm
from sfumato.experiment.sweep.remaining import Left, Remaining
from sfumato.experiment.sweep.standing import Moving, Standing, SweepReporter
from sfumato.experiment.sweep.stored import Sweep, newest_step
from sfumato.experiment.sweep.worker import BUSY, DONE, STOPPED
from sfumato.training.signals import StopRequest

__all__ = ["Ending", "Running", "in_order"]

PAUSE = 0.1  # seconds between two looks at the jobs
Ask = Callable[[Sweep, Sequence[Arm]], "Sweep | None"]  # the sweep with one point more; None when there is none now


@dataclass(slots=True)
class Ending:
    """How the loop ended. `why`: what stopped it before its end (`SIGTERM`, `budget`); None when nothing did."""

    sweep: Sweep
    why: str | None = None


def in_order(sweep: Sweep, *, retry: bool) -> tuple[Arm, ...]:
    """The arms that are to be trained, those that were begun first, then seed by seed.

    Failed ones among them where they may end otherwise this time, or with `retry`; last those that a process trains by
    now, such as one whose scheduler was killed a moment ago: they may be free when it is their turn.
    """
    wanted: list[Arm] = []
    begun: set[str] = set()
    held: set[str] = set()
    for arm in sweep.arms:
        state, failure = sweep.state(arm), sweep.failure(arm)
        if state == "half-done" or (state == "failed" and (arm.folder / "config.yaml").is_file()):
            begun.add(arm.name)
        if state == "running":
            held.add(arm.name)
        again = state == "failed" and (retry or (failure is not None and not failure.would_repeat))
        if state in ("waiting", "half-done", "running") or again:
            wanted.append(arm)
    return tuple(sorted(wanted, key=lambda arm: (arm.name in held, arm.name not in begun, arm.seed)))  # a stable sort


class Running:
    """One pass over the arms that are left.

    ask: makes another point where the search learns; None where all points are known.
    price: the seconds that a step of an arm is forecast to take; None where nothing was timed.
    """

    def __init__(
        self,
        sweep: Sweep,
        arms: Sequence[Arm],
        launcher: Launcher,
        *,
        workers: int,
        reporter: SweepReporter,
        stop: StopRequest,
        deadline: float | None = None,
        ask: Ask | None = None,
        price: Callable[[str], float | None] = lambda arm: None,
    ) -> None:
        self.launcher, self.workers, self.reporter, self.stop = launcher, workers, reporter, stop
        self.deadline, self.ask, self.price = deadline, ask, price
        self.remaining = Remaining(workers=workers, price=price)
        self.queue, self.wanted = list(arms), {arm.name for arm in arms}
        self.jobs: dict[int, Job] = {}  # by slot
        self.stopping: str | None = None
        self.ending = Ending(sweep)
        self.steps = {arm.name: newest_step(arm) or 0 for arm in sweep.arms}
        self.done = {arm.name for arm in sweep.arms if sweep.state(arm) == "done"}
        self.failed = {arm.name for arm in sweep.arms if sweep.state(arm) == "failed"} - {arm.name for arm in arms}

    @property
    def sweep(self) -> Sweep:
        """The sweep with the points that were asked for so far."""
        return self.ending.sweep

    def run(self) -> Ending:
        """Train until nothing is left or somebody asks to stop. Jobs never outlive it."""
        try:
            try:
                self._loop()
            except SfumatoError:  # of the search, or of its disk: what runs is saved first
                self.stopping = "an error"
                self._ask_to_stop()
                self._loop()
                raise
        except BaseException:
            for job in self.jobs.values():
                job.kill()
            raise
        self.ending.why = self.stopping
        return self.ending

    def _loop(self) -> None:
        while True:
            self._heed()
            self._collect()
            self._fill()
            self._report()
            if not self.jobs:
                return
            time.sleep(PAUSE)

    def _heed(self) -> None:
        """Ask the jobs to stop, once, when somebody asked for it or the budget is spent."""
        if self.stopping is not None:
            return
        if self.stop:
            self.stopping = self.stop.signal_name
        elif self.deadline is not None and time.monotonic() >= self.deadline:
            self.stopping = "budget"
        if self.stopping is not None:
            self._ask_to_stop()

    def _ask_to_stop(self) -> None:
        if self.jobs:
            self.reporter.note(f"stopping ({self.stopping}): what runs is saved at its next step")
        for job in self.jobs.values():
            job.stop()

    def _collect(self) -> None:
        """Take in the jobs that ended."""
        for slot, job in list(self.jobs.items()):
            code = job.poll()
            if code is not None:
                del self.jobs[slot]
                self._ended(job.arm, code)

    def _ended(self, arm: Arm, code: int) -> None:
        """What the end of an arm means, by its exit code."""
        sweep = self.sweep
        if code == DONE:
            self.done.add(arm.name)
            self.remaining.ended(arm.name)
            self.steps[arm.name] = sweep.experiment(arm).training.steps
        elif code == BUSY:
            self.wanted.discard(arm.name)
            self.reporter.note(f"{arm.name} is being trained by another process")
        elif code == STOPPED or ((self.stopping is not None or self.stop) and (code < 0 or sweep.failure(arm) is None)):
            if self.stopping is None:
                self.reporter.note(f"{arm.name} was stopped; it is saved")
            if isinstance(self.launcher, Inline):  # the arm heard in our place that everything is to stop
                self.stopping = "a signal"
        else:
            if sweep.failure(arm) is None:
                note_failure(sweep.folder, arm.name, Failure.of(_lost(arm, code, sweep)))
            self.failed.add(arm.name)
            self.reporter.note(f"{arm.name} failed: {sweep.error(arm) or f'exit code {code}'}")

    def _fill(self) -> None:
        """Start arms while slots are free; where the search learns, ask for another point when no arm waits."""
        while len(self.jobs) < self.workers:
            self._heed()
            if self.stopping is not None:
                return
            if not self.queue and not self._asked():
                return
            arm = self.queue.pop(0)
            slot = next(slot for slot in range(self.workers) if slot not in self.jobs)
            self.remaining.started(arm.name)
            forget_failure(self.sweep.folder, arm.name)
            try:
                self.jobs[slot] = self.launcher.start(self.sweep, arm, slot, self._told)
            except SfumatoError as error:
                note_failure(self.sweep.folder, arm.name, Failure.of(error))
                self._ended(arm, error.exit_code)
                continue
            self._collect()  # in this process it has ended by now
            self._report()

    def _told(self, arm: str, step: int) -> None:
        self.steps[arm] = step
        self.remaining.told(arm, step)

    def _asked(self) -> bool:
        """Whether another point was asked for; its arms wait in the queue then."""
        while self.ask is not None:
            found = self.ask(self.sweep, [job.arm for job in self.jobs.values()])
            if found is None:
                return False
            known = {arm.name for arm in self.sweep.arms}
            self.ending.sweep = found
            new = [arm for arm in found.arms if arm.name not in known]
            self.queue += new
            self.wanted |= {arm.name for arm in new}
            self.steps.update({arm.name: 0 for arm in new})
            if new:
                return True
            self.reporter.note(f"a point was passed over: {found.notes[-1] if found.notes else 'it is there already'}")
        return False

    def _report(self) -> None:
        """Say how all arms stand."""
        sweep = self.sweep
        moving = tuple(
            Moving(job.arm.name, self.steps[job.arm.name], sweep.experiment(job.arm).training.steps)
            for job in self.jobs.values()
        )
        coming = 0 if self.ask is None else sweep.plan.coming
        total = len(sweep.arms) + coming
        standing = Standing(total, len(self.done), len(self.failed), moving, self._seconds_left(coming))
        self.reporter.progress(standing)

    def _seconds_left(self, coming: int) -> float | None:
        """By the forecast, and by what the arms have taken since."""
        sweep = self.sweep
        left = [
            Left(arm.name, max(0, sweep.experiment(arm).training.steps - self.steps[arm.name]), self.price(arm.name))
            for arm in sweep.arms
            if arm.name in self.wanted and arm.name not in self.done and arm.name not in self.failed
        ]
        return self.remaining.seconds(left, coming=coming)


def _lost(arm: Arm, code: int, sweep: Sweep) -> SfumatoError:
    """The failure of an arm whose process could not say why it ended."""
    log = sweep.folder / "logs" / f"{arm.name}.log"
    names = {int(number): number.name for number in signal.Signals}
    how = f"was ended by {names.get(-code, -code)}" if code < 0 else f"ended with exit code {code}"
    memory = "; the system ends so what takes too much memory" if code == -9 else ""
    return ResourceError(
        f"the process of {arm.name} {how}{memory}",
        expected="an arm that ends by itself",
        fix=f"look into {log}; fewer --workers take less memory; the same command goes on with it",
    )
