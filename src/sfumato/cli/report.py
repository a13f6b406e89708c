"""`sfumato report`: a run or a sweep as one HTML file, to look at, to print and to send."""

import argparse
import shlex
import sys
from collections.abc import Mapping
from dataclasses import fields

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.output import note, say
from sfumato.cli.sample import whole
from sfumato.errors import UsageError, printable

__all__ = ["arguments", "run"]

OPTIONS = ("out", "runs", "count", "seed", "real", "device", "force")


def arguments(parser: Parser) -> None:
    """Declare what to report, what to draw for it, and where it goes."""
    parser.usage = "sfumato report RUN|SWEEP [--out FILE.html] [-n N] [--seed K] [--real]"
    parser.add_argument("run", metavar="RUN|SWEEP", help="a run, a checkpoint (RUN/best), a sweep, or an exported file")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    parser.add_argument("--out", metavar="FILE.html", help="the file (default: report.html in the run's folder)")
    parser.add_argument(
        "-n", "--count", type=whole, metavar="N", help="samples of each run; 0 draws none (default: 36, or 8 of an arm)"
    )
    parser.add_argument("--seed", type=whole, default=0, metavar="K", help="sample i has seed K + i (default: 0)")
    parser.add_argument(
        "--real", action="store_true", help="show pictures of the data set too: those that you may pass on"
    )
    parser.add_argument("--device", default="auto", metavar="D", help="where to sample (default: auto)")
    parser.add_argument("--force", action="store_true", help="replace a file that is no report")
    parser.epilog = (
        "Settings of the sampling may follow as in `sfumato sample`: --steps 25, --sampler heun, --guidance 2, …\n"
        "The page holds everything it shows and asks the network for nothing. docs/reports.md says what stands in it."
    )


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Write the page; returns where it is, how large, and what was noted."""
    from sfumato.experiment.report import report

    _require_known(settings)
    noted: list[str] = []

    def tell(text: str) -> None:
        noted.append(text)
        note(text)

    target = report(
        args.run,
        args.out,
        runs=args.runs,
        n=args.count,
        seed=args.seed,
        real=args.real,
        sampling=[(key.removeprefix("sampling."), text) for key, text in settings] or None,
        device=args.device,
        force=args.force,
        command=_given(),
        note=tell,
    )
    size = target.stat().st_size
    say(f"{printable(target)} ({size:,} bytes)")
    return {"out": str(target), "bytes": size, "seed": args.seed, "real": args.real, "notes": noted}


def _given() -> str:
    """The command as it was given, without what says how to print."""
    words = [word for word in sys.argv[1:] if word not in ("--json", "--debug")]
    return shlex.join(["sfumato", *words])


def _require_known(settings: Settings) -> None:
    """Refuse options that are no setting of sampling, in the words of this command. Raises UsageError."""
    from sfumato.experiment.config import SamplingConfig
    from sfumato.experiment.kinds import nearest

    known = [field.name for field in fields(SamplingConfig)]
    for key, text in settings:
        name = key.removeprefix("sampling.")
        if name.partition(".")[0] in known:
            continue
        near = nearest(name, [*OPTIONS, *known])
        value = f" {printable(text)}" if text else ""
        raise UsageError(
            f"sfumato report: unknown option --{printable(key)}",
            expected=f"{', '.join(f'--{option}' for option in OPTIONS)}, or a setting of sampling",
            fix=f"did you mean --{near}{value}?" if near else "run `sfumato report --help`",
        )
