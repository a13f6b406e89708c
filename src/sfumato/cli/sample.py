"""`sfumato sample`: draw from a run or an exported model into an array file or a folder of pictures.

What a model was trained to be told is asked for with --label, --value and --pictures (`experiment.conditions`); a list
with commas takes turns over the samples.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.output import is_fancy, note, say
from sfumato.errors import UsageError, printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sfumato.experiment.build import DataRecord
    from sfumato.experiment.config import SamplingConfig
    from sfumato.experiment.model import Model, Samples

__all__ = ["Asking", "arguments", "asked_in", "in_turn", "progress_bar", "run", "tell", "weights_in_turn", "whole"]

USUAL = 36  # samples, where nobody says how many


def whole(text: str) -> int:
    """A whole number of an option; `Parser.error` names the option when it is none."""
    return int(text)


def arguments(parser: Parser) -> None:
    """Declare the short forms; any other setting below `sampling` may follow as --KEY VALUE."""
    parser.usage = (
        "sfumato sample RUN [-n N] [--steps S] [--sampler NAME] [--seed K] [--label L] [--value A] [--pictures PATH]\n"
        "                      [--guidance W] [--weights ema|live] --out FILE.npz|FOLDER"
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, the name of a run, a checkpoint or an exported file")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    parser.add_argument("-n", "--count", type=whole, metavar="N", help="number of samples (default: 36)")
    parser.add_argument("--steps", metavar="S", help="steps of the sampler (default: the run's)")
    parser.add_argument("--sampler", metavar="NAME", help="ddim, ancestral, … (default: the run's)")
    parser.add_argument("--seed", type=whole, default=0, metavar="K", help="sample i has seed K + i (default: 0)")
    tell(parser)
    parser.add_argument(
        "--guidance", metavar="W[,W…]", help="weight of classifier-free guidance; 1 is the model as it is"
    )
    parser.add_argument("--weights", metavar="ema|live", help="averaged or last weights (default: the run's, ema)")
    parser.add_argument("--device", default="auto", metavar="D", help="where to sample (default: auto)")
    parser.add_argument("--out", required=True, metavar="FILE.npz|FOLDER", help="where the samples go")
    parser.add_argument("--force", action="store_true", help="replace samples that are there already")
    parser.epilog = (
        "Settings of the sampler follow as --sampler.eta 1.0, of the rest as --grid quadratic, --clip false,\n"
        "--guidance_interval 0.2,5, --autoguidance 2 --weaker runs/small-1, --classifier_guidance 1, …\n"
        "Whole micro-batches are computed, so that no byte of a sample depends on -n: a few samples cost as much as\n"
        "the run's sampling.micro_batch of them (64), and less with --micro_batch 4."
    )


def tell(parser: Parser) -> None:
    """Declare what a sample can be asked to be."""
    parser.add_argument(
        "--label", metavar="L[,L…]", help="a class by name or by its number in the data; all: in turn; none: without"
    )
    parser.add_argument(
        "--value", metavar="A[,A…]", help="the numbers to draw for, in units of the data; none: without"
    )
    parser.add_argument("--pictures", metavar="PATH", help="pictures to go by: a folder, a picture, an .npz file")


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Sample and write; returns what was written and how it was drawn."""
    from sfumato.experiment.load import load
    from sfumato.experiment.model import require_count
    from sfumato.experiment.outputs import require_free_target, settings_of, write_samples

    out, folder = Path(args.out), args.out.endswith(("/", os.sep))
    require_count(USUAL if args.count is None else args.count)
    require_free_target(out, 1 if args.count is None else args.count, force=args.force, folder=folder)
    model = load(args.run, runs=args.runs, device=args.device, report=note)
    own = weights_in_turn(args.guidance)
    config = _chosen(args, settings, model, weight=args.guidance if own is None else repr(own[0]))
    asked = asked_in(args, model)
    count = args.count if args.count is not None else USUAL if asked.images is None else len(asked.images)
    require_free_target(out, count, force=args.force, folder=folder)
    started = time.perf_counter()
    with progress_bar() as progress:
        samples = model.sample(
            count,
            seed=args.seed,
            labels=asked.labels,
            values=asked.values,
            images=in_turn(asked.images, count),
            guidance=None if own is None else [own[i % len(own)] for i in range(count)],
            config=config,
            progress=progress,
        )
    seconds = time.perf_counter() - started
    about = {"run": str(args.run), "digest": model.digest, **settings_of(config)}
    if own is not None:
        about["guidance"] = own
    written = write_samples(out, samples, about, force=args.force, folder=folder)
    return {"out": str(out), "files": len(written), "seed": args.seed, **_told(out, samples, config, seconds), **about}


