"""The experiments that come with sfumato, and the search for one by name. Reads YAML only, without importing torch."""

import difflib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sfumato.errors import ConfigError
from sfumato.experiment.schema import flatten
from sfumato.experiment.tree import untyped
from sfumato.experiment.yaml_file import read_yaml

__all__ = ["RECIPES", "Recipe", "recipe_names", "recipes", "resolve_recipe"]

RECIPES = Path(__file__).parent / "recipes"
_DATA_SUFFIXES = (".npz", ".npy", ".png", ".jpg", ".jpeg")  # names of data, which are easily taken for a recipe's place


@dataclass(frozen=True, slots=True)
class Recipe:
    """A packaged experiment: its file and what the file says, by dotted keys."""

    name: str
    path: Path
    settings: Mapping[str, object]

    @property
    def description(self) -> str:
        """The recipe's own line about itself."""
        return str(self.settings.get("description") or "")


def recipe_names() -> list[str]:
    """The names of the packaged recipes, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipes() -> tuple[Recipe, ...]:
    """All packaged recipes, sorted by name."""
    found = []
    for name in recipe_names():
        path = RECIPES / f"{name}.yaml"
        settings = flatten(untyped(read_yaml(path)))
        found.append(Recipe(name, path, settings))
    return tuple(found)


def resolve_recipe(text: str | Path) -> Path:
    """The YAML file that `text` means: a recipe's name without regard to case, or the path of a file.

    Raises ConfigError naming the nearest recipe when it is neither.
    """
    names = recipe_names()
    wanted = str(text).strip()
    by_form = {name.lower(): name for name in names}
    form = wanted.lower().replace("_", "-").replace(" ", "-")
    path = Path(wanted)
    if isinstance(text, str) and form in by_form:
        return RECIPES / f"{by_form[form]}.yaml"
    named = path.suffix.lower() not in _DATA_SUFFIXES
    if wanted and named and (path.is_file() or path.suffix.lower() in (".yaml", ".yml")):
        return path  # a file that is missing is refused when it is read
    if (path / "config.yaml").is_file():
        return path / "config.yaml"
    if path.is_dir() or path.suffix.lower() in _DATA_SUFFIXES:
        raise ConfigError(
            f"{wanted} is a {'folder' if path.is_dir() else 'data file'}, not a recipe",
            expected="a recipe (" + ", ".join(names) + ") or a YAML file, with the data as --data.path",
            fix=f"sfumato train oxford-flowers --data.path {shlex.quote(wanted)}",
        )
    near = difflib.get_close_matches(form, list(by_form), n=1, cutoff=0.5)
    raise ConfigError(
        f"there is no recipe {wanted!r}" + (", and no file of that name" if "/" in wanted else ""),
        expected="a recipe (" + ", ".join(names) + ") or the path of a YAML file",
        fix=f"did you mean {by_form[near[0]]}?" if near else "run `sfumato recipes` to see what each is",
    )
