"""What a model is told, from the settings and the data to the checkpoint, the forecast and the evaluation."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import sfumato
from sfumato.condition import ConditionShape
from sfumato.errors import CheckpointError, ConfigError, DataError, SfumatoError
from sfumato.experiment.build import DataRecord, build_denoiser, prepare_data, resolved
from sfumato.experiment.config import ConditionConfig, Experiment, experiment_yaml, load_experiment
from sfumato.experiment.evaluation import evaluate
from sfumato.experiment.evaluation.subject import subject_of
from sfumato.experiment.forecast import forecast
from sfumato.experiment.memory import least_bytes
from sfumato.guidance import Grey, LowResolution
from sfumato.nn import ResidualUNetConfig

POINTS: dict[str, Any] = {
    "network": "FourierMlp",
    "network.width": 16,
    "network.depth": 1,
    "condition.labels": True,
    "condition.values": True,
    "training.device": "cpu",
    "training.batch_size": 8,
    "training.precision": "float32",
    "training.preview_every": 0,
    "training.steps": 3,
    "training.warmup_steps": 0,
    "evaluation.count": 4,
    "sampling.steps": 3,
    "sampling.clip": False,
}


def write(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """40 points of classes 3, 5 and 9, each with two numbers, the second of which is always 7."""
    i = np.arange(40)
    told = np.stack([i / 8, np.full(40, 7.0)], 1)
    values = np.stack([i % 3, i / 40], 1).astype(np.float32)
    folder = tmp_path_factory.mktemp("data")
    return write(folder / "points.npz", values=values, labels=np.array([3, 5, 9])[i % 3], conditions=told)


@pytest.fixture(scope="module")
def run(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of a model that is told class and numbers."""
    return sfumato.train(Experiment(), {**POINTS, "data.path": data}, runs=tmp_path_factory.mktemp("runs")).folder


def experiment(path: str, **settings: Any) -> Experiment:
    return load_experiment(Experiment(), {"network": "FourierMlp", "data.path": path, **settings})


# ------------------------------------------------------------------------------------------------------------- settings


def test_the_section_is_written_and_read() -> None:
    flags = [("condition.labels", "true"), ("condition.image", "LowResolution"), ("condition.image.factor", "2")]
    made = load_experiment("digits", flags)
    assert made.condition == ConditionConfig(labels=True, image=LowResolution(factor=2))
    text = experiment_yaml(made)
    assert yaml.safe_load(text)["condition"]["image"] == {"kind": "LowResolution", "factor": 2}
    assert load_experiment("digits", yaml.safe_load(text)) == made
    assert load_experiment("digits").condition == ConditionConfig()
    assert not ConditionConfig()


@pytest.mark.parametrize(
    "settings", [{"dropout": 1.5}, {"dropout": 1.0}, {"dropout": -0.1}, {"labels": True, "classes": 0}]
)
def test_the_section_refuses_what_it_cannot_mean(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"condition\.(dropout|classes) is"):
        ConditionConfig(**settings)


# ----------------------------------------------------------------------------------------------------------------- data


def test_the_record_remembers_what_is_told(data: str) -> None:
    record = prepare_data(experiment(data, **{"data.held_out": 0.25})).record
    assert record.label_values == (3, 5, 9)
    assert sum(record.class_counts) == 30
    assert record.conditions is not None
    assert record.conditions.mean[1] == record.conditions.low[1] == record.conditions.high[1] == 7.0
    assert record.conditions.std[1] == 1.0  # a number that never varies keeps its scale
    assert DataRecord.from_plain(json.loads(json.dumps(record.to_plain()))) == record
    raw = torch.tensor([[1.5, 7.0], [-2.0, 8.0]])
    told = record.conditions_to_model(raw)
    assert told[0, 0] == pytest.approx((1.5 - record.conditions.mean[0]) / record.conditions.std[0], rel=1e-6)
    torch.testing.assert_close(record.conditions_to_data(told), raw.double(), rtol=0, atol=1e-6)  # float32 between


