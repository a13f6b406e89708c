"""`sfumato compare` and `sfumato evaluate --weights both`: from what is stored, measured now, or the reason why not."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sfumato
from sfumato.cli import main as cli
from sfumato.experiment.evaluation.losses import losses_of
from sfumato.experiment.evaluation.subject import subject_of

TINY = ["--training.checkpoint_every", "2", "--training.evaluate_every", "2", "--training.preview_every", "0"]
SHORT = ["--schedule.steps", "10", "--times.steps", "10", "--time_input.steps", "10", "--sampling.steps", "10"]
POINTS = ["train", "swiss-roll", "--data.count", "300", "--training.steps", "4", "--training.batch_size=16", *TINY]

Call = Callable[..., Any]


def train(runs: Path, name: str, *words: str) -> None:
    assert cli.main([*POINTS, *SHORT, "--runs", str(runs), "--name", name, *words]) == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a, b (another learning rate), and `other` (other points); a and b evaluated alike."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder, "a", "--training.ema_decay", "0.5")
    train(folder, "b", "--training.learning_rate", "0.02", "--training.ema_decay", "0.5")
    train(folder, "other", "--seed", "1")
    for name in ("a", "b"):
        words = ["--metrics", "loss,energy_distance", "-n", "30", "--runs", str(folder)]
        assert cli.main(["evaluate", name, *words]) == 0
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "runs")


@pytest.fixture
def run(runs: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command with --json and gives its document."""

    def call(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert cli.main([*words, "--runs", str(runs), "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return call


def by_name(document: Any) -> dict[str, Any]:
    return {one["metric"]: one for one in document["comparisons"]}


def losses(folder: Path, n: int = 30) -> np.ndarray:
    """The held-out loss of each example, as `evaluate` takes it."""
    model = sfumato.load(folder)
    subject = subject_of(model, weights="ema", part="held-out", n=n, seed=0, report=print)
    return losses_of(subject, subject.part_examples("held-out", subject.n), "held-out").numpy()


def test_stored_numbers_are_compared_in_pairs(runs: Path, run: Call) -> None:
    """The error is that of the losses of single examples; nine digits of them are stored."""
    found = run("compare", "a", "b")
    assert found["runs"] == ["a", "b"]
    names = by_name(found)
    assert set(names) == {"loss[held-out]", "loss[training]", "energy_distance"}  # no floor, no law, no attainable
    apart = losses(runs / "b") - losses(runs / "a")
    loss = names["loss[held-out]"]["difference"]
    assert loss["value"] == pytest.approx(apart.mean(), rel=1e-6)
    assert loss["std_error"] == pytest.approx(apart.std(ddof=1) / math.sqrt(30), rel=1e-6)
    assert (loss["n"], loss["provenance"]) == (30, {"difference": "paired"})
    for one in names.values():
        first, second = one["values"]
        assert one["difference"]["value"] == pytest.approx(second["value"] - first["value"], rel=1e-9)
        assert one["difference"]["std_error"] < 0.9 * (first["std_error"] + second["std_error"])
        assert first["provenance"]["digest"] != second["provenance"]["digest"]
    assert found["not_compared"] == []


def test_nothing_is_written_by_comparing(runs: Path, run: Call) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in runs.rglob("*"))
    run("compare", "a", "b")
    run("compare", "a", "other", code=2)
    assert sorted((path, path.stat().st_mtime_ns) for path in runs.rglob("*")) == before


def test_people_see_a_table_with_n_and_a_verdict(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "a", "b", "a", "--runs", str(runs), "--metrics", "loss[held-out]"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["metric", "a", "b", "second", "-", "first", "p", "n", "b", "is"]
    assert lines[1].split()[0] == "loss[held-out]"
    assert " 30 " in lines[1]
    assert lines[1].rstrip().endswith(("better", "worse", "no difference seen"))
    assert any("Holm" in line for line in lines)
    assert any(line.rstrip().endswith("the same") for line in lines)


def test_measuring_now_is_the_same_as_before(runs: Path, run: Call) -> None:
    stored = by_name(run("compare", "a", "b", "--metrics", "loss"))
    for name in ("a", "b"):
        shutil.rmtree(runs / name / "evaluations")
    refused = run("compare", "a", "b", code=2)["error"]
    assert "a was never evaluated; b was never evaluated" in refused["what"]
    assert "sfumato compare a b --measure" in refused["fix"]
    assert by_name(run("compare", "a", "b", "--metrics", "loss", "-n", "30", "--measure")) == stored
    assert by_name(run("compare", "a", "b", "--metrics", "loss")) == stored  # they are kept
    live = by_name(run("compare", "a", "b", "--metrics", "loss", "-n", "30", "--measure", "--weights", "live"))
    assert live["loss[held-out]"] != stored["loss[held-out]"]
    assert live["loss[held-out]"]["values"][0]["provenance"]["weights"] == "live"


def test_other_settings_are_not_ranked(runs: Path, run: Call) -> None:
    """Row H5: n, and how samples are drawn, unless that is what is compared."""
    shutil.rmtree(runs / "b" / "evaluations")
    run("evaluate", "b", "--metrics", "loss,energy_distance", "-n", "20")
    error = run("compare", "a", "b", code=2)["error"]
    assert "n is 30 and 20" in error["what"]
    run("evaluate", "b", "--metrics", "energy_distance", "-n", "30", "--steps", "5")
    error = run("compare", "a", "b", "--metrics", "energy_distance", code=2)["error"]
    assert "steps is 10 and 5" in error["what"]
    across = by_name(run("compare", "a", "b", "--metrics", "energy_distance", "--across", "steps"))
    assert across["energy_distance"]["values"][1]["provenance"]["steps"] == 5
    alike = run("compare", "a", "b", "--metrics", "energy_distance", "-n", "30", "--measure", "--steps", "5")
    assert {v["provenance"]["steps"] for v in alike["comparisons"][0]["values"]} == {5}


def test_other_losses_are_not_ranked(runs: Path, run: Call, capsys: pytest.CaptureFixture[str]) -> None:
    """The loss of another target is of another quantity, on the same examples; a distance of samples is not."""
    train(runs, "noise", "--parameterization", "Velocity")
    run("evaluate", "noise", "--metrics", "loss,energy_distance", "-n", "30")
    found = run("compare", "a", "noise")
    assert set(by_name(found)) == {"energy_distance"}
    assert {left["metric"] for left in found["not_compared"]} == {"loss[held-out]", "loss[training]"}
    assert all("measured_as is" in left["reason"] for left in found["not_compared"])


def test_other_weights_of_the_same_run_are_stale(runs: Path, run: Call) -> None:
    """A run that trained on is another model: what was measured before says nothing of it."""
    assert cli.main(["resume", "b", "--training.steps", "6", "--runs", str(runs)]) == 0
    error = run("compare", "a", "b", code=2)["error"]
    assert "b has no evaluation of its ema weights after step 6 (there are some of step 4)" in error["what"]
    found = run("compare", "a", "b/checkpoints/step-00000004", "--metrics", "loss")
    assert found["comparisons"][0]["values"][1]["provenance"]["steps_trained"] == 4


def test_two_files(runs: Path, run: Call) -> None:
    files = [next((runs / name / "evaluations").glob("*.json")) for name in ("a", "b")]
    found = run("compare", *map(str, files))
    assert (
        by_name(found)["loss[held-out]"]["difference"]
        == by_name(run("compare", "a", "b"))["loss[held-out]"]["difference"]
    )
    plain = json.loads(files[1].read_text())
    for one in plain["metrics"].values():
        one["provenance"]["data"] = "0" * 64
    (runs / "edited.json").write_text(json.dumps(plain))
    error = run("compare", str(files[0]), str(runs / "edited.json"), code=2)["error"]
    assert "data is" in error["what"]
    assert "--measure" not in error["fix"]


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        ([], 2, "no run was named"),
        (["a"], 2, "only a was named"),
        (["a", "nothing"], 4, "nothing"),
        (["a", "b", "--metrics", "kidd"], 2, "a has no kidd"),
        (["a", "b", "--across", "n"], 2, "--across n"),
        (["a", "b", "--across", "extractor"], 2, "--across extractor"),
        (["a", "b", "--steps", "5"], 2, "measured already"),
        (["a", "b", "-n", "31"], 2, "n 31"),
        (["a", "b", "--seed", "3"], 2, "seed 3"),
        (["a", "b", "--weights", "live"], 2, "live weights"),
        (["a", "b", "--weights", "best"], 2, "best"),
        (["a", "other", "--measure", "--metrics", "loss"], 3, "other data"),
        (["a", "b.json"], 3, "b.json"),
        (["a", "b.json", "--measure"], 2, "cannot be measured again"),
        (["a", "b", "--measure", "--metrics", "los"], 2, "los"),
        (["a", "b", "--measure", "--part", "all"], 2, "part is 'all'"),
        (["a", "a/best"], 4, "keeps no best checkpoint"),
    ],
)
def test_refusals(words: list[str], code: int, what: str, runs: Path, run: Call) -> None:
    before = sorted(runs.rglob("*"))
    error = run("compare", *words, code=code)["error"]
    assert what in error["what"]
    assert error["fix"]
    assert sorted(runs.rglob("*")) == before


def test_exported_files_can_be_measured(runs: Path, run: Call) -> None:
    for name in ("a", "b"):
        assert cli.main(["export", name, "--runs", str(runs), "--out", str(runs / f"{name}.safetensors")]) == 0
    files = [str(runs / f"{name}.safetensors") for name in ("a", "b")]
    assert "exported file" in run("compare", *files, code=2)["error"]["what"]
    found = by_name(run("compare", *files, "--measure", "--metrics", "loss", "-n", "30"))
    stored = by_name(run("compare", "a", "b", "--metrics", "loss"))
    assert found["loss[held-out]"]["difference"] == stored["loss[held-out]"]["difference"]


def test_both_weights_side_by_side(runs: Path, run: Call, capsys: pytest.CaptureFixture[str]) -> None:
    found = run("evaluate", "a", "--weights", "both", "--metrics", "loss", "-n", "30")
    separate = {w: run("evaluate", "a", "--weights", w, "--metrics", "loss", "-n", "30") for w in ("ema", "live")}
    assert found["metrics"] == separate["ema"]["metrics"]
    assert found["file"] == separate["ema"]["file"]
    assert {w: each["metrics"] for w, each in found["weights"].items()} == {
        w: each["metrics"] for w, each in separate.items()
    }
    assert found["weights"]["live"]["file"] == separate["live"]["file"]
    apart = {one["metric"]: one["difference"] for one in found["differences"]}["loss[held-out]"]
    values = [separate[w]["metrics"]["loss[held-out]"]["value"] for w in ("live", "ema")]
    assert apart["value"] == pytest.approx(values[1] - values[0], rel=1e-9)
    capsys.readouterr()
    assert cli.main(["evaluate", "a", "--weights", "both", "--metrics", "loss", "-n", "30", "--runs", str(runs)]) == 0
    text = capsys.readouterr().out
    assert "ema is" in text
    assert "live" in text
    exported = runs / "a.safetensors"
    assert cli.main(["export", "a", "--runs", str(runs), "--out", str(exported)]) == 0
    assert "this file holds ema" in run("evaluate", str(exported), "--weights", "both", code=2)["error"]["what"]


def test_one_checkpoint_can_be_evaluated(runs: Path, run: Call) -> None:
    found = run("evaluate", "a/checkpoints/step-00000002", "--metrics", "loss", "-n", "30")
    assert found["metrics"]["loss[held-out]"]["provenance"]["steps_trained"] == 2
    assert Path(found["file"]).parent == runs / "a" / "evaluations"
