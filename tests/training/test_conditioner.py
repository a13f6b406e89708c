"""What a network is told: aligned with its example, dropped as often as asked, the same however the work is shared."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sfumato
from sfumato.condition import Condition
from sfumato.core import Denoiser, batch_uniforms
from sfumato.data import Batch
from sfumato.experiment.build import prepare_data
from sfumato.experiment.config import Experiment, load_experiment
from sfumato.experiment.reporting import Silent
from sfumato.experiment.session import Session, held_out_scorer
from sfumato.guidance import Holes, LowResolution
from sfumato.objectives import Draw, Losses, Objective
from sfumato.training.checkpoint import CheckpointStore
from sfumato.training.conditioner import Conditioner, Examples
from sfumato.training.ema import bare_state
from sfumato.training.trainer import flatten_optimizer

COUNT = 48
SETTINGS: dict[str, Any] = {
    "network.widths": (8,),
    "network.depth": 1,
    "network.embedding": 8,
    "data.flip": True,
    "data.held_out": 0.25,
    "condition.labels": True,
    "condition.values": True,
    "condition.image": {"kind": "LowResolution", "factor": 2},
    "condition.dropout": 0.25,
    "training.batch_size": 16,
    "training.device": "cpu",
    "training.precision": "float32",
    "training.compile": "off",
    "training.threads": 1,
    "training.preview_every": 0,
    "evaluation.noise_levels": 2,
    "sampling.steps": 2,
}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """48 pictures of 4 x 4, each of one brightness 5i, its class i mod 3, and two numbers, 5i and -i."""
    i = np.arange(COUNT)
    images = np.broadcast_to((5 * i).astype(np.uint8)[:, None, None, None], (COUNT, 4, 4, 1))
    path = tmp_path / "pictures.npz"
    np.savez(path, images=images, labels=i % 3, conditions=np.stack([5.0 * i, -1.0 * i], 1), condition_names=["b", "i"])
    return path


def made(path: Path, settings: dict[str, Any] | None = None) -> Session:
    experiment = load_experiment("digits", {**SETTINGS, "data.path": str(path), **(settings or {})})
    return Session(experiment, prepare_data(experiment), folder=path.parent / "run", reporter=Silent())


def told(examples: Examples) -> Condition:
    assert examples.cond is not None
    return examples.cond


def joined(found: list[Condition], name: str) -> Tensor:
    return torch.cat([getattr(cond, name) for cond in found])


def test_label_numbers_and_picture_are_those_of_the_example(pictures: Path) -> None:
    """Brightness says which picture it is; the rest must follow it through order, mirrors and slices."""
    session = made(pictures, {"training.accumulate": 4})
    record = session.data.record
    for step in (0, 1, 7):
        for examples, _ in session.step.parts(step):
            which = ((examples.x0[:, 0, 0, 0] * 127.5 + 127.5) / 5).round().long()
            cond = told(examples)
            assert torch.equal(which, examples.indices)
            assert cond.labels is not None
            assert torch.equal(cond.labels, which % 3)
            assert cond.values is not None
            raw = record.conditions_to_data(cond.values)
            torch.testing.assert_close(
                raw[:, 0], 5.0 * which.double(), rtol=0, atol=1e-4
            )  # float32 of numbers up to 235
            torch.testing.assert_close(raw[:, 1], -1.0 * which.double(), rtol=0, atol=1e-4)
            assert cond.image is not None
            assert torch.equal(cond.image, examples.x0)  # a low resolution of one brightness is that brightness


def test_numbers_are_normalised_by_the_training_part(pictures: Path) -> None:
    """Mean 0 and variance 1 over the examples that are trained on, which the held-out ones do not move."""
    session = made(pictures)
    data = session.data
    values = session.batches.take(data.parts.train).conditions
    assert values is not None
    torch.testing.assert_close(values.double().mean(0), torch.zeros(2).double(), rtol=0, atol=1e-6)  # float32
    torch.testing.assert_close(values.double().var(0, correction=0), torch.ones(2).double(), rtol=0, atol=1e-6)
    assert data.record.conditions is not None
    train = 5.0 * data.parts.train.double()
    assert data.record.conditions.mean[0] == pytest.approx(float(train.mean()), rel=1e-12)
    assert data.record.conditions.high[0] == float(train.max())
    assert data.record.condition_names == ("b", "i")


def test_a_picture_is_made_of_the_mirrored_example(tmp_path: Path) -> None:
    """Left half black, right half white: its low resolution is mirrored when it is."""
    images = np.zeros((8, 4, 4, 1), np.uint8)
    images[:, :, 2:] = 255
    images[0, 0, 0] = 1
    np.savez(tmp_path / "p.npz", images=images, labels=np.arange(8) % 2, conditions=np.arange(8))
    session = made(tmp_path / "p.npz", {"training.batch_size": 8, "data.held_out": 0})
    seen = set()
    for step in range(4):
        [(examples, _)] = session.step.parts(step)
        image = told(examples).image
        assert image is not None
        assert torch.equal(image[:, 0, 3], examples.x0[:, 0, 3])
        seen |= set(examples.x0[:, 0, 3, 0].tolist())
    assert seen == {-1.0, 1.0}


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.7, 1.0])
def test_labels_are_dropped_as_often_as_asked(dropout: float) -> None:
    """Over 20,000 examples, within 4.5 standard deviations of the share; and at 0 and 1 exactly."""
    conditioner = Conditioner(labels=True, dropout=dropout, seed=5)
    batch = Batch(torch.zeros(2000, 1), torch.zeros(2000, dtype=torch.int64), torch.arange(2000))
    found = [conditioner.training(batch, step, total=2000, part=slice(None)) for step in range(10)]
    masks = torch.stack([cond.dropped for cond in found if cond is not None and cond.dropped is not None])
    assert masks.shape == (10, 2000)
    assert abs(float(masks.double().mean()) - dropout) <= 4.5 * (dropout * (1 - dropout) / 20_000) ** 0.5
    if 0 < dropout < 1:
        assert len({tuple(mask.tolist()) for mask in masks}) == 10


def test_each_draw_has_a_purpose_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is dropped says nothing of where holes are; both are drawn for (seed, purpose, step), the held-out once."""
    drawn: list[tuple[Any, ...]] = []

    def recorded(*words: Any) -> Tensor:
        drawn.append(words)
        return batch_uniforms(*words)

    monkeypatch.setattr("sfumato.training.conditioner.batch_uniforms", recorded)
    batch = Batch(torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64), torch.arange(4))
    conditioner = Conditioner(labels=True, image=Holes(), dropout=0.5, seed=7)
    conditioner.training(batch, 3, total=12, part=slice(4, 8))
    conditioner.plain(batch, "held-out holes")
    assert drawn == [((12,), 7, "label-drop", 3), ((12, 4), 7, "degradation", 3), ((4, 4), 7, "held-out holes")]


