"""The loop: what is due when, one line of the log for each step that has something to say, and snapshots that fit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.errors import CheckpointError, NumericsError
from sfumato.experiment.reporting import Silent
from sfumato.experiment.session import Session
from sfumato.training import storage
from sfumato.training.checkpoint import CheckpointStore
from sfumato.training.ema import bare_state
from sfumato.training.record import MetricsLog
from sfumato.training.signals import StopRequest
from sfumato.training.step import StepResult
from sfumato.training.trainer import Hook, Progress, Trainer, flatten_optimizer

Make = Callable[..., Session]


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_flush", lambda descriptor: None)


def trainer_of(session: Session, *hooks: Hook, reporter: Any = None) -> Trainer:
    session.folder.mkdir(exist_ok=True)
    return Trainer(
        session.step,
        store=CheckpointStore(session.folder),
        averages=session.averages(),
        log=MetricsLog(session.folder, report=pytest.fail),
        hooks=hooks,
        reporter=Silent() if reporter is None else reporter,
        state={"ema_decay": session.experiment.training.ema_decay},
        resume_command="sfumato resume it",
    )


@pytest.mark.parametrize(
    ("every", "steps", "due"),
    [(1, 3, [1, 2, 3]), (2, 6, [2, 4, 6]), (4, 6, [4, 6]), (9, 6, [6]), (0, 6, [])],
)
def test_hooks_are_called_when_due(every: int, steps: int, due: list[int], session: Make) -> None:
    """At multiples of the interval and after the last step; never for 0."""
    called: list[int] = []
    made = session(settings={"training.steps": steps, "training.log_every": 0, "training.checkpoint_every": 0})
    trainer_of(made, Hook(every, called.append, "counter")).run(0, StopRequest())
    assert called == due
    assert not (made.folder / "metrics.jsonl").exists()  # nobody had a figure
    assert CheckpointStore(made.folder).steps() == [0, steps]


def test_the_log_has_the_mean_loss_of_each_stretch(session: Make, monkeypatch: Any) -> None:
    """One line for a step, whatever is due at it; every step's loss counts once."""
    made = session(settings={"training.steps": 7, "training.log_every": 3})
    losses: list[float] = []
    norms: list[float] = []
    rates: list[float] = []
    real = type(made.step).__call__

    def watched(self: Any, step: int) -> StepResult:
        result = real(self, step)
        losses.append(float(result.loss))
        norms.append(float(result.grad_norm))
        rates.append(made.step.optimizer.param_groups[0]["lr"])
        return result

    monkeypatch.setattr(type(made.step), "__call__", watched)
    trainer_of(made, Hook(2, lambda done: {"double": 2 * done}, "double")).run(0, StopRequest())
    lines = MetricsLog.read(made.folder / "metrics.jsonl", pytest.fail)
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 7]
    assert [line.get("double") for line in lines] == [4, None, 8, 12, 14]
    logged = {line["step"]: line for line in lines if "loss" in line}
    for end, first in ((3, 0), (6, 3), (7, 6)):
        stretch = losses[first:end]
        assert logged[end]["loss"] == pytest.approx(sum(stretch) / len(stretch), rel=1e-6)  # float32 sum
        assert logged[end]["grad_norm"] == norms[end - 1]
        assert logged[end]["images_seen"] == 8 * end
        assert logged[end]["learning_rate"] == rates[end - 1]


def test_the_clock_counts_the_steps_it_saw(session: Make, monkeypatch: Any) -> None:
    """After a resume the open stretch has more steps than this process took; speed is of the latter."""
    made = session(settings={"training.log_every": 3})
    trainer = trainer_of(made)
    for step in (0, 1):
        trainer.window.add(made.step(step))
    snapshot = trainer.snapshot(2, [5.0])
    later = trainer_of(made)
    monkeypatch.setattr("sfumato.training.trainer.time.perf_counter", lambda: later.window.since + 2.0)
    later.restore(snapshot)
    result = made.step(2)
    later.window.add(result)
    figures = later._log(3)
    assert figures["images_per_second"] == pytest.approx(1 * 8 / 2.0)
    assert figures["loss"] == pytest.approx((5.0 + float(result.loss)) / 3, rel=1e-6)


