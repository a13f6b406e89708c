"""`sfumato effects`: what each axis of a sweep does to its metrics, with errors, and what two of them do together.

A command of its own: `compare` sets runs against one of them and takes each as it is, `effects` takes differences
between all arms that are alike but for an axis, and tells of settings instead of runs.
"""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.output import say, table
from sfumato.errors import printable
from sfumato.experiment.rounding import p_value, rounded, with_error

if TYPE_CHECKING:
    from sfumato.experiment.effects import Effect, Effects

__all__ = ["arguments", "print_effects", "run"]


def arguments(parser: Parser) -> None:
    """Declare the sweep and what to tell of it."""
    parser.add_argument("sweep", metavar="SWEEP", help="a sweep that is trained, and measured (--metrics)")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    parser.add_argument("--metrics", metavar="A,B", help="kid, noise_error[mse], … (default: all with a better side)")
    parser.add_argument("--no-interactions", action="store_true", help="main effects alone: fewer to correct for")
    parser.add_argument(
        "--own-scatter", action="store_true", help="of each effect, instead of that of all arms together"
    )
    parser.epilog = (
        "examples:\n"
        "  sfumato effects digits-sweep-1\n"
        "  sfumato effects digits-sweep-1 --metrics kid --no-interactions --json\n"
        "  sfumato figures effects digits-sweep-1 --out effects.pdf\n"
        "How to read it: docs/effects.md"
    )


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Print the effects of every axis; returns them."""
    from sfumato.experiment.effects import effects

    found = effects(
        args.sweep,
        args.metrics,
        runs=args.runs,
        pooled=not args.own_scatter,
        interactions=not args.no_interactions,
    )
    print_effects(found)
    return found.document()


def print_effects(found: "Effects") -> None:
    """A table for each metric, the reasons for what is not told, and how to read it."""
    for metric in found.metrics:
        say(f"{printable(metric)}:")
        head = ["change", "base", "effect", "95 % interval", "p corrected", "pairs x seeds", "verdict"]
        table(head, [_row(found, effect) for effect in found.of(metric)])
        say()
    for left in found.untold:
        say(f"- {printable(left.metric)} of {printable(left.first)} and {printable(left.second)} is not ranked,")
        say(f"  nor are interactions with this change: {printable(left.reason)}")
    for text in found.notes:
        say(f"- {printable(text)}")


def _row(found: "Effects", effect: "Effect") -> list[str]:
    error = effect.std_error
    size = with_error(effect.value, error, signed=True)
    base = "" if effect.base is None else rounded(effect.base, error)
    span = " … ".join(rounded(end, error, signed=True) for end in effect.interval)
    repeats = f"{effect.pairs} x {effect.seeds}"
    return [found.label(effect), base, size, span, p_value(effect.corrected), repeats, effect.verdict]
