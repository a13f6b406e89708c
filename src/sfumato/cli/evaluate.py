"""`sfumato evaluate`: likelihoods, distances and losses of a run, each with its error and its convention."""

import argparse
import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.naming import width_given
from sfumato.cli.output import note, say, table
from sfumato.cli.sample import whole
from sfumato.errors import UsageError, printable

if TYPE_CHECKING:
    from sfumato.experiment.evaluation import Evaluation

__all__ = ["arguments", "run"]

OPTIONS = ("metrics", "count", "seed", "weights", "part", "tolerance", "max-steps", "device", "runs")
CALLED_METRICS = ("only", "measure", "measures", "which", "what")


def arguments(parser: Parser) -> None:
    """Declare what to measure, on what, and how exactly."""
    parser.add_argument("run", metavar="RUN", help="a run folder, the name of a run, or an exported file")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    parser.add_argument(
        "--metrics", metavar="A,B", help="bits_per_dim, nll, loss, sliced_wasserstein, … (default: all that fit)"
    )
    parser.add_argument("-n", "--count", type=whole, metavar="N", help="examples, samples (default: up to 1000)")
    parser.add_argument("--seed", type=whole, default=0, metavar="K", help="of everything drawn (default: 0)")
    parser.add_argument(
        "--weights",
        default="ema",
        metavar="ema|live|W",
        help="averaged, last, or the average of width W (default: ema)",
    )
    parser.add_argument("--part", default="held-out", metavar="held-out|training", help="measured (default: held-out)")
    parser.add_argument("--device", default="auto", metavar="D", help="where to compute (default: auto)")
    parser.add_argument("--tolerance", metavar="TOL", help="of the ODE solver (default: 1e-5 for points, 1e-3 else)")
    parser.add_argument("--max-steps", type=whole, default=1000, metavar="S", help="of the ODE solver (default: 1000)")
    parser.epilog = (
        "metrics:\n"
        "  bits_per_dim        pictures of 8 bits: by the bound and by the flow, in nats too\n"
        "  nll                 points: by the bound and by the flow, beside the truth where the law is known\n"
        "  sliced_wasserstein, energy_distance, mmd\n"
        "                      samples against real points, each beside its floor\n"
        "  mode_coverage       points of a law in pieces: how evenly they are met\n"
        "  label_agreement     pictures of the classes asked for: how often a judge of classes agrees (when named)\n"
        "  class_balance       pictures: how far their classes are from the data's proportions (when named)\n"
        "  round_trip          examples encoded to noise and back (pictures: only when named)\n"
        "  loss                the run's own, beside the smallest attainable one\n"
        "  loss_by_log_snr     noise error on both parts of the data by noise level (when named)\n"
        "  memorisation        samples that are copies of training examples, and a picture of them (when named)\n"
        "examples:\n"
        "  sfumato evaluate digits-1 -n 64\n"
        "  sfumato evaluate roll --metrics nll,loss --json\n"
        "  sfumato evaluate mnist-1 --metrics label_agreement --guidance 2 --steps 25\n"
        "Settings of the sampling may follow as in `sfumato sample`: --sampler heun, --guidance 2, --clip false, …\n"
        "What the numbers mean, and when there are none: docs/evaluation.md"
    )


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Measure, print, and write the numbers beside the run; returns them."""
    from sfumato.experiment.evaluation import evaluate
    from sfumato.experiment.evaluation.files import write_evaluation
    from sfumato.experiment.load import load
    from sfumato.experiment.widths import with_average

    _require_known(settings)
    tolerance = None if args.tolerance is None else _tolerance(args.tolerance)
    model = load(args.run, runs=args.runs, device=args.device, report=note)
    if args.weights not in ("ema", "live"):
        width = width_given("--weights", args.weights, words="ema, live or ")
        model, args.weights = with_average(model, width, note), f"{width:g}"
    found = evaluate(
        model,
        args.metrics,
        n=args.count,
        seed=args.seed,
        weights=args.weights,
        part=args.part,
        tolerance=tolerance,
        max_steps=args.max_steps,
        sampling=[(key.removeprefix("sampling."), text) for key, text in settings] or None,
        report=note,
    )
    document = {**found.to_plain(), "run": str(args.run)}
    folder = _folder(args.run, args.runs)
    _print(found)
    if folder is not None:
        # stored without the name that the run was given by: the same numbers are the same file
        file = write_evaluation(folder, f"{args.weights}-{args.part}-seed{args.seed}", found.to_plain())
        say(f"written to {printable(file)}")
        pictures = _pictures(found, file)
        return {**document, "file": str(file), **({"pictures": pictures} if pictures else {})}
    return document


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


def _folder(run: str, runs: str) -> Path | None:
    """The run's folder; None for an exported file, beside which nothing is written."""
    from sfumato.experiment.load import find_run

    return None if Path(run).suffix == ".safetensors" or Path(run).is_file() else find_run(run, Path(runs))


def _pictures(found: "Evaluation", file: Path) -> list[str]:
    """Pictures of the closest pairs, beside the numbers and named after them; they replace none but their equals."""
    if not found.closest:
        return []
    from sfumato.figures import neighbours, save

    targets = {space: file.with_name(f"{file.stem}-{space}.png") for space in found.closest}
    for space, target in targets.items():
        say(f"closest pairs: {printable(save(neighbours(found.closest[space]), target, force=True))}")
    return [str(target) for target in targets.values()]


def _print(found: "Evaluation") -> None:
    rows = [
        [name, f"{e.value:.5g}", f"± {e.std_error:.2g}", str(e.provenance.get("unit", "")), f"{e.n:,}"]
        for name, e in found.metrics.items()
    ]
    table(["metric", "value", "std. error", "unit", "n"], rows)
    for text in found.notes:
        say(f"- {printable(text)}")
