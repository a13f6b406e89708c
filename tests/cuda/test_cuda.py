"""What only a GPU can show; every test here is skipped, visibly, without one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.errors import NumericsError
from sfumato.experiment.build import prepare_data
from sfumato.experiment.config import load_experiment
from sfumato.experiment.load import load
from sfumato.experiment.reporting import Silent
from sfumato.experiment.run import resume, train
from sfumato.experiment.session import Session
from sfumato.training.engine import resolve
from sfumato.training.trainer import flatten_optimizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

SMALL = {
    "training.steps": 40,
    "training.batch_size": 32,
    "training.checkpoint_every": 20,
    "training.preview_every": 0,
    "training.log_every": 10,
    "training.compile": "off",
    "training.device": "cuda",
    "network.widths": [16, 32],
}


def losses(folder: Path) -> list[float]:
    """The logged training losses of a run."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_training_learns_and_its_pictures_are_those_of_the_cpu(tmp_path: Path) -> None:
    """The loss falls on the device, and a sample differs from the CPU's by at most one level of 255 in float32."""
    run = train("digits", SMALL, runs=tmp_path)
    found = losses(run.folder)
    assert found[-1] < 0.95 * found[0]  # 40 steps of warm-up: 0.85 to 0.72 where it was first run
    pictures = [load(run, device=device).sample(16, steps=10, seed=3).images for device in ("cpu", "cuda")]
    assert pictures[0] is not None
    assert pictures[1] is not None
    difference = np.abs(pictures[0].astype(int) - pictures[1].astype(int))
    assert difference.max() <= 1  # rounding to 8 bits of values that agree to float32


def test_resuming_continues_the_same_noise_and_data(tmp_path: Path) -> None:
    """Stopped at half and extended, a run ends where the straight one does, to the non-determinism of CUDA kernels."""
    straight = train("digits", SMALL | {"training.decay": "constant"}, runs=tmp_path, name="straight")
    train("digits", SMALL | {"training.decay": "constant", "training.steps": 20}, runs=tmp_path, name="halved")
    halved = resume(tmp_path / "halved", {"training.steps": 40})
    ends = [load(run).weights["live"].network.state_dict() for run in (straight, halved)]
    for name, tensor in ends[0].items():
        if tensor.is_floating_point():
            torch.testing.assert_close(ends[1][name], tensor, rtol=0.02, atol=0.02)  # bfloat16, atomics: not bitwise


def test_a_skipped_step_leaves_every_bit(tmp_path: Path) -> None:
    """Poisoned gradients on the device: weights, moments and averages keep their bits, and `check` tells."""
    experiment = load_experiment("digits", SMALL | {"training.precision": "float32"})
    data = prepare_data(experiment)
    experiment = replace(experiment, training=resolve(experiment.training, is_image=True))
    step = Session(experiment, data, folder=tmp_path, reporter=Silent()).step
    step(0)
    before = {name: tensor.clone() for name, tensor in flatten_optimizer(step).items()}
    weights = [parameter.detach().clone() for parameter in step.parameters]
    averages = {name: tensor.clone() for name, tensor in step.ema.state_dict().items()}
    handle = step.parameters[0].register_hook(lambda gradient: gradient * float("nan"))
    step(1)
    handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(weights, step.parameters, strict=True))
    after = flatten_optimizer(step)
    assert all(torch.equal(before[name], after[name]) for name in before)
    names = {name for name, _ in step.denoiser.network.named_parameters()}
    assert all(torch.equal(averages[name], tensor) for name, tensor in step.ema.state_dict().items() if name in names)
    with pytest.raises(NumericsError, match="non-finite gradient"):
        step.check(2)


def test_compiled_training_agrees_with_eager(tmp_path: Path) -> None:
    """`training.compile: on` changes speed, not what is learnt."""
    eager = train("digits", SMALL, runs=tmp_path, name="eager")
    compiled = train("digits", SMALL | {"training.compile": "on"}, runs=tmp_path, name="compiled")
    assert losses(compiled.folder)[-1] == pytest.approx(losses(eager.folder)[-1], rel=0.05)  # bfloat16 rounding


def test_a_conditional_network_is_told_the_same_when_compiled(tmp_path: Path) -> None:
    """A class and a picture with holes, through CUDA graphs and without: the same is learnt."""
    told = {"condition.labels": True, "condition.image": {"kind": "Holes"}}
    eager = train("digits", SMALL | told, runs=tmp_path, name="eager")
    compiled = train("digits", SMALL | told | {"training.compile": "on"}, runs=tmp_path, name="compiled")
    assert losses(compiled.folder)[-1] == pytest.approx(losses(eager.folder)[-1], rel=0.05)  # bfloat16 rounding


KINDS = {
    "learned schedule": {
        "schedule": "LearnedLogSnr",
        "times": "UniformTimes",
        "time_input": "LogSnrInput",
        "objective.weighting": "Elbo",
    },
    "loss-aware times": {"times": {"kind": "LossAwareTimes", "bins": 8, "history": 2}},
    "sliced score matching": {
        "objective": {"kind": "SlicedScoreMatching", "probes": 2, "weighted": True},
        "time_input": "LogSnrInput",
    },
}


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_training_that_looks_back_at_its_losses(settings: dict[str, object], tmp_path: Path) -> None:
    """Clocks, memories and derivatives by the input: trained on the device, stopped at half, resumed, loaded, drawn."""
    points = {
        **{key: value for key, value in SMALL.items() if not key.startswith("network")},
        "data.source": "swiss-roll",
        "data.normalize": "standardize",
        "network": {"kind": "FourierMlp", "width": 32, "depth": 1},
        "training.decay": "constant",
        "training.learning_rate": 0.01,
        **settings,
    }
    straight = train("digits", points, runs=tmp_path, name="straight")
    train("digits", {**points, "training.steps": 20}, runs=tmp_path, name="halved")
    halved = resume(tmp_path / "halved", {"training.steps": 40})
    ends = [load(run).weights["live"].network.state_dict() for run in (straight, halved)]
    for name, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][name], tensor, rtol=1e-3, atol=1e-3)  # atomics: not bitwise
    if "schedule" in settings:
        assert float(ends[0]["noise_schedule.logits"].abs().max()) > 0.02  # 40 warm-up steps of Adam
    drawn = load(straight).sample(8, steps=5).values
    assert drawn is not None
    assert np.isfinite(drawn).all()
