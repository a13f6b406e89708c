"""`sfumato doctor`: what an experiment suffers from, before it is trained.

In about a minute of two cores: the values that the network sees, the ends of the schedule, the average of the weights,
batch, held-out share and labels against the data, precision and compilation; then two training examples are learnt by
heart, and the gradients of every layer measured meanwhile. With --lr the learning rate is looked for, too. Each
finding comes with its remedy. Exit code 0 with warnings, 1 when something is broken.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.output import is_fancy, is_first_process, note, say
from sfumato.errors import FaultsError, UsageError, printable

if TYPE_CHECKING:
    from sfumato.experiment.doctor import Diagnosis, Remark

__all__ = ["arguments", "run"]

SIGNS = {"broken": "BROKEN", "warning": "warning", "note": "note", "fine": "fine"}
WIDTH = max(map(len, SIGNS.values()))


def arguments(parser: Parser) -> None:
    """Declare what to look at and whether to look for a learning rate; settings may follow."""
    parser.usage = (
        "sfumato doctor RECIPE|FILE|RUN [--lr] [--out FILE.png] [--seconds S] [--runs DIR] [--device D] [--KEY VALUE …]"
    )
    parser.description = (__doc__ or "").partition("\n")[2].strip()
    parser.add_argument("recipe", metavar="RECIPE|FILE|RUN", help="a recipe, a YAML file, or a run's name or folder")
    parser.add_argument("--lr", action="store_true", help="look for the learning rate: another half minute")
    parser.add_argument("--out", metavar="FILE", help="draw the learning-rate curve: .png, .pdf, .svg (with --lr)")
    parser.add_argument("--force", action="store_true", help="replace a figure that is there already")
    parser.add_argument("--seconds", metavar="S", help="of learning two examples, at most (default: 20)")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="the folder of runs (default: runs)")
    parser.add_argument("--device", metavar="D", help="short for --training.device")
    parser.epilog = (
        "Any setting may follow as in `sfumato train`:\n"
        "  sfumato doctor digits\n"
        "  sfumato doctor oxford-flowers --data.path photos/ --data.size 64 --lr --out rates.png\n"
        "  sfumato doctor digits-1 --training.batch_size 128 --json\n"
        "What is looked at, and where the bounds come from: docs/doctor.md"
    )


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Examine and print; returns what was found. Raises FaultsError when something is broken."""
    if args.device is not None:
        settings = [*settings, ("training.device", args.device)]
    figure = _target(args)
    seconds = _seconds(args.seconds)
    from sfumato.cli.train import in_words_of_flags
    from sfumato.experiment.doctor import doctor

    with in_words_of_flags():
        found = doctor(args.recipe, settings, runs=args.runs, lr=args.lr, seconds=seconds, progress=_progress())
    _clear()
    for line in _lines(found):
        say(line)
    document = {"examined": str(args.recipe), **found.document()}
    if figure is not None:
        document["figure"] = _draw(found, figure, force=args.force)
    broken = found.broken
    if broken:
        raise FaultsError(
            f"{_count(len(broken), 'thing')} broken: {broken[0].what}",
            expected="nothing broken: warnings and notes do not stop a run",
            fix=broken[0].fix or "see the findings above",
            document=document,
        )
    return document


def _target(args: argparse.Namespace) -> Path | None:
    """The figure that is to be written; refused before anything is computed where it cannot be."""
    if args.out is None:
        return None
    if not args.lr:
        raise UsageError(
            "--out was given without --lr", expected="--out with --lr, whose curve it draws", fix="add --lr"
        )
    from sfumato.figures import check_target

    return check_target(args.out, force=args.force)


def _seconds(text: str | None) -> float:
    """The seconds asked for, 20 where none were."""
    try:
        return 20.0 if text is None else float(text)
    except ValueError:
        raise UsageError(f"--seconds is {text!r}", expected="a number of seconds", fix="--seconds 20") from None


def _draw(found: "Diagnosis", target: Path, *, force: bool) -> str | None:
    """Draw the curve; None where there is none: memory forbade it, or no loss was finite."""
    if found.rate is None or not found.rate.finite:
        note("no figure: there is no learning-rate curve to draw")
        return None
    from sfumato.figures import save
    from sfumato.figures.rates import learning_rates

    path = save(learning_rates(found.rate, found.experiment.training.learning_rate), target, force=force)
    say(f"figure: {printable(path)}")
    return str(path)


def _lines(found: "Diagnosis") -> list[str]:
    """The report: each finding, the gravest first, its remedy below it; then the sum of it."""
    lines = [line for remark in found.remarks for line in _told(remark)]
    if found.rate is not None and found.rate.recommended is not None:
        lines.append(f"recommended: --training.learning_rate {found.rate.flag}")
    broken, warned = len(found.broken), len(found.warnings)
    end = "nothing to mend" if not broken and not warned else f"{broken} broken, {_count(warned, 'warning')}"
    return [*lines, f"{printable(found.experiment.name)}: {end}, in {found.seconds:.1f} s"]


def _told(remark: "Remark") -> list[str]:
    first = f"{SIGNS[remark.level]:<{WIDTH}}  {remark.check:<12}  {printable(remark.what)}"
    return [first, f"{'':<{WIDTH}}  {'':<12}  -> {printable(remark.fix)}"] if remark.fix else [first]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _progress() -> "Callable[[int, int], None] | None":
    """A line on stderr that is written over, where stderr is a terminal."""
    if not (is_fancy(sys.stderr) and is_first_process()):
        return None
    return lambda done, total: print(f"\r\033[Klearning rate {done}/{total}", end="", file=sys.stderr, flush=True)


def _clear() -> None:
    """Take the line of progress away."""
    if is_fancy(sys.stderr) and is_first_process():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
