"""`sfumato recipes`: the experiments that come with sfumato."""

import argparse
from collections.abc import Mapping

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.output import say, table
from sfumato.experiment.catalog import Recipe, recipes

__all__ = ["arguments", "run"]

_SHOWN = ("data.source", "network", "schedule", "parameterization", "training.steps")


def arguments(parser: Parser) -> None:
    """Declare nothing: the list takes no options of its own."""
    parser.epilog = "A recipe is a YAML file; `sfumato train NAME --KEY VALUE` changes any of its settings."


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Print the recipes; returns them with all their settings."""
    found = recipes()
    table(["recipe", *_SHOWN], [[r.name, *(_shown(r, key) for key in _SHOWN)] for r in found])
    for recipe in found:
        say(f"\n{recipe.name}: {recipe.description}\n  {recipe.path}")
    return {
        "recipes": [
            {"name": r.name, "description": r.description, "path": str(r.path), "settings": dict(r.settings)}
            for r in found
        ]
    }


def _shown(recipe: Recipe, key: str) -> str:
    value = recipe.settings.get(key, recipe.settings.get(f"{key}.kind"))
    return "-" if value is None else str(value)
