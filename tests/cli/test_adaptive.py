"""`sfumato sample` with a sampler that chooses its own steps: what it says of its calls, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from sfumato.cli import main as cli

TINY = ["--training.checkpoint_every", "2", "--training.evaluate_every", "2", "--training.preview_every", "0"]
POINTS = ["train", "swiss-roll", "--data.count", "300", "--training.steps", "2", "--training.batch_size=16", *TINY]
ADAPTIVE = ["-n", "5", "--sampler", "dormandprince"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    assert cli.main([*POINTS, "--runs", str(folder), "--name", "points"]) == 0
    return str(folder / "points")


def test_calls_per_sample_are_reported(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the document and for people; the run's own steps neither hinder it nor stand among its settings."""
    capsys.readouterr()
    assert cli.main(["sample", run, *ADAPTIVE, "--out", str(tmp_path / "a.npz"), "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert 9 <= found["calls"]["mean"] <= found["calls"]["max"] < 200
    assert "steps" not in found
    assert f"{found['calls']['max']} at most" in printed.err
    assert np.load(tmp_path / "a.npz")["values"].shape == (5, 2)
    assert cli.main(["sample", run, "-n", "5", "--steps", "3", "--out", str(tmp_path / "b.npz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calls"] == {"mean": 3.0, "max": 3}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--steps", "50"], 2, "chooses its own"),
        (["--sampler.max_steps", "1"], 5, "did not converge"),
        (["--sampler.rtol", "0"], 2, "tolerances above 0"),
    ],
)
def test_what_is_refused(
    words: list[str], code: int, said: str, run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps (2), a cap that is hit (5: nothing is written), tolerances that nobody can mean (2)."""
    assert cli.main(["sample", run, *ADAPTIVE, *words, "--out", str(tmp_path / "no.npz")]) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "no.npz").exists()
