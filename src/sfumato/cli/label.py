"""`sfumato label RUN … +tag -tag`: words by which runs are found again."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from sfumato.cli.arguments import DASHED, Parser, Settings
from sfumato.cli.output import say
from sfumato.errors import UsageError, printable
from sfumato.experiment.labelling import label
from sfumato.experiment.places import find_run
from sfumato.experiment.remarks import require_label

__all__ = ["arguments", "run"]


def arguments(parser: Parser) -> None:
    """Declare the runs and the labels, which may come in any order."""
    parser.usage = "sfumato label RUN … [+TAG …] [-TAG …] [--runs DIR]"
    parser.takes_dashed = True
    parser.add_argument("words", nargs="+", metavar="RUN|+TAG|-TAG", help="runs, labels to add, labels to remove")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    parser.epilog = (
        "examples:\n"
        "  sfumato label digits-1 digits-2 +baseline -draft\n"
        "  sfumato runs --where label=baseline\n"
        "A label has up to 64 letters, digits, dots, dashes, colons and underscores. docs/tracking.md"
    )


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Add and remove; returns the labels that each run has then."""
    add = [word[1:] for word in args.words if word.startswith("+")]
    remove = [word[1:] for word in args.words if word.startswith((DASHED, "-"))]
    named = [word for word in args.words if not word.startswith(("+", DASHED, "-"))]
    if not named:
        raise UsageError(
            f"no run among {printable(' '.join(args.words)).replace(DASHED, '-')}",
            expected="a run, and labels with + or - before them",
            fix="sfumato label digits-1 +baseline",
        )
    for tag in (*add, *remove):
        require_label(tag)
    for name in named:  # all of them, before the first is written on
        find_run(name, Path(args.runs))
    found = {name: label(name, add, remove, runs=args.runs).labels for name in named}
    for name, labels in found.items():
        say(f"{printable(name)}: {' '.join(labels) or 'no labels'}")
    return {"runs": [{"run": name, "labels": list(labels)} for name, labels in found.items()]}
