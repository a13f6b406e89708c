"""A learned schedule through a run: trained, logged, averaged, saved, exported, loaded, and used by its own weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sfumato
from sfumato.cli import main as cli
from sfumato.core import LearnedLogSnr, NoiseSource, PiecewiseLogSnr
from sfumato.experiment.build import prepare_data
from sfumato.experiment.config import load_experiment
from sfumato.experiment.load import export, load
from sfumato.experiment.model import Model
from sfumato.figures.named import named_schedules, schedule_of, title_of
from sfumato.samplers import Ddim, Trailing, sample
from sfumato.training.checkpoint import CheckpointStore
from sfumato.training.record import MetricsLog

KNOTS = 6
LEARNED: dict[str, Any] = {
    "schedule": LearnedLogSnr(KNOTS, -8.0, 9.0),
    "times": "UniformTimes",
    "time_input": "LogSnrInput",
    "network": {"kind": "FourierMlp", "width": 16, "depth": 1},
    "parameterization": "Velocity",
    "objective.weighting": "Elbo",
    "sampling.sampler": "Ddim",
    "training.learning_rate": 0.05,
    "training.weight_decay": 0.5,
}
BOUND: dict[str, Any] = {
    "schedule": LearnedLogSnr(KNOTS, -8.0, 9.0, learn_ends=True),
    "objective": "ContinuousBound",
}
TABLE_ONLY = ("network.widths", "schedule.steps", "times.steps", "time_input.steps")


@pytest.fixture
def settings(points: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in points.items() if key not in TABLE_ONLY} | LEARNED


@pytest.fixture
def run(settings: dict[str, Any], tmp_path: Path) -> Path:
    return sfumato.train("swiss-roll", settings, runs=tmp_path, name="run").folder


@pytest.fixture
def bound(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that train the ends as well."""
    return {key: value for key, value in settings.items() if not key.startswith("objective")} | BOUND


def knots_of(model: Model, weights: str = "ema") -> torch.Tensor:
    schedule = model.weights[weights].schedule
    assert isinstance(schedule, PiecewiseLogSnr)
    return schedule.values


def test_it_is_trained_and_averaged(run: Path) -> None:
    """Its logits are among the weights of the checkpoint; live and averaged ones differ, and neither is the start."""
    store = CheckpointStore(run)
    snapshot = store.load(store.find())
    live, averaged = (part["noise_schedule.logits"] for part in (snapshot.model, snapshot.ema["0.5"]))
    assert live.shape == (KNOTS,)
    assert float(live.abs().max()) > 0.05  # six steps of Adam at up to 0.05, not pulled back by weight decay
    assert not live.equal(averaged)
    assert {"exp_avg.noise_schedule.logits", "exp_avg_sq.noise_schedule.logits"} <= set(snapshot.optimizer)
    model = load(run)
    for weights, logits in (("live", live), ("ema", averaged)):
        shares = 0.99 * logits.double().softmax(0) + 0.01 / KNOTS
        expected = torch.cat([torch.zeros(1), shares.cumsum(0)]).double() * -17 + 9
        torch.testing.assert_close(knots_of(model, weights), expected, rtol=0, atol=1e-6)


def test_it_is_logged_when_it_is_evaluated(run: Path) -> None:
    lines = [line for line in MetricsLog.read(run / "metrics.jsonl") if "log_snr_knots" in line]
    assert [line["step"] for line in lines] == [3, 6]
    assert all("held_out_loss" in line for line in lines)
    assert lines[-1]["log_snr_knots"] == knots_of(load(run)).tolist()  # the averages, to the bit
    assert lines[0]["log_snr_knots"] != lines[1]["log_snr_knots"]


