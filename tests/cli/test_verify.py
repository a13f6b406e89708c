"""`sfumato verify`: the table and the document are whole whether or not a check fails; the exit code says which."""

import json
import math
from typing import Any

import pytest

from sfumato.cli import main as cli
from sfumato.verify import checks as registry
from sfumato.verify.check import AtMost, Check, Near


def broken() -> float:
    raise RuntimeError("the wires are crossed")


GOOD = Check("order[good, here]", "that one is one (Peano 1889)", Near(1, 0.1), lambda: 1.01)
SLOW = Check("law[slow, there]", "nothing, slowly", AtMost(1e-10), lambda: 0.0, quick=False)
BAD = [
    Check("order[bad, here]", "that two is one", Near(1, 0.1), lambda: 2.0),
    Check("bound[nan]", "nothing", AtMost(1), lambda: math.nan),
    Check("flow[raises]", "nothing", AtMost(1), broken),
]


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda *found: monkeypatch.setattr(registry, "CHECKS", found)


def test_all_pass(checks: Any, capsys: pytest.CaptureFixture[str]) -> None:
    checks(GOOD, SLOW)
    assert cli.main(["verify"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["check", "measured", "bound", "pass"]
    assert lines[1].split() == ["order[good,", "here]", "1.01", "1", "±", "0.1", "yes"]
    assert lines[-1].startswith("2 checks passed in ")


def test_a_failure_hides_nothing(checks: Any, capsys: pytest.CaptureFixture[str]) -> None:
    checks(BAD[0], GOOD, *BAD[1:])
    assert cli.main(["verify"]) == 5
    out, err = capsys.readouterr()
    assert [line.split()[-1] for line in out.splitlines()] == ["pass", "NO", "yes", "NO", "NO"]
    assert "failed: flow[raises]: RuntimeError: the wires are crossed" in err
    assert "error[NUMERICS]: 3 of 4 checks failed: order[bad, here], bound[nan], flow[raises]" in err
    assert "Traceback" not in err


def test_json_is_one_document_with_the_checks_and_the_error(checks: Any, capsys: pytest.CaptureFixture[str]) -> None:
    checks(GOOD, *BAD)
    assert cli.main(["verify", "--json"]) == 5
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is False
    assert document["failed"] == 3
    assert document["error"]["code"] == "NUMERICS"
    found = {c["name"]: c for c in document["checks"]}
    assert [c["pass"] for c in found.values()] == [True, False, False, False]
    assert found["order[good, here]"]["measured"] == 1.01
    assert found["order[good, here]"]["bound"] == "1 ± 0.1"
    assert found["bound[nan]"]["measured"] is None  # JSON has no nan
    assert found["flow[raises]"]["note"] == "RuntimeError: the wires are crossed"


def test_quick_only_and_list(checks: Any, capsys: pytest.CaptureFixture[str]) -> None:
    checks(GOOD, SLOW)
    assert cli.main(["verify", "--quick", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [c["name"] for c in document["checks"]] == ["order[good, here]"]
    assert document["passed"] is True
    assert cli.main(["verify", "--only", "there", "--json"]) == 0
    assert [c["name"] for c in json.loads(capsys.readouterr().out)["checks"]] == ["law[slow, there]"]
    assert cli.main(["verify", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["checks"]
    assert listed[0] == {
        "name": "order[good, here]",
        "about": "that one is one (Peano 1889)",
        "bound": "1 ± 0.1",
        "quick": True,
    }
    assert cli.main(["verify", "--only", "nowhere"]) == 2
    assert "no check is named like 'nowhere'" in capsys.readouterr().err


def test_list_runs_nothing(checks: Any, capsys: pytest.CaptureFixture[str]) -> None:
    checks(*BAD)
    assert cli.main(["verify", "--list"]) == 0
    assert "that two is one" in capsys.readouterr().out


def test_the_real_thing_on_a_few(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "--only", "anchor", "--only", "identity[posterior", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is True
    assert len(document["checks"]) >= 12
