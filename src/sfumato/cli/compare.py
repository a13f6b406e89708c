"""`sfumato compare`: is one run better than another, by how much and how surely, or why that cannot be said."""

import argparse
from collections.abc import Mapping

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.differences import print_comparison
from sfumato.cli.naming import width_given
from sfumato.cli.output import note
from sfumato.cli.sample import whole
from sfumato.experiment.compare import compare

__all__ = ["arguments", "run"]


def arguments(parser: Parser) -> None:
    """Declare what to compare, by which numbers, and whether to measure now."""
    parser.add_argument(
        "what", nargs="*", metavar="RUN", help="runs, checkpoints (RUN/best), or files of sfumato evaluate; first: base"
    )
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    parser.add_argument("--metrics", metavar="A,B", help="loss, kid, loss[held-out], … (default: all that both have)")
    parser.add_argument("--measure", action="store_true", help="evaluate all of them now, alike, and keep the numbers")
    parser.add_argument("-n", "--count", type=whole, metavar="N", help="examples, samples (default: what was measured)")
    parser.add_argument("--seed", type=whole, metavar="K", help="of the numbers (default: any, the same for all)")
    parser.add_argument("--part", metavar="held-out|training", help="of the data (default: any, the same for all)")
    parser.add_argument("--weights", default="ema", metavar="ema|live|W", help="of the runs (default: ema)")
    parser.add_argument(
        "--across", default="", metavar="A,B", help="settings of sampling that may differ: they are what is compared"
    )
    parser.add_argument("--extractor", metavar="E", help="features of pictures; otherwise any, the same for all")
    parser.add_argument("--extractor-weights", metavar="FILE", help="with --measure: the weights of inception")
    parser.add_argument("--device", default="auto", metavar="D", help="where to measure (default: auto)")
    parser.epilog = (
        "Numbers that `sfumato evaluate` stored are compared where they measure the same thing: the same n,\n"
        "extractor, reference, data, seed, sampler and unit. Otherwise the reason is given, and nothing is ranked.\n"
        "examples:\n"
        "  sfumato compare digits-1 digits-2\n"
        "  sfumato compare digits-1 digits-2 digits-3 --metrics loss --json\n"
        "  sfumato compare digits-1 digits-2 --measure --metrics kid -n 2000 --steps 25 --extractor judge\n"
        "  sfumato compare a.json b.json --across sampler,steps\n"
        "With --measure settings of the sampling may follow as in `sfumato sample`: --sampler heun, --guidance 2, …\n"
        "How to read it: docs/comparing.md"
    )


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Compare and print; returns the differences, and what could not be compared."""
    weights = args.weights
    if weights not in ("ema", "live"):
        weights = f"{width_given('--weights', weights, words='ema, live or '):g}"
    found = compare(
        *args.what,
        metrics=args.metrics,
        folder=args.runs,
        weights=weights,
        n=args.count,
        seed=args.seed,
        part=args.part,
        across=[name.strip() for name in args.across.split(",") if name.strip()],
        measure=args.measure,
        sampling=[(key.removeprefix("sampling."), text) for key, text in settings] or None,
        device=args.device,
        extractor=args.extractor,
        extractor_weights=args.extractor_weights,
        report=note,
    )
    print_comparison(found)
    return found.document()
