"""The training loop: steps, and hooks between them.

    for each step: one `TrainStep`; then the hooks that are due (log, held-out loss, preview, checkpoint); then stop if
    asked

The whole state of a run is (step, weights, optimizer, averages, the open window of the log, which step was the best):
`snapshot` takes it down and `restore` puts it back, and a restored run goes on bit for bit. Randomness needs no state,
being a function of the step.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from sfumato.errors import CheckpointError, Interrupted, ResourceError
from sfumato.training.average_store import AverageStore
from sfumato.training.best import BEST, Best, KeepBest
from sfumato.training.checkpoint import CheckpointStore, Snapshot, averaged_weights
from sfumato.training.ema import bare_state
from sfumato.training.manifest import MEMORY
from sfumato.training.power_ema import POWER
from sfumato.training.record import MetricsLog
from sfumato.training.signals import StopRequest
from sfumato.training.step import StepResult, TrainStep, learning_rate
from sfumato.training.tensors import check_names

__all__ = ["Hook", "Progress", "Reporter", "Trainer", "flatten_optimizer"]


WAIT_SECONDS = 60  # between two tries to save on a full disk


@dataclass(frozen=True, slots=True)
class Progress:
    """What a reporter shows: steps done, of how many, the latest logged loss, the speed and the seconds to go."""

    step: int
    steps: int
    loss: float | None
    images_per_second: float
    seconds_left: float


class Reporter(Protocol):
    """Who tells people how a run is going."""

    def progress(self, progress: Progress) -> None:
        """Called after every step; cheap."""

    def note(self, text: str) -> None:
        """A sentence worth reading."""


@dataclass(frozen=True, slots=True)
class Hook:
    """Something to do every `every` steps and after the last one (0: never); it returns figures for the log, if any.

    A hook must be a function of (step, weights): it may not change the state of the run.
    """

    every: int
    act: Callable[[int], dict[str, Any] | None]
    name: str

    def due(self, done: int, steps: int) -> bool:
        """Whether to act after `done` of `steps` steps."""
        return is_due(self.every, done, steps)


def is_due(every: int, done: int, steps: int) -> bool:
    """Whether something with an interval of `every` steps is due; always after the last step, never for 0."""
    return every > 0 and (done % every == 0 or done == steps)


@dataclass(slots=True)
class Window:
    """Losses since the last line of the log; part of the state, so that a resumed log repeats itself."""

    loss_sum: Tensor
    count: int = 0
    timed: int = 0  # of these steps, how many this process took: the clock knows no others
    last: StepResult | None = None
    since: float = field(default_factory=time.perf_counter)

    def add(self, result: StepResult) -> None:
        """Take in one step, without waiting for the device."""
        self.loss_sum += result.loss
        self.count += 1
        self.timed += 1
        self.last = result


class Trainer:
    """Runs `TrainStep` from a step to `settings.steps`, saving, logging and calling hooks."""

    def __init__(
        self,
        step: TrainStep,
        *,
        store: CheckpointStore,
        averages: AverageStore,
        log: MetricsLog,
        hooks: Sequence[Hook],
        reporter: Reporter,
        state: dict[str, Any],
        resume_command: str,
        keep: KeepBest | None = None,
    ) -> None:
        self.step, self.store, self.averages, self.log, self.reporter = step, store, averages, log, reporter
        self.hooks = [Hook(step.settings.log_every, self._log, "log"), *hooks]
        self.state, self.resume_command = state, resume_command
        self.keep = keep
        self.best: Best | None = None
        self.settings, self.engine = step.settings, step.engine
        self.window = Window(torch.zeros((), dtype=torch.float32, device=self.engine.device))
        self.latest_loss: float | None = None
        self.seconds_training = 0.0
        self.saved_step: int | None = None
        self.images_seen = 0
        self.stop = StopRequest()

    def run(self, start: int, stop: StopRequest) -> None:
        """Train from `start` steps done to the end. Raises Interrupted, saved, when asked to stop."""
        self.stop = stop
        if start == 0:
            self.save(0)
        began = time.perf_counter()
        for index in range(start, self.settings.steps):
            self.window.add(self.step(index))
            self.images_seen += self.settings.batch_size
            done = index + 1
            self._act(done)
            self._report(done, done - start, time.perf_counter() - began)
            if done < self.settings.steps and self.engine.any(bool(stop)):
                self.save(done)
                raise self._interrupted(done, stop)
        self.seconds_training = time.perf_counter() - began

    def _act(self, done: int) -> None:
        """Everything that is due after `done` steps; the log gets one line per step, and the checkpoint comes last."""
        figures: dict[str, Any] = {}
        for hook in self.hooks:
            if hook.due(done, self.settings.steps):
                figures.update(hook.act(done) or {})
        if figures and self.engine.is_main:
            self.log.append({"step": done, **figures})
        if self.step.power.averages and is_due(self.settings.power_ema_every, done, self.settings.steps):
            self._save_averages(done)
        better = self._is_best(done, figures)
        if better or is_due(self.settings.checkpoint_every, done, self.settings.steps) or done == self.settings.steps:
            self.save(done)

    def _is_best(self, done: int, figures: dict[str, Any]) -> bool:
        """Whether the weights were measured just now and are the best so far. Collective; the main process measures."""
        if self.keep is None or not is_due(self.keep.every, done, self.settings.steps):
            return False
        self.best = self.keep.after(self.best, done, figures)
        return self.engine.any(self.best is not None and self.best.step == done)

    def _save_averages(self, done: int) -> None:
        """Store the power-function averages of `done` steps."""
        self.step.check(done)
        if self.engine.is_main:
            self._patiently(lambda: self.averages.save(done, self.step.power))

    def save(self, done: int) -> None:
        """Write a checkpoint of `done` steps, once. Collective over the processes; the main one writes."""
        self.step.check(done)
        if done == self.saved_step:
            return
        loss_sums = self.engine.gather(self.window.loss_sum)
        if self.engine.is_main:
            self.log.sync()
            snapshot = self.snapshot(done, loss_sums)
            best = None if self.best is None else self.best.step
            self._patiently(lambda: self.store.save(snapshot, best=best))
        self.saved_step = done

    def _patiently(self, write: Callable[[], object]) -> None:
        """Write something; when there is no space, wait for it instead of stopping, if so configured."""
        while True:
            try:
                write()
                return
            except ResourceError as error:
                if self.settings.on_disk_full == "stop" or self.stop:
                    raise
                self.reporter.note(f"{error.what}; trying again every {WAIT_SECONDS} s until it fits")
            for _ in range(WAIT_SECONDS):
                if not self.stop:  # whoever asks to stop gets one last try, at once
                    time.sleep(1)

    def snapshot(self, done: int, loss_sums: list[float]) -> Snapshot:
        """The state of the run after `done` steps; tensors that lie on the CPU are the live ones, not copies.

        `loss_sums`: of every process, since the log's open window.
        """
        power = self.step.power
        averages = {str(self.settings.ema_decay): self.step.ema.state_dict(), **power.tensors()}
        return Snapshot(
            step=done,
            images_seen=self.images_seen,
            model=on_host(bare_state(self.step.denoiser.network)),
            ema={name: on_host(tensors) for name, tensors in averages.items()},
            optimizer=on_host(flatten_optimizer(self.step)),
            state={
                **self.state,
                "ema_updates": {str(self.settings.ema_decay): self.step.ema.num_updates, **power.counters()},
                "log_window": {"loss_sums": loss_sums, "count": self.window.count},
                "times_memory": self.step.memory is not None,
                **({} if self.best is None else {BEST: self.best.to_plain()}),
            },
            memory={} if self.step.memory is None else self.step.memory.state(),
        )

    def require_free_space(self) -> None:
        """Refuse to begin when three checkpoints, the optimizer's moments included, do not fit on the disk.

        Four where the best one is kept too. Or when two moments of the averages do not fit into their cap
        (ConfigError).
        """
        if self.step.power.averages:
            self.averages.room(self.step.power)
        begun = self.snapshot(0, loss_sums=[0.0] * self.engine.processes)
        whole = replace(begun, optimizer=on_host(trained_optimizer(self.step)))
        self.store.require_free_space(whole, times=3 if self.keep is None else 4)

    def restore(self, snapshot: Snapshot) -> None:
        """Put a snapshot back; CheckpointError if its tensors do not fit, before anything is changed."""
        live, averages = bare_state(self.step.denoiser.network), averaged_weights(snapshot)
        check_names(live, snapshot.model, "the checkpoint")
        check_optimizer(self.step, snapshot.optimizer, trained=snapshot.step > 0)
        self._check_memory(snapshot)
        self._check_power(snapshot)
        updates = snapshot.state["ema_updates"][str(snapshot.state["ema_decay"])]
        self.step.ema.load_state_dict(averages, num_updates=updates)
        with torch.no_grad():
            for name, tensor in live.items():
                tensor.copy_(snapshot.model[name])
        restore_optimizer(self.step, snapshot.optimizer)
        if self.step.memory is not None and snapshot.memory:
            self.step.memory.restore(snapshot.memory)
        if _power_names(snapshot):
            self.step.power.restore(snapshot.ema, snapshot.state["ema_updates"])
        window = snapshot.state["log_window"]
        sums = window["loss_sums"]
        same = len(sums) == self.engine.processes
        self.window.loss_sum.fill_(sums[self.engine.rank] if same else math.fsum(sums) / len(sums))
        self.window.count = window["count"]
        self.images_seen, self.saved_step = snapshot.images_seen, snapshot.step
        self.best = self._known_best(snapshot)

    def _known_best(self, snapshot: Snapshot) -> Best | None:
        """The best so far by a checkpoint, where the settings still ask for that figure and it is still stored."""
        best = Best.from_plain(snapshot.state.get(BEST))
        if best is None or self.keep is None or self.keep.measured({best.figure: best.value}) is None:
            return None
        if best.step not in self.store.steps():
            self.reporter.note(f"the best checkpoint, of step {best.step}, is gone: the best from now on is kept")
            return None
        return best

    def _check_memory(self, snapshot: Snapshot) -> None:
        """Refuse what cannot be what the times remembered; the times of the run may have been others before."""
        if self.step.memory is None:
            return
        if snapshot.memory:
            self.step.memory.check(snapshot.memory)
        elif snapshot.state.get("times_memory", False):
            raise CheckpointError(
                f"the checkpoint of step {snapshot.step} holds no memory of losses ({MEMORY})",
                expected="what the times of training remembered when it was saved",
                fix="use another checkpoint of the run",
            )
        else:
            self.reporter.note("the times of training remember no losses yet: they are uniform at first")

    def _check_power(self, snapshot: Snapshot) -> None:
        """Refuse power-function averages that are not those of the settings; they may begin later than the run, once.

        What a run stored of others stands in the way: their profiles begin at another step.
        """
        power = self.step.power
        if not power.averages:
            return
        self.averages.room(power)
        if _power_names(snapshot):
            power.check(snapshot.ema, snapshot.state["ema_updates"])
            return
        if any(stored.step <= snapshot.step for stored in self.averages.files()):
            raise CheckpointError(
                f"{self.averages.folder} holds averages, and the checkpoint of step {snapshot.step} knows of none",
                expected="averages that go on from their checkpoint, or begin anew in an empty folder",
                fix=f"move {self.averages.folder} away, or set training.power_ema: []",
            )
        if snapshot.step > 0:
            self.reporter.note(f"the averages of training.power_ema begin at step {snapshot.step}: none were kept")

    def _log(self, done: int) -> dict[str, Any]:
        """The training figures of the window that ends here; opens the next window. Collective over the processes."""
        self.step.check(done)
        window = self.window
        assert window.last is not None  # a step was just added
        self.latest_loss = float(self.engine.mean(window.loss_sum / window.count))
        seconds = time.perf_counter() - window.since
        self.window = Window(torch.zeros_like(window.loss_sum))
        return {
            "loss": self.latest_loss,
            "grad_norm": float(window.last.grad_norm),
            "learning_rate": learning_rate(self.settings, done - 1),
            "images_seen": self.images_seen,
            "images_per_second": window.timed * self.settings.batch_size / max(seconds, 1e-9),
        }

    def _report(self, done: int, steps_here: int, seconds: float) -> None:
        per_second = steps_here / max(seconds, 1e-9)
        left = (self.settings.steps - done) / per_second
        speed = per_second * self.settings.batch_size
        self.reporter.progress(Progress(done, self.settings.steps, self.latest_loss, speed, left))

    def _interrupted(self, done: int, stop: StopRequest) -> Interrupted:
        return Interrupted(
            f"stopped by {stop.signal_name or 'another process'} after step {done} of {self.settings.steps}; saved",
            expected="nothing is lost: the run goes on exactly where it stopped",
            fix=self.resume_command,
        )


def _power_names(snapshot: Snapshot) -> list[str]:
    """The power-function averages that a checkpoint counts."""
    return [name for name in snapshot.state["ema_updates"] if name.startswith(POWER)]


def on_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous as files want them."""
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}


