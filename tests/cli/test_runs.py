"""`sfumato runs`: states, sorting, filters, and folders that are damaged."""

import csv
import io
import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from sfumato.cli import main as cli
from sfumato.experiment.records import list_runs, read_run
from sfumato.training.lock import RunLock


def make_run(runs: Path, name: str, *, steps: int, saved: int, loss: float, schedule: str = "CosineAngle") -> Path:
    """A run folder as training leaves it, without the weights."""
    folder = runs / name
    (folder / "checkpoints" / f"step-{saved:08d}").mkdir(parents=True)
    (folder / "checkpoints" / f"step-{saved:08d}" / "MANIFEST.json").write_text("{}")
    (folder / "checkpoints" / f".tmp-step-{saved + 5:08d}").mkdir()  # never completed
    (folder / "checkpoints" / f"step-{saved + 5:08d}").mkdir()  # no manifest: never completed either
    (folder / "config.yaml").write_text(
        f"name: x\nschedule: {schedule}\ntraining: {{steps: {steps}, learning_rate: 1e-3}}\n"
    )
    log = [{"step": saved - 1, "loss": 9.0}, {"step": saved, "loss": loss, "held_out_loss": loss / 2}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log) + '{"step": 7, "lo')
    (folder / "environment.json").write_text(json.dumps({"started": "2026-11-22T10:00:00+00:00", "parameters": 1234}))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """b is finished, a and c are not."""
    for name, steps, saved, loss in (("b", 100, 100, 0.5), ("a", 100, 40, 0.25), ("c", 200, 20, 1.5)):
        make_run(tmp_path, name, steps=steps, saved=saved, loss=loss)
    make_run(tmp_path, "d", steps=10, saved=10, loss=0.1, schedule="{kind: Tabulated, steps: 10}")
    (tmp_path / "not-a-run").mkdir()
    (tmp_path / "file.txt").write_text("")
    return tmp_path


def names(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines()[1:]]


def test_states_steps_and_figures(runs: Path) -> None:
    records = {record.name: record for record in list_runs(runs)}
    assert {name: (r.state, r.step, r.steps) for name, r in records.items()} == {
        "a": ("interrupted", 40, 100),
        "b": ("finished", 100, 100),
        "c": ("interrupted", 20, 200),
        "d": ("finished", 10, 10),
    }
    assert records["a"].figures["loss"] == 0.25  # the last one; the torn line is passed over
    assert (records["a"].get("held_out_loss"), records["a"].parameters) == (0.125, 1234)


def test_a_run_whose_lock_is_held_is_running(runs: Path) -> None:
    with RunLock(runs / "a"):
        assert read_run(runs / "a").state == "running"
    assert read_run(runs / "a").state == "interrupted"


