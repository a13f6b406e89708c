"""What figures are made of, by name: one run, recipe or file, and the model that it holds."""

import argparse
from typing import TYPE_CHECKING

from sfumato.cli.output import note
from sfumato.errors import UsageError

if TYPE_CHECKING:
    from sfumato.experiment.model import Model

__all__ = ["one", "trained"]


def one(args: argparse.Namespace, what: str) -> str:
    """The one thing to draw."""
    if len(args.what) != 1:
        given = "nothing" if not args.what else " ".join(args.what)
        raise UsageError(
            f"figures {args.kind}: {given} was named", expected=f"one {what}", fix=f"sfumato figures {args.kind} NAME"
        )
    return str(args.what[0])


def trained(what: str, args: argparse.Namespace) -> "Model":
    """The model of a run or of an exported file."""
    from sfumato.experiment.load import load

    return load(what, runs=args.runs, device=args.device, report=note)
