"""From a recipe to samples through the command line: documents, files, refusals, and what they leave untouched."""

import hashlib
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
from sfumato.experiment.config import SamplingConfig, sampling_with
from sfumato.samplers import Ddim

TINY = ["--training.checkpoint_every", "2", "--training.evaluate_every", "2", "--training.preview_every", "0"]
POINTS = ["train", "swiss-roll", "--data.count", "300", "--training.steps", "4", "--training.batch_size=16", *TINY]
DIGITS = ["train", "digits", "--data.limit", "60", "--training.steps=2", "--training.batch_size", "4", *TINY]
SMALL = ["--network.widths", "8,8", "--network.depth", "1", "--sampling.steps", "3", "--sampling.micro_batch", "4"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny finished runs: points and digits."""
    folder = tmp_path_factory.mktemp("runs")
    assert cli.main([*POINTS, "--runs", str(folder), "--name", "points"]) == 0
    assert cli.main([*DIGITS, *SMALL, "--runs", str(folder), "--name", "digits"]) == 0
    return folder


@pytest.fixture
def document(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command with --json and gives its document and exit code."""

    def run(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert cli.main([*words, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return run


def digest(folder: Path) -> dict[str, str]:
    """Every file under a folder with its SHA-256."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_train_ends_with_one_document(document: Callable[..., Any], tmp_path: Path) -> None:
    found = document(*POINTS, "--runs", str(tmp_path))
    assert found["run"] == str(tmp_path / "swiss-roll-1")
    assert (found["parameters"], found["steps"]) == (72_066, 4)
    assert found["seconds"] > 0
    assert found["images_per_second"] > 0
    assert document(*POINTS, "--runs", str(tmp_path))["run"] == str(tmp_path / "swiss-roll-2")


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(
    document: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = document(*POINTS, "--dry-run")
    assert (found["parameters"], found["steps"], found["shape"]) == (72_066, 4, [2])
    assert found["experiment"]["training"]["batch_size"] == 16
    assert found["seconds"] > 0
    assert not list(tmp_path.iterdir())


def test_a_name_is_never_used_twice(runs: Path, document: Callable[..., Any]) -> None:
    before = digest(runs)
    assert "points" in document(*POINTS, "--runs", str(runs), "--name", "points", code=2)["error"]["what"]
    assert digest(runs) == before


def test_resume_of_a_finished_run_touches_nothing(runs: Path, document: Callable[..., Any]) -> None:
    before = digest(runs)
    assert document("resume", "points", "--runs", str(runs))["steps"] == 4
    assert digest(runs) == before


def test_resume_refuses_other_settings_and_other_runs(runs: Path, document: Callable[..., Any]) -> None:
    before = digest(runs)
    what = document("resume", "points", "--runs", str(runs), "--training.learning_rate", "1", code=2)["error"]
    assert "training.learning_rate" in what["what"]
    assert "--allow-change training.learning_rate" in what["fix"]
    assert document("resume", "pionts", "--runs", str(runs), code=4)["error"]["fix"] == "did you mean points?"
    assert digest(runs) == before


def test_points_go_into_an_array_file(runs: Path, document: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "x.npz"
    found = document(
        "sample", "points", "--runs", str(runs), "-n", "5", "--steps", "4", "--seed", "7", "--out", str(out)
    )
    assert (found["count"], found["steps"], found["files"], found["seed"]) == (5, 4, 1, 7)
    with np.load(out) as arrays:
        assert sorted(arrays.files) == ["seeds", "values"]
        assert arrays["values"].shape == (5, 2)
        assert arrays["values"].dtype == np.float32
        assert arrays["seeds"].tolist() == [7, 8, 9, 10, 11]
    assert [path.name for path in out.parent.iterdir()] == ["x.npz"]


def test_sample_i_of_seed_k_is_sample_0_of_seed_k_plus_i(
    runs: Path, document: Callable[..., Any], tmp_path: Path
) -> None:
    """And the same command writes the same bytes."""
    for name, options in {"a": ["-n", "3"], "b": ["-n", "1", "--seed", "2"], "c": ["-n", "3"]}.items():
        document("sample", str(runs / "digits"), *options, "--out", str(tmp_path / f"{name}.npz"))
    a, b = np.load(tmp_path / "a.npz")["images"], np.load(tmp_path / "b.npz")["images"]
    assert a.shape == (3, 8, 8, 1)
    assert a.dtype == np.uint8
    assert (a[2] == b[0]).all()
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "c.npz").read_bytes()


def test_pictures_are_numbered_and_say_how_they_were_made(
    runs: Path, document: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "pictures"
    words = [
        "sample",
        "digits",
        "--runs",
        str(runs),
        "-n",
        "3",
        "--seed",
        "5",
        "--sampler.eta",
        "0.5",
        "--out",
        str(out),
    ]
    found = document(*words)
    assert sorted(path.name for path in out.iterdir()) == ["000000.png", "000001.png", "000002.png"]
    with Image.open(out / "000002.png") as picture:
        assert (picture.size, picture.mode) == ((8, 8), "L")
        text = {key: str(value) for key, value in picture.info.items()}
    assert (text["sfumato:seed"], text["sfumato:index"], text["sfumato:steps"]) == ("7", "2", "3")
    assert text["sfumato:digest"] == found["digest"]
    assert (text["sfumato:sampler"], text["sfumato:sampler.eta"]) == ("Ddim", "0.5")
    assert (found["sampler"], found["sampler.eta"], found["clip"]) == ("Ddim", 0.5, True)
    told = [(key.removeprefix("sfumato:"), value) for key, value in text.items()]
    settings = [(key, value) for key, value in told if key not in ("run", "digest", "seed", "index")]
    again = sampling_with(SamplingConfig(), settings)
    assert (again.sampler, again.steps, again.micro_batch) == (Ddim(eta=0.5), 3, 4)
    before = digest(out)
    assert "exists already" in document(*words, code=2)["error"]["what"]
    assert digest(out) == before
    document(*words, "--force")
    assert digest(out) == before  # the same picture again, to the byte


def test_a_folder_with_a_dot_in_its_name(runs: Path, document: Callable[..., Any], tmp_path: Path) -> None:
    """A trailing slash says that a folder is meant; without it, both readings are offered."""
    out = tmp_path / "name.v1"
    words = ["sample", "digits", "--runs", str(runs), "-n", "1", "--out"]
    assert document(*words, str(out), code=2)["error"]["fix"] == f"--out {out}.npz, or --out {out}/"
    assert document(*words, f"{out}/")["files"] == 1
    assert "exists already" in document(*words, f"{out}/", code=2)["error"]["what"]
    assert document(*words, f"{tmp_path}/x.npz/")["files"] == 1
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")) == [
        "name.v1/000000.png",
        "x.npz/000000.png",
    ]


@pytest.mark.parametrize("out", ["new", "x.npz", "."])
def test_more_samples_than_anyone_can_mean(
    out: str, runs: Path, document: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["sample", "digits", "--runs", str(runs), "-n", f"{10**30}", "--out", out]
    error = document(*words, code=2)["error"]
    assert error["what"] == f"{10**30} samples were asked for"
    assert error["expected"] == "from 1 to 10,000,000 samples, a whole number"
    assert document("figures", "grid", "digits", "--runs", str(runs), "-n", f"{10**30}", code=2)["error"] == error


def test_a_damaged_checkpoint_is_a_note(
    runs: Path, document: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not a warning of Python's, with a path into the package and a line of its source."""
    run = shutil.copytree(runs / "points", tmp_path / "points")
    weights = max(run.glob("checkpoints/step-*")) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    for words in (["sample", str(run), "--out", "x.npz"], ["figures", "grid", str(run), "--out", "x.png"]):
        assert cli.main([*words[:-1], str(tmp_path / words[-1]), "-n", "9"]) == 0
        said = capsys.readouterr().err
        assert said.startswith("step-00000004 is damaged (")
        assert said.endswith("an older checkpoint is used\n")
        assert len(said.splitlines()) == 1


def test_an_array_file_is_not_overwritten(runs: Path, document: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    out.write_text("precious")
    assert "--force" in document("sample", "points", "--runs", str(runs), "--out", str(out), code=2)["error"]["fix"]
    assert out.read_text() == "precious"


def test_points_are_not_pictures(runs: Path, document: Callable[..., Any], tmp_path: Path) -> None:
    error = document("sample", "points", "--runs", str(runs), "-n", "1", "--out", str(tmp_path / "dir"), code=2)[
        "error"
    ]
    assert error["fix"] == f"--out {tmp_path / 'dir'}.npz"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--sampler", "dimm"], "there is no 'dimm'"),
        (["--sampler.etta", "1"], "--sampler.etta: unknown key"),
        (["--steps", "0"], "sampling.steps is 0"),
        (["--steps", "101"], "101"),
        (["--label", "3"], "label"),
        (["--guidance", "2"], "guidance"),
        (["--weights", "best"], "--weights: 'best'"),
        (["--seed", "-1"], "seed is -1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_sampling_refusals(
    options: list[str], what: str, runs: Path, document: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "x.npz"
    assert (
        what in document("sample", "points", "--runs", str(runs), *options, "--out", str(out), code=2)["error"]["what"]
    )
    assert not out.exists()


def test_a_setting_of_another_sampler_names_that_sampler(
    runs: Path, document: Callable[..., Any], tmp_path: Path
) -> None:
    words = ["sample", "points", "--runs", str(runs), "--sampler.eta", "1", "--out", str(tmp_path / "x.npz")]
    assert document(*words, code=2)["error"]["fix"] == "choose Ddim, which has eta: --sampler Ddim --sampler.eta 1"


def test_an_exported_file_samples_the_same(runs: Path, document: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    found = document("export", "digits", "--runs", str(runs), "--out", str(file))
    assert found == {"out": str(file), "bytes": file.stat().st_size}
    before = file.read_bytes()
    assert document("export", "digits", "--runs", str(runs), "--out", str(file), code=2)["error"]["code"] == "USAGE"
    assert file.read_bytes() == before
    for name, source in {"run": str(runs / "digits"), "file": str(file)}.items():
        document("sample", source, "-n", "2", "--out", str(tmp_path / f"{name}.npz"))
    assert (tmp_path / "run.npz").read_bytes() == (tmp_path / "file.npz").read_bytes()


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x80\x04pickle", b"\xff" * 64])
def test_what_is_not_a_model_is_refused(content: bytes, document: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    error = document("sample", str(file), "--out", str(tmp_path / "x.npz"), code=4)["error"]
    assert str(file) in error["what"]


def test_a_device_that_is_not_there(document: Callable[..., Any], tmp_path: Path) -> None:
    error = document(*POINTS, "--runs", str(tmp_path / "r"), "--device", "cuda:99", code=7)["error"]
    assert "cuda:99" in error["what"]
    assert not list((tmp_path / "r").glob("*"))


def test_a_file_stands_where_the_runs_should_be(document: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("precious")
    assert document(*POINTS, "--runs", str(tmp_path / "runs"), code=6)["error"]["code"] == "RESOURCE"
    assert (tmp_path / "runs").read_text() == "precious"


@pytest.mark.parametrize("name", ["points", "digits"])
def test_what_is_suggested_after_a_run_can_be_typed(name: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["resume", name, "--runs", str(runs)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("look at it: ")]
    words = shlex.split(line.removeprefix("look at it: "))
    assert words[:2] == ["sfumato", "sample"]
    assert cli.main([*words[1:], "--steps", "2"]) == 0
    assert Path(words[-1]).exists()


@pytest.mark.parametrize(
    ("flags", "fix"),
    [
        (["--schedule", "CosineAngle", "--schedule.min_signal_rate", "0.4"], "--schedule.min_signal_rate 0.0"),
        (["--schedule.betas.rescale", "false"], "--schedule.betas.rescale true or --schedule.betas CosineBetas"),
    ],
    ids=["angle", "table"],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["train", "dry-run"])
def test_what_only_the_data_reveal_is_mended_by_flags_too(
    flags: list[str], fix: str, dry: list[str], document: Callable[..., Any], tmp_path: Path
) -> None:
    clock = [] if "rescale" in flags[0] else ["--times", "UniformTimes", "--time_input", "NoiseVarianceInput"]
    network = [] if "rescale" in flags[0] else ["--data.source", "digits", "--network", "ResidualUNet"]
    network += ["--network.widths", "8,8"] if network else []
    error = document(*POINTS, *flags, *clock, *network, *dry, "--runs", str(tmp_path / "r"), code=2)["error"]
    assert fix in error["fix"]
    assert "--allow_terminal_signal true" in error["fix"]
