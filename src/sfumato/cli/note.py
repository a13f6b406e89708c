"""`sfumato note RUN TEXT`: what was seen in a run, kept beside it."""

import argparse
from collections.abc import Mapping

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.output import say
from sfumato.cli.sample import whole
from sfumato.errors import printable
from sfumato.experiment.labelling import note

__all__ = ["arguments", "run"]


def arguments(parser: Parser) -> None:
    """Declare the run and the text."""
    parser.add_argument("run", metavar="RUN", help="a run folder, or the name of a run")
    parser.add_argument("text", nargs="*", metavar="TEXT", help="the note; without it the notes are shown")
    parser.add_argument("--remove", type=whole, metavar="N", help="remove note N; the others keep their numbers")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    parser.epilog = 'example:\n  sfumato note digits-1 "the ones are too thin after step 2,000"'


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Write, remove or show; returns the notes that the run has then."""
    text = " ".join(args.text) if args.text else None
    said = note(args.run, text, remove=args.remove, runs=args.runs)
    for one in said.notes:
        say(f"{one.number}  {one.when}  {printable(one.text)}")
    if not said.notes:
        say(f"{printable(args.run)} has no notes")
    return {
        "run": args.run,
        "notes": [{"number": one.number, "when": one.when, "text": one.text} for one in said.notes],
    }
