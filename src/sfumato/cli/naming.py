"""What figures and files are made of, by name: one run, recipe or file, the model that it holds, an average of it."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.arguments import Settings
from sfumato.cli.output import note
from sfumato.cli.sample import Asking, asked_in, in_turn
from sfumato.errors import UsageError
from sfumato.experiment.places import inside_sweep

if TYPE_CHECKING:
    from sfumato.experiment.config import Experiment, SamplingConfig
    from sfumato.experiment.model import Model

__all__ = [
    "POINTS",
    "asked_or_all",
    "experiment_of",
    "is_run",
    "known",
    "one",
    "sampling_of",
    "trained",
    "width_given",
]

POINTS = 2000  # of a 2-D set, where nobody says how many


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


def asked_or_all(args: argparse.Namespace, model: "Model", count: int) -> Asking:
    """What the options ask for, or all classes in turn of a model that is told classes."""
    asked = asked_in(args, model)
    if asked.labels is None and model.condition_shape.num_classes:
        asked = replace(asked, labels="all")
    return replace(asked, images=in_turn(asked.images, count))


def sampling_of(model: "Model", settings: Settings) -> "SamplingConfig":
    from sfumato.experiment.config import sampling_with

    return sampling_with(model.experiment.sampling, [(key.removeprefix("sampling."), text) for key, text in settings])


def known(name: str, runs: str) -> str:
    """A run's folder where `name` is a run; other names as they are."""
    return str(inside_sweep(Path(runs) / name)) if is_run(name, runs) else name


def is_run(name: str, runs: str) -> bool:
    """Whether there is a run of that name below the folder of runs, SWEEP/ARM among them."""
    return (inside_sweep(Path(runs) / name) / "config.yaml").is_file()


def experiment_of(what: str, runs: str, settings: Settings) -> "Experiment":
    from sfumato.experiment.config import load_experiment

    return load_experiment(known(what, runs), settings)
