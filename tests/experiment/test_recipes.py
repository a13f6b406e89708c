"""The packaged experiments, found by name and valid in every part."""

from pathlib import Path

import pytest
import torch
from torch import nn

from sfumato.errors import ConfigError
from sfumato.experiment import forecast as forecasting
from sfumato.experiment.build import build_network, resolved
from sfumato.experiment.catalog import RECIPES, recipe_names, recipes, resolve_recipe
from sfumato.experiment.config import load_experiment
from sfumato.experiment.forecast import stand_in
from sfumato.experiment.memory import least_bytes
from sfumato.experiment.model import Model
from sfumato.experiment.objective_misfits import differentiates_input
from sfumato.experiment.reporting import Silent
from sfumato.experiment.session import Session

NAMES = recipe_names()


def test_names_are_found_without_regard_to_case() -> None:
    for name in NAMES:
        assert resolve_recipe(name.upper().replace("-", "_")) == RECIPES / f"{name}.yaml"


def test_paths_win_where_they_are_meant(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    assert resolve_recipe(path) == path  # reading it says that it is missing
    path.write_text("seed: 1\n")
    assert resolve_recipe(str(path)) == path
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    assert resolve_recipe(str(tmp_path)) == tmp_path / "config.yaml"


@pytest.mark.skipif(not NAMES, reason="no recipes are packaged")
def test_unknown_recipe_names_the_nearest_and_all() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_recipe(NAMES[0] + "x")
    assert caught.value.fix == f"did you mean {NAMES[0]}?"
    assert all(name in caught.value.expected for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_an_experiment_of_its_own_name(name: str) -> None:
    experiment = load_experiment(name)
    assert experiment.name == name
    assert experiment.description
    assert next(r for r in recipes() if r.name == name).description == experiment.description


PARAMETERS = {
    "cifar10-ddpm": 35_746_307,  # Ho et al. 2020, appendix B: 35.7 million
    "mnist-ddpm": 35_178_689,  # nickd16
    "film-ddim": 6_179_331,  # yukino1010
    "oxford-flowers": 3_562_211,  # falbel
    "oxford-pets": 3_562_211,
}


def on_meta(name: str) -> nn.Module:
    """The network of a recipe, as its forecast would build it, without values."""
    experiment = load_experiment(name)
    record = stand_in(experiment).record
    ready = resolved(experiment, shape=record.shape, is_image=record.is_image)
    with torch.device("meta"):
        return build_network(ready, record.shape, record.condition_shape(ready.condition))


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_have_the_sizes_of_their_sources(name: str) -> None:
    assert sum(p.numel() for p in on_meta(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(("name", "channels"), [("mnist-bottleneck", 384), ("mnist-bottleneck-conditional", 512)])
def test_the_bottleneck_joins_what_its_source_says(name: str, channels: int) -> None:
    """Arnason's report: 256 channels of the image, 128 of the time, 128 of the label."""
    assert max(module.in_channels for module in on_meta(name).modules() if type(module) is nn.Conv2d) == channels


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_forecast_without_its_data(name: str) -> None:
    """Shape, classes and the least memory are known from the settings, and the whole graph fits together."""
    experiment = load_experiment(name)
    data = stand_in(experiment)
    ready = resolved(experiment, shape=data.record.shape, is_image=data.record.is_image)
    condition = data.record.condition_shape(ready.condition)
    assert bool(condition) == bool(experiment.condition)
    if not differentiates_input(experiment.objective):
        assert 2**14 < least_bytes(ready, data.record.shape, condition) < 64e9  # one GPU or less


SMALL = [name for name in NAMES if name.endswith("-small")]
QUICK = {
    "training.batch_size": 4,
    "training.accumulate": 1,
    "training.precision": "float32",
    "training.compile": "off",
    "sampling.steps": 2,
    "sampling.micro_batch": 2,
}


def test_there_is_a_small_one_of_every_recipe_for_a_gpu() -> None:
    large = {"oxford-flowers", "oxford-pets", "mnist-ddpm", "mnist-bottleneck", "mnist-bottleneck-conditional"}
    large |= {"film-ddim", "cifar10-ddpm", "mnist-conditional", "sprites-conditional"}
    assert {f"{name}-small" for name in large} == set(SMALL)
    assert large <= set(NAMES)


@pytest.mark.parametrize("name", SMALL)
def test_small_recipes_train_and_sample(name: str, tmp_path: Path) -> None:
    """A step that moves the weights, and two pictures."""
    experiment = load_experiment(name, QUICK)
    data = stand_in(experiment)
    ready = resolved(experiment, shape=data.record.shape, is_image=True)
    session = Session(ready, data, folder=tmp_path, reporter=Silent())
    before = [p.detach().clone() for p in session.step.parameters]
    assert 0 < float(session.step(0).loss) < 5  # targets of unit variance, networks that say little yet
    assert any(not torch.equal(p, old) for p, old in zip(session.step.parameters, before, strict=True))
    model = Model(ready, session.data.record, {"ema": session.averaged}, "", 0)
    told = {"labels": "all"} if ready.condition.labels else {}
    images = model.sample(2, seed=0, **told).images
    channels, height, width = data.record.shape
    assert images.shape == (2, height, width, channels)
    assert images.dtype == "uint8"


def test_a_dry_run_counts_and_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of `--dry-run` on one recipe whose data are elsewhere."""
    monkeypatch.setattr(forecasting, "PATIENCE", 0.0)
    found = forecasting.forecast("mnist-bottleneck-conditional-small", {"training.batch_size": 2})
    assert found.shape == (1, 28, 28)
    assert found.condition.num_classes == 10
    assert found.seconds > 0
    assert found.timed_examples is None
    assert "measured here now (" in found.text()


def test_a_step_that_is_much_work_is_timed_on_fewer_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same counts as of a whole batch, to the byte; a time in proportion, but for the update of the weights."""
    monkeypatch.setattr(forecasting, "PATIENCE", 0.0)
    name, settings = "mnist-bottleneck-conditional-small", {**QUICK, "training.batch_size": 9, "training.device": "cpu"}
    whole = forecasting.forecast(name, settings)
    monkeypatch.setattr(forecasting, "WORK", 3.0 * whole.flops_per_image * 3)  # three training examples
    monkeypatch.setattr(forecasting, "median_seconds", lambda session, step: 1000.0 * step.settings.batch_size)
    few = forecasting.forecast(name, settings)
    assert few.timed_examples == 3
    assert "measured here now on 3 examples (" in few.text()
    assert few.document()["timed_examples"] == 3
    assert few.seconds_per_step == pytest.approx(9000, rel=1e-2)  # an update takes well below 30 s
    kept = ("parameters", "flops_per_image", "activation_bytes", "memory_bytes", "checkpoint_bytes")
    assert [getattr(few, field) for field in kept] == [getattr(whole, field) for field in kept]
