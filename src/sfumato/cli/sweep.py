"""`sfumato sweep`: many runs of one experiment along axes; the same command again goes on."""

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.output import is_fancy, note, say, table
from sfumato.cli.sample import whole
from sfumato.cli.train import in_words_of_flags, settings_help
from sfumato.errors import Interrupted, PartialError, UsageError, printable

if TYPE_CHECKING:
    from sfumato.experiment.sweep import Outlook, Search, Sweep, SweepReporter, Table, Way, Wish

__all__ = ["arguments", "run"]

BY_LEVEL = "loss_by_log_snr["  # dozens of columns, which no terminal holds
SEARCHES = ("grid", "random", "optuna")


def arguments(parser: Parser) -> None:
    """Declare what varies and how arms are trained; everything else, `--KEY VALUE`, is a setting of all arms."""
    parser.usage = (
        "sfumato sweep RECIPE|FILE --axis KEY=V1,V2 … [--seeds K] [--workers N] [--dry-run] [--KEY VALUE …]\n"
        "       sfumato sweep SWEEP"
    )
    parser.add_argument("recipe", metavar="RECIPE|FILE|SWEEP", help="what is varied, or a sweep that goes on")
    parser.add_argument("--axis", action="append", default=[], metavar="KEY=V1,V2", help="a setting and its values")
    parser.add_argument(
        "--seeds", type=whole, default=1, metavar="K", help="repeats, each of another seed (default: 1)"
    )
    parser.add_argument("--seed", type=whole, metavar="S", help="of the first repeat (default: the recipe's)")
    parser.add_argument("--search", default="grid", metavar="|".join(SEARCHES), help="how points are chosen")
    parser.add_argument("--trials", type=whole, metavar="N", help="points that a search draws (default: 20)")
    parser.add_argument("--search-seed", type=whole, default=0, metavar="K", help="what a search follows from")
    parser.add_argument("--metric", metavar="M", help="what optuna makes better (default: held_out_loss)")
    parser.add_argument("--metrics", default="", metavar="A,B", help="measured of every arm, as by sfumato evaluate")
    parser.add_argument("-n", "--count", type=whole, metavar="N", help="examples and samples to measure on")
    parser.add_argument("--extractor", metavar="E", help="features of pictures to measure by")
    _arguments_of_the_way(parser)
    parser.epilog = (
        "examples:\n"
        "  sfumato sweep digits --axis objective.distance=mse,mae --axis schedule=CosineAngle,VpSde --seeds 3\n"
        "  sfumato sweep swiss-roll --axis network.widths=[32,32],[128,128] --metrics energy_distance --dry-run\n"
        "  sfumato sweep digits --search random --trials 30 --axis training.learning_rate=1e-4..1e-2:log\n"
        "Arms of one seed are paired: the same data order, times, noise and, where shapes allow, initial weights.\n"
        "How to read it: docs/sweeps.md"
    )
    parser.settings_help = settings_help