def test_a_stale_lock_is_not_running_and_a_foreign_one_is_named(runs: Path) -> None:
    lock = runs / "a" / "LOCK"
    lock.write_text("")
    holder = {"pid": 2**22 + 1, "host": socket.gethostname(), "boot": "", "started": "1", "inode": lock.stat().st_ino}
    lock.write_text(json.dumps(holder))  # no such process
    assert read_run(runs / "a").state == "interrupted"
    lock.write_text(json.dumps({**holder, "host": "elsewhere"}))
    assert (read_run(runs / "a").state, read_run(runs / "a").note) == ("running", "held by elsewhere")
    lock.write_text(json.dumps({**holder, "host": "elsewhere", "inode": 1}))  # a copied folder
    assert read_run(runs / "a").state == "interrupted"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["a", "b", "c", "d"]),
        (["--sort", "loss"], ["d", "a", "b", "c"]),
        (["--sort", "step"], ["d", "c", "a", "b"]),
        (["--sort", "state"], ["b", "d", "a", "c"]),
        (["--where", "state=finished"], ["b", "d"]),
        (["--where", "training.steps=1e2"], ["a", "b"]),
        (["--where", "training.learning_rate=0.001", "--where", "step=40"], ["a"]),
        (["--where", "schedule=tabulated"], ["d"]),
        (["--where", "schedule=cosine-angle", "--sort", "held_out_loss"], ["a", "b", "c"]),
        (["--sort", "schedule.steps"], ["d", "a", "b", "c"]),  # runs without it come last
    ],
    ids=" ".join,
)
def test_sort_and_where(
    options: list[str], expected: list[str], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["runs", "--runs", str(runs), *options]) == 0
    assert names(capsys.readouterr().out) == expected
    assert cli.main(["runs", "--runs", str(runs), *options, "--json"]) == 0
    assert [run["name"] for run in json.loads(capsys.readouterr().out)["runs"]] == expected


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        (["--sort", "held_out_los"], "did you mean held_out_loss?"),
        (["--where", "schedul=x"], "did you mean schedule?"),
        (["--where", "step=abc", "--sort", "gibberish"], "--json"),
        (["--where", "step=abc", "--where", "gibberish=1"], "--json"),
        (["--where", "schedule"], "--where schedule=CosineAngle"),
    ],
)
def test_unknown_names(options: list[str], fix: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs", "--runs", str(runs), *options]) == 2
    assert fix in capsys.readouterr().err


def test_a_run_without_its_checkpoints_says_so(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether the folder is gone or only the weights in it; a run that never logged may still begin."""
    shutil.rmtree(runs / "b" / "checkpoints")
    manifest = {"format": 1, "files": {"model.safetensors": {"size": 1, "sha256": "0" * 64}}}
    (runs / "d" / "checkpoints" / "step-00000010" / "MANIFEST.json").write_text(json.dumps(manifest))
    shutil.rmtree(runs / "a" / "checkpoints")
    (runs / "a" / "metrics.jsonl").unlink()
    states = {record.name: record.state for record in list_runs(runs)}
    assert states == {"a": "interrupted", "b": "broken", "c": "interrupted", "d": "broken"}
    assert cli.main(["runs", "--runs", str(runs)]) == 0
    assert "d: its checkpoints are gone" in capsys.readouterr().out
    (runs / "d" / "checkpoints" / "step-00000010" / "model.safetensors").write_bytes(b"x")
    assert read_run(runs / "d").state == "finished"


def test_csv_holds_everything(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs", "--runs", str(runs), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["name"] for row in rows] == ["a", "b", "c", "d"]
    assert (rows[0]["loss"], rows[0]["training.learning_rate"], rows[3]["schedule"]) == (
        "0.25",
        "0.001",
        "Tabulated",
    )


def test_damaged_runs_are_listed_with_a_note(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "a" / "config.yaml").write_bytes(b"name: \xff\n")
    (runs / "b" / "config.yaml").unlink()
    (runs / "c" / "metrics.jsonl").write_bytes(b"\x00\xff{[not json\n[1]\n")
    (runs / "c" / "environment.json").write_text("[" * 100_000)
    (runs / "d" / "config.yaml").write_text("training: 3\n")
    os.symlink("nowhere", runs / "dangling")
    assert cli.main(["runs", "--runs", str(runs), "--json"]) == 0
    records = {run["name"]: run for run in json.loads(capsys.readouterr().out)["runs"]}
    assert (records["a"]["state"], records["b"]["state"]) == ("broken", "broken")
    assert "not UTF-8" in records["a"]["note"]
    assert "config.yaml" in records["b"]["note"]
    assert records["c"]["state"] == "interrupted"
    assert records["d"]["steps"] is None
    assert cli.main(["runs", "--runs", str(runs), "--sort", "loss"]) == 0


def test_names_with_control_characters_are_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "evil\x1b[2J\n", steps=1, saved=1, loss=1.0)
    assert cli.main(["runs", "--runs", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "evil\\x1b[2J\\n" in text


def test_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs", "--runs", str(tmp_path / "absent")]) == 0
    assert "sfumato train digits" in capsys.readouterr().out
    assert not (tmp_path / "absent").exists()
