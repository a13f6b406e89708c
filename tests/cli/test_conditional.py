"""A conditional model on the command line: asked for by name, refused with the way out, and drawn again from a PNG."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato.cli import main as cli

TINY = ["--training.steps", "6", "--training.batch_size", "8", "--training.preview_every", "0", "--data.limit", "60"]
FAST = ["--training.learning_rate", "0.02", "--training.warmup_steps", "0", "--training.ema_decay", "0.1"]
SMALL = ["--network.widths", "8", "--network.depth", "1", "--sampling.steps", "3", "--sampling.micro_batch", "4"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits told their class, told nothing, going by a small picture; fast, so that labels matter after six steps."""
    folder = tmp_path_factory.mktemp("runs")
    for name, settings in {
        "told": ["--condition.labels", "true"],
        "plain": [],
        "super": ["--condition.image", "LowResolution", "--condition.image.factor", "2"],
        "always": ["--condition.labels", "true", "--condition.dropout", "0"],
    }.items():
        assert (
            cli.main(["train", "digits", *TINY, *FAST, *SMALL, *settings, "--runs", str(folder), "--name", name]) == 0
        )
    return folder


@pytest.fixture
def document(runs: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command on these runs with --json and gives its document."""

    def run(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert cli.main([*words, "--runs", str(runs), "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return run


def test_the_command_after_training_works(runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name, asking in (("told", "--label all"), ("always", "--label all"), ("super", "--pictures FOLDER")):
        assert cli.main(["resume", str(runs / name)]) == 0
        line = capsys.readouterr().out.strip().splitlines()[-1]
        assert asking in line
        words = shlex.split(line.removeprefix("look at it: sfumato "))
        words = [str(tmp_path) if word == "FOLDER" else word for word in words]
        Image.fromarray(np.full((8, 8), 99, np.uint8)).save(tmp_path / "a.png")
        assert cli.main([*words, "--force"]) == 0


def test_the_command_after_an_export_works(runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("told", "plain"):
        file = tmp_path / f"{name} 1.safetensors"
        assert cli.main(["export", str(runs / name), "--out", str(file)]) == 0
        line = capsys.readouterr().out.strip().splitlines()[-1]
        assert cli.main(shlex.split(line.removeprefix("look at it: sfumato "))) == 0
        assert len(list((tmp_path / f"{name} 1-samples").glob("*.png"))) == 36


def test_remedies_are_what_the_command_has(document: Callable[..., Any]) -> None:
    """Without stored averages there is no width to leave out; metrics are named by --metrics."""
    error = document("figures", "ema", "plain", code=4)["error"]
    assert "--training.power_ema 0.05,0.1" in error["fix"]
    assert "leave" not in error["fix"]
    for option, fix in {
        "--only": "did you mean --metrics loss?",
        "--samplr": "did you mean --sampler loss?",
        "--quite_other": "run `sfumato evaluate --help`",
    }.items():
        error = document("evaluate", "plain", option, "loss", code=2)["error"]
        assert option in error["what"]
        assert error["fix"] == fix


def test_the_bytes_of_a_sample_do_not_depend_on_how_many(document: Callable[..., Any], tmp_path: Path) -> None:
    """A smaller micro-batch is taken at its word, and may move a value by rounding alone."""
    found = {}
    for name, words in {"one": ["-n", "1"], "four": ["-n", "4"], "single": ["-n", "1", "--micro_batch", "1"]}.items():
        said = document("sample", "told", "--label", "3", *words, "--out", str(tmp_path / f"{name}.npz"))
        assert said["micro_batch"] == (1 if name == "single" else 4)
        found[name] = np.load(tmp_path / f"{name}.npz")["images"][0].astype(int)
    assert (found["one"] == found["four"]).all()
    assert np.abs(found["one"] - found["single"]).max() <= 1


def test_all_labels_into_an_array_file_that_is_a_labelled_data_set(
    document: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "x.npz"
    found = document("sample", "told", "-n", "12", "--label", "all", "--guidance", "2", "--out", str(out))
    assert found["labels"] == {str(k): 2 if k < 2 else 1 for k in range(10)}
    assert found["guidance"] == 2.0
    with np.load(out) as arrays:
        assert sorted(arrays.files) == ["class_names", "images", "labels", "seeds"]
        assert arrays["labels"].tolist() == [*range(10), 0, 1]
        assert arrays["class_names"].tolist() == [str(k) for k in range(10)]
    words = ("--data.path", str(out), "--data.held_out", "0", "--condition.labels", "true", "--dry-run")
    assert document("train", "digits", *words)["experiment"]["condition"]["labels"] is True


def test_a_picture_says_how_it_was_asked_for(document: Callable[..., Any], tmp_path: Path) -> None:
    """Its metadata, given back as options, draw the same pixels."""
    first = tmp_path / "first"
    words = ("--label", "7,3", "--guidance", "1.5,0,4", "--steps", "5", "--seed", "2")
    document("sample", "told", "-n", "3", *words, "--out", f"{first}/")
    with Image.open(first / "000002.png") as image:
        said, pixels = dict(image.text), np.asarray(image)  # type: ignore[attr-defined]
    assert said["sfumato:label"] == "7"
    assert said["sfumato:label_index"] == "7"
    assert float(said["sfumato:guidance"]) == 4.0
    own = {"run", "digest", "seed", "index", "label", "label_index"}
    keys = {key.removeprefix("sfumato:"): text for key, text in said.items()}
    settings = [word for key, text in keys.items() if key not in own for word in (f"--{key}", text)]
    again = tmp_path / "again"
    document(
        "sample", "told", "-n", "1", "--label", keys["label"], "--seed", keys["seed"], *settings, "--out", f"{again}/"
    )
    with Image.open(again / "000000.png") as image:
        assert np.abs(np.asarray(image).astype(int) - pixels).max() <= 1  # another place in its micro-batch


def test_guidance_one_changes_no_byte_of_the_file(document: Callable[..., Any], tmp_path: Path) -> None:
    files = {}
    for name, words in {"a": [], "b": ["--guidance", "1"], "c": ["--guidance", "0"]}.items():
        files[name] = tmp_path / f"{name}.npz"
        document("sample", "told", "-n", "5", "--label", "all", *words, "--out", str(files[name]))
    document("sample", "told", "-n", "5", "--label", "none", "--out", str(tmp_path / "d.npz"))
    assert files["a"].read_bytes() == files["b"].read_bytes() != files["c"].read_bytes()
    dropped, none = np.load(files["c"]), np.load(tmp_path / "d.npz")
    assert dropped["images"].tobytes() == none["images"].tobytes()
    assert sorted(none.files) == ["images", "seeds"]


REFUSED = [
    (["told"], ["no label", "10 classes", "--label all", "--label none"]),
    (["told", "--label", "11"], ["no class 11", "0..9"]),
    (["told", "--label", "1", "--value", "0.3"], ["a value", "--value"]),
    (["told", "--label", "1", "--guidance", "nan"], ["guidance", "not finite"]),
    (["told", "--label", "1", "--guidance", "-1"], ["guidance", "negative", "--guidance 2"]),
    (["told", "--label", "1", "--guidance", "1,x"], ["--guidance 1,x", "--guidance 0,1,2,4"]),
    (["told", "--label", "1", "--guidance", ""], ["--guidance is empty", "--guidance 2"]),
    (["told", "--label", "1", "--guidance_interval", ""], ["--guidance_interval is empty", "null"]),
    (["told", "--label", "-1,2"], ["no class -1", "0..9"]),
    (["told", "--label", ""], ["no class ''", "0..9"]),
    (["told", "--label", "1", "--guidance_interval", "0.2,5"], ["guidance_interval", "--guidance 2"]),
    (["told", "--label", "1", "--autoguidance", "2"], ["autoguidance", "weaker"]),
    (["told", "--label", "1", "--dynamic_threshold", "2"], ["dynamic_threshold", "--dynamic_threshold 0.995"]),
    (["plain", "--label", "1"], ["a label", "without labels", "--label"]),
    (["plain", "--guidance", "2"], ["guidance", "without labels"]),
    (["plain", "--pictures", "{pictures}"], ["a picture", "--pictures"]),
    (["always", "--label", "none"], ["never trained without", "--label all"]),
    (["always", "--label", "1", "--guidance", "2"], ["condition.dropout is 0", "--guidance"]),
    (["super"], ["no picture", "--pictures"]),
    (["super", "--pictures", "{pictures}", "--label", "1"], ["a label"]),
]


@pytest.mark.parametrize(("words", "parts"), REFUSED, ids=lambda value: " ".join(value[:3]))
def test_refusals_leave_nothing_behind(
    words: list[str], parts: list[str], document: Callable[..., Any], tmp_path: Path
) -> None:
    """E4, E5: exit code 2, what there is, and what to write."""
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "in" / "a.png")
    out = tmp_path / "x.npz"
    given = [word.format(pictures=tmp_path / "in") for word in words]
    error = document("sample", *given, "-n", "3", "--out", str(out), code=2)["error"]
    for part in parts:
        assert part in " ".join(error.values() if isinstance(error, dict) else [error]), error
    assert not out.exists()


def test_weights_that_take_turns_within_an_interval(document: Callable[..., Any], tmp_path: Path) -> None:
    found = {}
    for name, words in {"in turn": ["0,3"], "one": ["3"], "elsewhere": ["0,3", "--guidance_interval", "0.2,5"]}.items():
        out = tmp_path / f"{name}.npz"
        document("sample", "told", "-n", "2", "--label", "1", "--guidance", *words, "--out", str(out))
        found[name] = np.load(out)["images"]
    assert (found["in turn"][1] == found["one"][1]).all()
    assert (found["in turn"][0] != found["one"][0]).any()
    assert (found["elsewhere"] != found["in turn"]).any()
    out = str(tmp_path / "x.npz")
    said = document("sample", "told", "-n", "1", "--label", "1", "--guidance", "0,3", "--out", out)
    assert said["guidance"] == [0, 3]


def test_edits_take_weights_in_turn(document: Callable[..., Any], tmp_path: Path) -> None:
    """As samples do: with an interval or without, and told in the document."""
    words = ("edit", "told", "vary", "--pictures", "data", "--limit", "1", "-n", "2", "--label", "1", "--guidance")
    found = {}
    for name, more in {"in turn": ["0,3"], "one": ["3"], "elsewhere": ["0,3", "--guidance_interval", "80,90"]}.items():
        said = document(*words, *more, "--out", str(tmp_path / name))
        assert said["guidance"] == (3.0 if name == "one" else [0.0, 3.0])
        found[name] = [np.asarray(Image.open(tmp_path / name / f"{i:06d}.png")) for i in range(2)]
    assert (found["in turn"][1] == found["one"][1]).all()
    assert (found["in turn"][0] != found["one"][0]).any()
    assert any((a != b).any() for a, b in zip(found["elsewhere"], found["in turn"], strict=True))
    assert "below" not in document(*words, "-1,1", "--out", str(tmp_path / "x"), code=2)["error"]["what"]
    assert "empty" in document(*words, " ", "--out", str(tmp_path / "x"), code=2)["error"]["what"]


def test_values_below_zero_are_values(tmp_path: Path, document: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "turned.npz", images=images, conditions=rng.normal(size=(60, 2)))
    words = [*TINY, *SMALL, "--data.path", str(tmp_path / "turned.npz"), "--condition.values", "true"]
    document("train", "digits", "--data.source", "folder", *words, "--name", "turned")
    for index, given in enumerate((["--value", "-1,.5"], ["--value=-1,.5"], ["--value", " -1, 0.5"])):
        out = tmp_path / f"{index}.npz"
        document("sample", "turned", "-n", "1", *given, "--out", str(out))
        assert np.load(out)["conditions"] == pytest.approx(np.array([[-1, 0.5]]))
    document("sample", "turned", "-n", "1", "--value", "-inf,1", "--out", str(tmp_path / "x.npz"), code=2)


def test_the_dropout_of_training_counts(runs: Path, document: Callable[..., Any], tmp_path: Path) -> None:
    """An edited config.yaml makes no trained row of "no class" out of one that never was."""
    shutil.copytree(runs / "always", tmp_path / "edited")
    config = tmp_path / "edited" / "config.yaml"
    text = config.read_text()
    assert "dropout: 0.0" in text
    config.write_text(text.replace("dropout: 0.0", "dropout: 0.1"))
    for words in (["--label", "none"], ["--label", "1", "--guidance", "2"]):
        out = str(tmp_path / "x.npz")
        error = document("sample", str(tmp_path / "edited"), *words, "--out", out, code=2)["error"]
        assert "condition.dropout is 0" in error["what"]


def test_weights_are_not_read_by_other_settings(runs: Path, document: Callable[..., Any], tmp_path: Path) -> None:
    """No shape tells that config.yaml was edited: what is predicted, and the schedule."""
    shutil.copytree(runs / "told", tmp_path / "edited")
    config, out = tmp_path / "edited" / "config.yaml", str(tmp_path / "x.npz")
    text = config.read_text()
    for old, new in (("parameterization: Velocity", "parameterization: Noise"), ("rate: 0.995", "rate: 0.7")):
        assert old in text
        config.write_text(text.replace(old, new))
        error = document("sample", str(tmp_path / "edited"), "--label", "1", "--out", out, code=4)["error"]
        assert f"is {new.split(': ')[1]} and was {old.split(': ')[1]} in training" in error["what"]


def test_a_damaged_classifier_is_trained_again(runs: Path, document: Callable[..., Any], tmp_path: Path) -> None:
    shutil.copytree(runs / "told", tmp_path / "cut")
    (tmp_path / "cut" / "classifier.safetensors").write_bytes(b"\x00" * 20)
    words = ("--label", "1", "--classifier_guidance", "1", "--out", str(tmp_path / "x.npz"))
    error = document("sample", str(tmp_path / "cut"), *words, code=4)["error"]
    assert f"sfumato classifier {tmp_path / 'cut'} --force" in error["fix"]


def test_what_is_not_there_is_named(runs: Path, document: Callable[..., Any], tmp_path: Path) -> None:
    out = str(tmp_path / "x.npz")
    error = document("sample", "super", "--pictures", str(tmp_path / "none"), "--out", out, code=3)["error"]
    assert "no such file or folder" in error["what"]
    assert "data.path" not in error["fix"]
    words = ("--label", "1", "--autoguidance", "2", "--weaker", "told/checkpoints/step-00000001")
    error = document("sample", "told", *words, "--out", out, code=4)["error"]
    there = sorted(path.name for path in (runs / "told" / "checkpoints").iterdir())
    assert "step-00000001" in error["what"]
    assert there[0] in error["expected"]
    assert there[0] in error["fix"]


def test_what_is_missing_for_guidance_is_a_matter_of_files(document: Callable[..., Any], tmp_path: Path) -> None:
    for words, fix in ((["--classifier_guidance", "1"], "sfumato classifier"), (["--ema_width", "0.1"], "power_ema")):
        error = document("sample", "told", "--label", "1", *words, "--out", str(tmp_path / "x.npz"), code=4)["error"]
        assert fix in error["fix"]


def test_pictures_to_go_by(document: Callable[..., Any], tmp_path: Path) -> None:
    """A folder, one file and an array file, whole or already small; a sample for each, or pictures in turn."""
    rng, folder = np.random.default_rng(0), tmp_path / "in"
    folder.mkdir()
    small = rng.integers(0, 256, (3, 4, 4), dtype=np.uint8)
    whole = small.repeat(2, axis=1).repeat(2, axis=2)
    for index, picture in enumerate(whole):
        Image.fromarray(picture).save(folder / f"{index}.png")
    np.savez(tmp_path / "small.npz", images=small)
    drawn = {}
    for name, words in {
        "folder": [str(folder)],
        "small": [str(tmp_path / "small.npz")],
        "one": [str(folder / "0.png")],
        "turns": [str(folder), "-n", "5"],
    }.items():
        out = tmp_path / f"{name}-out.npz"
        document("sample", "super", "--pictures", *words, "--out", str(out))
        drawn[name] = np.load(out)["images"]
    assert {name: len(images) for name, images in drawn.items()} == {"folder": 3, "small": 3, "one": 1, "turns": 5}
    assert np.abs(drawn["small"].astype(int) - drawn["folder"]).max() <= 1  # means and repeats round in float32
    assert (drawn["one"][0] == drawn["folder"][0]).all()
    assert (drawn["turns"][:3] == drawn["folder"]).all()


def test_figures_of_a_conditional_run(document: Callable[..., Any], tmp_path: Path) -> None:
    """The grid shows all classes with their names; a label can be asked for; what has no labels is as before."""
    for name, words in {
        "grid": ["grid", "told", "-n", "12"],
        "one": ["grid", "told", "-n", "4", "--label", "3"],
        "reverse": ["reverse", "told", "-n", "2", "--label", "3,4"],
        "plain": ["grid", "plain", "-n", "12"],
    }.items():
        document("figures", *words, "--out", str(tmp_path / f"{name}.png"))
    with Image.open(tmp_path / "grid.png") as named, Image.open(tmp_path / "plain.png") as plain:
        assert named.width == plain.width
        assert named.height > plain.height  # a caption below each row
    document("figures", "losses", "told", "--label", "3", "--out", str(tmp_path / "no.png"), code=2)
    out = tmp_path / "x.npz"
    document("sample", "told", "-n", "3", "--label", "all", "--out", str(out))
    document("figures", "grid", str(out), "--out", str(tmp_path / "file.png"))