def _chosen(args: argparse.Namespace, settings: Settings, model: "Model", *, weight: str | None) -> "SamplingConfig":
    """The run's settings of sampling with those of the command laid over them."""
    from sfumato.experiment.config import sampling_with

    if weight is not None and not weight.strip():
        raise UsageError("--guidance is empty", expected="a weight", fix="--guidance 2, or leave out --guidance")
    short = {"steps": args.steps, "sampler": args.sampler, "guidance": weight, "weights": args.weights}
    named = [(key.removeprefix("sampling."), text) for key, text in settings]
    named += [(key, text) for key, text in short.items() if text is not None]
    return sampling_with(model.experiment.sampling, named)


def _told(out: Path, samples: "Samples", config: "SamplingConfig", seconds: float) -> dict[str, object]:
    """Say how it went; the same as a part of the document."""
    from sfumato.data.wording import counted

    calls = {"mean": float(samples.calls.mean()), "max": int(samples.calls.max())}
    if config.sampler.adaptive:
        way = f"{calls['mean']:.1f} calls per sample, {calls['max']} at most"
    else:
        way = counted(config.steps, "step")
    how = f"{type(config.sampler).__name__}, {way}"
    say(f"{counted(len(samples), 'sample')} in {printable(out)} ({how}, {seconds:.1f} s)")
    return {"count": len(samples), "seconds": seconds, "calls": calls, **named_labels(samples)}


@dataclass(frozen=True, slots=True, eq=False)
class Asking:
    """What the options ask for: texts, and the pictures that were read."""

    labels: str | None = None
    values: str | None = None
    images: "NDArray[np.uint8] | None" = None


def asked_in(args: argparse.Namespace, model: "Model") -> Asking:
    """What --label, --value and --pictures ask for. Raises SfumatoError for pictures that cannot be read."""
    from sfumato.experiment.pictures import read_pictures

    experiment, images = model.experiment, None
    if args.pictures is not None:
        images = read_pictures(Path(args.pictures), model.record, experiment.data, experiment.condition.image)
    if args.value is not None:
        for line in far_values(model.record, args.value):
            note(line)
    return Asking(args.label, args.value, images)


def far_values(record: "DataRecord", text: str) -> Iterator[str]:
    """What is to be said of values outside those that the model has seen; one number per sample only."""
    facts = record.conditions
    if facts is None or len(facts.low) != 1:
        return
    for part in text.split(","):
        with suppress(ValueError):
            if not facts.low[0] <= float(part) <= facts.high[0]:
                yield f"{part.strip()} lies outside the values of the data, {facts.low[0]:g} to {facts.high[0]:g}"


def in_turn(images: "NDArray[np.uint8] | None", count: int) -> "NDArray[np.uint8] | None":
    """The pictures for `count` samples, again and again."""
    return None if images is None else images[[i % len(images) for i in range(count)]]


def weights_in_turn(text: str | None) -> list[float] | None:
    """Weights of guidance that take turns over the samples; None for a single one. Raises UsageError."""
    if text is None or "," not in text:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        expected = "a number, or several with commas between them"
        raise UsageError(f"--guidance {printable(text)}", expected=expected, fix="--guidance 0,1,2,4") from None


def named_labels(samples: "Samples") -> dict[str, object]:
    """How many samples were asked for of each class, by what it is called."""
    if samples.labels is None or samples.class_names is None:
        return {}
    counts = Counter(samples.labels.tolist())
    return {"labels": {samples.class_names[label]: count for label, count in sorted(counts.items())}}


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal, nothing elsewhere."""
    if not is_fancy(sys.stderr):
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sampling", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
