"""Own data on the command line: a zip with a table is trained on, told and asked for; refusals are three lines."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato.cli import main as cli

TINY = ["--training.steps", "3", "--training.batch_size", "4", "--training.preview_every", "0", "--sampling.steps", "2"]
SMALL = ["--network.widths", "8", "--network.depth", "1", "--sampling.micro_batch", "4"]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Twelve pictures of 8x8 in a zip, of two classes by a table that also has an angle, a height and a note."""
    rows = []
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for n in range(12):
            buffer = io.BytesIO()
            Image.fromarray(np.full((8, 8), 20 * n, np.uint8)).save(buffer, "PNG")
            archive.writestr(f"photos/{n}.png", buffer.getvalue())
            rows.append(f"{n}.png,{'day' if n % 2 else 'night'},{n / 4},{-n},some words")
        archive.writestr("photos/labels.csv", "\n".join(["file_name,time,angle,height,note", *rows]))
    return tmp_path / "photos.zip"


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command with --json on runs of its own and gives its document."""

    def call(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert cli.main([*words, "--runs", str(tmp_path / "runs"), "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return call


def test_a_zip_with_a_table_is_trained_on_and_asked_for(
    archive: Path, tmp_path: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    told = ["--condition.labels", "true", "--condition.values", "true"]
    columns = ["--data.label", "time", "--data.columns", "angle,height"]
    run("train", "digits", "--data.path", str(archive), *columns, *told, *TINY, *SMALL, "--name", "own")
    folder = tmp_path / "runs" / "own"
    state = json.loads(next(folder.glob("checkpoints/*3/state.json")).read_text())
    record = state["data"]
    assert record["class_names"] == ["day", "night"]
    assert record["conditions"]["names"] == ["angle", "height"]
    assert record["shape"] == [1, 8, 8]
    run("resume", "own", "--training.steps", "4")  # the settings of tables are read back from config.yaml
    out = tmp_path / "out.npz"
    run("sample", "own", "-n", "2", "--label", "day", "--value", "0.5,-3", "--out", str(out))
    with np.load(out) as samples:
        assert samples["images"].shape == (2, 8, 8, 1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["--data.label", "season"], "there is no column 'season' (data.label)"),
        (["--data.columns", "angle,weight"], "there is no column 'weight' (data.columns)"),
        (["--data.columns", "note"], "photos/labels.csv:2: note is 'some words' (12 such rows)"),
        (["--data.columns", "[]", "--condition.values", "true"], "the data have no real numbers"),
    ],
)
def test_a_refusal_says_what_to_do(archive: Path, run: Callable[..., Any], settings: list[str], said: str) -> None:
    words = ["train", "digits", "--data.path", str(archive), "--data.cache", "off", *TINY, *SMALL]
    error = run(*words, *settings, "--name", "own", code=3)["error"]
    assert error["code"] == "DATA"
    assert said in error["what"]
    assert error["expected"]
    assert error["fix"]


def test_the_hub_needs_leave(run: Callable[..., Any], tmp_path: Path) -> None:
    words = ["train", "digits", "--data.path", "hf:someone/pictures", "--data.cache", str(tmp_path / "cache"), *TINY]
    error = run(*words, "--name", "own", code=3)["error"]
    assert error["fix"] == "--data.download"
    assert not (tmp_path / "runs").exists()
