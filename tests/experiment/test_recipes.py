"""The packaged experiments, found by name and valid in every part."""

from pathlib import Path

import pytest

from sfumato.errors import ConfigError
from sfumato.experiment.catalog import RECIPES, recipe_names, recipes, resolve_recipe
from sfumato.experiment.config import load_experiment

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
