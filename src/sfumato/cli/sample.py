"""`sfumato sample`: draw from a run or an exported model into an array file or a folder of pictures."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.output import is_fancy, note, say
from sfumato.errors import printable

__all__ = ["arguments", "run", "whole"]


def whole(text: str) -> int:
    """A whole number of an option; `Parser.error` names the option when it is none."""
    return int(text)


def arguments(parser: Parser) -> None:
    """Declare the short forms; any other setting below `sampling` may follow as --KEY VALUE."""
    parser.usage = (
        "sfumato sample RUN [-n N] [--steps S] [--sampler NAME] [--seed K] [--label L] [--guidance W]\n"
        "                      [--weights ema|live] --out FILE.npz|FOLDER"
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, the name of a run, or an exported file")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    parser.add_argument("-n", "--count", type=whole, default=36, metavar="N", help="number of samples (default: 36)")
    parser.add_argument("--steps", metavar="S", help="steps of the sampler (default: the run's)")
    parser.add_argument("--sampler", metavar="NAME", help="ddim, ancestral, … (default: the run's)")
    parser.add_argument("--seed", type=whole, default=0, metavar="K", help="sample i has seed K + i (default: 0)")
    parser.add_argument("--label", metavar="L", help="the class to draw, for models trained with classes")
    parser.add_argument("--guidance", metavar="W", help="weight of classifier-free guidance")
    parser.add_argument("--weights", metavar="ema|live", help="averaged or last weights (default: the run's, ema)")
    parser.add_argument("--device", default="auto", metavar="D", help="where to sample (default: auto)")
    parser.add_argument("--out", required=True, metavar="FILE.npz|FOLDER", help="where the samples go")
    parser.add_argument("--force", action="store_true", help="replace samples that are there already")
    parser.epilog = (
        "Settings of the sampler follow as --sampler.eta 1.0, of the rest as --grid quadratic, --clip false, …"
    )


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Sample and write; returns what was written and how it was drawn."""
    from sfumato.data.wording import counted
    from sfumato.experiment.config import sampling_with
    from sfumato.experiment.load import load
    from sfumato.experiment.model import require_count
    from sfumato.experiment.outputs import require_free_target, settings_of, write_samples

    out, folder = Path(args.out), args.out.endswith(("/", os.sep))
    require_count(args.count)
    require_free_target(out, args.count, force=args.force, folder=folder)
    model = load(args.run, runs=args.runs, device=args.device, report=note)
    short = {"steps": args.steps, "sampler": args.sampler, "guidance": args.guidance, "weights": args.weights}
    named = [(key.removeprefix("sampling."), text) for key, text in settings]
    named += [(key, text) for key, text in short.items() if text is not None]
    config = sampling_with(model.experiment.sampling, named)
    started = time.perf_counter()
    with _progress() as progress:
        samples = model.sample(args.count, seed=args.seed, labels=args.label, config=config, progress=progress)
    seconds = time.perf_counter() - started
    about = {"run": str(args.run), "digest": model.digest, **settings_of(config)}
    written = write_samples(out, samples, about, force=args.force, folder=folder)
    calls = {"mean": float(samples.calls.mean()), "max": int(samples.calls.max())}
    if config.sampler.adaptive:
        way = f"{calls['mean']:.1f} calls per sample, {calls['max']} at most"
    else:
        way = counted(config.steps, "step")
    drawn, how = counted(len(samples), "sample"), f"{about['sampler']}, {way}"
    say(f"{drawn} in {printable(out)} ({how}, {seconds:.1f} s)")
    return {
        "out": str(out),
        "files": len(written),
        "count": len(samples),
        "seed": args.seed,
        "seconds": seconds,
        "calls": calls,
        **about,
    }


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal, nothing elsewhere."""
    if not is_fancy(sys.stderr):
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sampling", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
