"""Classes of samples, judged: a model that draws what it is asked for is seen to, and one that does not is seen not to.

The models need no training: their network is the posterior mean over training pictures, of the class asked for or of
another, so that every sample is a training picture whose label is known.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.cli import main as cli
from sfumato.condition import Condition
from sfumato.core import Denoiser, Image, LogSnrInput, LogSnrLinear
from sfumato.data import DataConfig, pack
from sfumato.errors import DataError, UsageError
from sfumato.experiment import judging as judging_of_data
from sfumato.experiment.build import prepare_data
from sfumato.experiment.config import Experiment, SamplingConfig
from sfumato.experiment.evaluation import METRICS, evaluate
from sfumato.experiment.judging import judge_of, judge_place
from sfumato.experiment.model import Model
from sfumato.experiment.sections import ConditionConfig
from sfumato.metrics import class_shares, total_variation
from sfumato.metrics import judge as judging
from sfumato.nn import ResidualUNetConfig

DATA = DataConfig(source="digits", limit=600, held_out=0.1)


class Recall(nn.Module):
    """E[x_0 | x_t, k] where x_0 is one of the training pictures of class `of(k)`, or any of those that are `kept`."""

    kept: Tensor

    def __init__(
        self, x0: Tensor, labels: Tensor, of: Callable[[Tensor], Tensor], kept: Tensor, data_std: float
    ) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))
        self.x0, self.labels, self.of, self.data_std = x0, labels, of, data_std
        self.register_buffer("kept", kept)  # what samples depend on: kept ones are known by the weights
        self.register_buffer("drawn", of(torch.arange(10)))

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None = None) -> Tensor:
        log_snr = -8 * time[:, None]
        alpha, sigma = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
        x_t = x.flatten(1) * (alpha**2 * self.data_std**2 + sigma**2).sqrt()
        squared = (x_t[:, None] - alpha[:, :, None] * self.x0.flatten(1)).square().sum(2)
        allowed = self.kept.expand(len(x), -1)
        if cond is not None and cond.labels is not None and cond.dropped is None:
            allowed = self.of(cond.labels)[:, None] == self.labels
        share = (-squared / (2 * sigma**2)).masked_fill(~allowed, -torch.inf).softmax(1)
        return (share @ self.x0.flatten(1)).view_as(x)


def recalling(
    of: Callable[[Tensor], Tensor] = lambda k: k, classes: int = 10, told: bool = True, **sampling: Any
) -> Model:
    """A model of the digits that draws class of(k) when asked for k, and the first `classes` when asked for nothing."""
    experiment = Experiment(
        name="recall",
        data=DATA,
        network=ResidualUNetConfig(widths=(8,), depth=1, embedding=8),  # not used
        schedule=LogSnrLinear(),
        parameterization=Image(),
        time_input=LogSnrInput(),
        condition=ConditionConfig(labels=told),
        sampling=SamplingConfig(steps=12, micro_batch=100, **sampling),
    )
    data = prepare_data(experiment)
    assert data.packed.labels is not None
    x0, labels = data.record.normalization.to_model(data.packed.values[data.parts.train]), data.packed.labels
    labels = labels[data.parts.train]
    denoiser = Denoiser(
        Recall(x0, labels, of, labels < classes, data.record.data_std),
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
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setattr(judging, "MOST_EPOCHS", 15)
        yield folder / "sfumato" / "judges"


def test_what_is_drawn_as_asked_is_judged_so() -> None:
    """Every sample is a training picture of its class, about which the judge is nearly always right."""
    found = evaluate(recalling(), "label_agreement", n=200, sampling={"guidance": 1.0})
    agreement, real = found.metrics["label_agreement"], found.metrics["label_agreement[real]"]
    assert agreement.value > 0.97
    assert agreement.n == 200
    assert real.value > 0.9
    assert real.n == 60
    facts = agreement.provenance
    assert facts["judge_accuracy"] == real.value
    assert facts["guidance"] == "1.0"
    assert facts["steps"] == 12
    assert facts["asked"] == "classes in equal shares"
    corrected = found.metrics["label_agreement[corrected]"]
    assert abs(corrected.value - 1) < 3 * corrected.std_error
    assert corrected.std_error > agreement.std_error
    assert corrected.provenance["judge_confusion_n"] == 60
    assert all(corrected.provenance[fact] == facts[fact] for fact in facts if fact not in ("method", "std_error"))


def test_what_is_drawn_in_place_of_what_was_asked_is_told() -> None:
    """Asked for k, drawn k + 1: nothing agrees, and the notes say what was judged instead."""
    found = evaluate(recalling(lambda k: (k + 1) % 10), "label_agreement", n=100)
    assert found.metrics["label_agreement"].value < 0.03
    corrected = found.metrics["label_agreement[corrected]"]
    assert abs(corrected.value) < max(0.03, 3 * corrected.std_error)
    mistakes = [note for note in found.notes if note.startswith("asked for ")]
    assert len(mistakes) >= 10
    assert sum(f"asked for {k}, judged {(k + 1) % 10}:" in note for k in range(10) for note in mistakes) >= 9


def test_the_balance_of_a_perfect_model_is_its_floor() -> None:
    """Any training picture with equal chances: total variation within the spread of the floor and the judge's errors.

    In the mean over noise the ideal denoiser draws every training picture equally often.
    """
    found = evaluate(recalling(), ["class_balance"], n=300, seed=1000, sampling={"steps": 40}).metrics
    balance, floor = found["class_balance"], found["class_balance[floor]"]
    assert balance.value < floor.value + 4 * float(floor.provenance["spread"]) + 0.02  # type: ignore[arg-type]
    assert float(balance.provenance["p_value"]) > 1e-3  # type: ignore[arg-type]
    corrected, its_floor = found["class_balance[corrected]"], found["class_balance[corrected][floor]"]
    assert corrected.value < its_floor.value + 4 * float(its_floor.provenance["spread"])  # type: ignore[arg-type]
    assert its_floor.value > floor.value
    assert floor.value == pytest.approx(0.5 * 10 * 0.8 * (0.1 * 0.9 / 300) ** 0.5, rel=0.05)  # normal counts


def test_missing_classes_are_seen() -> None:
    """Only classes 0 to 6 are drawn: TV is at least the share of the others, and the notes name what is missing."""
    found = evaluate(recalling(classes=7, told=False), ["class_balance"], n=200)
    assert found.metrics["class_balance"].value == pytest.approx(0.3, abs=0.05)
    assert found.metrics["class_balance"].provenance["p_value"] < 1e-6  # type: ignore[operator]
    assert any("0.0% of the samples" in note for note in found.notes)


class Counted:
    """Hears how many samples are drawn."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.drawn = 0
        sample = Model.sample

        def counting(model: Model, n: int, **settings: Any) -> Any:
            self.drawn += n
            return sample(model, n, **settings)

        patch.setattr(Model, "sample", counting)


