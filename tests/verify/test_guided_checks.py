"""The checks of guidance and of editing that are quick enough to run among the tests, each against its bound."""

import pytest

from sfumato.verify.check import Check, perform
from sfumato.verify.checks import editing, guidance

SOME = [c for c in guidance.CHECKS if "w=0" not in c.name]
SOME += [c for c in editing.CHECKS if c.quick and not c.name.startswith("distance")]


@pytest.mark.parametrize("check", SOME, ids=lambda c: c.name)
def test_check_holds(check: Check) -> None:
    outcome = perform(check)
    assert outcome.passed, f"{outcome.measured} {outcome.bound} {outcome.note}"
