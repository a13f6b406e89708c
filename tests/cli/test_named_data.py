"""`sfumato train` on a set known by name: three lines without its files, and its wish to download in one word."""

import json
from pathlib import Path

import pytest

from sfumato.cli import main as cli


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def test_without_its_files_three_lines_and_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "cifar10-ddpm-small"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error[DATA]", "expected", "fix"]
    assert "cifar-10-binary.tar.gz is not in" in lines[0]
    assert "--data.download" in lines[2]
    assert not list((tmp_path / "runs").glob("*"))


def test_the_word_alone_is_a_yes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Nowhere to put the files is what is refused, before any connection."""
    words = ["--data.cache", "off", "--data.download"]
    assert cli.main(["train", "cifar10-ddpm-small", *words, "--json"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert "there is no folder to put the files of cifar10 into" in error["what"]


def test_a_set_that_nobody_knows(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "digits", "--data.source", "cifar-10"]) == 2
    assert "cifar10" in capsys.readouterr().err
