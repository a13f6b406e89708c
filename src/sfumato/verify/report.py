"""Which checks to run, and what to say of them: the list, the document, the verdict."""

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from sfumato.errors import UsageError
from sfumato.verify.check import Check, Outcome, perform

__all__ = ["Report", "check_document", "chosen", "run_checks"]


@dataclass(frozen=True, slots=True)
class Report:
    """The outcomes of a run, in the order in which they came."""

    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Those that did not pass."""
        return tuple(o for o in self.outcomes if not o.passed)

    @property
    def seconds(self) -> float:
        """Of all checks together."""
        return sum(o.seconds for o in self.outcomes)

    def document(self) -> dict[str, object]:
        """{"checks": [{name, measured, bound, pass, note, seconds}], "passed", "failed", "seconds"}."""
        return {
            "checks": [_outcome_document(o) for o in self.outcomes],
            "passed": not self.failed,
            "failed": len(self.failed),
            "seconds": round(self.seconds, 3),
        }


def _outcome_document(outcome: Outcome) -> dict[str, object]:
    values = asdict(outcome)
    return {"pass" if key == "passed" else key: value for key, value in values.items()}


def check_document(check: Check) -> dict[str, object]:
    """{name, about, bound, quick} of a check that was not run."""
    return {"name": check.name, "about": check.about, "bound": check.bound.text, "quick": check.quick}


def chosen(checks: Sequence[Check], *, only: Sequence[str] = (), quick: bool = False) -> tuple[Check, ...]:
    """Those whose names contain one of the patterns of `only` (`*` stands for anything); with `quick` the quick ones.

    Raises UsageError where nothing is left, with the nearest name.
    """
    patterns = [re.compile(".*".join(map(re.escape, text.split("*"))), re.IGNORECASE) for text in only]
    found = tuple(c for c in checks if not patterns or any(p.search(c.name) for p in patterns))
    if not found:
        kinds = list(dict.fromkeys(c.name.partition("[")[0] for c in checks))
        near = difflib.get_close_matches(only[0], [*kinds, *(c.name for c in checks)], n=1, cutoff=0.4)
        fix = f"did you mean {near[0]}?" if near else "run `sfumato verify --list`"
        raise UsageError(f"no check is named like {only[0]!r}", expected="part of a name: " + ", ".join(kinds), fix=fix)
    kept = tuple(c for c in found if c.quick or not quick)
    if not kept:
        raise UsageError(
            f"none of the {len(found)} checks named so is a quick one",
            expected="a pattern that fits quick checks too",
            fix="leave --quick out",
        )
    return kept


def run_checks(checks: Sequence[Check], progress: Callable[[int, Check], None]) -> Iterator[Outcome]:
    """Run the checks in order; `progress(number done, next check)` is told before each."""
    for number, check in enumerate(checks):
        progress(number, check)
        yield perform(check)