def test_a_record_of_an_older_version_still_loads(data: str) -> None:
    plain = prepare_data(experiment(data)).record.to_plain()
    del plain["conditions"], plain["class_counts"]
    record = DataRecord.from_plain(plain)
    assert (record.conditions, record.class_counts, record.num_values, record.num_classes) == (None, (), 0, 3)
    with pytest.raises(CheckpointError, match="record of the data is damaged"):
        DataRecord.from_plain({**plain, "conditions": {"mean": [0.0]}})


def test_what_a_network_is_built_for(data: str) -> None:
    record = prepare_data(experiment(data)).record
    assert record.condition_shape(ConditionConfig()) == ConditionShape()
    assert record.condition_shape(ConditionConfig(labels=True, values=True)) == ConditionShape(3, 2, 0)
    pictures = replace(record, shape=(3, 8, 8))
    assert pictures.condition_shape(ConditionConfig(image=Grey())) == ConditionShape(0, 0, 1)


def test_data_without_what_is_to_be_told_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "bare.npz", values=np.arange(12.0).reshape(6, 2))
    with pytest.raises(DataError, match=r"bare\.npz: condition\.labels is true, and the data have no labels") as caught:
        prepare_data(experiment(path, **{"condition.labels": True}))
    assert caught.value.exit_code == 3
    assert "condition.labels: false" in caught.value.fix
    with pytest.raises(DataError, match=r"bare\.npz: condition\.values is true"):
        prepare_data(experiment(path, **{"condition.values": True}))
    with pytest.raises(DataError, match=r"data\.source swiss-roll: condition\.labels is true"):
        prepare_data(load_experiment("swiss-roll", {"condition.labels": True, "data.count": 20}))
    with pytest.raises(ConfigError, match=r"condition\.image is Blur"):
        prepare_data(experiment(path, **{"condition.image": "Blur"}))


def test_another_number_of_classes_is_refused(data: str) -> None:
    """D17: more classes than the settings say are a fault of the data, fewer one of the settings."""
    with pytest.raises(ConfigError, match=r"condition\.classes is 10, and the data have 3 classes") as caught:
        prepare_data(experiment(data, **{"condition.labels": True, "condition.classes": 10}))
    assert "condition.classes: 3" in caught.value.fix
    assert prepare_data(experiment(data, **{"condition.labels": True, "condition.classes": 3})).record.num_classes == 3
    with pytest.raises(DataError, match=r"have 3 classes, and condition\.classes is 2; beyond them 9") as beyond:
        prepare_data(experiment(data, **{"condition.labels": True, "condition.classes": 2}))
    assert beyond.value.exit_code == 3


@pytest.mark.parametrize("allowed", [False, True])
def test_a_class_without_a_training_example_is_refused(allowed: bool, tmp_path: Path) -> None:
    """D18: named by the file and never used, or in the test part alone; without labels to be told, nobody minds."""
    path = write(
        tmp_path / "gaps.npz",
        x_train=np.arange(8.0).reshape(4, 2),
        y_train=[0, 0, 1, 1],
        x_test=np.ones((1, 2)),
        y_test=[2],
        class_names=["ant", "bee", "cat", "dog"],
    )
    made = experiment(path, **{"condition.labels": True, "condition.allow_empty_classes": allowed})
    if allowed:
        assert prepare_data(made).record.class_counts == (2, 2, 0)
    else:
        with pytest.raises(DataError, match=r"gaps\.npz: no training example of the classes cat, dog") as caught:
            prepare_data(made)
        assert "condition.allow_empty_classes: true" in caught.value.fix
        assert caught.value.exit_code == 3
    assert prepare_data(experiment(path)).record.num_classes == 3


# ---------------------------------------------------------------------------------------------------------- the network


def test_the_network_is_built_for_what_it_is_told() -> None:
    """A row for each class and one for none; two planes more where a picture of one channel is joined."""
    made = load_experiment("digits", {"condition.labels": True, "network.widths": (8,), "network.depth": 1})
    shape = ConditionShape(10, 0, 1)
    plain, told = (
        build_denoiser(made, shape=(1, 8, 8), data_std=0.5, condition=condition)
        for condition in (ConditionShape(), shape)
    )
    added = {n: tuple(p.shape) for n, p in told.network.named_parameters() if "class_embedding" in n}
    assert [size[0] for size in added.values()] == [11]
    first = dict(told.network.named_parameters())["conv_in.weight"]
    assert first.shape[1] == dict(plain.network.named_parameters())["conv_in.weight"].shape[1] + 1