def test_what_is_dropped_is_a_function_of_seed_and_step(pictures: Path) -> None:
    session = made(pictures, {"seed": 4})
    [(examples, _)] = session.step.parts(9)
    expected = batch_uniforms((16,), 4, "label-drop", 9) < 0.25
    dropped = told(examples).dropped
    assert dropped is not None
    assert torch.equal(dropped, expected)
    assert 0 < int(expected.sum()) < 16


@pytest.mark.parametrize("image", [Holes(count=2), LowResolution(factor=2)])
@pytest.mark.parametrize("parts", [2, 4])
def test_parts_are_slices_of_one_condition(image: Any, parts: int, pictures: Path) -> None:
    """Bitwise, holes included."""
    [(whole, _)] = made(pictures, {"condition.image": image}).step.parts(5)
    shared = made(pictures, {"condition.image": image, "training.accumulate": parts}).step.parts(5)
    found = [told(examples) for examples, _ in shared]
    assert len(found) == parts
    for name in ("labels", "values", "image", "dropped"):
        assert torch.equal(joined(found, name), getattr(told(whole), name)), name


def test_processes_slice_the_same_condition(pictures: Path) -> None:
    """Process r of 2 sees the r-th half of what one process sees; bitwise."""
    settings = {"condition.image": Holes()}
    [(whole, _)] = made(pictures, settings).step.parts(3)
    halves = []
    for rank in (0, 1):
        step = made(pictures, settings).step
        step.engine = Pair(rank, step.engine.device)  # type: ignore[assignment]
        [(examples, _)] = step.parts(3)
        halves.append(told(examples))
    for name in ("labels", "values", "image", "dropped"):
        assert torch.equal(joined(halves, name), getattr(told(whole), name)), name


class Pair:
    """What a step asks of an engine of two processes while it draws."""

    def __init__(self, rank: int, device: torch.device) -> None:
        self.rank, self.device, self.processes = rank, device, 2


