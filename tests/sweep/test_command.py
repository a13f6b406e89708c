"""`sfumato sweep`: tables, documents, exit codes and refusals."""

import json
from pathlib import Path

import pytest

from sfumato.cli import main as cli
from sfumato.experiment.sweep import Sweep

FAST = ("--launcher", "inline", "--no-forecast")


def test_a_sweep_from_beginning_to_end(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "swiss-roll", "--axis", "objective.distance=mse,mae", *flags, *FAST, "--runs", str(tmp_path)]
    assert cli.main(words) == 0
    found = capsys.readouterr()
    lines = found.out.splitlines()
    assert lines[0].split() == ["arm", "objective.distance", "state", "held-out"]
    assert [line.split()[:3] for line in lines[1:3]] == [["mse-s0", "mse", "done"], ["mae-s0", "mae", "done"]]
    assert " ± " in lines[1]
    assert "2/2 arms done" in found.err
    assert cli.main([*words, "--json", "--seeds", "2"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["sweep"] == str(tmp_path / "swiss-roll-sweep-1")
    assert [arm["name"] for arm in document["arms"]] == ["mse-s0", "mse-s1", "mae-s0", "mae-s1"]
    assert [mean["seeds"] for mean in document["means"]] == [2, 2]
    assert cli.main(["runs", "--runs", str(tmp_path), "--where", "sweep=swiss-roll-sweep-1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_failed_arms_are_exit_code_1(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Row H2: the table shows the reason, the document too, and the error says how to go on."""
    axis = f"training.init_from=null,{tmp_path / 'none.safetensors'}"
    words = ["sweep", "swiss-roll", "--axis", axis, *flags, *FAST, "--runs", str(tmp_path)]
    assert cli.main([*words, "--json"]) == 1
    found = capsys.readouterr()
    document = json.loads(found.out)
    assert document["error"]["code"] == "PARTIAL"
    assert [arm["state"] for arm in document["arms"]] == ["done", "failed"]
    assert "none.safetensors" in document["arms"][1]["error"]
    assert "error[PARTIAL]: 1 of 2 arms failed" in found.err


def test_what_was_stopped_is_exit_code_75(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    axis = "objective.distance=mse,mae"
    words = ["sweep", "swiss-roll", "--axis", axis, *flags, *FAST, "--runs", str(tmp_path), "--budget", "0.001s"]
    assert cli.main([*words, "--json"]) == 75
    found = capsys.readouterr()
    document = json.loads(found.out)
    assert [arm["state"] for arm in document["arms"]] == ["waiting", "waiting"]
    assert document["error"]["fix"] == f"sfumato sweep {tmp_path / 'swiss-roll-sweep-1'}"


def test_a_sweep_that_is_named_goes_on(whole: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sweep", "whole", "--runs", str(whole.folder.parent), *FAST, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["arms"]) == 4
    assert cli.main(["sweep", str(whole.folder), "--training.steps", "9", *FAST]) == 2
    assert "settings were given for" in capsys.readouterr().err


def test_a_dry_run_without_timing_writes_nothing(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", "swiss-roll", "--axis", "objective.distance=mse,MSE,mae", *flags, "--runs", str(tmp_path)]
    assert cli.main([*words, "--dry-run", "--no-forecast"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["arm", "mse-s0", "mae-s0"]
    assert "dropped 1 that would repeat another arm" in out
    assert "2 arms, 2 of them left" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "what", "fix"),
    [
        ([], "nothing varies", "--axis"),
        (["--axis", "objective.distance="], "the grid is empty", "--axis"),
        (["--axis", "objective.distnace=mse"], "no such setting", "did you mean objective.distance?"),
        (["--axis", "training.batch_size=" + ",".join(map(str, range(1001)))], "1,001 arms are asked for", "--yes"),
        (["--axis", "training.learning_rate=1e-4..1e-2"], "is a range", "--search random"),
        (["--axis", "objective.distance=mse,foo"], "1 of 2 cannot be trained: foo-s0", "--skip-unfit"),
        (["--seeds", "3", "--search", "bayes"], "--search is 'bayes'", "--search random"),
        (["--seeds", "3", "--trials", "5"], "--trials was given for a grid", "--search random"),
        (["--seeds", "3", "--metric", "kid"], "--metric kid was given with --search grid", "--metrics kid"),
        (["--seeds", "3", "--metrics", "kidd"], "there is no metric 'kidd'", "did you mean kid?"),
        (["--seeds", "3", "--budget", "2"], "--budget is '2'", "--budget 2h"),
        (["--seeds", "3", "--launcher", "cloud"], "--launcher is 'cloud'", "--launcher local"),
        (["--seeds", "3", "--slurm", "time=5"], "--slurm was given", "--launcher slurm"),
        (["--seeds", "3", "--slurm", "time", "--launcher", "slurm"], "--slurm time", "slurm_partition"),
        (["--seeds", "3", "--workers", "0"], "--workers is 0", "--workers 2"),
        (["--seeds", "0"], "--seeds is 0", "--seeds 3"),
        (["--seeds", "three"], "--seeds needs a whole number", "such as --seeds 36"),
        (["--seeds", "3", "--name", "a/b"], "--name is 'a/b'", "--name b"),
        (["--seeds", "3", "--trainning.steps", "5"], "unknown key 'trainning'", "training.steps"),
    ],
)
def test_refusals(words: list[str], what: str, fix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Row C10 and its neighbours: exit code 2, three lines, and nothing is written."""
    assert cli.main(["sweep", "swiss-roll", *words, "--runs", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 3
    assert what in error[0]
    assert fix in error[2]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("words", [["oxford-flowers"], ["oxford-flowers", "--data.path", "nowhere"], ["mnist-ddpm"]])
def test_data_that_are_not_there_are_refused_before_anything_is_written(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `sfumato train` does; otherwise every arm would be started, and fail alone."""
    place = ["--data.cache", str(tmp_path / "cache"), "--runs", str(tmp_path / "runs")]
    assert cli.main(["sweep", *words, "--seeds", "2", "--no-forecast", *place]) == 3
    assert capsys.readouterr().err.startswith("error[DATA]: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("swiss-rol", "did you mean swiss-roll?"),
        ("whole-swep", "did you mean whole-sweep?"),
        ("digits-1", "digits-1 is a run; its settings are varied by its folder"),
    ],
)
def test_what_is_no_recipe_is_told_by_what_it_may_be(
    name: str, fix: str, whole: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "digits-1").mkdir()
    (tmp_path / "digits-1" / "config.yaml").write_text("name: digits\n")
    (tmp_path / "whole-sweep").mkdir()
    (tmp_path / "whole-sweep" / "sweep.yaml").write_bytes((whole.folder / "sweep.yaml").read_bytes())
    assert cli.main(["sweep", name, "--seeds", "2", "--runs", str(tmp_path)]) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[0] == f"error[CONFIG]: there is no recipe, file or sweep {name!r}"
    assert fix in error[2]


def test_numbers_by_noise_level_are_no_columns(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There are dozens of them: the table names the figure, and the document has them all."""
    words = ["sweep", "swiss-roll", "--axis", "objective.distance=mse,mae", *flags, *FAST, "--runs", str(tmp_path)]
    words += ["--metrics", "loss_by_log_snr", "-n", "8"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["arm", "objective.distance", "state", "held-out"]
    assert f"sfumato figures by-level {tmp_path / 'swiss-roll-sweep-1'}" in out
    assert cli.main([*words, "--json"]) == 0
    assert "loss_by_log_snr[" in capsys.readouterr().out