def test_sizes_are_decided_for_the_data_and_stored() -> None:
    made = load_experiment("digits", {"network": "Small"})
    fitted = resolved(made, shape=(1, 8, 8), is_image=True)
    assert fitted.network == made.network.fitted((1, 8, 8))
    assert fitted.network.fitted((1, 8, 8)) == fitted.network
    fixed = ResidualUNetConfig(widths=(8,))
    assert fixed.fitted((1, 8, 8)) is fixed


# ------------------------------------------------------------------------------------------------------------ forecasts


def test_a_forecast_needs_no_data_when_the_classes_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same parameters and FLOPs as with the data; activation memory stands apart."""
    monkeypatch.setattr("sfumato.experiment.forecast.time_steps", lambda *_: 1.0)  # the speed is not asked about
    settings = {
        "network.widths": (8,),
        "network.depth": 1,
        "training.batch_size": 8,
        "training.device": "cpu",
        "condition.labels": True,
        "condition.image": {"kind": "LowResolution", "factor": 2},
    }
    counted = forecast("digits", {**settings, "condition.classes": 10})
    read = forecast("digits", settings)
    nowhere = forecast(
        "digits",
        {**settings, "condition.classes": 10, "data.path": str(tmp_path / "no"), "data.size": 8, "data.channels": 1},
    )
    for other in (read, nowhere):
        assert (other.parameters, other.flops_per_image) == (counted.parameters, counted.flops_per_image)
        assert other.condition == ConditionShape(10, 0, 1)
    document = counted.document()
    assert document["condition"] == {"num_classes": 10, "num_values": 0, "image_channels": 1}
    assert 0 < document["activation_bytes"] < document["memory_bytes"]
    assert document["memory_bytes"] - document["activation_bytes"] == 24 * counted.parameters
    assert "told               one of 10 classes, a picture of 1 channel" in counted.text()
    assert "activations        " in counted.text()
    assert least_bytes(counted.experiment, (1, 8, 8), counted.condition) <= counted.memory_bytes
    more = {**settings, "condition.classes": 11}
    assert (
        forecast("digits", {**more, "data.path": str(tmp_path / "no"), "data.size": 8, "data.channels": 1}).parameters
        > counted.parameters
    )


def test_a_forecast_says_what_it_lacks() -> None:
    with pytest.raises(ConfigError, match="how many classes there are is not known") as caught:
        forecast(Experiment(), {"data.size": 8, "network.widths": (8,), "condition.labels": True})
    assert "--condition.classes 10" in caught.value.fix


# ---------------------------------------------------------------------------------------------- tensors that do not fit


def edited(run: Path, to: Path, **settings: Any) -> Path:
    """A copy of a run whose config.yaml says otherwise."""
    shutil.copytree(run, to)
    plain = yaml.safe_load((to / "config.yaml").read_text())
    for key, value in settings.items():
        section, _, field = key.partition(".")
        plain[section][field] = value
    (to / "config.yaml").write_text(yaml.safe_dump(plain))
    return to


@pytest.mark.parametrize(
    ("settings", "clause"),
    [
        ({"network.width": 24}, "network.width is 24 and was 16 in training"),
        ({"network.depth": 2}, "network.depth is 2 and was 1 in training"),
        ({"condition.labels": False}, "condition.labels is False and was True in training"),
    ],
)
def test_an_edited_configuration_is_named_beside_the_tensors(
    settings: dict[str, Any], clause: str, run: Path, tmp_path: Path
) -> None:
    """The first five names with both shapes, then the field; missing and unexpected tensors alike."""
    with pytest.raises(CheckpointError, match="does not fit the network") as caught:
        sfumato.load(edited(run, tmp_path / "run", **settings))
    assert clause in caught.value.what
    assert caught.value.exit_code == 4
    listed = caught.value.what.partition(": ")[2].partition(" (")[0].split("; ")
    assert 1 <= len([part for part in listed if "expected" in part and "found" in part]) <= 5


def test_a_resume_names_the_field_that_was_edited(run: Path, tmp_path: Path) -> None:
    folder = edited(run, tmp_path / "run", **{"network.width": 24})
    with pytest.raises(ConfigError, match=r"network\.width \(16 -> 24\)"):
        sfumato.resume(folder, {"training.steps": 6})
    folder = edited(run, tmp_path / "other", **{"condition.values": False})
    with pytest.raises(ConfigError, match=r"condition\.values \(True -> False\)"):
        sfumato.resume(folder, {"training.steps": 6})


def test_a_run_of_an_older_version_is_resumed(run: Path, tmp_path: Path) -> None:
    """Settings that did not exist when it was stored count as their defaults."""
    from sfumato.experiment.changes import require_allowed
    from sfumato.experiment.schema import to_plain

    now = load_experiment("digits")
    before = to_plain(now)
    del before["condition"], before["sampling"]["autoguidance"]
    require_allowed(before, now, ())
    with pytest.raises(ConfigError, match=r"condition\.labels \(False -> True\)"):
        require_allowed(before, load_experiment(now, {"condition.labels": True}), ("",))


def test_weights_of_another_number_of_classes_do_not_start_a_run(run: Path, tmp_path: Path) -> None:
    i = np.arange(20)
    told = np.zeros((20, 2))
    path = write(tmp_path / "other.npz", values=np.stack([i, -i], 1) / 9.0, labels=i % 5, conditions=told)
    with pytest.raises(CheckpointError, match="the number of classes is 5 and was 3 in training") as caught:
        sfumato.train(
            Experiment(), {**POINTS, "data.path": path, "training.init_from": str(run)}, runs=tmp_path / "runs"
        )
    assert "class_embedding.weight': expected 6×16, found 4×16" in caught.value.what
    assert list((tmp_path / "runs").iterdir()) == []


# ----------------------------------------------------------------------------------------------------------- evaluation


def test_examples_are_evaluated_with_what_they_are_told(run: Path) -> None:
    """Labels of the data's own order, numbers normalised as in training, in the dtype of the measurement."""
    model = sfumato.load(run)
    subject = subject_of(model, weights="ema", part="training", n=None, seed=0, report=lambda text: None)
    assert subject.cond is not None
    assert subject.cond.labels is not None
    assert subject.cond.values is not None
    assert subject.cond.values.dtype == subject.x0.dtype
    raw = model.record.normalization.to_data(subject.x0)
    assert torch.equal(subject.cond.labels, raw[:, 0].round().long())  # a point's first coordinate is its class
    numbers = model.record.conditions_to_data(subject.cond.values)
    torch.testing.assert_close(numbers[:, 0], 5 * raw[:, 1].double(), rtol=0, atol=1e-5)  # i/8 and i/40, float32


