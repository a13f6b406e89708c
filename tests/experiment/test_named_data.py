"""Experiments on sets known by name: forecast without their files, refused in three lines, never fetched unasked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sfumato
from sfumato.data import sets
from sfumato.errors import ConfigError, DataError
from sfumato.experiment.config import load_experiment
from sfumato.experiment.forecast import stand_in

SMALL: dict[str, Any] = {
    "data.size": 8,
    "data.channels": 1,
    "data.pad": None,
    "network": {"kind": "ResidualUNet", "widths": [8, 8], "depth": 1},
    "training.steps": 2,
    "training.batch_size": 4,
    "training.preview_every": 0,
    "training.checkpoint_every": 1,
    "training.warmup_steps": 0,
    "training.precision": "float32",
    "training.compile": "off",
}


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mnist_in: Callable[[Path], Path]) -> Path:
    """Forty digits in MNIST's format, ten of them to test with, where the cache keeps them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return mnist_in(tmp_path / "cache" / "sfumato" / "sets" / "mnist")


def test_a_recipe_finds_its_set_and_never_fetches_by_itself(kept: Path, tmp_path: Path) -> None:
    """`download` is a wish of one command: the run's own settings do not say it again, and resuming may."""
    run = sfumato.train("mnist-ddpm-small", {**SMALL, "data.download": True}, runs=tmp_path / "runs")
    assert run.experiment.data.source == "mnist"
    assert not run.experiment.data.download
    assert "download: false" in (run.folder / "config.yaml").read_text()
    more = sfumato.resume(run.folder, {"training.steps": 3, "data.download": True})
    assert (more.steps, more.experiment.data.download) == (3, False)
    for file in kept.iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"data\.source is 'mnist', and train-images-idx3-ubyte\.gz"):
        sfumato.resume(run.folder, {"training.steps": 4})


def test_the_test_part_is_held_out_and_stays_so(kept: Path, tmp_path: Path) -> None:
    run = sfumato.train("mnist-ddpm-small", SMALL, runs=tmp_path / "runs")
    record = sfumato.load(run).record
    assert (record.count, record.held_out_count) == (40, 10)
    with pytest.raises(ConfigError, match=r"cannot be resumed with other data\.test_part"):
        sfumato.resume(run.folder, {"training.steps": 3, "data.test_part": False})


def test_classes_are_known_without_the_data() -> None:
    """A forecast of a conditional model needs no condition.classes where the set is known by name."""
    told = {"condition.classes": None, "data.label": None}
    assert stand_in(load_experiment("mnist-conditional-small", told)).record.num_classes == 10
    coarse = {**told, "data.source": "cifar100", "data.label": "coarse", "data.channels": 3}
    assert stand_in(load_experiment("mnist-conditional-small", coarse)).record.num_classes == 20


def test_every_named_set_is_the_source_of_a_recipe_that_is_named_after_it() -> None:
    """And a recipe is named after no set that it does not name as its source."""
    for recipe in ("mnist-ddpm", "mnist-bits", "cifar10-ddpm-small", "oxford-flowers", "oxford-pets-small"):
        source = load_experiment(recipe).data.source
        assert source in sets.SETS
        assert recipe.startswith(source)


def test_flowers_are_pooled_as_their_source_pooled_them() -> None:
    flowers, pets = (load_experiment(name).data for name in ("oxford-flowers", "oxford-pets"))
    assert (flowers.test_part, flowers.held_out) == (False, 0.2)
    assert pets.test_part
