"""`sfumato evaluate`: likelihoods, distances and losses of a run, each with its error and its convention.

With --samples and --reference it measures anybody's samples instead.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.both import BOTH, both
from sfumato.cli.keeping import keep
from sfumato.cli.naming import width_given
from sfumato.cli.output import is_fancy, is_first_process, note, say, table
from sfumato.cli.sample import whole
from sfumato.errors import UsageError, printable
from sfumato.experiment.rounding import value_and_error

if TYPE_CHECKING:
    from sfumato.experiment.evaluation import Evaluation

__all__ = ["arguments", "run"]

OPTIONS = (
    *("metrics", "count", "seed", "weights", "part", "tolerance", "max-steps", "extractor", "extractor-weights"),
    *("samples", "reference", "device", "runs"),
)
CALLED_METRICS = ("only", "measure", "measures", "which", "what")
EPILOG = (
    "metrics:\n"
    "  bits_per_dim        pictures of 8 bits: by the bound and by the flow, in nats too\n"
    "  nll                 points: by the bound and by the flow, beside the truth where the law is known\n"
    "  sliced_wasserstein, energy_distance, mmd\n"
    "                      samples against real points, each beside its floor\n"
    "  kid                 pictures: the distance of samples from real ones by their features, beside its floor\n"
    "  fid, precision, recall, density, coverage\n"
    "                      pictures: further comparisons by features, beside what real ones score (when named)\n"
    "  mode_coverage       points of a law in pieces: how evenly they are met\n"
    "  label_agreement     pictures of the classes asked for: how often a judge of classes agrees (when named)\n"
    "  class_balance       pictures: how far their classes are from the data's proportions (when named)\n"
    "  class_shares        the share of each class among the same samples (when named)\n"
    "  noise_error, image_error\n"
    "                      mean absolute and squared errors of eps and of x0 over all times (when named)\n"
    "  round_trip          examples encoded to noise and back (pictures: only when named)\n"
    "  loss                the run's own, beside the smallest attainable one\n"
    "  loss_by_log_snr     noise error on both parts of the data, image error, by noise level (when named)\n"
    "  memorisation        samples that are copies of training examples, and a picture of them (when named)\n"
    "examples:\n"
    "  sfumato evaluate digits-1 -n 64\n"
    "  sfumato evaluate roll --metrics nll,loss --json\n"
    "  sfumato evaluate digits-1 --weights both\n"
    "  sfumato evaluate digits-1/best --metrics loss\n"
    "  sfumato evaluate flowers-1 --metrics kid,fid,precision,recall -n 2000 --extractor efficientnet-lite0\n"
    "  sfumato evaluate --samples drawn.npz --reference flowers64.npz --metrics kid,fid\n"
    "  sfumato evaluate --samples drawn.npz --reference flowers-1 --metrics memorisation\n"
    "  sfumato evaluate mnist-1 --metrics label_agreement --guidance 2 --steps 25\n"
    "Settings of the sampling may follow as in `sfumato sample`: --sampler heun, --guidance 2, …; with\n"
    "--samples those of the data: --data.size 64, --data.bad_files skip, …\n"
    "What the numbers mean, and when there are none: docs/evaluation.md"
)


def arguments(parser: Parser) -> None:
    """Declare what to measure, on what, and how exactly."""
    parser.usage = (
        "sfumato evaluate RUN [--metrics A,B] [-n N] [--seed K] [--weights ema|live] [--part held-out|training] …\n"
        "       sfumato evaluate --samples FILE|FOLDER --reference DATA [--metrics A,B] [-n N] [--part held-out|all] …"
    )
    parser.add_argument("run", metavar="RUN", nargs="?", help="a run folder, the name of a run, or an exported file")
    parser.add_argument("--samples", metavar="PATH", help="samples to measure instead of a run: a folder, an .npz file")
    parser.add_argument("--reference", metavar="DATA", help="what to compare them with: a path, a set, a run")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    parser.add_argument("--metrics", metavar="A,B", help="kid, bits_per_dim, nll, loss, … (default: all that fit)")
    parser.add_argument("-n", "--count", type=whole, metavar="N", help="examples, samples (default: up to 1000)")
    parser.add_argument("--seed", type=whole, default=0, metavar="K", help="of everything drawn (default: 0)")
    parser.add_argument(
        "--weights",
        default="ema",
        metavar="ema|live|both|W",
        help="averaged, last, both of them, or the average of width W (default: ema)",
    )
    parser.add_argument("--part", default="held-out", metavar="held-out|training", help="measured (default: held-out)")
    parser.add_argument(
        "--extractor", metavar="E", help="features: efficientnet-lite0, judge, pixels, inception (default: by the data)"
    )
    parser.add_argument("--extractor-weights", metavar="FILE", help="the weights of inception, .pth or .safetensors")
    parser.add_argument("--device", default="auto", metavar="D", help="where to compute (default: auto)")
    parser.add_argument("--tolerance", metavar="TOL", help="of the ODE solver (default: 1e-5 for points, 1e-3 else)")
    parser.add_argument("--max-steps", type=whole, default=1000, metavar="S", help="of the ODE solver (default: 1000)")
    parser.epilog = EPILOG


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Measure, print, and write the numbers beside the run; returns them."""
    _require_one_subject(args)
    return _of_files(args, settings) if args.samples is not None else _of_run(args, settings)


