"""The best checkpoint of a run: it has the best figure of the log, it loads, and a resumed run knows it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import sfumato
from sfumato.errors import CheckpointError, ConfigError
from sfumato.experiment.evaluation import evaluating
from sfumato.experiment.places import best_of
from sfumato.training.best import Best
from sfumato.training.checkpoint import CheckpointStore
from sfumato.training.ema import bare_state
from sfumato.training.record import MetricsLog

# A learning rate at which the held-out loss goes up and down, and averages of almost nothing.
RESTLESS = {
    "training.steps": 12,
    "seed": 1,
    "training.learning_rate": 0.5,
    "training.warmup_steps": 0,
    "training.ema_decay": 0.1,
    "training.decay": "constant",
    "training.evaluate_every": 1,
    "training.checkpoint_every": 4,
    "training.keep_best": "loss",
}
QUICK = {"evaluation.count": 20, "sampling.steps": 4}


class Notes:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, progress: object) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


def train(points: dict[str, Any], runs: Path, **more: Any) -> sfumato.Run:
    return sfumato.train("swiss-roll", {**points, **RESTLESS, **more}, runs=runs, name="run")


def logged(folder: Path, name: str) -> dict[int, float]:
    return {line["step"]: line[name] for line in MetricsLog.read(folder / "metrics.jsonl") if name in line}


def test_the_best_is_the_smallest_held_out_loss(points: dict[str, Any], tmp_path: Path) -> None:
    run = train(points, tmp_path)
    losses = logged(run.folder, "held_out_loss")
    step = min(losses, key=lambda k: losses[k])
    assert 1 < step < 8, "the best of this run must not be among its newest checkpoints, or nothing is tested"
    assert run.best is not None
    assert (run.best.step, run.best.value, run.best.measured) == (step, losses[step], 12)
    assert best_of(run.folder) == run.best
    assert CheckpointStore(run.folder).steps() == [step, 8, 12]
    for name in ("best", "checkpoints/best"):
        with pytest.warns(UserWarning, match=f"step {step}, held_out_loss .* the best of 12 .* flatters"):
            model = sfumato.load(run.folder / name)
        assert (model.steps_trained, model.folder) == (step, run.folder)
    assert sfumato.load(run).steps_trained == 12
    again = sfumato.evaluate(model, "loss", n=4).metrics["loss[held-out]"]
    assert again.provenance["steps_trained"] == step


def test_keeping_the_best_changes_nothing_else(points: dict[str, Any], tmp_path: Path) -> None:
    """The weights, the averages and the log are those of a run that keeps none."""
    kept = train(points, tmp_path / "kept")
    plain = train(points, tmp_path / "plain", **{"training.keep_best": None})
    assert plain.best is None
    for weights in ("ema", "live"):
        one, other = (bare_state(sfumato.load(run).weights[weights].network) for run in (kept, plain))
        assert all(one[name].equal(other[name]) for name in other)
    assert logged(kept.folder, "held_out_loss") == logged(plain.folder, "held_out_loss")
    assert CheckpointStore(plain.folder).steps() == [8, 12]
    with pytest.raises(CheckpointError, match="keeps no best checkpoint"):
        sfumato.load(plain.folder / "best")


@pytest.mark.parametrize("stopped", [1, 4, 8, 11])
def test_a_resumed_run_knows_its_best(stopped: int, points: dict[str, Any], tmp_path: Path) -> None:
    """Stopped anywhere and gone on: the same best, and it and the last are the same to the last byte."""
    whole = train(points, tmp_path / "whole")
    part = train(points, tmp_path / "part", **{"training.steps": stopped})
    gone_on = sfumato.resume(part.folder, {"training.steps": 12})
    assert gone_on.best == whole.best
    assert whole.best is not None
    assert len(CheckpointStore(part.folder).steps()) == 3
    for step in (whole.best.step, 12):
        name = f"checkpoints/step-{step:08d}/model.safetensors"
        assert (part.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_best_checkpoint_that_is_gone(points: dict[str, Any], tmp_path: Path) -> None:
    """Told to whoever loads it; a resumed run keeps the best of what follows."""
    run = train(points, tmp_path)
    assert run.best is not None
    shutil.rmtree(run.folder / f"checkpoints/step-{run.best.step:08d}")
    with pytest.raises(CheckpointError, match="is gone"):
        sfumato.load(run.folder / "best")
    notes = Notes()
    gone_on = sfumato.resume(run.folder, {"training.steps": 14}, reporter=notes)
    assert any(f"of step {run.best.step}, is gone" in note for note in notes.notes)
    assert gone_on.best is not None
    assert gone_on.best.step in (13, 14)


def test_another_figure_may_decide_from_now_on(points: dict[str, Any], tmp_path: Path) -> None:
    """keep_best may be changed on the way: it changes no weights."""
    run = train(points, tmp_path, **{"training.keep_best": None})
    gone_on = sfumato.resume(run.folder, {"training.steps": 14, "training.keep_best": "loss"})
    assert gone_on.best is not None
    assert (gone_on.best.measured, gone_on.best.step in (13, 14)) == (2, True)


def test_the_best_by_a_metric_of_samples(points: dict[str, Any], tmp_path: Path) -> None:
    """Measured in training as `evaluate` measures it afterwards, by the averages of that step: the same number."""
    run = train(points, tmp_path, **QUICK, **{"training.keep_best": "energy_distance", "training.evaluate_every": 3})
    distances = logged(run.folder, "energy_distance")
    assert sorted(distances) == [3, 6, 9, 12]
    step = min(distances, key=lambda k: distances[k])
    assert run.best == Best(
        "energy_distance", step, distances[step], logged(run.folder, "energy_distance_std_error")[step], 4
    )
    model = sfumato.load(run.folder / "checkpoints" / f"step-{step:08d}")
    found = sfumato.evaluate(model, "energy_distance", n=20).metrics["energy_distance"]
    assert found.value == pytest.approx(distances[step], rel=1e-9)  # float64 in both


def test_a_metric_that_is_better_high(points: dict[str, Any], tmp_path: Path) -> None:
    more = {"data.source": "mixture", "training.keep_best": "mode_coverage", "training.evaluate_every": 4}
    run = train(points, tmp_path, **QUICK, **more)
    found = logged(run.folder, "mode_coverage")
    assert run.best is not None
    assert run.best.value == max(found.values())


def test_a_number_that_is_not_to_be_had_is_not_worth_a_run(
    points: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sfumato.errors import NumericsError
    from sfumato.experiment import evaluation

    def refused(*args: object, **options: object) -> None:
        raise NumericsError("the flow does not arrive", expected="a flow", fix="train on")

    monkeypatch.setattr(evaluation, "evaluate", refused)
    notes = Notes()
    settings = {**points, **RESTLESS, "training.keep_best": "nll[flow]", "training.evaluate_every": 6}
    run = sfumato.train("swiss-roll", settings, runs=tmp_path, reporter=notes)
    assert run.best is None
    assert sum("nll[flow] was not measured after step" in note for note in notes.notes) == 2


@pytest.mark.parametrize(
    ("recipe", "changes", "words"),
    [
        ("swiss-roll", {"training.keep_best": "energy_distanc"}, "there is no metric 'energy_distanc'"),
        ("swiss-roll", {"training.keep_best": "bits_per_dim"}, "continuous"),
        ("swiss-roll", {"training.keep_best": "mode_coverage"}, "no modes"),
        ("swiss-roll", {"training.keep_best": "loss[training]"}, "neither more nor less"),
        ("swiss-roll", {"training.keep_best": "energy_distance[floor]"}, "neither more nor less"),
        ("swiss-roll", {"data.held_out": 0.0}, "0 examples are held out"),
        ("swiss-roll", {"training.evaluate_every": 0}, "evaluate_every is 0"),
        ("digits", {"training.keep_best": "mmd"}, "pictures"),
        ("digits", {"training.keep_best": "label_agreement"}, "trained without labels"),
    ],
)
def test_what_cannot_decide_is_refused_before_training(
    recipe: str, changes: dict[str, Any], words: str, tmp_path: Path, points: dict[str, Any], digits: dict[str, Any]
) -> None:
    settings = {**(points if recipe == "swiss-roll" else digits), **RESTLESS, **changes}
    with pytest.raises(ConfigError, match=words):
        sfumato.train(recipe, settings, runs=tmp_path / "runs")
    assert not list(tmp_path.glob("runs/*"))


def test_one_of_several_processes_measures_by_itself(
    points: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go on with training and never answer: whoever asked them would wait for ever."""

    def together() -> None:
        raise AssertionError("asked the other processes")

    monkeypatch.setattr(evaluating, "gathered_team", together)
    run = train(points, tmp_path, **QUICK, **{"training.keep_best": "energy_distance", "training.evaluate_every": 6})
    assert run.best is not None