def test_each_weights_are_sampled_on_their_own_schedule(run: Path) -> None:
    """`Model.sample` walks the grid of the weights that it was asked for: by hand, on their denoiser."""
    model = load(run)
    for weights in ("ema", "live"):
        found = model.sample(4, steps=5, seed=2, weights=weights).values
        denoiser = model.weights[weights]
        assert found is not None
        start = NoiseSource.of(seed=2, count=16).initial((16, 2), like=torch.empty(0))
        times = Trailing().times(denoiser.schedule, 5)
        with torch.no_grad():
            *_, last = sample(Ddim(), denoiser, start, times, noise=NoiseSource.of(seed=2, count=16))
        clipped = model.experiment.sampling.clip and model.record.normalization.low is not None
        assert not clipped
        np.testing.assert_array_equal(found, model.record.normalization.to_data(last.x[:4]).numpy())


def test_an_exported_file_holds_it(run: Path, tmp_path: Path) -> None:
    file = export(run, tmp_path / "model.safetensors")
    one, other = load(run), load(file)
    assert knots_of(one).equal(knots_of(other))
    first, second = (model.sample(3, steps=4).values for model in (one, other))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first, second)


def test_it_starts_a_run_from_another(run: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    again = sfumato.train(
        "swiss-roll", {**settings, "training.init_from": str(run), "training.steps": 1}, runs=tmp_path, name="again"
    )
    store = CheckpointStore(again.folder)
    begun = store.load(store.folder / "step-00000000").model["noise_schedule.logits"]
    shares = 0.99 * begun.double().softmax(0) + 0.01 / KNOTS
    torch.testing.assert_close(9 - 17 * shares.cumsum(0)[:-1], knots_of(load(run))[1:-1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("clip", [1e-4, None])
def test_its_gradient_is_not_in_the_norm_that_clips(
    clip: float | None, settings: dict[str, Any], tmp_path: Path
) -> None:
    """The logged norm is the network's; clipping it to next to nothing does not slow the schedule, Adam's or not."""
    run = sfumato.train("swiss-roll", {**settings, "training.clip_norm": clip, "training.steps": 1}, runs=tmp_path)
    store = CheckpointStore(run.folder)
    moments = store.load(store.find()).optimizer
    sizes = {name: float(t.square().sum().sqrt()) * 10 for name, t in moments.items() if name.startswith("exp_avg.")}
    network = sum(size**2 for name, size in sizes.items() if "noise_schedule" not in name) ** 0.5
    logged = MetricsLog.read(run.folder / "metrics.jsonl")[-1]["grad_norm"]
    assert network == pytest.approx(logged if clip is None else clip, rel=1e-4)
    assert sizes["exp_avg.noise_schedule.logits"] > 1e-3


def test_its_ends_are_trained_averaged_saved_and_exported(bound: dict[str, Any], tmp_path: Path) -> None:
    """Two numbers beside the logits; the log, the checkpoint and an exported file agree on them."""
    run = sfumato.train("swiss-roll", bound, runs=tmp_path, name="run").folder
    store = CheckpointStore(run)
    snapshot = store.load(store.find())
    live, averaged = (part["noise_schedule.ends"] for part in (snapshot.model, snapshot.ema["0.5"]))
    assert float(live.abs().min()) > 0.02  # six steps of Adam at up to 0.05
    assert not live.equal(averaged)
    assert {"exp_avg.noise_schedule.ends", "exp_avg_sq.noise_schedule.ends"} <= set(snapshot.optimizer)
    model = load(run)
    begun_at, middle = torch.tensor([9.0, -8.0]).double(), 0.5
    room = torch.tensor([19.5, -20.5]).double()
    share = ((begun_at - middle) / room - 0.001) / 0.998
    for weights, ends in (("live", live), ("ema", averaged)):
        expected = middle + room * (0.001 + 0.998 * (share.logit() + ends.double()).sigmoid())
        torch.testing.assert_close(knots_of(model, weights)[[0, -1]], expected, rtol=0, atol=1e-9)
    lines = [line for line in MetricsLog.read(run / "metrics.jsonl") if "log_snr_knots" in line]
    assert lines[-1]["log_snr_knots"] == knots_of(model).tolist()
    file = load(export(run, tmp_path / "model.safetensors"))
    assert knots_of(file).equal(knots_of(model))
    first, second = (made.sample(3, steps=4).values for made in (model, file))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first, second)


def test_ends_that_are_not_trained_leave_no_trace(run: Path) -> None:
    store = CheckpointStore(run)
    assert not [name for name in store.load(store.find()).model if name.endswith(".ends")]


def test_the_held_out_loss_is_the_bound_that_is_evaluated(bound: dict[str, Any], tmp_path: Path) -> None:
    """`log_prob(method="bound")` of the same points, in nats per dimension of the data: both say -log p ≤ that."""
    changes = {"data.count": 600, "data.held_out": 0.5, "evaluation.count": 256, "evaluation.noise_levels": 16}
    run = sfumato.train("swiss-roll", {**bound, **changes}, runs=tmp_path, name="run").folder
    model = load(run)
    data = prepare_data(model.experiment)
    x = data.packed.values[data.parts.held_out[:256]].numpy()
    evaluated = -model.log_prob(x, method="bound") / 2
    log_scale = float(torch.tensor(model.record.normalization.scale).double().log().mean())
    logged = [line for line in MetricsLog.read(run / "metrics.jsonl") if "held_out_loss" in line][-1]
    # the same points, other noise: 16 levels of each, whose losses spread about as much as those of the points
    error = 3 * logged["held_out_std_error"]
    assert error < 0.5
    assert logged["held_out_loss"] + log_scale == pytest.approx(float(evaluated.mean()), abs=error)


def test_resumed_it_is_the_same(bound: dict[str, Any], tmp_path: Path) -> None:
    whole = sfumato.train("swiss-roll", bound, runs=tmp_path, name="whole").folder
    half = sfumato.train("swiss-roll", {**bound, "training.steps": 3}, runs=tmp_path, name="half").folder
    sfumato.resume(half, {"training.steps": 6})
    assert knots_of(load(half)).equal(knots_of(load(whole)))
    assert knots_of(load(half), "live").equal(knots_of(load(whole), "live"))


@pytest.mark.parametrize("ends", [False, True], ids=["inside", "ends too"])
def test_figures_show_the_trained_schedule(
    ends: bool, settings: dict[str, Any], bound: dict[str, Any], tmp_path: Path
) -> None:
    """By the name of the run; with other settings than its own, and of a file of settings, the starting one."""
    run = sfumato.train("swiss-roll", bound if ends else settings, runs=tmp_path, name="run").folder
    trained = load(run)
    (named,) = named_schedules(str(run))
    t = torch.linspace(1e-5, 1, 50, dtype=torch.float64)
    assert named.name == "run"
    assert named.schedule.log_snr(t).equal(trained.denoiser.schedule.log_snr(t))
    assert not named.schedule.log_snr(t).allclose(trained.experiment.schedule.log_snr(t), atol=1e-3)
    assert title_of(trained.denoiser.schedule).endswith("trained")
    other = load_experiment(str(run), {"schedule.knots": 5})
    assert schedule_of(other, run) is other.schedule
    assert schedule_of(trained.experiment, run / "config.yaml") is trained.experiment.schedule
    for words in (["forward", "run", "-n", "40"], ["schedules", "run", "CosineAngle"]):
        assert cli.main(["figures", *words, "--runs", str(tmp_path), "--out", str(tmp_path / f"{words[0]}.png")]) == 0


def test_the_command_trains_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As it would be typed; without the objective that knows what ends cost it is refused, with the one that does."""
    words = "train swiss-roll --network FourierMlp --schedule LearnedLogSnr --schedule.learn_ends true"
    words += " --times UniformTimes --time_input LogSnrInput --training.steps 2 --training.batch_size 8"
    words += f" --training.preview_every 0 --data.count 60 --sampling.sampler Ddim --runs {tmp_path} --name typed"
    assert cli.main(words.split()) == 2
    assert "fix: --objective ContinuousBound" in capsys.readouterr().err
    assert cli.main([*words.split(), "--objective", "ContinuousBound"]) == 0
    assert load(tmp_path / "typed").denoiser.schedule.terminal_signal(1.0) < 0.01
