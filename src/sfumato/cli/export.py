"""`sfumato export`: the model of a run in one self-describing file."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.naming import width_given
from sfumato.cli.output import note, say
from sfumato.cli.train import look_at
from sfumato.errors import printable

__all__ = ["arguments", "run"]


def arguments(parser: Parser) -> None:
    """Declare the run and the file."""
    parser.add_argument("run", metavar="RUN", help="a run folder, or the name of a run")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    parser.add_argument("--out", required=True, metavar="FILE", help="a file ending in .safetensors")
    parser.add_argument(
        "--ema_width", metavar="W", help="an average of this width, made of those that training stored (0.08)"
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Export; returns the file and its size."""
    from sfumato.experiment.load import export, load

    width = None if args.ema_width is None else width_given("--ema_width", args.ema_width)
    out = export(args.run, Path(args.out), runs=args.runs, force=args.force, report=note, ema_width=width)
    size = out.stat().st_size
    say(f"{printable(out)} ({size:,} bytes)")
    model = load(out, device="cpu")
    samples = out.with_name(f"{out.stem}-samples" + ("" if model.record.is_image else ".npz"))
    say(look_at(out, samples, model.experiment.condition, is_image=model.record.is_image))
    return {"out": str(out), "bytes": size}
