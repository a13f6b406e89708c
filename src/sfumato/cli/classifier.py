"""`sfumato classifier`: the classifier of noisy data that steers a run's samples."""

import argparse
import shlex
import time
from collections.abc import Mapping
from dataclasses import replace

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.output import say, table
from sfumato.cli.sample import whole
from sfumato.cli.train import reporting
from sfumato.errors import UsageError, printable
from sfumato.experiment.rounding import value_and_error

__all__ = ["arguments", "run"]


def arguments(parser: Parser) -> None:
    """Declare the run and how its classifier is trained."""
    parser.add_argument("run", metavar="RUN", help="a run folder, or the name of a run")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    parser.add_argument("--steps", type=whole, metavar="N", help="optimizer steps (default: 2000)")
    parser.add_argument("--batch_size", type=whole, metavar="B", help="examples per step (default: 128)")
    parser.add_argument("--learning_rate", metavar="R", help="of AdamW at its highest (default: 0.001)")
    parser.add_argument("--width", type=whole, metavar="W", help="channels at the first level (default: 32)")
    parser.add_argument("--depth", type=whole, metavar="D", help="residual blocks of each level (default: 1)")
    parser.add_argument("--device", default="auto", metavar="D", help="where to train (default: auto)")
    parser.add_argument("--force", action="store_true", help="replace the classifier that is there already")
    parser.epilog = (
        "Learns p(class | x_t, t) on the run's own data, schedule and normalization, into RUN/classifier.safetensors.\n"
        "The run may have been trained without labels, as long as its data have them.\n"
        "examples:\n"
        "  sfumato classifier mnist-1\n"
        "  sfumato sample mnist-1 --label 3 --classifier_guidance 1 --out threes\n"
        "What the guidance does: docs/guidance.md"
    )


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Train; returns the file and how often the classifier is right at each noise level."""
    from sfumato.experiment.classifier import classifier_record, train_classifier
    from sfumato.nn.classifier import NoisyClassifierConfig
    from sfumato.training.classifier import ClassifierSettings

    how = {"steps": args.steps, "batch_size": args.batch_size, "learning_rate": _number(args.learning_rate)}
    size = {"width": args.width, "depth": args.depth}
    chosen = replace(ClassifierSettings(), **{key: value for key, value in how.items() if value is not None})
    network = replace(NoisyClassifierConfig(), **{key: value for key, value in size.items() if value is not None})
    began = time.perf_counter()
    with reporting() as reporter:
        path = train_classifier(
            args.run,
            settings=chosen,
            network=network,
            runs=args.runs,
            device=args.device,
            force=args.force,
            reporter=reporter,
        )
    record, seconds = classifier_record(path.parent), time.perf_counter() - began
    rows = [
        [
            f"{score.log_snr:.1f}",
            *value_and_error(score.accuracy.value, score.accuracy.std_error),
            *value_and_error(score.cross_entropy.value, score.cross_entropy.std_error),
        ]
        for score in record.scores
    ]
    table(["log-SNR", "right", "std. error", "-log p", "std. error"], rows)
    say(f"{len(record.classes)} classes, {record.scores[0].accuracy.n:,} examples of the {record.part} part")
    say(f"written to {printable(path)} ({seconds:.0f} s)")
    where = shlex.quote(printable(path.parent))
    say(f"use it: sfumato sample {where} --label all --classifier_guidance 1 --out {where}/samples/guided")
    plain = record.to_plain()
    kept = {key: plain[key] for key in ("classes", "part", "settings", "network", "scores")}
    return {"run": str(path.parent), "file": str(path), "seconds": seconds, **kept}


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"--learning_rate is {text!r}", expected="a number above 0", fix="--learning_rate 0.001"
        ) from None
