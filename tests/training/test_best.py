"""Which checkpoint is the best: the rule, and that it stays when others go."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.errors import ConfigError
from sfumato.training import storage
from sfumato.training.best import Best, KeepBest
from sfumato.training.checkpoint import CheckpointStore, Snapshot
from sfumato.training.settings import TrainingConfig


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_flush", lambda descriptor: None)


def walked(values: list[Any], *, higher: bool = False, name: str = "held_out_loss") -> list[int]:
    """The best step after each of steps 1, 2, …; 0 for none."""
    rule, best, found = KeepBest(name, higher=higher, every=1), None, []
    for step, value in enumerate(values, start=1):
        best = rule.after(best, step, {"loss": 0.0, name: value})
        found.append(0 if best is None else best.step)
    return found


def test_the_earliest_of_the_smallest_is_the_best() -> None:
    assert walked([3.0, 2.0, 2.5, 2.0, 1.0, 4.0]) == [1, 2, 2, 2, 5, 5]
    assert walked([1, 2, 3, 3, 0], higher=True) == [1, 2, 3, 3, 3]
    assert walked([math.nan, None, 2.0, math.inf, 1.0]) == [0, 0, 3, 3, 5]


def test_what_is_told_of_the_best() -> None:
    rule = KeepBest("held_out_loss", higher=False, every=1)
    first = rule.after(None, 10, {"held_out_loss": 0.5, "held_out_std_error": 0.01})
    second = rule.after(first, 20, {"held_out_loss": 0.7, "held_out_std_error": 0.02})
    assert second == Best("held_out_loss", 10, 0.5, 0.01, 2)
    assert rule.after(second, 25, {"loss": 0.1}) == second  # not measured
    assert str(second) == "step 10, held_out_loss 0.5 ± 0.01, the best of 2"
    assert Best.from_plain(second.to_plain()) == second
    for plain in (None, {}, {**second.to_plain(), "step": -1}, {**second.to_plain(), "value": "0"}):
        assert Best.from_plain(plain) is None


def test_a_metric_by_the_name_before_its_bracket() -> None:
    rule = KeepBest("kid", higher=False, every=1)
    found = rule.after(None, 5, {"kid[judge]_std_error": 0.1, "kid[judge]": 0.3, "kidding": 0.0})
    assert found == Best("kid[judge]", 5, 0.3, 0.1, 1)
    assert KeepBest("nll[flow]", higher=False, every=1).measured({"nll[bound]": 1.0, "nll[flow]": 2.0}) == "nll[flow]"


def snapshot(step: int) -> Snapshot:
    weights = {"w": torch.full((3,), float(step))}
    return Snapshot(step, step, weights, {"0.9": weights}, {}, {"ema_decay": 0.9})


def test_the_best_checkpoint_stays(tmp_path: Path) -> None:
    """Beside the newest two, wherever it is among them; when another is better, it goes."""
    store, kept = CheckpointStore(tmp_path), []
    for step, best in [(1, 1), (2, 1), (3, 1), (4, 1), (5, 5), (6, 5), (7, 5), (8, None)]:
        store.save(snapshot(step), best=best)
        kept.append(store.steps())
    assert kept == [[1], [1, 2], [1, 2, 3], [1, 3, 4], [4, 5], [5, 6], [5, 6, 7], [7, 8]]


def test_a_figure_that_is_never_measured_decides_nothing() -> None:
    with pytest.raises(ConfigError, match=r"training\.evaluate_every is 0"):
        TrainingConfig(keep_best="loss", evaluate_every=0)


def test_space_for_one_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three checkpoints and the best: asked for before training."""
    store = CheckpointStore(tmp_path)
    needed = store.required_bytes(snapshot(1))
    monkeypatch.setattr(storage.LocalStorage, "free_space", lambda self, folder: int(3.5 * needed))
    store.require_free_space(snapshot(1))
    with pytest.raises(OSError, match="too little space"):
        store.require_free_space(snapshot(1), times=4)
