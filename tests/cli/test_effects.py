"""`sfumato effects` and what it prints, of a sweep whose numbers are written by hand."""

import json
from pathlib import Path

import pytest

from sfumato.cli.effects import print_effects
from sfumato.cli.main import main
from sfumato.experiment.difference import Uncompared
from sfumato.experiment.effects import Effect, Effects
from sfumato.experiment.effects.errors import Error

CHANGE = Effect("kid", ("a.b",), (("x", "y"),), Error(-0.4, 0.1, 10.0, 0.05), 2, 3, "seeds", corrected=0.01)


def test_the_table_says_what_the_effect_is(capsys: pytest.CaptureFixture[str]) -> None:
    left = Uncompared("loss", "s=p", "s=q", "measured_as is one and another", "the same loss")
    print_effects(Effects("a sweep", (CHANGE,), (left,), ("a note",)))
    out = capsys.readouterr().out
    assert "b x → y" in out
    assert "-0.40 ± 0.10" in out
    assert "better" in out  # of kid less is better
    assert "loss of s=p and s=q is not ranked" in out
    assert "- a note" in out


def test_a_sweep_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["effects", "nothing", "--runs", str(tmp_path), "--json"]) == 4
    assert "there is no sweep" in json.loads(capsys.readouterr().out)["error"]["what"]


def test_a_run_is_no_sweep_and_is_called_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "digits-1").mkdir()
    (tmp_path / "digits-1" / "config.yaml").write_text("name: digits\n")
    assert main(["effects", "digits-1", "--runs", str(tmp_path)]) == 4
    assert f"{tmp_path / 'digits-1'} is a run, not a sweep" in capsys.readouterr().err