def test_holes_move_from_step_to_step_and_not_when_held_out(pictures: Path) -> None:
    session = made(pictures, {"condition.image": Holes()})
    masks = [told(examples).image[:, 1] for step in (0, 1) for examples, _ in session.step.parts(step)]  # type: ignore[index]
    assert not torch.equal(masks[0], masks[1])
    batch = session.batches.take(session.data.parts.held_out)
    once, twice = (session.conditioner.plain(batch, "held-out degradation") for _ in range(2))
    assert once is not None
    assert twice is not None
    assert once.image is not None
    assert twice.image is not None
    assert torch.equal(once.image, twice.image)
    assert once.dropped is None


class Told(Objective):
    """The loss of an example is what it was told: 100 label + first value + mean of the picture, 1000 if dropped."""

    learns_variance = False

    def __call__(self, d: Denoiser, x0: Tensor, draw: Draw, cond: Condition | None = None) -> Losses:
        assert cond is not None
        assert cond.labels is not None
        assert cond.values is not None
        assert cond.image is not None
        total = 100 * cond.labels + cond.values[:, 0] + cond.image.flatten(1).mean(1)
        total = total + (0 if cond.dropped is None else 1000 * cond.dropped)
        total = total + 0 * next(d.network.parameters()).sum()
        return Losses(total, total)


