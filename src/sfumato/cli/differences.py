"""Differences as people read them: the table of two runs, and what could not be compared."""

from sfumato.cli.output import say, table
from sfumato.errors import printable
from sfumato.experiment.difference import Comparison, Difference
from sfumato.experiment.evaluations import Number

__all__ = ["print_comparison", "print_differences", "value_of"]

LEAST_P = 1e-12  # below it only the order of magnitude of the model of errors is told


def print_comparison(found: Comparison) -> None:
    """A table for each run that was compared with the first, the reasons for what was not, and how to read it."""
    first = found.labels[0]
    for second in dict.fromkeys(found.labels[1:]):
        of_it = [d for d in found.differences if d.second == second]
        if of_it:
            print_differences(of_it, first, second)
    for left in found.uncompared:
        say(f"- {printable(left.metric)} of {printable(left.first)} and {printable(left.second)} is not compared: ")
        say(f"  {printable(left.reason)}")
    for text in found.notes:
        say(f"- {printable(text)}")


def print_differences(differences: list[Difference], first: str, second: str) -> None:
    """One table: both numbers, the difference with its error, how likely chance alone would make it, and a verdict."""
    rows = [
        [d.metric, value_of(d.one), value_of(d.other), _apart(d), _p(d.corrected), f"{d.one.n:,}", d.verdict]
        for d in differences
    ]
    table(["metric", first, second, "second - first", "p", "n", f"{second} is"], rows)


def value_of(number: Number) -> str:
    """A number with its error."""
    return f"{number.value:.5g} ± {number.std_error:.2g}"


def _apart(difference: Difference) -> str:
    sign = "±" if difference.paired else "± at most"
    return f"{difference.value:+.3g} {sign} {difference.std_error:.2g}"


def _p(p: float) -> str:
    return f"< {LEAST_P:.0e}" if p < LEAST_P else f"{p:.2g}"
