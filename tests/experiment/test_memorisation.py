"""Models that copy are caught and models that do not are cleared: both are known exactly here, without training.

A network that is the posterior mean over the training part draws its pictures and nothing else. The same over pictures
that lie in neither part is a model of the law that knows no training example.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch import Tensor, nn

import sfumato
from sfumato.cli import main as cli
from sfumato.condition import Condition
from sfumato.core import Denoiser, Image, LogSnrInput, LogSnrLinear
from sfumato.data import DataConfig, load_data, pack
from sfumato.errors import ConfigError, DataError
from sfumato.experiment import copies
from sfumato.experiment.build import prepare_data
from sfumato.experiment.config import Experiment, SamplingConfig
from sfumato.experiment.evaluation import METRICS, Evaluation, evaluate
from sfumato.experiment.evaluation.kept import Kept
from sfumato.experiment.evaluation.means import Means
from sfumato.experiment.evaluation.memorisation import closest_pairs
from sfumato.experiment.evaluation.subject import subject_of
from sfumato.experiment.evaluation.team import ALONE
from sfumato.experiment.likeness import Values, alternately, beside, unshared
from sfumato.experiment.model import Model
from sfumato.experiment.sections import ConditionConfig
from sfumato.guidance.degradations import LowResolution
from sfumato.metrics import judge as judging
from sfumato.nn import ResidualUNetConfig
from sfumato.training.record import MetricsLog

DATA = DataConfig(source="digits", limit=400, held_out=0.2)
MEANS = Means(Kept(None), ALONE, print)


class Recall(nn.Module):
    """E[x_0 | x_t] where x_0 is one of `x0`, each as likely."""

    x0: Tensor

    def __init__(self, x0: Tensor, data_std: float) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))
        self.register_buffer("x0", x0)  # a part of the weights, and of their digest
        self.data_std = data_std

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None = None) -> Tensor:
        log_snr = -8 * time[:, None]
        alpha, sigma = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
        x_t = x.flatten(1) * (alpha**2 * self.data_std**2 + sigma**2).sqrt()
        squared = (x_t[:, None] - alpha[:, :, None] * self.x0.flatten(1)).square().sum(2)
        share = (-squared / (2 * sigma**2)).softmax(1)
        return (share @ self.x0.flatten(1)).view_as(x)


def fresh() -> Tensor:
    """Digits that are in neither part of DATA: uint8 (n, 8, 8, 1)."""
    everything, few = load_data(DataConfig(source="digits"), seed=0), load_data(DATA, seed=0)
    known = {picture.numpy().tobytes() for picture in few.values}
    return torch.stack([picture for picture in everything.values if picture.numpy().tobytes() not in known])


def recalling(raw: Tensor | None = None, **changes: Any) -> Model:
    """A model of DATA that draws the pictures `raw`; None: the training part."""
    settings: dict[str, Any] = {
        "name": "recall",
        "data": DATA,
        "network": ResidualUNetConfig(widths=(8,), depth=1, embedding=8),  # not used
        "schedule": LogSnrLinear(),
        "parameterization": Image(),
        "time_input": LogSnrInput(),
        "sampling": SamplingConfig(steps=12, micro_batch=100),
    }
    experiment = Experiment(**{**settings, **changes})
    data = prepare_data(experiment)
    drawn = data.packed.values[data.parts.train] if raw is None else raw
    denoiser = Denoiser(
        Recall(data.record.normalization.to_model(drawn), data.record.data_std),
        experiment.schedule,
        experiment.parameterization,
        time_input=experiment.time_input,
        data_std=data.record.data_std,
    )
    return Model(experiment, data.record, {"ema": denoiser.requires_grad_(False).eval()}, "0" * 64, 0)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cache folder of its own, and judges that look at fewer pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(judging, "MOST_EPOCHS", 5)
        yield


@pytest.fixture(scope="module")
def copied() -> Evaluation:
    return evaluate(recalling(), "memorisation", n=200)


@pytest.fixture(scope="module")
def cleared() -> Evaluation:
    return evaluate(recalling(fresh()), "memorisation", n=200)


@pytest.mark.parametrize("space", ["pixels", "judge"])
def test_a_model_that_copies_is_caught(copied: Evaluation, space: str) -> None:
    """All samples are training pictures, but for what is between two of them: 95 % or more are told."""
    share, floor, lean = (copied.metrics[f"memorisation[{space}]{end}"] for end in ("", "[floor]", "[leaning]"))
    assert share.value >= 0.95
    assert float(str(share.provenance["interval_low"])) > 0.9
    assert floor.value <= 0.005
    assert lean.value > 0.9
    assert float(str(lean.provenance["z"])) > 5
    assert share.n == 200


def test_a_model_that_draws_new_pictures_is_cleared(cleared: Evaluation) -> None:
    share, floor, lean = (cleared.metrics[f"memorisation[pixels]{end}"] for end in ("", "[floor]", "[leaning]"))
    assert share.value <= 0.01
    assert floor.value <= 0.005
    assert abs(lean.value) < 4 * lean.std_error
    facts = share.provenance
    assert (facts["training_examples"], facts["held_out_examples"], facts["parts"]) == (320, 80, 4)
    assert facts["extractor"] == "pixels"
    assert facts["steps"] == 12
    assert 0.25 < float(str(facts["threshold"])) <= 0.5


def test_a_model_that_copies_half_of_the_time_is_measured() -> None:
    """As many training pictures as new ones: half of the samples, within the stated error."""
    data = prepare_data(recalling().experiment)
    train = data.packed.values[data.parts.train]
    share = evaluate(recalling(torch.cat([train, fresh()[: len(train)]])), "memorisation", n=300, seed=5000).metrics
    found = share["memorisation[pixels]"]
    assert abs(found.value - 0.5) < 4 * found.std_error
    assert found.std_error == pytest.approx((0.25 / 300) ** 0.5, rel=0.05)


def test_the_closest_pairs_are_what_they_say(copied: Evaluation) -> None:
    """Each neighbour is the nearest of its side, by brute force; seeds draw the samples; ten, the most alike first."""
    pairs, model = copied.closest["pixels"], recalling()
    data = prepare_data(model.experiment)
    values, parts = data.packed.values, data.parts
    assert len(pairs) == 10
    assert list(pairs.ratio) == sorted(pairs.ratio)
    for k in range(10):
        seen = model.sample(1, seed=int(pairs.seeds[k])).images
        assert seen is not None
        assert np.array_equal(seen[0], pairs.samples[k])
        for side, chosen, shown in (
            (parts.train, pairs.training[k], pairs.originals[k]),
            (parts.held_out, pairs.held_out[k], pairs.unseen[k]),
        ):
            apart = (values[side].double() - torch.from_numpy(pairs.samples[k]).double()).flatten(1).norm(dim=1)
            assert float(apart.min()) == float(apart[side == chosen])
            assert np.array_equal(values[int(chosen)].numpy(), shown)
    assert np.array_equal(pairs.samples, pairs.originals)  # copies to the last bit
    plain = copied.to_plain()["closest"]["pixels"]
    assert plain[0]["training_example"] == int(pairs.training[0])


def test_pictures_that_both_sides_share_are_left_out() -> None:
    """A held-out copy of a training picture would hide copies of it."""
    data = prepare_data(recalling().experiment)
    values = data.packed.values.clone()
    values[data.parts.held_out[:7]] = values[data.parts.train[:7]]
    packed = pack(values, labels=data.packed.labels, label_values=data.packed.label_values)
    left = unshared(packed, data.parts)
    assert torch.equal(left, data.parts.held_out[7:])
    assert torch.equal(unshared(data.packed, data.parts), data.parts.held_out)


def test_mirrored_training_pictures_are_training_pictures() -> None:
    """A run that mirrors its pictures draws mirrored copies, which are copies; of another run they are not."""
    data = prepare_data(recalling().experiment)
    raw = data.packed.values[data.parts.train[:40]].flip(2)
    space = Values(data.record.normalization)
    plain, both = (beside(raw, data.packed.values, data.parts, space, mirrored=flag) for flag in (False, True))
    assert (plain.ratio < 1 / 3).sum() < 5  # some digits are their own mirror images
    assert bool((both.ratio == 0).all())


def test_what_samples_are_told_favours_neither_side() -> None:
    data = prepare_data(recalling().experiment)
    for count in (7, 100, 1000):
        told = alternately(data.parts, count)
        trained = torch.isin(told, data.parts.train)
        assert len(told) == count
        assert int(trained.sum()) == -(-count // 2)
        assert torch.isin(told[~trained], data.parts.held_out).all()


def test_points_have_one_space(points_run: Path) -> None:
    """Their values, and no pictures of them."""
    model = sfumato.load(points_run)
    found = evaluate(model, "memorisation", n=60)
    assert set(found.metrics) == {
        "memorisation[values]",
        "memorisation[values][floor]",
        "memorisation[values][leaning]",
    }
    assert not found.closest
    assert "closest" not in found.to_plain()
    with pytest.raises(DataError, match="pictures"):
        closest_pairs(subject_of(model, weights="ema", part="training", n=2, seed=0, report=print), 5, MEANS, print)


def test_what_cannot_be_compared_is_refused() -> None:
    pictured = recalling(condition=ConditionConfig(image=LowResolution(2)))
    with pytest.raises(DataError, match="goes by a picture"):
        evaluate(pictured, "memorisation")
    few = recalling(data=replace(DATA, held_out=0.005))
    with pytest.raises(DataError, match="too few"):
        evaluate(few, "memorisation")
    assert "memorisation" in METRICS


def test_what_is_slow_is_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLOW", "EARLY"):
        monkeypatch.setattr(f"sfumato.experiment.evaluation.pace.{name}", 0.0)
    said: list[str] = []
    model = recalling()
    subject = subject_of(model, weights="ema", part="training", n=2, seed=7, report=said.append)
    closest_pairs(subject, 200, Means.alone(model.experiment.data, said.append), lambda text: None)
    (text,) = [line for line in said if line.startswith("sampling")]
    assert "network calls to go, about" in text


# ------------------------------------------------------------------------------------------------------- in training

WATCHED = {"training.copies_every": 2, "evaluation.copies_count": 6, "sampling.steps": 2}


def test_looking_changes_nothing_and_is_logged(digits: dict[str, Any], tmp_path: Path) -> None:
    """The same weights and losses with and without the watch, whose figures stand in the record."""
    plain = sfumato.train("digits", {**digits, "sampling.steps": 2}, runs=tmp_path, name="plain")
    watched = sfumato.train("digits", {**digits, **WATCHED}, runs=tmp_path, name="watched")
    weights = [run.folder / "checkpoints" / "step-00000006" / "model.safetensors" for run in (plain, watched)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    lines = MetricsLog.read(watched.folder / "metrics.jsonl")
    looks = [line for line in lines if "copies" in line]
    assert [line["step"] for line in looks] == [2, 4, 6]
    for line in looks:
        low, high = line["copies_interval"]
        assert 0 <= low <= line["copies"] <= high <= 1
        assert line["leaning"] <= 1
        assert line["copies_floor"] <= 0.005
        assert line["leaning_std_error"] > 0


class Heard:
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, progress: object) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_the_alarm_rings_once_when_copying_begins(
    digits: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples are new pictures after three steps, and training pictures from the fourth on."""
    settings = {**digits, **WATCHED, "data.limit": 200, "training.copies_every": 1}
    experiment = sfumato.load_experiment("digits", settings)
    data = prepare_data(experiment)
    strangers, looks = fresh()[50:56], 0

    def drawn(*args: object, **rest: object) -> Tensor:
        nonlocal looks
        looks += 1
        return strangers if looks < 4 else data.packed.values[data.parts.train[:6]]

    monkeypatch.setattr(copies, "draw", drawn)
    heard = Heard()
    sfumato.train(experiment, runs=tmp_path, reporter=heard)
    (said,) = [text for text in heard.notes if text.startswith("copies:")]
    assert "after step 4, 6 of 6 samples" in said
    assert "after step 3 they were not" in said


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"data.held_out": 0}, "nothing to compare"),
        ({"condition.image": {"kind": "LowResolution", "factor": 2}}, "like the examples"),
    ],
)
def test_a_watch_that_cannot_be_is_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        sfumato.load_experiment("digits", {"training.copies_every": 100, **changes})


