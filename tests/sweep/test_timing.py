"""The outlook of a sweep: which arms take the same time, and how long all of them take on W workers."""

import json
from pathlib import Path
from typing import Any

import pytest

from sfumato.errors import ConfigError
from sfumato.experiment.config import load_experiment
from sfumato.experiment.sweep import Outlook, Sweep, Way, Wish, axes_of, foresee, open_sweep, timing
from sfumato.experiment.sweep.standing import Moving, Standing, duration
from sfumato.experiment.sweep.timing import Pace, foreseen, kind_of


def opened(points: dict[str, Any], *axes: str, **more: Any) -> Sweep:
    return open_sweep(
        Wish("swiss-roll", axes_of(axes), points, runs=Path("nowhere"), name="x", **more), lambda text: None
    )


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"seed": 3, "schedule.betas": "cosine", "objective.distance": "mae"}, True),
        ({"training.learning_rate": 0.1, "training.steps": 5, "training.decay": "constant"}, True),
        ({"parameterization": "velocity"}, True),
        ({"network.widths": (8, 8)}, False),
        ({"training.batch_size": 9}, False),
        ({"training.threads": 2}, False),
        ({"data.count": 99}, False),
    ],
)
def test_arms_of_one_kind_take_the_same_time(settings: dict[str, Any], same: bool) -> None:
    base = load_experiment("swiss-roll", {"training.threads": 1})
    assert (kind_of(load_experiment(base, settings)) == kind_of(base)) is same


def test_the_whole_takes_its_longest_arm_and_an_even_share_at_least(points: dict[str, Any]) -> None:
    """Arms of 6, 6 and 60 seconds: 72 on one worker, 60 on two, since one arm cannot be divided."""
    found = opened(points, "training.steps=60,61,600")
    names = tuple(arm.name for arm in found.arms)
    paces = {name: Pace(0.1) for name in names}
    steps = {arm.name: found.experiment(arm).training.steps for arm in found.arms}
    for workers, seconds in ((1, 72.1), (2, 60.0), (3, 60.0)):
        assert Outlook(found, names, paces, steps, workers, 1).seconds == pytest.approx(seconds)
    even = {name: Pace(0.1 * 60 / steps[name]) for name in names}
    assert Outlook(found, names, even, steps, 2, 1).seconds == pytest.approx(9.0)  # 3 x 6 s on two workers
    assert Outlook(found, (), {}, {}, 2, 1).seconds == 0.0
    assert Outlook(found, names, {}, steps, 2, 1).seconds is None


def test_arms_that_trained_are_believed(whole: Sweep, tmp_path: Path) -> None:
    """Speeds that were logged are not measured again: the median of batch / images per second."""
    arm = whole.arms[0]
    logged = [json.loads(line) for line in (arm.folder / "metrics.jsonl").read_text().splitlines()]
    assert any("images_per_second" in line for line in logged)
    found = foreseen(whole, whole.arms, workers=1, timed=False)
    assert set(found.paces) == {one.name for one in whole.arms}  # one kind: the target and the distance cost nothing
    assert all(steps == 0 for steps in found.steps.values())
    assert found.seconds == 0.0


def test_one_arm_of_each_kind_is_timed(points: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def answer(texts: list[str], sweep: Sweep) -> list[dict[str, Any]]:
        asked.append(texts)
        return [{"seconds_per_step": 0.5, "parameters": 1, "memory_bytes": 10, "checkpoint_bytes": 7} for _ in texts]

    monkeypatch.setattr(timing, "_ask_process", answer)
    found = opened(points, "network.widths=[8,8],[16,16]", "objective.distance=mse,mae", seeds=2)
    outlook = foresee(found, Way(workers=2))
    assert [len(texts) for texts in asked] == [2]
    assert outlook.seconds == pytest.approx(8 * 6 * 0.5 / 2)
    assert outlook.disk_bytes == 8 * 2 * 7
    assert outlook.lines()[0] == "8 arms, 8 of them left; 2 at a time, 1 thread each"
    asked.clear()
    many = opened(points, f"training.batch_size={','.join(map(str, range(1, 31)))}")
    outlook = foresee(many, Way(workers=2))
    assert [len(texts) for texts in asked] == [8]
    assert any("8 of 30 kinds of arms were timed" in note for note in outlook.notes)
    assert len(outlook.paces) == 30
    assert sum(pace.measured for pace in outlook.paces.values()) == 8


def test_what_nobody_can_time_nobody_can_train(points: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every kind is refused its refusal is raised before anything starts; one among others is told."""
    refusal = {"error": {"code": "CONFIG", "what": "too wide", "expected": "less", "fix": "set network.widths: [8]"}}
    found = opened(points, "network.widths=[8,8],[16,16]")
    monkeypatch.setattr(timing, "_ask_process", lambda texts, sweep: [refusal for _ in texts])
    with pytest.raises(ConfigError, match="too wide"):
        foresee(found, Way())
    good = {"seconds_per_step": 0.5, "parameters": 1, "memory_bytes": 10, "checkpoint_bytes": 7}
    monkeypatch.setattr(timing, "_ask_process", lambda texts, sweep: [refusal, good])
    assert [note.partition(" ")[2] for note in foresee(found, Way()).notes] == ["cannot be forecast: too wide"]


def test_the_answer_of_the_process_that_times(points: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its forecast is that of `train --dry-run`; a refusal crosses as its three sentences."""
    from sfumato.experiment import forecast
    from sfumato.experiment.config import experiment_yaml

    monkeypatch.setattr(forecast, "PATIENCE", 0.05)
    base = load_experiment("swiss-roll", {**points, "training.threads": 1})
    answer = timing.answer_to(experiment_yaml(base))
    alone = forecast.forecast(base)
    assert {key: answer[key] for key in ("parameters", "memory_bytes", "checkpoint_bytes")} == {
        "parameters": alone.parameters,
        "memory_bytes": alone.memory_bytes,
        "checkpoint_bytes": alone.checkpoint_bytes,
    }
    assert 0 < answer["seconds_per_step"] < 10
    nowhere = load_experiment("swiss-roll", {"data.source": "folder", "data.path": "nowhere.npz"})
    assert timing.answer_to(experiment_yaml(nowhere))["error"]["code"] == "DATA"


def test_standing_in_words() -> None:
    moving = (Moving("a-s0", 1200, 3000), Moving("b-s0", 10, 3000))
    text = Standing(8, 3, 1, moving, 1800.0).in_words()
    assert text == "3/8 arms done, 1 failed: a-s0 1,200/3,000, b-s0 10/3,000; about 30 min left"
    assert Standing(8, 8, 0, (), None).in_words() == "8/8 arms done"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(45, "45 s"), (89, "89 s"), (600, "10 min"), (5400, "1 h 30 min"), (7200, "2 h"), (187200, "2 d 4 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