def test_progress_is_told_after_every_step(session: Make) -> None:
    told: list[Progress] = []

    class Reporter(Silent):
        def progress(self, progress: Progress) -> None:
            told.append(progress)

    trainer_of(session(), reporter=Reporter()).run(0, StopRequest())
    assert [progress.step for progress in told] == [1, 2, 3, 4, 5, 6]
    assert all(progress.steps == 6 for progress in told)
    assert told[-1].seconds_left == 0
    assert told[-1].loss is not None


def copies(session: Session) -> dict[str, Tensor]:
    step = session.step
    parts = {"model": bare_state(step.denoiser.network), "ema": step.ema.state_dict(), "adam": flatten_optimizer(step)}
    return {f"{part}.{name}": tensor.clone() for part, found in parts.items() for name, tensor in found.items()}


@pytest.mark.parametrize("data", ["points", "digits"])
def test_a_snapshot_put_back_is_the_same_state(data: str, session: Make) -> None:
    one, other = session(data), session(data)
    for step in range(3):
        one.step(step)
    other.step(5)  # whatever was there before
    trainer_of(other).restore(trainer_of(one).snapshot(3, [0.0]))
    found, expected = copies(other), copies(one)
    assert set(found) == set(expected)
    assert [name for name in expected if not found[name].equal(expected[name])] == []
    strides = [p.stride() for p in other.step.parameters]
    assert strides == [p.stride() for p in one.step.parameters]  # channels-last stays: it decides the last bits
    moments = [other.step.optimizer.state[p]["exp_avg"].stride() for p in other.step.parameters]
    assert moments == strides
    assert other.step.ema.num_updates == 3
    one.step(3)
    other.step(3)
    assert [name for name, tensor in copies(one).items() if not copies(other)[name].equal(tensor)] == []


BAD = {
    "a weight is missing": lambda s: replace(s, model=dict(list(s.model.items())[1:])),
    "an average is missing": lambda s: replace(s, ema={"0.9": dict(list(s.ema["0.9"].items())[1:])}),
    "no averages": lambda s: replace(s, ema={}),
    "other averages": lambda s: replace(s, ema={"0.5": s.ema["0.9"]}),
    "a moment is missing": lambda s: replace(s, optimizer=dict(list(s.optimizer.items())[:-1])),
    "no moments": lambda s: replace(s, optimizer={}),
    "moments at step 0": lambda s: replace(s, step=0),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_a_snapshot_that_does_not_fit_changes_nothing(change: Callable[[Any], Any], session: Make) -> None:
    one, other = session(), session()
    for made in (one, other):
        made.step(0)
    other.step(1)
    before = copies(other)
    with pytest.raises(CheckpointError):
        trainer_of(other).restore(change(trainer_of(one).snapshot(1, [0.0])))
    assert [name for name, tensor in copies(other).items() if not tensor.equal(before[name])] == []


def test_weights_that_are_not_finite_are_not_saved(session: Make, tmp_path: Path) -> None:
    """Also when no gradient gave them away."""
    made = session()
    trainer = trainer_of(made)
    trainer.save(0)
    with torch.no_grad():
        made.step.parameters[0].view(-1)[0] = torch.nan
    with pytest.raises(NumericsError, match="step 1 is not saved: NaN or infinity in"):
        trainer.save(1)
    assert CheckpointStore(made.folder).steps() == [0]


def test_the_log_is_durable_before_the_checkpoint_is(session: Make, monkeypatch: Any) -> None:
    """Otherwise a power cut could leave a checkpoint whose past is not recorded."""
    order: list[str] = []
    monkeypatch.setattr(MetricsLog, "sync", lambda self: order.append("log"))
    real = CheckpointStore.save

    def saved(self: CheckpointStore, snapshot: Any, **options: Any) -> Path:
        order.append("checkpoint")
        return real(self, snapshot, **options)

    monkeypatch.setattr(CheckpointStore, "save", saved)
    trainer_of(session(settings={"training.steps": 1})).run(0, StopRequest())
    assert order == ["log", "checkpoint", "log", "checkpoint"]
