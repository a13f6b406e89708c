"""`sfumato report`: the document, the file, and refusals in its own words."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfumato.cli import main as cli

TINY = ["--training.checkpoint_every", "2", "--training.evaluate_every", "2", "--training.preview_every", "0"]
DIGITS = ["train", "digits", "--data.limit", "60", "--training.steps=2", "--training.batch_size", "4", *TINY]
SMALL = ["--network.widths", "8,8", "--network.depth", "1", "--sampling.steps", "3"]

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert cli.main([*DIGITS, *SMALL, "--runs", str(folder), "--name", "digits"]) == 0
    return folder


@pytest.fixture
def run(runs: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command with --json and gives its document."""

    def call(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert cli.main([*words, "--runs", str(runs), "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return call


def test_a_run_by_its_name(run: Call, runs: Path) -> None:
    found = run("report", "digits", "-n", "3", "--steps", "2", "--sampler", "heun")
    target = runs / "digits" / "report.html"
    assert (found["out"], found["bytes"], found["notes"]) == (str(target), target.stat().st_size, [])
    text = target.read_text("utf-8")
    assert "Heun, 2 steps" in text
    assert "--steps 2 --sampler heun --micro_batch 3" in re.sub("<[^>]+>", "", text)
    again = run("report", "digits", "-n", "3", "--steps", "2", "--sampler", "heun")
    assert again == found
    assert target.read_text("utf-8") == text


def test_refusals(run: Call, tmp_path: Path) -> None:
    assert "did you mean --count" in run("report", "digits", "--counts", "3", code=2)["error"]["fix"]
    assert "did you mean digits" in run("report", "digit", code=4)["error"]["fix"]
    assert "there is no" in run("report", "digits", "--sampler", "nobody", code=2)["error"]["what"]
    (tmp_path / "mine.html").write_text("mine")
    assert "--force" in run("report", "digits", "--out", str(tmp_path / "mine.html"), code=2)["error"]["fix"]
    assert (tmp_path / "mine.html").read_text() == "mine"
