"""Differences as people read them: the table of two runs, and what could not be compared."""

from sfumato.cli.output import say, table
from sfumato.errors import printable
from sfumato.experiment.difference import Comparison, Difference
from sfumato.experiment.evaluations import Number
from sfumato.experiment.rounding import p_value, with_error

__all__ = ["print_comparison", "print_differences", "value_of"]


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
        [d.metric, value_of(d.one), value_of(d.other), _apart(d), p_value(d.corrected), f"{d.one.n:,}", d.verdict]
        for d in differences
    ]
    table(["metric", first, second, "second - first", "p", "n", f"{second} is"], rows)


def value_of(number: Number) -> str:
    """A number with its error."""
    return with_error(number.value, number.std_error)


def _apart(difference: Difference) -> str:
    text = with_error(difference.value, difference.std_error, signed=True)
    return text if difference.paired else text.replace("±", "± at most")