def test_samples_of_which_nothing_is_asked_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is told nothing draws the same samples for kid and class_balance; kept, they are drawn once."""
    counted, model = Counted(monkeypatch), recalling(classes=8, told=False)
    both = evaluate(model, "kid,class_balance", n=30, seed=77).metrics
    assert counted.drawn == 30
    again = evaluate(model, "class_balance", n=30, seed=77).metrics
    assert counted.drawn == 30
    assert again["class_balance"] == both["class_balance"]
    by_hand = torch.from_numpy(model.sample(30, seed=77).images)
    data = prepare_data(model.experiment)
    judge = judge_of(data.packed, DATA, report=lambda text: None)
    counts = torch.bincount(judge.judged(by_hand), minlength=10)
    shares = class_shares(data.packed.labels[data.parts.train], 10)  # type: ignore[index]
    assert again["class_balance"].value == total_variation(counts, shares).value


def test_samples_that_are_asked_for_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those asked for by class, and of a model with classes those of which nothing is asked: not one for the other."""
    counted, model = Counted(monkeypatch), recalling(lambda k: (k + 3) % 10, classes=5)
    names = "label_agreement,class_balance"
    first = evaluate(model, names, n=40, seed=78).metrics
    assert counted.drawn == 80
    assert evaluate(model, names, n=40, seed=78).metrics == first
    assert counted.drawn == 80
    assert first["label_agreement"].value < 0.1  # what was asked for was not drawn
    assert first["class_balance"].value == pytest.approx(0.5, abs=0.1)  # and of nothing half of the classes
    by_hand = torch.from_numpy(model.sample(40, seed=78, labels="all").images)  # all classes in turn
    data = prepare_data(model.experiment)
    judged = judge_of(data.packed, DATA, report=lambda text: None).judged(by_hand)
    assert first["label_agreement"].value == float((judged == torch.arange(40) % 10).double().mean())


