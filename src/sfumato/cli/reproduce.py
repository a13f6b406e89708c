"""`sfumato reproduce`: a source's own experiments, trained and measured, beside what it printed."""

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.output import is_fancy, is_first_process, note, say, table
from sfumato.cli.sample import whole
from sfumato.cli.train import in_words_of_flags, reporting
from sfumato.errors import PartialError, ResourceError, UsageError, printable
from sfumato.experiment.reproduce import SOURCES
from sfumato.experiment.reproduce.pages import Page, described, markdown, pages
from sfumato.experiment.reproduce.reproducing import planned

if TYPE_CHECKING:
    from sfumato.experiment.reproduce import Reproduction
    from sfumato.experiment.reproduce.source import Part, Scale, Source
    from sfumato.experiment.sweep import SweepReporter
    from sfumato.training.trainer import Reporter

__all__ = ["arguments", "run"]


def arguments(parser: Parser) -> None:
    """Declare which source, how large, and how arms are trained and measured; other options are settings."""
    parser.usage = (
        "sfumato reproduce [SOURCE] [--scale small|full] [--only A,B] [--seeds K] [--workers N] [--dry-run] "
        "[--data.path P] [--KEY VALUE …]"
    )
    parser.add_argument("source", metavar="SOURCE", nargs="?", help=f"{', '.join(SOURCES)}; without one: a list")
    parser.add_argument("--scale", default="small", metavar="small|full", help="two cores, half an hour; or one GPU")
    parser.add_argument("--only", default="", metavar="A,B", help="parts of the source, by name (default: the usual)")
    parser.add_argument(
        "--seeds", type=whole, default=1, metavar="K", help="how often each arm is trained (default: 1)"
    )
    parser.add_argument("--workers", type=whole, metavar="N", help="arms trained at once (default: as many as fit)")
    parser.add_argument("--launcher", default="local", metavar="local|slurm", help="where arms are trained")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    parser.add_argument("--name", metavar="NAME", help="of the folders made there (default: SOURCE-SCALE)")
    parser.add_argument("--extractor", metavar="E", help="features for KID (default: by the data)")
    parser.add_argument("--extractor-weights", metavar="FILE", help="the weights of inception, .pth or .safetensors")
    parser.add_argument("--device", default="auto", metavar="D", help="where to train and measure (default: auto)")
    parser.add_argument(
        "--out", metavar="FILE.md", help="write all that is printed there too, as Markdown, with samples beside it"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained and measured; do nothing")
    parser.epilog = (
        "The same command again goes on where it was stopped. Any setting may follow, for all arms alike.\n"
        "examples:\n"
        "  sfumato reproduce falbel --data.path flowers64.npz --workers 2\n"
        "  sfumato reproduce esling --only roll-ddpm\n"
        "  sfumato reproduce arnason --data.path mnist.npz --seeds 2\n"
        "  sfumato reproduce falbel --scale full --data.download\n"
        "What each source did, what is mended and how to read the tables: docs/reproducing.md"
    )


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Reproduce and print; returns the numbers there and here with their verdicts. Raises PartialError: some failed."""
    if args.source is None:
        return _list()
    only = [name.strip() for name in args.only.split(",") if name.strip()]
    source, parts = planned(args.source, args.scale, only)
    _require_possible(args)
    if args.dry_run:
        return _dry_run(source, parts, args, settings)
    from sfumato.experiment.reproduce import reproduce

    again = _command(args, settings)
    with in_words_of_flags(), _reporting(any(part.choices for part in parts)) as (reporter, sweep_reporter):
        found = reproduce(
            source.name,
            args.scale,
            settings or None,
            only=only,
            seeds=args.seeds,
            workers=args.workers,
            launcher=args.launcher,
            runs=args.runs,
            run_name=args.name,
            extractor=args.extractor,
            extractor_weights=args.extractor_weights,
            device=args.device,
            reporter=reporter,
            sweep_reporter=sweep_reporter,
            again=again,
        )
    for page in pages(found):
        _print(page)
    document = {**found.document(), **_write(found, args.out, args.device)}
    if found.failed:
        arms = ", ".join(f"{one.arm} (seed {one.seed})" for one in found.failed)
        raise PartialError(
            f"{len(found.failed)} arms failed: {arms}: {found.failed[0].why}",
            expected="all arms trained",
            fix=f"mend what is wrong and give the same command again: {again}",
            document=document,
        )
    return document


@contextmanager
def _reporting(grid: bool) -> "Iterator[tuple[Reporter | None, SweepReporter | None]]":
    """Who tells of runs, and who of sweeps: bars on a terminal, plain lines elsewhere, from one process only."""
    if not grid:
        with reporting() as reporter:
            yield reporter, None
        return
    from sfumato.experiment.sweep.standing import Bars, Lines, Quiet

    if not is_first_process():
        yield None, Quiet()
    elif is_fancy(sys.stderr):
        with Bars() as bars:
            yield None, bars
    else:
        yield None, Lines()


def _command(args: argparse.Namespace, settings: Settings) -> str:
    """The command line that was given, as it can be given again."""
    words = ["sfumato", "reproduce", args.source]
    usual: dict[str, object] = {"scale": None, "only": "", "seeds": 1, "workers": None, "launcher": "local"}
    usual |= {"runs": "runs", "name": None, "device": "auto", "extractor": None, "extractor_weights": None, "out": None}
    for name, default in usual.items():
        value = getattr(args, name)
        if value != default:
            words += [f"--{name.replace('_', '-')}", str(value)]
    for key, text in settings:
        words += [f"--{key}", *([] if text is None else [text])]
    return printable(shlex.join(words))


def _list() -> Mapping[str, object]:
    """The sources and their parts."""
    table(
        ["source", "parts", "what"], [[s.name, ", ".join(p.name for p in s.parts), s.about] for s in SOURCES.values()]
    )
    say("\n`sfumato reproduce falbel --dry-run` says what would be done")
    return {
        "sources": [
            {"name": s.name, "where": s.where, "about": s.about, "parts": [part.name for part in s.parts]}
            for s in SOURCES.values()
        ]
    }


def _dry_run(
    source: "Source", parts: "tuple[Part, ...]", args: argparse.Namespace, settings: Settings
) -> Mapping[str, object]:
    """What would be trained and measured."""
    from sfumato.experiment.reproduce.reproducing import experiment_of

    scale: Scale = args.scale
    for page in described(source, scale):
        _print(page)
    plans = []
    for part in parts:
        with in_words_of_flags():
            experiment = experiment_of(part, scale, settings or None)
        axes = {choice.key: list(choice.labels) for choice in part.choices}
        measures = {", ".join(m.metrics): m.count(scale) for m in part.measures if m.count(scale)}
        arms = 1
        for values in axes.values():
            arms *= len(values)
        rows = [
            ("recipe", part.base(scale).recipe),
            ("arms", f"{arms}" + (f", {args.seeds} seeds each" if args.seeds > 1 else "")),
        ]
        rows += [(key, " or ".join(values)) for key, values in axes.items()]
        rows += [("steps", f"{experiment.training.steps:,} of {experiment.training.batch_size}")]
        rows += [("measured", f"{names} (n {count:,})") for names, count in measures.items()]
        _print(Page(part.name, ("", ""), tuple(rows)))
        plans.append(
            {
                "part": part.name,
                "recipe": part.base(scale).recipe,
                "axes": axes,
                "arms": arms,
                "steps": experiment.training.steps,
                "measures": measures,
            }
        )
    faults = [{"there": fault.there, "here": fault.here} for fault in source.faults]
    return {"source": source.name, "scale": scale, "seeds": args.seeds, "faults": faults, "parts": plans}


def _print(page: Page) -> None:
    say()
    say(printable(page.title))
    if page.rows:
        table(page.columns, page.rows)
    for line in page.lines:
        say(f"- {printable(line)}")


def _require_possible(args: argparse.Namespace) -> None:
    """Raise before an hour of training, and not behind it: UsageError for no seed, or nowhere to write the text."""
    if args.seeds < 1:
        raise UsageError(f"--seeds is {args.seeds}", expected="1 or more", fix="--seeds 1")
    if args.out is None:
        return
    out, path = args.out, Path(args.out)
    if path.is_dir() or not path.absolute().parent.is_dir():
        what = "is a folder" if path.is_dir() else "cannot be written: its folder is not there"
        raise UsageError(
            f"--out {printable(out)} {what}",
            expected="a file in a folder that is there",
            fix=f"mkdir -p {shlex.quote(str(path.parent))}" if not path.is_dir() else f"--out {path / 'found.md'}",
        )


def _write(found: "Reproduction", out: str | None, device: str) -> dict[str, object]:
    """The same as Markdown, and samples beside it, where a file was named.

    Raises ResourceError for one that cannot be written.
    """
    if out is None or not is_first_process():
        return {}
    from sfumato.cli.arm_sheets import sheets

    drawn = sheets(found, Path(out), device)
    text = markdown(pages(found, drawn), f"{found.source.name}, reproduced at {found.scale} scale")
    try:
        Path(out).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResourceError(
            f"{out} cannot be written: {error.strerror or error}",
            expected="a file in a folder that is there",
            fix="choose another --out; the runs and their numbers are kept",
        ) from None
    note(f"written to {out}")
    return {"file": out, "pictures": [str(Path(out).with_name(sheet.file)) for sheet in drawn]}
