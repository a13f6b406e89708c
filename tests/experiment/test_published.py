"""What esling's recipes print beside the notebook's numbers: each exact value by a second route."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.cli.main import main
from sfumato.core import Prediction
from sfumato.data.laws import law_of
from sfumato.experiment import published
from sfumato.experiment.build import PreparedData, prepare_data
from sfumato.experiment.catalog import recipe_names
from sfumato.experiment.config import Experiment, load_experiment
from sfumato.experiment.published import PUBLISHED, Truth
from sfumato.experiment.run import Run


def prepared(name: str) -> tuple[Experiment, PreparedData]:
    experiment = load_experiment(name, {"data.count": 2000})
    return experiment, prepare_data(experiment)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "DRAWS", 4000)


def run_of(experiment: Experiment, loss: float | None) -> Run:
    return Run(Path("run"), experiment, 1, 1, 0.0, 0.0, loss, 0.1, False)


class Scores:
    """A denoiser with a given score, in place of a trained one."""

    def __init__(self, experiment: Experiment, score: Any) -> None:
        self.schedule, self.score = experiment.schedule, score

    def parameters(self) -> Any:
        return iter([torch.empty(0)])

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        r = self.schedule.rates(t)
        return Prediction(x, r, x + r.sigma**2 * self.score(x.double()))


def with_score(monkeypatch: pytest.MonkeyPatch, experiment: Experiment, score: Any) -> None:
    monkeypatch.setattr(published, "load", lambda _: SimpleNamespace(denoiser=Scores(experiment, score)))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("roll-score-exact", {"data.path": "ring.npz"}),
        ("roll-ddpm", {"data.source": "moons"}),
        ("roll-ddpm", {"objective.distance": "Huber"}),
        ("roll-ddpm", {"objective": "Hybrid"}),
    ],
)
def test_nothing_is_compared_with_another_experiment(name: str, changes: dict[str, object]) -> None:
    """Other points or another objective have another truth than the one that is printed, or none."""
    assert published.compare_with_source(run_of(load_experiment(name, changes), 1.0)) is None


def test_more_points_and_steps_are_still_compared() -> None:
    experiment = load_experiment("roll-ddpm", {"data.count": 500, "training.steps": 7, "seed": 3})
    assert published.compare_with_source(run_of(experiment, 1.0)) is not None


def test_each_comparison_belongs_to_a_recipe() -> None:
    assert set(PUBLISHED) <= set(recipe_names())
    assert len(PUBLISHED) == 6


def test_the_least_of_score_matching_is_the_objective_at_the_exact_score() -> None:
    """The mean of ½ |s|² + tr ds/dx at other draws, the trace by central differences of the law's score."""
    experiment, data = prepared("roll-score-exact")
    found = PUBLISHED["roll-score-exact"].truth(experiment, data)
    law, h = law_of(experiment.data), 1e-4
    assert law is not None
    x = law.draw(4000, 7, "elsewhere")
    x = x + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ahead, behind = ([law.score(x + way * h * axis, 1.0, 0.01) for axis in torch.eye(2).double()] for way in (1, -1))
    trace = sum((ahead[i] - behind[i])[:, i] / (2 * h) for i in range(2))
    values = law.score(x, 1.0, 0.01).square().sum(1) / 2 + trace
    assert found.std_error is not None
    error = math.hypot(float(values.std()) / math.sqrt(len(x)), found.std_error)
    assert found.value == pytest.approx(float(values.mean()), abs=4 * error)
    assert error < 0.05 * abs(found.value)  # so that a factor of two cannot pass


def test_the_exact_score_costs_the_least_and_no_score_costs_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, data = prepared("roll-score-denoising")
    entry = PUBLISHED["roll-score-denoising"]
    truth = entry.truth(experiment, data)
    law = law_of(experiment.data)
    with_score(monkeypatch, experiment, lambda x: law.score(x, 1.0, 0.01))  # type: ignore[union-attr]
    exact = entry.found(run_of(experiment, None), data, truth)
    assert exact is not None
    assert exact.value == pytest.approx(truth.value, abs=0.01)  # x in float32: a score to 1e-3 of about 20
    with_score(monkeypatch, experiment, torch.zeros_like)
    silent = entry.found(run_of(experiment, None), data, truth)
    assert silent is not None
    assert silent.value == pytest.approx(10_000, abs=1e-6 * 10_000)  # D/(2 sigma²): nothing learned


def test_the_bound_of_2015_is_relative_to_an_isotropic_gaussian() -> None:
    """A model that says N(0, I) whatever it is shown has 0 bits, wherever its loss lies in nats."""
    experiment, data = prepared("roll-bound")
    entry = PUBLISHED["roll-bound"]
    isotropic = 0.5 * math.log(2 * math.pi * math.e)
    zero = entry.found(run_of(experiment, isotropic), data, Truth(0.0, 0.0, ""))
    one = entry.found(run_of(experiment, isotropic + math.log(2)), data, Truth(0.0, 0.0, ""))
    assert zero is not None
    assert one is not None
    assert (zero.value, one.value) == (pytest.approx(0, abs=1e-12), pytest.approx(1, abs=1e-12))
    assert entry.truth(experiment, data).value < 0  # the roll has structure


def test_the_bound_cannot_go_below_the_entropy() -> None:
    experiment, data = prepared("roll-variational")
    found = PUBLISHED["roll-variational"].truth(experiment, data)
    law = law_of(experiment.data)
    assert found.std_error is not None
    assert found.value == pytest.approx(law.entropy(count=4000, seed=3) / 2, abs=6 * found.std_error)  # type: ignore[union-attr]


def test_a_run_prints_the_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "roll-ddpm", "--runs", str(tmp_path), "--training.steps", "2", "--data.count", "200", "--json"]
    assert main([*words, "--training.preview_every", "0"]) == 0
    out = capsys.readouterr()
    document = json.loads(out.out)["published"]
    assert document["source"] == "esling"
    assert document["printed"][0] == 0.8983
    assert document["truth"]["value"] > 0
    assert document["found"]["value"] == json.loads(out.out)["held_out_loss"]
    assert "should have been" in out.err
