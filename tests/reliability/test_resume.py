"""A run that was stopped, however and however often, ends as if it had never been: every bit of what it leaves."""

import json
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import sfumato
from sfumato.core import LearnedLogSnr, LossAwareTimes
from sfumato.errors import CheckpointError, Interrupted
from sfumato.training.checkpoint import CheckpointStore
from sfumato.training.step import StepResult, TrainStep

STEPS = 10
SAVED_EVERY = 4


REMEMBERING = {"times.kind": "LossAwareTimes", "times.history": 2}  # warm after the fourth step of eight examples

LEARNED = {
    "schedule": LearnedLogSnr(5),
    "times": "UniformTimes",
    "time_input": "LogSnrInput",
    "network": {"kind": "FourierMlp", "width": 8, "depth": 1},
    "objective.weighting": "Elbo",
    "sampling.sampler": "Ddim",
}
CHAIN_ONLY = ("network.widths", "schedule.steps", "times.steps", "time_input.steps")


def without(settings: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in keys}


class Crash(BaseException):
    """The process is gone, as far as the run can tell."""


def crash() -> None:
    raise Crash


def ask_to_stop() -> None:
    signal.raise_signal(signal.SIGTERM)


@pytest.fixture(
    scope="module", params=["unet", "unet, accumulated", "points", "times that remember", "learned schedule"]
)
def experiment(request: pytest.FixtureRequest, digits: dict[str, Any], points: dict[str, Any]) -> tuple[str, Any]:
    """A recipe with what makes it small. The U-Net has batch norm and, where the hardware has it, bfloat16."""
    return {
        "unet": ("digits", digits),
        "unet, accumulated": ("digits", {**digits, "training.accumulate": 2, "training.precision": "float32"}),
        "points": ("swiss-roll", points),
        "times that remember": ("swiss-roll", {**without(points, "times.steps"), **REMEMBERING}),
        "learned schedule": ("swiss-roll", {**without(points, *CHAIN_ONLY), **LEARNED}),
    }[request.param]