def test_log_prob_is_that_of_the_label_given(run: Path) -> None:
    """evaluate's number is the mean of log_prob of the same examples told the same; another label changes it."""
    model = sfumato.load(run)
    data = prepare_data(model.experiment)
    chosen = data.parts.held_out
    assert data.packed.labels is not None
    assert data.packed.conditions is not None
    x, labels = data.packed.values[chosen].numpy(), data.packed.labels[chosen].tolist()
    values = data.packed.conditions[chosen].numpy()
    found = evaluate(model, "nll").metrics["nll[flow]"].value
    told = model.log_prob(x, labels=labels, values=values)
    assert -told.mean() / 2 == pytest.approx(found, rel=1e-9)  # float64 on both ways
    other = model.log_prob(x, labels=[(k + 1) % 3 for k in labels], values=values)
    assert abs(other - told).min() > 1e-6
    by_name = model.log_prob(x[:1], labels=str((3, 5, 9)[labels[0]]), values=values[:1])
    assert by_name == pytest.approx(told[:1], rel=1e-9)
    with pytest.raises(SfumatoError, match="no label was given"):
        model.log_prob(x)
    assert np.isfinite(model.log_prob(x, labels="none")).all()


def test_a_conditional_model_is_evaluated_by_itself(run: Path) -> None:
    """Everything that means something for points; what needs the law of x alone is left out, with a note."""
    found = evaluate(run, n=8)
    assert {"loss[held-out]", "nll[bound]", "nll[flow]", "energy_distance", "round_trip[heun]"} <= set(found.metrics)
    assert "loss[attainable]" not in found.metrics
    assert any("told of x" in note for note in found.notes)
