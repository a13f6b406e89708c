"""The classifier of a run: made by its settings alone, whole or not at all, and used only where it belongs."""

import math
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sfumato
from sfumato.core import CosineAngle, LogSnrInput
from sfumato.errors import CheckpointError, DataError, UsageError
from sfumato.experiment.build import prepare_data
from sfumato.experiment.classifier import CLASSIFIER, classifier_record, load_classifier, train_classifier
from sfumato.experiment.model import Model
from sfumato.nn.classifier import NoisyClassifierConfig
from sfumato.training.classifier import ClassifierSettings
from sfumato.training.trainer import Progress

FEW = ClassifierSettings(steps=60, batch_size=16)
SMALL = NoisyClassifierConfig(width=8)


@pytest.fixture(scope="module")
def run(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the digits, trained without labels, with a classifier beside it."""
    folder = tmp_path_factory.mktemp("classifier") / "run"
    shutil.copytree(digits_run, folder)
    assert train_classifier(folder, settings=FEW, network=SMALL) == folder / CLASSIFIER
    return folder


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    return sfumato.load(run)


@pytest.fixture
def bare(digits_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(digits_run, tmp_path / "bare")
    return tmp_path / "bare"


def test_the_file_says_what_it_is_worth(run: Path, model: Model) -> None:
    record = classifier_record(run)
    assert record.classes == tuple("0123456789")
    assert (record.settings, record.network) == (FEW, SMALL)
    assert [score.log_snr for score in record.scores] == sorted((s.log_snr for s in record.scores), reverse=True)
    assert all(0 <= score.accuracy.value <= 1 and score.accuracy.n == 6 for score in record.scores)  # 6 of 60 held out
    assert record.part == "held-out"


def test_the_same_command_makes_the_same_file(run: Path, bare: Path) -> None:
    """Bit for bit: every draw follows from the run's seed; another process's draws between do not matter."""
    torch.manual_seed(123)
    train_classifier(bare, settings=FEW, network=SMALL)
    assert (bare / CLASSIFIER).read_bytes() == (run / CLASSIFIER).read_bytes()


def test_it_learned(bare: Path) -> None:
    """Some sixty digits by heart at the clean end, where a guess is right for 10 %."""
    settings = ClassifierSettings(steps=150, batch_size=32, learning_rate=3e-3)
    train_classifier(bare, settings=settings, network=NoisyClassifierConfig(width=16))
    model = sfumato.load(bare)
    classifier = load_classifier(bare, model)
    data = prepare_data(model.experiment)
    chosen = data.parts.train
    x0 = data.record.normalization.to_model(data.packed.values[chosen])
    t = torch.tensor(model.denoiser.schedule.t_min, dtype=torch.float64)
    right = (classifier.log_probs(x0, t).argmax(1) == data.packed.labels[chosen]).double().mean()
    assert float(right) > 0.1 + 5 * math.sqrt(0.1 * 0.9 / len(chosen))


def test_it_can_be_differentiated_and_asked_in_any_precision(run: Path, model: Model) -> None:
    classifier = load_classifier(run, model)
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    t, labels = torch.tensor(0.3, dtype=torch.float64), torch.tensor([0, 3, 3, 9])
    found = classifier(x, t, labels)
    assert found.dtype == torch.float64
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert bool((gradient.flatten(1).abs().amax(1) > 0).all())
    probabilities = classifier.log_probs(x, t).exp()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found, probabilities[torch.arange(4), labels].log(), rtol=1e-9, atol=1e-9)
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


def test_samples_are_guided_by_it(run: Path, model: Model) -> None:
    """An unconditional run draws what is asked for, as its classifier judges; the more so, the larger the scale."""
    classifier = load_classifier(run, model)
    labels = torch.arange(16) % 10
    end = torch.tensor(model.denoiser.schedule.t_min, dtype=torch.float64)

    def sureness(**changes: Any) -> float:
        drawn = model.sample(16, seed=0, config=model.settings(**changes), labels=labels.tolist() if changes else None)
        x0 = model.record.normalization.to_model(torch.from_numpy(drawn.images))
        return float(classifier(x0, end, labels).mean())

    assert sureness() < sureness(classifier_guidance=1.0) < sureness(classifier_guidance=30.0)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"schedule": CosineAngle(max_signal_rate=0.9)}, "another schedule"),
        ({"time_input": LogSnrInput()}, "another time input"),
    ],
    ids=["schedule", "time input"],
)
def test_it_is_refused_by_another_model(run: Path, model: Model, changes: dict[str, Any], what: str) -> None:
    other = replace(model, experiment=replace(model.experiment, **changes))
    with pytest.raises(CheckpointError, match=what):
        load_classifier(run, other)


@pytest.mark.parametrize("field", ["fingerprint", "data_std", "label_values", "normalization"])
def test_it_is_refused_by_other_data(run: Path, model: Model, field: str) -> None:
    record = model.record
    changed: dict[str, Any] = {
        "fingerprint": "0" * 64,
        "data_std": record.data_std * 1.01,
        "label_values": record.label_values[:-1],
        "normalization": replace(record.normalization, scale=(100.0,)),
    }
    with pytest.raises(CheckpointError, match="trained with another") as refused:
        load_classifier(run, replace(model, record=replace(record, **{field: changed[field]})))
    assert "sfumato classifier" in refused.value.fix


def test_a_missing_or_damaged_file_is_refused(bare: Path, run: Path, model: Model) -> None:
    with pytest.raises(CheckpointError, match="holds no classifier"):
        load_classifier(bare, model)
    content = bytearray((run / CLASSIFIER).read_bytes())
    content[-40] ^= 1
    (bare / CLASSIFIER).write_bytes(content)
    with pytest.raises(CheckpointError, match="bit changed"):
        load_classifier(bare, model)
    sfumato.export(run, bare / CLASSIFIER, force=True)
    with pytest.raises(CheckpointError, match="no classifier that this version knows"):
        load_classifier(bare, model)


def test_what_cannot_be_trained(run: Path, points_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        train_classifier(run)
    with pytest.raises(DataError, match="no labels"):
        train_classifier(points_run)
    exported = sfumato.export(run, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match="exported file"):
        train_classifier(exported)


class Interrupting:
    """A reporter in whose time somebody presses Ctrl-C."""

    def progress(self, progress: Progress) -> None:
        signal.raise_signal(signal.SIGINT)

    def note(self, text: str) -> None:
        pass


def test_a_stop_leaves_the_run_as_it_was(bare: Path) -> None:
    before = sorted(path.name for path in bare.iterdir())
    with pytest.raises(KeyboardInterrupt):
        train_classifier(bare, settings=FEW, network=SMALL, reporter=Interrupting())
    assert sorted(path.name for path in bare.iterdir()) == before


def test_a_stop_keeps_the_old_classifier(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train_classifier(tmp_path / "run", settings=FEW, network=SMALL, force=True, reporter=Interrupting())
    assert (tmp_path / "run" / CLASSIFIER).read_bytes() == (run / CLASSIFIER).read_bytes()


def test_points_have_one_too(tmp_path: Path, points: dict[str, Any]) -> None:
    """The moons have labels: an MLP tells them apart at the clean end."""
    settings = {**points, "data.source": "moons", "data.count": 400, "data.noise": None}
    folder = sfumato.train("swiss-roll", settings, runs=tmp_path, name="moons").folder
    train_classifier(folder, settings=ClassifierSettings(steps=200, batch_size=128, learning_rate=3e-3))
    scores = classifier_record(folder).scores
    assert scores[0].accuracy.value > 0.9
    assert scores[-1].accuracy.value < scores[0].accuracy.value
    assert np.isfinite([score.cross_entropy.value for score in scores]).all()
