"""`sfumato data`: one look finds everything, what it recommends trains, what it packs trains alike."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato.cli import main as cli
from sfumato.data import DataConfig, load_data

QUICK = ["--training.steps", "2", "--training.batch_size", "4", "--training.evaluate_every", "0"]
TINY = ["--network.widths", "8,8", "--network.depth", "1", "--training.preview_every", "0", *QUICK]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to work in, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def photos(here: Path) -> Path:
    """Twelve pictures of 20 to 31 by 40 pixels in two classes, one of them a copy, and a file that is none."""
    rng = np.random.default_rng(0)
    for i in range(12):
        pixels = rng.integers(0, 256, (20 + i, 40, 3), dtype=np.uint8)
        path = here / "photos" / ("rose" if i % 2 else "daisy") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (here / "photos" / "rose" / "copy.png").write_bytes((here / "photos" / "rose" / "1.png").read_bytes())
    (here / "photos" / "rose" / "text.jpg").write_text("text")
    return here / "photos"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """The JSON document of a command that must succeed."""
    capsys.readouterr()
    assert cli.main([*words, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    capsys.readouterr()
    assert cli.main(list(words)) == code
    caught = capsys.readouterr()
    assert len(caught.err.splitlines()) == 3
    assert caught.out == ""
    return caught.err


def test_one_look_finds_everything(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in photos.rglob("*.*")}
    found = run(capsys, "data", "inspect", "photos", "--sheet", "sheet.png", "--write", "mine.yaml")
    assert found["path"] == "photos"
    assert not found["ready"]
    assert [f["what"].split(": ", 1)[1][:22] for f in found["findings"] if f["level"] == "problem"] == [
        "1 file cannot be used:",
        "the pictures have 12 d",
    ]
    files, examples = found["files"], found["examples"]
    assert (files["looked_at"], files["num_bad"], files["num_sizes"], files["folders"]) == (14, 1, 12, 2)
    assert (files["formats"], files["modes"]) == ({"PNG": 13}, {"RGB": 13})
    assert (examples["count"], examples["classes"]["counts"]) == (13, [6, 7])
    assert examples["classes"]["names"] == ["daisy", "rose"]
    assert examples["copies"]["exact"] == 1
    assert examples["copies"]["groups"] == [["rose/1.png", "rose/copy.png"]]
    assert found["recommended"]["settings"]["data"]["bad_files"] == "skip"
    assert 0 < found["schedule"]["data_std"] < 1
    assert (found["sheet"], found["written"]) == ("sheet.png", "mine.yaml")
    with Image.open("sheet.png") as sheet:
        assert min(sheet.size) > 64
    assert before == {p: p.read_bytes() for p in photos.rglob("*.*")}


def test_what_is_recommended_trains(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "data", "inspect", "photos", "--write", "mine.yaml")
    trained = run(capsys, "train", "mine.yaml", *QUICK, "--training.preview_every", "0", "--training.warmup_steps", "0")
    assert Path(trained["run"] if "run" in trained else trained["folder"]).is_dir()


def test_the_report_for_people(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "inspect", "photos", "--size", "16", "--bad_files", "skip"]) == 0
    text = capsys.readouterr().out
    for expected in (
        "files         14 in 2 folders",
        "1 unusable",
        "sizes         21x40 (2), 20x40 (1)",
        "examples      13 of 3 x 16 x 16",
        "classes       2 classes; rose: 7, daisy: 6",
        "copies        1 exact",
        "schedule      CosineAngle",
        "to begin with",
        "ready to train on",
    ):
        assert expected in text, text
    assert "PROBLEM" not in text
    assert cli.main(["data", "inspect", "photos"]) == 0
    text = capsys.readouterr().out
    assert "not ready: 2 problems above" in text
    assert "read with data.size 16x16, data.bad_files skip" in text


def test_hostile_names_are_printed_escaped(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "x").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for name in ("a\x1b[31m.png", "new\nline.png"):
        Image.fromarray(pixels).save(here / "x" / name)
    (here / "x" / "bad\x1b.png").write_text("text")
    assert cli.main(["data", "inspect", "x"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert r"bad\x1b.png" in text
    assert r"a\x1b[31m.png, new\nline.png" in text


def test_sets_by_name_and_settings_with_and_without_their_section(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "data", "inspect", "digits", "--limit", "50", "--data.pad", "12", "--schedule", "VpSde")
    assert found["ready"]
    assert found["examples"]["shape"] == [1, 12, 12]
    assert (found["examples"]["count"], found["schedule"]["schedule"]) == (50, "VpSde")
    assert found["files"] is None
    points = run(capsys, "data", "inspect", "moons", "--count", "5", "--sheet", "moons.png", "--data.count", "40")
    assert points["examples"]["count"] == 40
    assert points["examples"]["copies"]["compared"] is None
    recipe = run(capsys, "data", "inspect", "digits", "--recipe", "oxford-flowers-small", "--size", "8", "--limit", "9")
    assert recipe["normalization"]["kind"] == "standardize"


def test_packed_data_train_as_their_source_does(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The losses are equal to the bit, and the data's fingerprint with them."""
    common = ["--size", "16", "--bad_files", "skip"]
    made = run(capsys, "data", "pack", "photos", *common, "--out", "photos.safetensors")
    assert (made["count"], made["shape"], made["num_classes"]) == (13, [3, 16, 16], 2)
    assert made["bytes"] == Path("photos.safetensors").stat().st_size
    left_out = "left out rose/text.jpg: not a JPEG, PNG, WEBP, BMP, GIF or TIFF picture"
    assert made["report"] == ["1 of 14 pictures cannot be used", left_out]
    losses = []
    for name, path in (("a", "photos"), ("b", "photos.safetensors")):
        words = [
            "--data.path",
            path,
            "--data.size",
            "16",
            "--data.bad_files",
            "skip",
            *TINY,
            "--training.log_every",
            "1",
        ]
        run(capsys, "train", "digits", "--name", name, *words, *TINY)
        lines = [json.loads(line) for line in Path("runs", name, "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2
    again = load_data(DataConfig(path="photos.safetensors"), seed=0)
    assert again.fingerprint == made["fingerprint"]


def test_packing_says_what_it_did(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "pack", "digits", "--limit", "20", "--out", "d.safetensors"]) == 0
    text = capsys.readouterr().out
    assert "examples   20 of 1 x 8 x 8" in text
    assert "train with --data.path d.safetensors" in text
    inspected = run(capsys, "data", "inspect", "d.safetensors")
    assert inspected["examples"]["count"] == 20
    direct = load_data(DataConfig(source="digits", limit=20), seed=0)
    assert inspected["examples"]["classes"]["values"] == list(direct.label_values)
    assert inspected["examples"]["fingerprint"] == direct.fingerprint


@pytest.mark.parametrize(
    ("words", "code", "what", "fix"),
    [
        (["inspekt", "x"], 2, "there is no such action", "did you mean inspect?"),
        (["inspect", "absent"], 3, "absent: no such folder", "check --data.path"),
        (["inspect", "digits", "--out", "x.safetensors"], 2, "--out was given", "leave out --out"),
        (["pack", "digits"], 2, "no --out was given", "--out data.safetensors"),
        (["pack", "digits", "--out", "x.npz"], 2, "--out is x.npz", "--out x.safetensors"),
        (["pack", "digits", "--out", "taken.safetensors"], 2, "exists already", "--force"),
        (["pack", "digits", "--out", "x.safetensors", "--sheet", "a.png"], 2, "--sheet was given", "leave out --sheet"),
        (["pack", "digits", "--out", "x.safetensors", "--flip"], 2, "a setting of training", "sfumato train"),
        (["inspect", "digits", "--sheet", "x.txt"], 2, "x.txt ends in '.txt'", "choose x.png"),
        (["inspect", "digits", "--write", "taken.yaml"], 2, "exists already", "--force"),
        (["inspect", "digits", "--sise", "4"], 2, "--sise: unknown key", ""),
        (["inspect", "digits", "-n", "0"], 2, "-n is 0", "-n 100"),
        (["inspect", "moons", "-n", "40"], 2, "-n was given without --sheet", "--data.count"),
        (["inspect", "bad.npy"], 3, "holds pickled Python objects", "np.savez"),
        (["inspect", "model.safetensors"], 3, "not a data set", "sfumato data pack"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals(
    words: list[str], code: int, what: str, fix: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.numpy import save_file

    for name in ("taken.safetensors", "taken.yaml"):
        (here / name).write_text("mine")
    np.save(here / "bad.npy", np.array([{}], dtype=object), allow_pickle=True)
    save_file({"w": np.zeros(2)}, here / "model.safetensors", metadata={"format": "sfumato-model-1"})
    before = sorted(here.iterdir())
    text = refused(capsys, code, "data", *words)
    assert what in text
    assert fix in text
    assert sorted(here.iterdir()) == before
    assert (here / "taken.safetensors").read_text() == (here / "taken.yaml").read_text() == "mine"


def test_completion_knows_the_actions_and_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    script = run(capsys, "completion", "bash")["script"]
    assert 'data) words="inspect pack"' in script
    line = next(line for line in script.splitlines() if line.strip().startswith('data) words="--'))
    assert {"--sheet", "--out", "--data.size", "--schedule"} <= set(line.split('"')[1].split())


def test_files_are_written_before_the_report_is_read(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`… | head -3` closes the pipe after three lines: the sheet and the settings must be there all the same."""

    def closed(text: str = "") -> None:
        raise BrokenPipeError

    monkeypatch.setattr("sfumato.cli.data.say", closed)
    assert cli.main(["data", "inspect", "photos", "--sheet", "my sheet.png", "--write", "mine.yaml"]) == 0
    assert Path("my sheet.png").is_file()
    assert Path("mine.yaml").is_file()


def test_paths_are_said_as_a_shell_takes_them(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "pack", "digits", "--limit", "20", "--out", "my digits.safetensors"]) == 0
    assert "train with --data.path 'my digits.safetensors'" in capsys.readouterr().out


def test_a_sheet_says_which_pairs_are_mirrored(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    smooth = np.random.default_rng(2).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    np.savez(here / "x.npz", images=np.concatenate([smooth, smooth[:, :, ::-1]]))
    assert cli.main(["data", "inspect", "x.npz", "--flip", "--sheet", "x.png"]) == 0
    assert "copies        0 exact, 3 near pairs (3 of them mirrored) among 6 pictures" in capsys.readouterr().out
