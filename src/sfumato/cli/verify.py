"""`sfumato verify`: every formula against exact answers, on this machine.

Schedules, targets, transitions, samplers, bounds, likelihoods, objectives and noise are each held to a truth that was
written apart from them: closed forms, quadrature, printed numbers, convergence at a stated order. One row per check:
its name, what was measured, the bound it must keep, and whether it does. Exit code 0 when all pass, 5 when any fails;
the table is printed whole either way.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.output import is_fancy, is_first_process, note, say, table
from sfumato.errors import NumericsError, printable

if TYPE_CHECKING:
    from sfumato.verify.check import Check, Outcome

__all__ = ["arguments", "run"]


def arguments(parser: Parser) -> None:
    """Declare what to run."""
    parser.description = (__doc__ or "").partition("\n")[2].strip()
    parser.add_argument("--quick", action="store_true", help="leave the long checks out: under 30 seconds in all")
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        action="append",
        default=[],
        help="checks whose name contains this; * stands for anything; may be given again",
    )
    parser.add_argument("--list", action="store_true", help="say what each check proves, and run none")
    parser.epilog = (
        "examples:\n"
        "  sfumato verify --quick\n"
        "  sfumato verify --only order --only law       orders of convergence, laws of what comes out\n"
        "  sfumato verify --only 'order[*, ve]' --json  one JSON document\n"
        "Tolerances and their reasons: docs/verify.md"
    )


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Run the checks and print the table; returns it. Raises NumericsError when one fails."""
    from sfumato.verify.checks import CHECKS
    from sfumato.verify.report import Report, check_document, chosen, run_checks

    checks = chosen(CHECKS, only=args.only, quick=args.quick)
    if args.list:
        table(["check", "bound", "quick", "proves"], [_listed(check) for check in checks])
        return {"checks": [check_document(check) for check in checks]}
    report = Report(tuple(run_checks(checks, _progress(len(checks)))))
    _clear()
    table(["check", "measured", "bound", "pass"], [_row(outcome) for outcome in report.outcomes])
    for outcome in report.failed:
        note(f"failed: {outcome.name}: {outcome.note or f'{outcome.measured:.6g} is not {outcome.bound}'}")
    document = {**report.document(), "quick": args.quick}
    if report.failed:
        count, names = len(report.failed), ", ".join(outcome.name for outcome in report.failed[:3])
        raise NumericsError(
            f"{count} of {len(checks)} checks failed: {names}{', …' if count > 3 else ''}",
            expected="every number within its bound",
            fix="`sfumato verify --only NAME --list` says what a check proves; report it with your version",
            document=document,
        )
    say(f"{len(checks)} checks passed in {report.seconds:.1f} s")
    return document


def _listed(check: "Check") -> list[str]:
    return [check.name, check.bound.text, "yes" if check.quick else "no", check.about]


def _row(outcome: "Outcome") -> list[str]:
    return [outcome.name, f"{outcome.measured:.6g}", outcome.bound, "yes" if outcome.passed else "NO"]


def _progress(total: int) -> "Callable[[int, Check], None]":
    """A line on stderr that is written over, where stderr is a terminal."""

    def tell(number: int, check: "Check") -> None:
        if is_fancy(sys.stderr) and is_first_process():
            print(f"\r\033[K{number + 1}/{total} {printable(check.name)}", end="", file=sys.stderr, flush=True)

    return tell


def _clear() -> None:
    """Take the line of progress away."""
    if is_fancy(sys.stderr) and is_first_process():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
