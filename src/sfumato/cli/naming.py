"""What figures and files are made of, by name: one run, recipe or file, the model that it holds, an average of it."""

import argparse
from typing import TYPE_CHECKING

from sfumato.cli.output import note
from sfumato.errors import UsageError

if TYPE_CHECKING:
    from sfumato.experiment.model import Model

__all__ = ["one", "trained", "width_given"]


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


def width_given(option: str, text: str, *, words: str = "") -> float:
    """The width of an average, sigma_rel. Raises UsageError for what is neither a number nor one of `words`."""
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"{option} is {text!r}", expected=f"{words}the width of an average, such as 0.08", fix=f"{option} 0.08"
        ) from None
