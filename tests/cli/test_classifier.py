"""`sfumato classifier`: one document, a table, and exit codes for runs that cannot have one."""

import json
from pathlib import Path

import pytest

from sfumato.cli import main as cli

TINY = ["--training.steps", "2", "--training.batch_size=8", "--training.preview_every", "0"]
DIGITS = ["train", "digits", "--data.limit", "60", *TINY, "--network.widths", "8", "--network.depth", "1"]
FEW = ["--steps", "20", "--batch_size", "8", "--width", "8"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert cli.main([*DIGITS, "--runs", str(folder), "--name", "digits"]) == 0
    short = ["--schedule.steps", "10", "--times.steps", "10", "--time_input.steps", "10", "--sampling.steps", "10"]
    assert cli.main(["train", "swiss-roll", *TINY, *short, "--runs", str(folder), "--name", "roll"]) == 0
    return folder


def test_it_trains_and_tells(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.main(["classifier", "digits", "--runs", str(runs), *FEW, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"run", "file", "seconds", "classes", "part", "settings", "network", "scores"}
    assert Path(document["file"]).is_file()
    assert document["settings"]["steps"] == 20
    assert len(document["scores"]) == 8
    assert cli.main(["classifier", "digits", "--runs", str(runs), *FEW]) == 2  # there is one already
    assert "--force" in capsys.readouterr().err
    assert cli.main(["classifier", "digits", "--runs", str(runs), *FEW, "--force"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["log-SNR", "right"]
    assert any("--classifier_guidance 1" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["roll"], 3, "no labels"),
        (["nothing"], 4, "nothing"),
        (["digits", "--steps", "0"], 2, "steps is 0"),
        (["digits", "--learning_rate", "fast"], 2, "'fast'"),
        (["digits", "--width", "12"], 2, "width is 12"),
        (["digits", "--stps", "3"], 2, "--stps"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_refusals(runs: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, what: str) -> None:
    capsys.readouterr()
    assert cli.main(["classifier", *words, "--runs", str(runs)]) == code
    lines = capsys.readouterr().err.strip().splitlines()[-3:]
    assert lines[0].startswith("error[")
    assert what in lines[0]
    assert [line.split(":")[0] for line in lines[1:]] == ["expected", "fix"]