def test_too_few_held_out_examples_stop_a_watched_run(digits: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few"):
        sfumato.train("digits", {**digits, **WATCHED, "data.held_out": 0.02}, runs=tmp_path)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------- on the command line


def test_on_the_command_line(digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers, the pairs, and a picture of them beside the numbers; the same picture by `figures neighbours`."""
    common = ["--runs", str(digits_run.parent), "-n", "12", "--steps", "2", "--json"]
    assert cli.main(["evaluate", "run", "--metrics", "memorisation", *common]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "memorisation[pixels][leaning]" in found["metrics"]
    assert len(found["closest"]["pixels"]) == 10
    pictures = {Path(name) for name in found["pictures"]}
    assert {path.parent for path in pictures} == {digits_run / "evaluations"}
    assert {path.stem.rsplit("-", 1)[1] for path in pictures} == {"pixels", "judge"}
    target = tmp_path / "pairs.png"
    assert cli.main(["figures", "neighbours", "run", *common, "--out", str(target)]) == 0
    drawn = json.loads(capsys.readouterr().out)
    assert drawn["closest"] == found["closest"]["pixels"]
    (pixels,) = [path for path in pictures if path.stem.endswith("-pixels")]
    with Picture.open(pixels) as first, Picture.open(target) as second:
        assert first.tobytes() == second.tobytes()


def test_what_a_judge_has_learned_is_said(copied: Evaluation) -> None:
    """Its features of its own training pictures are others than those of the rest: the sides are not exchangeable."""
    assert any("exact in pixels, and not in its features" in note for note in copied.notes)
    assert sum("does nothing but copy" in note for note in copied.notes) == 1
