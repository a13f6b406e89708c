"""`sfumato evaluate`: one document, one file beside the run, and exit codes for what cannot be measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfumato.cli import main as cli

TINY = ["--training.checkpoint_every", "2", "--training.evaluate_every", "2", "--training.preview_every", "0"]
SHORT = ["--schedule.steps", "10", "--times.steps", "10", "--time_input.steps", "10", "--sampling.steps", "10"]
POINTS = ["train", "swiss-roll", "--data.count", "300", "--training.steps", "4", "--training.batch_size=16", *TINY]
DIGITS = ["train", "digits", "--data.limit", "60", "--training.steps=2", "--training.batch_size", "4", *TINY]
SMALL = ["--network.widths", "8,8", "--network.depth", "1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tiny runs: points, digits, and digits that were padded."""
    folder = tmp_path_factory.mktemp("runs")
    assert cli.main([*POINTS, *SHORT, "--runs", str(folder), "--name", "points"]) == 0
    assert cli.main([*DIGITS, *SMALL, "--runs", str(folder), "--name", "digits"]) == 0
    assert cli.main([*DIGITS, *SMALL, "--data.pad", "12", "--runs", str(folder), "--name", "padded"]) == 0
    return folder


@pytest.fixture
def evaluate(runs: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Evaluates a run with --json and gives its document."""

    def call(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert cli.main(["evaluate", *words, "--runs", str(runs), "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return call


def test_points_without_further_words(runs: Path, evaluate: Callable[..., Any]) -> None:
    found = evaluate("points", "-n", "20", "--tolerance", "1e-2")
    assert {"run", "metrics", "notes", "file"} == set(found)
    expected = {"nll[bound]", "nll[flow]", "nll[true]", "sliced_wasserstein", "energy_distance[floor]", "mmd"}
    assert expected | {"loss[held-out]", "loss[attainable]", "loss[law]"} <= set(found["metrics"])
    assert not any(name.startswith(("bits", "mode")) for name in found["metrics"])
    for estimate in found["metrics"].values():
        assert set(estimate) == {"value", "std_error", "n", "provenance"}
    written = json.loads(Path(found["file"]).read_text())
    assert written["metrics"] == found["metrics"]
    again = evaluate("points", "-n", "20", "--tolerance", "1e-2")
    assert again["file"] == found["file"]
    by_path = evaluate(str(runs / "points"), "-n", "20", "--tolerance", "1e-2")
    assert by_path["file"] == found["file"]
    live = evaluate("points", "--metrics", "loss", "--weights", "live", "--part", "training", "-n", "20")
    assert live["metrics"]["loss[training]"]["provenance"]["weights"] == "live"
    assert len(list((runs / "points" / "evaluations").iterdir())) == 2


def test_pictures_without_further_words(evaluate: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate("digits", "-n", "3")["metrics"]
    assert {"bits_per_dim[bound]", "bits_per_dim[flow]", "nll[bound]", "kid[judge]", "loss[held-out]"} <= set(found)


def test_people_see_a_table(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "points", "--runs", str(runs), "--metrics", "loss", "-n", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["metric", "value", "std.", "error", "unit", "n"]
    assert lines[1].startswith("loss[held-out]")
    assert any(line.startswith("- ema weights on 20 examples of the held-out part") for line in lines)


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["points", "--metrics", "bits_per_dim"], 3, "continuous"),
        (["padded", "--metrics", "bits_per_dim"], 3, "padded"),
        (["digits", "--metrics", "mmd"], 3, "pictures"),
        (["points", "--metrics", "los"], 2, "los"),
        (["points", "-n", "0"], 2, "0 examples"),
        (["points", "-n", "1", "--metrics", "mmd"], 2, "1 examples"),
        (["points", "--part", "all"], 2, "part is 'all'"),
        (["points", "--seed", "-1"], 2, "seed is -1"),
        (["points", "--metrics", "mode_coverage"], 3, "no modes"),
        (["points", "--metrics", "loss, mode_coverage"], 3, "no modes"),
        (["points", "--tolerance", "none"], 2, "--tolerance"),
        (["points", "--weights", "best"], 2, "best"),
        (["nothing"], 4, "nothing"),
        (["points", "--metrics", "nll", "--max-steps", "2"], 5, "did not converge"),
    ],
)
def test_refusals(words: list[str], code: int, what: str, runs: Path, evaluate: Callable[..., Any]) -> None:
    before = sorted(runs.rglob("*"))
    error = evaluate(*words, code=code)["error"]
    assert what in error["what"]
    assert error["fix"]
    assert sorted(runs.rglob("*")) == before  # nothing is written


def test_a_solver_that_does_not_arrive_names_the_options(evaluate: Callable[..., Any]) -> None:
    error = evaluate("points", "--metrics", "nll", "--max-steps", "2", code=5)["error"]
    assert error["what"].startswith("nll[flow]")
    assert "--max-steps 20" in error["fix"]
    assert "--tolerance" in error["fix"]


def test_a_file_of_a_run_is_told_from_an_exported_one(runs: Path, evaluate: Callable[..., Any]) -> None:
    error = evaluate(str(runs / "points" / "config.yaml"), code=4)["error"]
    assert "neither a run nor an exported file" in error["what"]
    assert str(runs / "points") in error["fix"]


def test_defaults_leave_out_what_means_nothing(evaluate: Callable[..., Any]) -> None:
    found = evaluate("padded", "-n", "3")
    kids = {"kid[judge]", "kid[judge][subsets]", "kid[judge][floor]"}
    assert set(found["metrics"]) == {*kids, "loss[held-out]", "loss[training]", "loss[attainable]"}
    assert any("bits_per_dim was left out" in note for note in found["notes"])


def test_points_from_a_file_have_no_law(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], evaluate: Callable[..., Any]
) -> None:
    """The reference is the held-out part then, and the floor compares pieces of the training part."""
    points = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    np.savez(tmp_path / "points.npz", values=points)
    words = ["--data.path", str(tmp_path / "points.npz"), "--runs", str(tmp_path), "--name", "own"]
    assert cli.main([*POINTS, *SHORT, *words]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path / "own"), "--metrics", "energy_distance", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["metrics"]) == {"energy_distance", "energy_distance[floor]"}
    assert found["metrics"]["energy_distance"]["provenance"]["reference"] == "the held-out part"
