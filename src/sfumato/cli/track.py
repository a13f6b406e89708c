"""`sfumato track RUN`: tell TensorBoard, or another tracker, of a run that is there already."""

import argparse
from collections.abc import Mapping

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.output import note, say
from sfumato.errors import printable

__all__ = ["arguments", "run"]


def arguments(parser: Parser) -> None:
    """Declare the run and the trackers."""
    parser.add_argument("run", metavar="RUN", help="a run folder, or the name of a run")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    parser.add_argument(
        "--tracker",
        metavar="NAME[:PROJECT]",
        action="append",
        help="tensorboard (the default), wandb, mlflow, …; may be given several times",
    )
    parser.epilog = (
        "From metrics.jsonl and the previews in samples/; event files of TensorBoard are written anew.\n"
        "examples:\n"
        "  sfumato track digits-1\n"
        "  sfumato track digits-1 --tracker wandb:digits\n"
        "Training does it as it goes with --training.trackers. docs/tracking.md"
    )


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Tell; returns what was told to whom."""
    from sfumato.data.wording import counted
    from sfumato.experiment.tracking.choosing import TENSORBOARD
    from sfumato.experiment.tracking.track import track

    found = track(args.run, args.tracker or [TENSORBOARD], runs=args.runs, report=note)
    told = f"{counted(found.lines, 'line')} and {counted(found.previews, 'preview')}"
    say(f"{told} of {printable(found.folder)} for {', '.join(found.trackers)}")
    if found.files:
        say(f"look at it: tensorboard --logdir {printable(args.runs)}")
    return {
        "run": str(found.folder),
        "trackers": list(found.trackers),
        "lines": found.lines,
        "previews": found.previews,
        "files": [str(path) for path in found.files],
    }