def _of_run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    from sfumato.experiment.evaluation import evaluate
    from sfumato.experiment.evaluation.team import claim_device
    from sfumato.experiment.load import load
    from sfumato.experiment.widths import with_average

    _require_known(settings)
    tolerance = None if args.tolerance is None else _tolerance(args.tolerance)
    claim_device()
    model = load(args.run, runs=args.runs, device=args.device, report=note)

    def measured(weights: str) -> "Evaluation":
        with _bar() as progress:
            return evaluate(
                model,
                args.metrics,
                n=args.count,
                seed=args.seed,
                weights=weights,
                part=args.part,
                tolerance=tolerance,
                max_steps=args.max_steps,
                sampling=[(key.removeprefix("sampling."), text) for key, text in settings] or None,
                extractor=args.extractor,
                extractor_weights=args.extractor_weights,
                report=note,
                progress=progress,
            )

    name = f"{args.part}-seed{args.seed}"
    if args.weights == BOTH:
        return both(model, measured, _print, run=str(args.run), name=name)
    if args.weights not in ("ema", "live"):
        width = width_given("--weights", args.weights, words="ema, live, both or ")
        model, args.weights = with_average(model, width, note), f"{width:g}"
    found = measured(args.weights)
    document = {**found.to_plain(), "run": str(args.run)}
    _print(found)
    return {**document, **keep(found, model.folder, f"{args.weights}-{name}")}


def _of_files(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    from sfumato.experiment.evaluation import evaluate_samples

    wrong = next((key for key, _ in settings if not key.startswith("data.")), None)
    if wrong is not None:
        raise UsageError(
            f"sfumato evaluate --samples: unknown option --{printable(wrong)}",
            expected=f"{', '.join(f'--{option}' for option in OPTIONS)}, or a setting of the data (--data.size 64)",
            fix="run `sfumato evaluate --help`",
        )
    with _bar() as progress:
        found = evaluate_samples(
            args.samples,
            args.reference,
            args.metrics,
            n=args.count,
            seed=args.seed,
            part=args.part,
            device=args.device,
            runs=args.runs,
            data=[(key.removeprefix("data."), text) for key, text in settings],
            extractor=args.extractor,
            extractor_weights=args.extractor_weights,
            report=note,
            progress=progress,
        )
    _print(found)
    plain = found.stored()  # nothing else keeps by what two such documents are compared
    del plain["run"]
    return {"samples": str(args.samples), "reference": str(args.reference), **plain}


def _require_one_subject(args: argparse.Namespace) -> None:
    """Refuse neither a run nor samples, both, and samples without a reference. Raises UsageError."""
    files = [f"--{name}" for name in ("samples", "reference") if vars(args)[name] is not None]
    if args.run is not None and not files:
        return
    if args.run is None and len(files) == 2:
        return
    if args.run is not None:
        what = f"sfumato evaluate: {printable(args.run)} and {files[0]} were both given"
    else:
        what = "sfumato evaluate: " + (f"{files[0]} was given alone" if files else "nothing was named")
    raise UsageError(
        what,
        expected="a run, or --samples FILE|FOLDER with --reference DATA",
        fix="sfumato evaluate RUN, or sfumato evaluate --samples drawn.npz --reference data.npz",
    )


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None] | None]:
    """A bar on a terminal for what is slow, nothing elsewhere."""
    if not is_fancy(sys.stderr) or not is_first_process():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def _require_known(settings: Settings) -> None:
    """Refuse options that are no setting of sampling, in the words of this command. Raises UsageError."""
    from sfumato.experiment.config import SamplingConfig
    from sfumato.experiment.kinds import nearest

    known = [field.name for field in fields(SamplingConfig)]
    for key, text in settings:
        name = key.removeprefix("sampling.")
        if "." in name or name in known:
            continue
        near = "metrics" if name in CALLED_METRICS else nearest(name, [*OPTIONS, *known])
        value = f" {printable(text)}" if text else ""
        raise UsageError(
            f"sfumato evaluate: unknown option --{printable(key)}",
            expected=f"{', '.join(f'--{option}' for option in OPTIONS)}, or a setting of sampling",
            fix=f"did you mean --{near}{value}?" if near else "run `sfumato evaluate --help`",
        )


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise UsageError(f"--tolerance is {text!r}", expected="a number between 0 and 1", fix="--tolerance 1e-5")
    return value


def _print(found: "Evaluation") -> None:
    rows = [
        [name, *value_and_error(e.value, e.std_error), str(e.provenance.get("unit", "")), f"{e.n:,}"]
        for name, e in found.metrics.items()
    ]
    table(["metric", "value", "std. error", "unit", "n"], rows)
    for text in found.notes:
        say(f"- {printable(text)}")
