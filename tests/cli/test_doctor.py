"""`sfumato doctor`: exit codes, the report for people, the document for programs, the figure."""

import json
import math
from pathlib import Path

import pytest

import sfumato
from sfumato.cli import main as cli
from sfumato.experiment.doctor import examination
from sfumato.experiment.doctor.rates import read_curve

DIGITS = ["doctor", "digits", "--data.limit", "300", "--data.held_out", "0.2", "--network.widths", "8"]
TINY = [*DIGITS, "--network.depth", "1", "--network.embedding", "8", "--training.batch_size", "16", "--seconds", "0.5"]


def test_warnings_do_not_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*TINY, "--training.ema_decay", "0.99999"]) == 0
    out = capsys.readouterr().out
    assert "warning  average" in out
    assert "-> --training.ema_decay" in out
    assert out.splitlines()[-1].startswith("digits: 0 broken, ")


def test_what_is_broken_is_exit_code_1_with_the_whole_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*TINY, "--schedule.min_signal_rate", "0.5", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["healthy"] is False
    assert document["error"]["code"] == "FAULTS"
    [broken] = [one for one in document["findings"] if one["level"] == "broken"]
    assert broken["check"] == "schedule"
    assert "--schedule.min_signal_rate" in broken["fix"]


def test_the_curve_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "rates.png"
    assert cli.main([*TINY, "--lr", "--out", str(target), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["figure"] == str(target)
    assert target.read_bytes().startswith(b"\x89PNG")
    assert document["rate"]["recommended"] == pytest.approx(document["rate"]["best"] / 3)
    assert cli.main([*TINY, "--lr", "--out", str(target)]) == 2  # it is there already


def test_no_curve_is_no_figure_and_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no loss is finite the findings are told all the same."""
    nothing = read_curve([1e-6], [math.inf], 1.0)
    monkeypatch.setattr(examination, "find_rate", lambda *given, **others: nothing)
    target = tmp_path / "rates.png"
    assert cli.main([*TINY, "--lr", "--out", str(target), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["figure"] is None
    assert "no figure" in told.err
    assert not target.exists()


def test_python_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    settings = dict(zip((word.removeprefix("--") for word in TINY[2:-2:2]), TINY[3:-2:2], strict=True))
    found = sfumato.doctor("digits", settings, seconds=60)
    assert isinstance(found, sfumato.Diagnosis)
    assert cli.main([*TINY[:-1], "60", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["check"] for one in document["findings"]] == [remark.check for remark in found.remarks]
    assert set(document) == {"examined", *found.document()}


def test_help_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--help"]) == 0
    out = capsys.readouterr().out
    for word in ("RECIPE|FILE|RUN", "--lr", "--out", "--seconds", "--runs", "--device", "--json", "docs/doctor.md"):
        assert word in out


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["doctor", "digtis"], 2, "there is no recipe, file or run 'digtis'"),
        ([*TINY, "--out", "a.png"], 2, "--out was given without --lr"),
        ([*TINY[:-1], "soon"], 2, "--seconds is 'soon'"),
        ([*TINY[:-1], "nan"], 2, "seconds is nan"),
        ([*TINY[:-1], "0"], 2, "seconds is 0"),
        (["doctor"], 2, "RECIPE|FILE|RUN"),
        ([*TINY, "--lr", "--out", "a.txt"], 2, "a.txt"),
        ([*TINY, "--training.stepz", "3"], 2, "stepz"),
    ],
)
def test_refusals(words: list[str], code: int, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == code
    assert what in capsys.readouterr().err
