"""`sfumato resume`: go on with a run exactly where it stopped, or past its end."""

import argparse
from collections.abc import Mapping

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.train import finished, in_words_of_flags, reporting

__all__ = ["arguments", "run"]


def arguments(parser: Parser) -> None:
    """Declare the run and what may change."""
    parser.usage = "sfumato resume RUN [--runs DIR] [--training.steps N] [--allow-change FIELD …] [--KEY VALUE …]"
    parser.add_argument("run", metavar="RUN", help="a run folder, or the name of a run")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    parser.add_argument("--device", metavar="D", help="short for --training.device")
    parser.add_argument(
        "--allow-change", metavar="FIELD", action="append", default=[], help="a setting that may differ from before"
    )
    parser.epilog = "--training.steps N extends a finished run; other settings may change only with --allow-change."


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Resume; returns the run, its size, steps and speed."""
    from sfumato.experiment.run import resume

    if args.device is not None:
        settings = [*settings, ("training.device", args.device)]
    with in_words_of_flags(), reporting() as reporter:
        result = resume(args.run, settings, runs=args.runs, allow_change=args.allow_change, reporter=reporter)
    return finished(result)