def test_a_judge_that_was_measured_on_too_few_is_not_corrected_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain numbers stay, and a note says why there is no other."""
    monkeypatch.setattr(judging_of_data, "HELD_OUT", 0.01)
    found = evaluate(replaced_data(recalling(told=False), cache="off"), "class_balance", n=20)
    assert set(found.metrics) == {"class_balance", "class_balance[floor]"}
    why = "no class_balance[corrected]: the judge was measured on fewer than two real pictures of "
    assert any(note.startswith(why) for note in found.notes)


def test_guidance_does_not_touch_what_is_not_asked_for() -> None:
    """class_balance of a run whose settings guide is that of the run without."""
    plain, guided = (evaluate(recalling(**s), "class_balance", n=50).metrics for s in ({}, {"guidance": 3.0}))
    assert plain["class_balance"].value == guided["class_balance"].value
    assert "guidance" not in guided["class_balance"].provenance


def test_the_judge_is_trained_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = prepare_data(recalling().experiment)
    heard: list[str] = []
    first = judge_of(data.packed, DATA, report=heard.append)
    place = judge_place(data.packed, DATA)
    assert place is not None
    assert place.parent == cache
    again = judge_of(data.packed, DATA, report=heard.append)
    assert again.digest == first.digest
    place.write_bytes(place.read_bytes()[:-1])
    monkeypatch.setattr(judging, "MOST_EPOCHS", 1)
    renewed = judge_of(data.packed, DATA, report=heard.append)
    assert any("a new judge is trained" in text for text in heard)
    assert renewed.digest != first.digest
    assert judge_place(data.packed, replace(DATA, cache="off")) is None
    place.unlink()


def test_the_judge_never_sees_what_it_is_measured_on() -> None:
    """Its held-out part is a tenth of the data, the same for every run of them."""
    data = prepare_data(recalling().experiment)
    judge = judge_of(data.packed, replace(DATA, cache="off"), report=lambda text: None)
    assert (judge.record.trained_on, judge.record.held_out) == (540, 60)
    assert judge.record.data == data.packed.fingerprint
    points = pack(torch.zeros(4, 2) + torch.arange(4)[:, None], labels=torch.tensor([0, 1, 0, 1]), label_values=(0, 1))
    with pytest.raises(DataError, match="pictures"):
        judge_of(points, DATA, report=lambda text: None)


@pytest.mark.parametrize(
    ("model", "name", "what"),
    [
        (lambda: recalling(told=False), "label_agreement", "was trained without labels"),
        (lambda: replaced(recalling(), is_image=False), "class_balance", "points"),
        (lambda: replaced(recalling(), label_values=()), "class_balance", "0 classes"),
    ],
    ids=["unconditional", "points", "unlabelled"],
)
def test_what_cannot_be_judged_is_refused(model: Callable[[], Model], name: str, what: str) -> None:
    with pytest.raises(DataError, match=what):
        evaluate(model(), name)


def replaced(model: Model, **changes: Any) -> Model:
    return replace(model, record=replace(model.record, **changes))


def replaced_data(model: Model, **changes: Any) -> Model:
    experiment = model.experiment
    return replace(model, experiment=replace(experiment, data=replace(experiment.data, **changes)))


def test_a_model_that_always_had_a_label_cannot_leave_it_out() -> None:
    model = recalling()
    told = ConditionConfig(labels=True, dropout=0.0)
    with pytest.raises(UsageError, match="never trained without"):
        evaluate(replace(model, experiment=replace(model.experiment, condition=told)), "class_balance", n=10)


def test_they_are_measured_when_named() -> None:
    assert {"label_agreement", "class_balance"} <= set(METRICS)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real run, guided by settings after the command; its two training steps are worth nothing, and are told so."""
    few = ["--training.steps", "2", "--training.batch_size", "8", "--training.preview_every", "0"]
    small = ["--network.widths", "8", "--network.depth", "1", "--network.embedding", "8", "--data.limit", "600"]
    told = ["--condition.labels", "true", "--sampling.steps", "3", "--name", "told", "--runs", str(tmp_path)]
    assert cli.main(["train", "digits", *few, *small, *told]) == 0
    capsys.readouterr()
    words = ["evaluate", "told", "--runs", str(tmp_path), "--metrics", "label_agreement,class_balance", "-n", "20"]
    assert cli.main([*words, "--guidance", "2", "--steps", "2", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    plain = {"label_agreement", "label_agreement[real]", "class_balance", "class_balance[floor]"}
    corrected = {"label_agreement[corrected]", "class_balance[corrected]", "class_balance[corrected][floor]"}
    assert set(metrics) == plain | corrected
    assert metrics["label_agreement"]["provenance"]["guidance"] == "2.0"
    assert metrics["label_agreement"]["provenance"]["steps"] == 2
    assert np.isfinite(metrics["class_balance"]["value"])
    assert cli.main([*words, "--gidance", "2"]) == 2
    assert "guidance" in capsys.readouterr().err
