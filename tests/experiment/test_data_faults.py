"""Data that are missing, change or repeat themselves: what training does then (rows D1, D16, D18 to D23)."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.cli.main import main
from sfumato.data import DataConfig, decoding, folder, listing, load_data
from sfumato.errors import DataError
from sfumato.training.record import MetricsLog


class Watching:
    """A reporter that keeps what it is told, and does something once when training has begun."""

    def __init__(self, then: Any = None) -> None:
        self.notes: list[str] = []
        self.then = then

    def progress(self, progress: object) -> None:
        if self.then is not None:
            then, self.then = self.then, None
            then()

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for i in range(20):
        write(tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png", i)
    return tmp_path / "pictures"


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)).save(path)


@pytest.fixture
def settings(digits: dict[str, Any], pictures: Path) -> dict[str, Any]:
    return {**digits, "data.path": str(pictures), "data.limit": None}


def test_a_folder_that_vanishes_is_missed_only_when_it_is_read_again(
    settings: dict[str, Any], pictures: Path, tmp_path: Path
) -> None:
    """D19: what is trained on lies in memory; nothing is read during training that could be gone."""
    whole = sfumato.train("digits", settings, runs=tmp_path, name="whole")
    reporter = Watching(lambda: shutil.rmtree(pictures))
    run = sfumato.train("digits", settings, runs=tmp_path, name="run", reporter=reporter)
    assert not pictures.exists()
    assert [m.get("loss") for m in MetricsLog.read(run.folder / "metrics.jsonl")] == [
        m.get("loss") for m in MetricsLog.read(whole.folder / "metrics.jsonl")
    ]
    with pytest.raises(DataError, match=f"{pictures}: no such folder"):
        sfumato.resume(run.folder, {"training.steps": 9})


@pytest.mark.parametrize("change", ["replaced", "added", "removed", "renamed to another class"])
def test_a_changed_folder_is_not_resumed_on(
    change: str, settings: dict[str, Any], pictures: Path, tmp_path: Path
) -> None:
    """D19: by content, whatever the file times say; the same content elsewhere is the same data."""
    run = sfumato.train("digits", settings, runs=tmp_path, name="run")
    moved = tmp_path / "moved"
    shutil.copytree(pictures, moved)
    changed = pictures / "a" / "0.png"
    times = os.stat(changed)
    if change == "replaced":
        write(changed, 99)
        os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    elif change == "added":
        write(pictures / "b" / "99.png", 99)
    elif change == "removed":
        changed.unlink()
    else:
        changed.rename(pictures / "b" / "0.png")
    with pytest.raises(DataError, match="the data have changed: 20 examples"):
        sfumato.resume(run.folder, {"training.steps": 9})
    assert sfumato.resume(run.folder, {"training.steps": 9, "data.path": str(moved)}).steps == 9


def test_a_file_that_vanishes_while_the_folder_is_read_is_named(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D19, D4: listed and refused, or left out and recorded."""
    last = pictures / "b" / "19.png"
    scan = folder.scan

    def scanned(root: Path) -> listing.Listing:
        listing = scan(root)
        last.unlink(missing_ok=True)
        return listing

    monkeypatch.setattr(folder, "scan", scanned)
    kept = last.read_bytes()
    with pytest.raises(DataError, match=r"1 of 20 pictures cannot be used: b/19\.png: No such file"):
        load_data(DataConfig(path=str(pictures)), seed=0)
    last.write_bytes(kept)
    packed = load_data(DataConfig(path=str(pictures), bad_files="skip"), seed=0)
    assert len(packed) == len(packed.names) == 19
    assert packed.report[-1].startswith("left out b/19.png: No such file")


def test_copies_across_the_split_are_said(settings: dict[str, Any], pictures: Path, tmp_path: Path) -> None:
    """D20: held-out figures flatter, and training says so; the doctor counts the same."""
    for i in range(20):
        shutil.copy(pictures / "ab"[i % 2] / f"{i}.png", pictures / "ab"[i % 2] / f"copy{i}.png")
    reporter = Watching()
    sfumato.train("digits", settings, runs=tmp_path, reporter=reporter)
    (said,) = [note for note in reporter.notes if "held-out figures flatter" in note]
    from sfumato.experiment.inspection import examined, inspect

    counted = inspect(examined(str(pictures))).facts.leakage
    assert counted.exact > 0
    assert said.startswith(f"{counted.exact} of {counted.held_out} held-out examples")


def test_there_are_no_workers_to_lose(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D21, D22: files are decoded by threads before training and batches are gathered from memory: from the first file
    to the last step no process is started, and no loader made, that could die or hang."""

    def started(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    import _posixsubprocess
    import multiprocessing.process

    for owner, name in (
        (os, "fork"),
        (os, "posix_spawn"),
        (_posixsubprocess, "fork_exec"),
        (multiprocessing.process.BaseProcess, "start"),
        (torch.utils.data.DataLoader, "__init__"),
    ):
        monkeypatch.setattr(owner, name, started)
    monkeypatch.setattr(decoding, "SMALL_FILE", 0)  # as of large pictures: in threads
    assert len(load_data(DataConfig(path=settings["data.path"], cache="off"), seed=0)) == 20
    run = sfumato.train("digits", settings, runs=tmp_path, name="run")
    assert run.steps == settings["training.steps"]
    assert sfumato.resume(run.folder, {"training.steps": run.steps + 1}).steps == run.steps + 1


@pytest.mark.parametrize("threads", [1, 3, 32])
def test_the_number_of_threads_changes_nothing(threads: int, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D23: order, content and what is said of bad files."""
    (pictures / "a" / "text.png").write_text("text")
    (pictures / "b" / "empty.png").touch()
    config = DataConfig(path=str(pictures), bad_files="skip", cache="off")
    usual = load_data(config, seed=0)
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
    monkeypatch.setattr(decoding, "SMALL_FILE", 0)  # these are so small that one thread would take them all
    assert decoding.threads_for(100) == threads
    again = load_data(config, seed=0)
    assert again.fingerprint == usual.fingerprint
    assert (again.names, again.report) == (usual.names, usual.report)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: None, "no such folder"),
        (lambda p: p.mkdir(), "the folder is empty"),
        (lambda p: (p.mkdir(), (p / "a.txt").write_text("x")), "no picture among its files (1 .txt)"),
        (lambda p: (p.mkdir(), (p / "a.png").write_text("x")), "1 of 1 picture cannot be used"),
    ],
    ids=["absent", "empty", "no pictures", "no readable picture"],
)
def test_what_is_missing_is_told_apart_with_exit_code_3(
    make: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """D1: as the command line says it, by training and by the doctor alike."""
    make(tmp_path / "data")
    for words in (["train", "digits", "--runs", str(tmp_path / "runs"), "--data.path"], ["data", "inspect"]):
        capsys.readouterr()
        assert main([*words, str(tmp_path / "data")]) == 3
        told = capsys.readouterr()
        assert told.out == ""
        assert said in told.err.splitlines()[0]
        assert len(told.err.splitlines()) == 3
    assert not list(tmp_path.glob("runs/*"))