def test_the_held_out_loss_is_told_everything_and_drops_nothing(pictures: Path) -> None:
    session = made(pictures, {"evaluation.count": 7})
    every = session.data.parts.held_out
    held_out = every[[k * len(every) // 7 for k in range(7)]]  # evenly taken, of all classes
    scorer = held_out_scorer(session.experiment, session.data, session.batches)
    found = replace(scorer, objective=Told(), batch_size=3)(session.denoiser)
    numbers = session.data.record.conditions_to_model(torch.stack([5.0 * held_out, -1.0 * held_out], 1))
    brightness = (5.0 * held_out - 127.5) / 127.5
    expected = (100 * (held_out % 3) + numbers[:, 0] + brightness).double().mean()
    assert found["held_out_loss"] == pytest.approx(float(expected), rel=1e-6)  # float32 terms


def test_the_step_and_the_search_for_its_worst_example_are_told_the_same(pictures: Path) -> None:
    """The objective gives back what it is told: the loss of the step is its mean, the worst example its largest."""
    session = made(pictures)
    session.step.objective = Told()
    [(examples, _)] = session.step.parts(2)
    cond = told(examples)
    assert cond.labels is not None
    assert cond.values is not None
    assert cond.image is not None
    assert cond.dropped is not None
    each = 100 * cond.labels + cond.values[:, 0] + cond.image.flatten(1).mean(1) + 1000 * cond.dropped
    assert float(session.step(2).loss) == pytest.approx(float(each.mean()), rel=1e-6)
    worst = int(examples.indices[int(each.argmax())])
    assert f"example {worst} of the data" in session.step._worst_example(2)


POINTS: dict[str, Any] = {
    "network": "FourierMlp",
    "network.width": 32,
    "network.depth": 2,
    "condition.labels": True,
    "condition.values": True,
    "condition.dropout": 0.2,
    "data.held_out": 0.1,
    "training.batch_size": 32,
    "training.device": "cpu",
    "training.compile": "off",
    "training.learning_rate": 1e-3,
    "training.precision": "float32",
    "training.threads": 1,
    "training.preview_every": 0,
    "training.evaluate_every": 0,
    "training.steps": 8,
    "training.checkpoint_every": 4,
    "training.warmup_steps": 0,
    "evaluation.count": 8,
    "sampling.steps": 4,
    "sampling.micro_batch": 64,
    "sampling.clip": False,
}


@pytest.fixture
def points(tmp_path: Path) -> Path:
    """600 points of two classes, N((4k - 2, a), 0.3²), with the number a uniform in [-1, 1]."""
    source = np.random.default_rng(3)
    labels, told = np.arange(600) % 2, source.uniform(-1, 1, 600)
    centres = np.stack([4.0 * labels - 2, told], 1)
    values = centres + 0.3 * source.standard_normal((600, 2))
    np.savez(tmp_path / "points.npz", values=values, labels=labels, conditions=told, class_names=["left", "right"])
    return tmp_path / "points.npz"


def point_session(path: Path, settings: dict[str, Any] | None = None) -> Session:
    chosen = {**POINTS, "data.path": str(path), "data.normalize": "standardize", **(settings or {})}
    experiment = load_experiment(Experiment(), chosen)
    return Session(experiment, prepare_data(experiment), folder=path.parent / "run", reporter=Silent())


def everything(session: Session) -> dict[str, Tensor]:
    """A copy of all that a step may change."""
    step = session.step
    parts = {"model": bare_state(step.denoiser.network), "ema": step.ema.state_dict(), "adam": flatten_optimizer(step)}
    return {f"{part}.{name}": tensor.clone() for part, found in parts.items() for name, tensor in found.items()}


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_parts_make_the_same_conditional_step(parts: int, points: Path) -> None:
    """Without batch norm, up to the order of summation."""
    whole, shared = point_session(points), point_session(points, {"training.accumulate": parts})
    for k in range(3):
        assert float(whole.step(k).loss) == pytest.approx(float(shared.step(k).loss), abs=1e-5)
    found = everything(shared)
    for name, tensor in everything(whole).items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_resumed_run_is_told_what_the_whole_one_was(dropout: float, points: Path, tmp_path: Path) -> None:
    """Stopped after 4 of 8 steps and gone on with: every tensor has the same bits. Without dropping, the embedding of
    nothing is stored and resumed all the same.
    """
    chosen = {**POINTS, "data.path": str(points), "condition.dropout": dropout}
    whole = sfumato.train(Experiment(), chosen, runs=tmp_path / "whole")
    half = sfumato.train(Experiment(), {**chosen, "training.steps": 4}, runs=tmp_path / "half")
    rest = sfumato.resume(half.folder, {"training.steps": 8})
    one, other = (CheckpointStore(run.folder).load(CheckpointStore(run.folder).find()) for run in (whole, rest))
    assert one.step == other.step == 8
    for mine, theirs in (
        (one.model, other.model),
        (one.optimizer, other.optimizer),
        *zip(one.ema.values(), other.ema.values(), strict=True),
    ):
        assert set(mine) == set(theirs)
        assert [name for name in mine if not mine[name].equal(theirs[name])] == []


def test_a_model_learns_the_law_of_each_class_and_number(points: Path) -> None:
    """p(x | k, a) = N((4k - 2, a), 0.3² I): mean and standard deviation of what is drawn for given k and a.

    Standard errors at n = 400 are 0.015; 500 steps of a small network leave some 0.1. Told neither, it draws both.
    """
    chosen = {
        **POINTS,
        "data.path": str(points),
        "data.normalize": "standardize",
        "network.width": 64,
        "schedule": "LogSnrLinear",  # which keeps no noise at its clean end that samples would lack
        "time_input": "LogSnrInput",
        "training.batch_size": 256,
        "training.learning_rate": 4e-3,
        "training.steps": 500,
        "training.checkpoint_every": 500,
        "training.ema_decay": 0.98,
        "sampling.steps": 20,
        "sampling.micro_batch": 400,
    }
    model = sfumato.load(sfumato.train(Experiment(), chosen, runs=points.parent / "runs"))
    for label, number in (("left", -0.8), ("left", 0.6), ("right", 0.6)):
        drawn = model.sample(400, labels=label, values=number).values
        assert drawn is not None
        assert drawn.mean(0) == pytest.approx([-2.0 if label == "left" else 2.0, number], abs=0.2)
        assert drawn.std(0) == pytest.approx([0.3, 0.3], abs=0.15)
    free = model.sample(400, labels="none").values
    assert free is not None
    assert 0.35 < (free[:, 0] > 0).mean() < 0.65
    near, far = np.array([[2.0, 0.5]], np.float32), np.array([[-2.0, 0.5]], np.float32)
    right = float(model.log_prob(near, labels="right", values=0.5)[0])
    exact = -np.log(2 * np.pi * 0.3**2)  # of N(., 0.3² I) at its mean
    assert right == pytest.approx(exact, abs=0.5)
    assert right - float(model.log_prob(far, labels="right", values=0.5)[0]) > 5
    with pytest.raises(sfumato.SfumatoError, match="no label was given"):
        model.log_prob(near)


@pytest.mark.proof
def test_a_compiled_network_is_told_the_same(pictures: Path) -> None:
    """One step of torch.compile with a condition among the arguments; its arithmetic may be fused, so 1e-4."""
    plain, compiled = made(pictures), made(pictures, {"training.compile": "on"})
    for k in range(2):
        assert float(compiled.step(k).loss) == pytest.approx(float(plain.step(k).loss), rel=1e-4)


def test_a_condition_breaks_no_graph(pictures: Path) -> None:
    """Traced whole, without a break at the condition, and the same numbers."""
    session = made(pictures)
    network = session.denoiser.network.eval()
    traced = torch.compile(network, backend="eager", fullgraph=True)
    for k in (0, 1):
        [(examples, _)] = session.step.parts(k)
        time = torch.full((len(examples.x0),), 0.5)
        with torch.no_grad():
            expected = network(examples.x0, time, examples.cond)
            torch.testing.assert_close(traced(examples.x0, time, examples.cond), expected, rtol=0, atol=0)
