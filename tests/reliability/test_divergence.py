"""E8, E11: a loss that is not finite stops the run before it touches a weight, says where, and saves nothing over."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sfumato
from sfumato.errors import NumericsError
from sfumato.experiment.build import prepare_data
from sfumato.experiment.config import load_experiment
from sfumato.nn import StepMlp
from sfumato.training.checkpoint import CheckpointStore
from sfumato.training.step import TrainStep


def test_an_absurd_learning_rate(points: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    """E11. Through the command line's eyes: exit code 5, three lines, the last good checkpoint is there."""
    absurd = {
        **points,
        "training.learning_rate": 10.0,
        "training.clip_norm": None,
        "training.warmup_steps": 0,
        "training.steps": 5000,
        "training.checkpoint_every": 1,
        "training.preview_every": 0,
        "training.evaluate_every": 0,
        "training.weight_decay": 3.0,  # times the rate: each step multiplies the weights by 1 - 30
        "network.widths": (16, 16, 16, 16),
    }
    with pytest.raises(NumericsError) as caught:
        sfumato.train("swiss-roll", absurd, runs=tmp_path, name="run")
    assert caught.value.exit_code == 5
    assert "training.learning_rate" in caught.value.fix
    store = CheckpointStore(tmp_path / "run")
    snapshot = store.load(store.find(pytest.fail))
    assert snapshot.step >= 1
    assert all(bool(tensor.isfinite().all()) for tensor in snapshot.model.values())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_poisoned_step(
    accumulate: int, points: dict[str, Any], tmp_path: Path, monkeypatch: Any, one_finished: Path, same_remains: Any
) -> None:
    """E8: the network answers NaN at step 7 for one example of the batch: the message names exactly that one."""
    poison = {"step": 6, "position": 5}
    now: list[int] = []
    steps: list[Any] = []
    real_step, real_forward = TrainStep.__call__, StepMlp.forward

    def stepped(self: TrainStep, step: int) -> Any:
        now[:] = [step, 0]
        steps[:] = [self]
        return real_step(self, step)

    def poisoned(self: StepMlp, x: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
        out = real_forward(self, x, time, cond)
        if now[:1] == [poison["step"]] and self is steps[0].denoiser.network:
            first = now[1] % 8  # the batch comes in parts, and once more when the culprit is looked for
            now[1] += len(x)
            mask = torch.zeros(len(x), 1)
            if first <= poison["position"] < first + len(x):
                mask[poison["position"] - first] = torch.nan
            out = out + mask
        return out

    monkeypatch.setattr(TrainStep, "__call__", stepped)
    monkeypatch.setattr(StepMlp, "forward", poisoned)
    settings = {**points, "training.accumulate": accumulate}
    with pytest.raises(NumericsError) as caught:
        sfumato.train("swiss-roll", settings, runs=tmp_path, name="run")
    experiment = load_experiment("swiss-roll", settings)
    example = int(steps[0].batches.batch(6).indices[5])
    drawn = steps[0].times.draw(experiment.schedule, 8, _generator(6))
    level = float(experiment.schedule.rates(drawn.t[5]).log_snr)
    assert caught.value.what.startswith("step 7: loss nan, gradient norm nan; ")
    assert f"at log-SNR {level:.2f}, example {example} of the data" in caught.value.what
    assert example < len(prepare_data(experiment).packed)
    live = steps[0].denoiser.network.state_dict()
    assert all(bool(tensor.isfinite().all()) for tensor in live.values())  # before the step, and whole
    assert CheckpointStore(tmp_path / "run").steps() == [0, 4]
    if accumulate == 1:
        monkeypatch.undo()
        sfumato.resume(tmp_path / "run")
        same_remains(tmp_path / "run", one_finished)


def _generator(step: int) -> torch.Generator:
    from sfumato.core import derived_generator

    return derived_generator(0, "times", step)