@pytest.fixture(scope="module")
def uninterrupted(experiment: tuple[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe, settings = experiment
    return sfumato.train(recipe, settings, runs=tmp_path_factory.mktemp("whole"), name="run").folder


@pytest.mark.parametrize("act", [ask_to_stop, crash])
def test_interrupted_after_every_step(
    act: Callable[[], None],
    experiment: tuple[str, Any],
    uninterrupted: Path,
    watcher: Any,
    tmp_path: Path,
    same_remains: Callable[[Path, Path], None],
) -> None:
    """Stopped after each step it takes: asked to (saved there), or dead (back to the last checkpoint)."""
    recipe, settings = experiment
    folder, stops = tmp_path / "run", 0
    begin = partial(sfumato.train, recipe, settings, runs=tmp_path, name="run")
    for k in range(1, STEPS):
        go_on = begin if k == 1 else partial(sfumato.resume, folder)
        with pytest.raises((Interrupted, Crash)):
            go_on(reporter=watcher({k: act}))
        stops += 1
        assert CheckpointStore(folder).steps()[-1] == (k if act is ask_to_stop else k // SAVED_EVERY * SAVED_EVERY)
    sfumato.resume(folder)
    assert stops == STEPS - 1
    same_remains(folder, uninterrupted)


@pytest.mark.parametrize("k", range(1, STEPS))
def test_interrupted_once(
    k: int,
    experiment: tuple[str, Any],
    uninterrupted: Path,
    watcher: Any,
    tmp_path: Path,
    same_remains: Callable[[Path, Path], None],
) -> None:
    """Stopped after step k alone, on a checkpoint boundary or off it; the rest in one go."""
    recipe, settings = experiment
    with pytest.raises(Interrupted):
        sfumato.train(recipe, settings, runs=tmp_path, name="run", reporter=watcher({k: ask_to_stop}))
    sfumato.resume(tmp_path / "run")
    same_remains(tmp_path / "run", uninterrupted)


def test_a_finished_run_extended_is_the_longer_run(
    experiment: tuple[str, Any], tmp_path: Path, same_remains: Callable[[Path, Path], None]
) -> None:
    """With a constant rate; the lengths are multiples of the intervals, since the last step is always logged."""
    recipe, settings = experiment
    intervals = ("log", "evaluate", "preview", "checkpoint")
    settings = {**settings, **{f"training.{name}_every": 3 for name in intervals}, "training.decay": "constant"}
    short = sfumato.train(recipe, {**settings, "training.steps": 6}, runs=tmp_path, name="run").folder
    sfumato.resume(short, {"training.steps": 12})
    whole = sfumato.train(recipe, {**settings, "training.steps": 12}, runs=tmp_path / "whole", name="run").folder
    same_remains(short, whole)


def test_step_0_is_saved_before_step_1(points: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    real = TrainStep.__call__

    def watched(self: TrainStep, step: int) -> StepResult:
        seen.append(CheckpointStore(tmp_path / "run").steps())
        return real(self, step)

    monkeypatch.setattr(TrainStep, "__call__", watched)
    sfumato.train("swiss-roll", points, runs=tmp_path, name="run")
    assert seen[0] == [0]


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    points: dict[str, Any], tmp_path: Path, watcher: Any, same_remains: Callable[[Path, Path], None]
) -> None:
    """Its settings are all there is of it, and all that it depends on."""
    whole = sfumato.train("swiss-roll", points, runs=tmp_path / "whole", name="run").folder
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_bytes((whole / "config.yaml").read_bytes())
    reporter = watcher()
    sfumato.resume(folder, reporter=reporter)
    assert any("starts at step 0" in note for note in reporter.notes)
    same_remains(folder, whole)


def test_what_a_killed_save_left_is_swept(points: dict[str, Any], tmp_path: Path, watcher: Any) -> None:
    with pytest.raises(Crash):
        sfumato.train("swiss-roll", points, runs=tmp_path, name="run", reporter=watcher({6: crash}))
    left = tmp_path / "run" / "checkpoints" / ".tmp-step-00000005"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    sfumato.resume(tmp_path / "run")
    assert sorted(path.name for path in left.parent.iterdir()) == ["step-00000008", "step-00000010"]


def test_times_that_remember_follow_the_losses(points: dict[str, Any], tmp_path: Path) -> None:
    """What the other tests compare is there: a warm memory in its own file, and times that are no longer uniform."""
    settings = {**without(points, "times.steps"), **REMEMBERING}
    folder = sfumato.train("swiss-roll", settings, runs=tmp_path, name="run").folder
    store = CheckpointStore(folder)
    first, last = (store.load(store.folder / f"step-{step:08d}").memory for step in (8, 10))
    assert {name: tuple(tensor.shape) for name, tensor in last.items()} == {"losses": (10, 2), "seen": (10,)}
    assert int(last["seen"].sum()) == 80  # every example of every step, once
    assert int(first["seen"].min()) >= 2
    assert "times.safetensors" in (store.folder / "step-00000010" / "MANIFEST.json").read_text()


def test_a_missing_memory_is_refused(points: dict[str, Any], tmp_path: Path, watcher: Any) -> None:
    """A checkpoint without the file, whose manifest hides that; and one whose run had other times until now."""
    settings = {**without(points, "times.steps"), **REMEMBERING}
    with pytest.raises(Interrupted):
        sfumato.train("swiss-roll", settings, runs=tmp_path, name="run", reporter=watcher({8: ask_to_stop}))
    for folder in (tmp_path / "run" / "checkpoints").glob("step-*"):
        (folder / "times.safetensors").unlink()
        manifest = json.loads((folder / "MANIFEST.json").read_text())
        del manifest["files"]["times.safetensors"]
        (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"step 8 holds no memory of losses \(times.safetensors\)"):
        sfumato.resume(tmp_path / "run")


def test_a_run_may_turn_to_its_losses(points: dict[str, Any], tmp_path: Path, watcher: Any) -> None:
    with pytest.raises(Interrupted):
        sfumato.train("swiss-roll", points, runs=tmp_path, name="run", reporter=watcher({4: ask_to_stop}))
    reporter = watcher()
    run = sfumato.resume(tmp_path / "run", {"times": LossAwareTimes()}, allow_change=["times"], reporter=reporter)
    assert run.steps == STEPS
    assert any("remember no losses yet" in note for note in reporter.notes)
    store = CheckpointStore(run.folder)
    assert int(store.load(store.find()).memory["seen"].sum()) == 8 * (STEPS - 4)


def test_another_history_does_not_fit(points: dict[str, Any], tmp_path: Path, watcher: Any) -> None:
    settings = {**without(points, "times.steps"), **REMEMBERING}
    with pytest.raises(Interrupted):
        sfumato.train("swiss-roll", settings, runs=tmp_path, name="run", reporter=watcher({4: ask_to_stop}))
    with pytest.raises(CheckpointError, match=r"memory of losses in the checkpoint does not fit .*: losses"):
        sfumato.resume(tmp_path / "run", {"times.history": 5}, allow_change=["times"])