def flatten_optimizer(step: TrainStep) -> dict[str, Tensor]:
    """AdamW's state as tensors named `KIND.PARAMETER` (exp_avg.conv.weight); empty before the first step."""
    flat = {}
    for name, parameter in named_parameters(step):
        for kind, value in step.optimizer.state.get(parameter, {}).items():
            flat[f"{kind}.{name}"] = value
    return flat


def check_optimizer(step: TrainStep, flat: dict[str, Tensor], *, trained: bool) -> None:
    """Refuse an optimizer state that is not, for every parameter, all of AdamW's tensors; none before step 1."""
    check_names(trained_optimizer(step) if trained else {}, flat, "the optimizer's state")


def trained_optimizer(step: TrainStep) -> dict[str, Tensor]:
    """Tensors named and shaped as `flatten_optimizer` gives them after step 1; their values mean nothing."""
    scalar, found = torch.empty(()), dict[str, Tensor]()
    for name, parameter in named_parameters(step):
        found |= {f"step.{name}": scalar, f"exp_avg.{name}": parameter, f"exp_avg_sq.{name}": parameter}
    return found


def restore_optimizer(step: TrainStep, flat: dict[str, Tensor]) -> None:
    """The inverse of `flatten_optimizer`: every tensor back on its parameter's device, in its memory format."""
    kinds = dict.fromkeys(key.split(".", 1)[0] for key in flat)
    for name, parameter in named_parameters(step):
        state = step.optimizer.state[parameter]
        for kind in kinds:
            stored = flat[f"{kind}.{name}"]
            if stored.shape == parameter.shape:
                state[kind] = torch.empty_like(parameter).copy_(stored)
            else:  # the step counter: a scalar
                state[kind] = stored.to(parameter.device if step.optimizer.defaults["fused"] else "cpu").clone()


def named_parameters(step: TrainStep) -> list[tuple[str, torch.nn.Parameter]]:
    """The trained parameters under their bare names, in the optimizer's order."""
    network = step.denoiser.network
    bare = network.module if isinstance(network, DistributedDataParallel) else network
    return [(name, parameter) for name, parameter in bare.named_parameters() if parameter.requires_grad]