def _arguments_of_the_way(parser: Parser) -> None:
    """Declare how arms are trained, which changes nothing that is computed."""
    parser.add_argument("--workers", type=whole, metavar="N", help="arms at a time (default: as cores or GPUs hold)")
    parser.add_argument("--threads", type=whole, metavar="T", help="CPU threads of each arm, decided once")
    parser.add_argument("--launcher", default="local", metavar="local|slurm|inline", help="where arms are trained")
    parser.add_argument(
        "--slurm", action="append", default=[], metavar="KEY=VALUE", help="for the executor of submitit"
    )
    parser.add_argument("--budget", metavar="TIME", help="stop after 2h, 90min, …; the same command goes on")
    parser.add_argument("--dry-run", action="store_true", help="the arms and a forecast; trains nothing")
    parser.add_argument("--no-forecast", action="store_true", help="start without timing the arms")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="arms of such names alone")
    parser.add_argument("--retry", action="store_true", help="try arms again that diverged")
    parser.add_argument("--skip-unfit", action="store_true", help="leave out combinations that cannot be trained")
    parser.add_argument("--yes", action="store_true", help="more than 1,000 arms are meant")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    parser.add_argument("--name", metavar="NAME", help="the sweep's name (default: the recipe's, -sweep-, a number)")
    parser.add_argument("--device", metavar="D", help="short for --training.device")


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Train the arms that are left and print the table; returns it. Raises PartialError when arms failed."""
    from sfumato.experiment.sweep import carry_out, foresee, load_sweep, open_sweep

    if args.device is not None:
        settings = [*settings, ("training.device", args.device)]
    if args.seed is not None:
        settings = [*settings, ("seed", str(args.seed))]
    wish, way = _wish(args, settings), _way(args)
    stopped: Interrupted | None = None
    with in_words_of_flags():
        opened = open_sweep(wish, note)
        if args.dry_run:
            return _dry_run(opened, foresee(opened, way))
        try:
            with _reporting() as reporter:
                carry_out(opened, way, reporter)
        except Interrupted as error:
            stopped = error
    sweep = load_sweep(opened.folder)
    document = _finished(sweep)
    if stopped is not None:
        raise Interrupted(stopped.what, expected=stopped.expected, fix=stopped.fix, document=document)
    _require_none_failed(sweep, document)
    return document


def _wish(args: argparse.Namespace, settings: Settings) -> "Wish":
    from sfumato.experiment.sweep import Measures, Wish, axes_of

    metrics = tuple(name.strip() for name in args.metrics.split(",") if name.strip())
    return Wish(
        args.recipe,
        axes_of(args.axis),
        settings,
        args.seeds,
        _search(args),
        Measures(metrics, args.count, args.extractor),
        args.threads,
        args.skip_unfit,
        Path(args.runs),
        args.name,
        args.yes,
    )


def _way(args: argparse.Namespace) -> "Way":
    from sfumato.experiment.sweep import Way, seconds_of

    words = [word.partition("=") for word in args.slurm]
    wrong = next((key for key, equals, text in words if not equals or not text), None)
    if wrong is not None:
        raise UsageError(f"--slurm {wrong}", expected="KEY=VALUE", fix="--slurm slurm_partition=gpu")
    return Way(
        args.workers,
        args.launcher,
        {key: text for key, _, text in words},
        None if args.budget is None else seconds_of(args.budget),
        tuple(args.only),
        args.retry,
        not args.no_forecast,
    )


def _search(args: argparse.Namespace) -> "Search":
    """How points are chosen. Raises UsageError for options that the chosen search has no use for."""
    from sfumato.experiment.sweep import Grid, Optuna, Random

    if args.search not in SEARCHES:
        raise UsageError(f"--search is {args.search!r}", expected=" or ".join(SEARCHES), fix="--search random")
    if args.metric is not None and args.search != "optuna":
        raise UsageError(
            f"--metric {args.metric} was given with --search {args.search}",
            expected="--metric with --search optuna; what is measured of every arm is --metrics",
            fix=f"--metrics {args.metric}, or --search optuna",
        )
    if args.search == "grid":
        if args.trials is not None:
            raise UsageError("--trials was given for a grid", expected="it with a search", fix="--search random")
        return Grid()
    trials = 20 if args.trials is None else args.trials
    if args.search == "random":
        return Random(trials, args.search_seed)
    return Optuna(trials, args.search_seed, "held_out_loss" if args.metric is None else args.metric)


def _dry_run(sweep: "Sweep", outlook: "Outlook") -> Mapping[str, object]:
    """Print the arms and what they would take; both as a document."""
    axes = [axis.key for axis in sweep.plan.axes]
    rows = [[arm.name, *(arm.settings[key] for key in axes), str(arm.seed), sweep.state(arm)] for arm in sweep.arms]
    table(["arm", *axes, "seed", "state"], rows)
    for line in (*sweep.notes, *outlook.lines()):
        say(line)
    arms = [
        {"name": arm.name, "settings": dict(arm.settings), "seed": arm.seed, "state": sweep.state(arm)}
        for arm in sweep.arms
    ]
    return {"sweep": str(sweep.folder), "arms": arms, "forecast": outlook.document(), "notes": list(sweep.notes)}


def _finished(sweep: "Sweep") -> dict[str, object]:
    """Print the table of a sweep; its document."""
    from sfumato.experiment.sweep import table_of

    found = table_of(sweep)
    _print(sweep, found)
    return {"sweep": str(sweep.folder), **found.document()}


def _print(sweep: "Sweep", found: "Table") -> None:
    axes = [axis.key for axis in sweep.plan.axes]
    names = [name for name in found.names if not name.startswith(BY_LEVEL)]
    shown = [name.replace("held_out_loss", "held-out") for name in names]
    rows = [
        [
            row.arm.name,
            *(row.arm.settings[key] for key in axes),
            row.state if row.state in ("done", "waiting") else f"{row.state} {row.step:,}/{row.steps:,}",
            *(str(row.figures[name]) if name in row.figures else "-" for name in names),
        ]
        for row in found.rows
    ]
    table(["arm", *axes, "state", *shown], rows)
    if found.means:
        say()
        say("means over the seeds, their errors from the scatter among them:")
        cells = [
            [
                *(mean.settings[key] for key in axes),
                str(mean.seeds),
                *(str(mean.figures[name]) if name in mean.figures else "-" for name in names),
            ]
            for mean in found.means
        ]
        table([*axes, "seeds", *shown], cells)
    for row in found.rows:
        if row.error is not None:
            say(f"{row.arm.name} failed: {printable(row.error)}")
    for text in found.notes:
        say(f"- {text}")
    if len(names) < len(found.names):
        where = shlex.quote(printable(sweep.folder))
        say(f"- by noise level: sfumato figures by-level {where}; the numbers are in --json")


def _require_none_failed(sweep: "Sweep", document: dict[str, object]) -> None:
    failed = [arm for arm in sweep.arms if sweep.state(arm) == "failed"]
    if not failed:
        return
    first = sweep.failure(failed[0])
    assert first is not None
    raise PartialError(
        f"{len(failed)} of {len(sweep.arms)} arms failed; {failed[0].name}: {first.what}",
        expected=first.expected,
        fix=f"{first.fix}; the same command tries again what may end otherwise, with --retry all of them",
        document=document,
    )


@contextmanager
def _reporting() -> "Iterator[SweepReporter]":
    """Live bars on a terminal, plain lines elsewhere; both on stderr."""
    from sfumato.experiment.sweep.standing import Bars, Lines

    if is_fancy(sys.stderr):
        with Bars() as bars:
            yield bars
    else:
        yield Lines()
