"""`sfumato figures`: every kind writes a figure that opens; nothing is overwritten, nothing is computed in vain."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.cli import main as cli
from sfumato.experiment.load import load
from sfumato.experiment.preview import save_preview

TINY = ["--training.evaluate_every", "2", "--training.log_every", "1", "--training.preview_every", "0"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of digits and one of points."""
    folder = tmp_path_factory.mktemp("runs")
    common = ["--runs", str(folder), "--training.steps", "2", "--training.batch_size", "4", *TINY]
    small = ["--data.limit", "40", "--network.widths", "8,8", "--network.depth", "1", "--sampling.steps", "3"]
    assert cli.main(["train", "digits", "--name", "digits", *common, *small]) == 0
    assert cli.main(["train", "swiss-roll", "--name", "points", "--data.count", "100", *common]) == 0
    return folder


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (["grid", "digits", "-n", "4"], "x.png"),
        (["grid", "points", "-n", "50", "--steps", "5"], "x.svg"),
        (["forward", "digits", "-n", "2", "--compare", "VpSde"], "x.png"),
        (["forward", "swiss-roll", "-n", "50", "--data.count", "100"], "x.png"),
        (["reverse", "digits", "-n", "2"], "x.png"),
        (["reverse", "digits", "-n", "4", "--sampler.eta", "1"], "x.gif"),
        (["reverse", "points", "-n", "20", "--steps", "4"], "x.webp"),
        (["both-ways", "digits", "-n", "1"], "x.png"),
        (["both-ways", "points", "-n", "20", "--steps", "4", "--columns", "3"], "x.pdf"),
        (["schedules", "CosineAngle", "points"], "x.png"),
        (["schedules"], "x.pdf"),
        (["embedding", "--channels", "16"], "x.png"),
        (["losses", "digits", "points"], "x.png"),
        (["score", "points", "--at", "0.1,0.5", "--side", "8"], "x.png"),
        (["score", "points", "--log-snr", "2"], "x.svg"),
        (["langevin", "points", "--steps", "5", "--side", "8", "--start=1.5,-1.5", "--start", "0,1"], "x.pdf"),
        (["langevin", "points", "--steps", "4", "--temperature", "0", "--side", "8"], "x.gif"),
        (["density", "points", "--side", "6"], "x.png"),
        (["gamma", "points"], "x.png"),
        (["gamma", "digits"], "x.svg"),
    ],
    ids=" ".join,
)
def test_every_kind_writes_a_figure(
    words: list[str], out: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / out
    command = ["figures", *words, "--runs", str(runs), "--out", str(target), "--json"]
    capsys.readouterr()
    assert cli.main(command) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(target), "kind": words[0], "bytes": target.stat().st_size}
    if target.suffix in (".png", ".gif", ".webp"):
        with Image.open(target) as picture:
            assert min(picture.size) > 20
            assert len(set(picture.convert("L").tobytes())) > 2  # something was drawn
            assert (getattr(picture, "n_frames", 1) > 1) == (target.suffix != ".png")
    before = target.read_bytes()
    assert cli.main(command) == 2
    assert "exists already" in capsys.readouterr().err
    assert target.read_bytes() == before


def test_without_a_known_law_the_points_are_the_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Points from a file are compared with themselves, and the command says so."""
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32))
    common = ["--runs", str(tmp_path), "--training.steps", "2", "--training.batch_size", "4", *TINY]
    assert (
        cli.main(["train", "swiss-roll", "--name", "file", "--data.path", str(tmp_path / "points.npy"), *common]) == 0
    )
    capsys.readouterr()
    for kind in ("score", "density"):
        words = [
            "figures",
            kind,
            "file",
            "--runs",
            str(tmp_path),
            "--side",
            "6",
            "--out",
            str(tmp_path / f"{kind}.png"),
        ]
        assert cli.main(words) == 0
        assert "law of these data is not known" in capsys.readouterr().err


def test_langevin_walks_are_the_samplers(runs: Path, tmp_path: Path) -> None:
    """Without noise a step is step_size/2 times the learned score, in the units of the axes."""
    from sfumato.cli import plane
    from sfumato.core import NoiseSource
    from sfumato.experiment.load import load
    from sfumato.figures import LangevinWalk
    from sfumato.figures.plane import Plane, roomy
    from sfumato.figures.truth import PointsTruth

    model, view = load("points", runs=runs), torch.tensor([[1.5, -1.5], [0.2, 0.7]], dtype=torch.float64)
    normalization = model.record.normalization
    limits = roomy(view.numpy())
    toy = plane.Toy(model, Plane(normalization), PointsTruth(view), limits)
    walk = LangevinWalk(steps=3, decay=0.5, temperature=0)
    states = plane.walked(toy, view, 0.1, walk, 0.01, seed=0)
    place, scale = view, torch.tensor(normalization.scale, dtype=torch.float64)
    for k in range(3):
        x = (place - torch.tensor(normalization.mean, dtype=torch.float64)) / scale
        with torch.no_grad():
            score = model.denoiser(x.float(), torch.tensor(0.1, dtype=torch.float64)).score.double() / scale
        place = place + 0.01 * 0.5**k / 2 * score
        assert torch.allclose(torch.from_numpy(states[k + 1]), place, atol=1e-5)  # a network in float32
    noisy = plane.walked(toy, view, 0.1, LangevinWalk(steps=1), 0.01, seed=3)
    still = plane.walked(toy, view, 0.1, LangevinWalk(steps=1, temperature=0), 0.01, seed=3)
    z = NoiseSource.of(seed=3, count=2).normal(view, draw=0)
    assert np.allclose(noisy[1] - still[1], 0.1 * z.numpy())


def test_a_grid_of_an_array_file(tmp_path: Path) -> None:
    """The pixels of the file stand in the sheet, enlarged."""
    images = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8, 1)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(4))
    assert cli.main(["figures", "grid", str(tmp_path / "x.npz"), "-n", "2", "--out", str(tmp_path / "x.png")]) == 0
    with Image.open(tmp_path / "x.png") as sheet:
        assert set(images[:2].ravel().tolist()) <= set(sheet.convert("L").tobytes())


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["gird"], 2, "did you mean grid?"),
        (["grid"], 2, "nothing was named"),
        (["grid", "digits", "points"], 2, "digits points was named"),
        (["grid", "digitz"], 4, "did you mean digits?"),
        (["grid", "digits", "--out", "x.gif"], 2, ".png, .pdf, .svg"),
        (["grid", "digits", "-n", "0"], 2, "-n is 0"),
        (["grid", "digits", "--sampler.etta", "1"], 2, "did you mean --sampler.eta?"),
        (["losses", "digits", "--steps", "1"], 2, "unknown option --steps"),
        (["losses"], 2, "no run was named"),
        (["schedules", "CosinAngle"], 2, "CosineAngle"),
        (["embedding", "--channels", "7"], 2, "even"),
        (["embedding", "--channels", "1000000000"], 2, "from 2 to 4096"),
        (["forward", "digits", "--compare", "nothing-like-it"], 2, "nothing-like-it"),
        (["score", "digits"], 2, "the data are pictures"),
        (["langevin", "digits"], 2, "the data are pictures"),
        (["density", "digits"], 2, "the data are pictures"),
        (["score", "points", "--at", "0.1,x"], 2, "--at 0.1,x"),
        (["score", "points", "--at", "1.5"], 2, "times from 0.01"),
        (["score", "points", "--log-snr", "90"], 2, "log-SNRs of the schedule"),
        (["score", "points", "--at", "0.1", "--log-snr", "1"], 2, "both"),
        (["score", "points", "--side", "1"], 2, "--side is 1"),
        (["score", "points", "--steps", "3"], 2, "unknown option --steps"),
        (["grid", "points", "--at", "0.1"], 2, "it with score, langevin"),
        (["langevin", "points", "--at", "0.1,0.2"], 2, "one noise level"),
        (["langevin", "points", "--start", "1"], 2, "X,Y"),
        (["langevin", "points", "--decay", "2"], 2, "decay is 2"),
        (["langevin", "points", "--step_sise", "2"], 2, "did you mean --step_size?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_refusals(
    words: list[str],
    code: int,
    text: str,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert cli.main(["figures", *words, "--runs", str(runs)]) == code
    error = capsys.readouterr().err
    assert text in error
    assert len(error.splitlines()) == 3
    assert not list(tmp_path.iterdir())


def test_no_more_columns_than_pictures(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 8, 8), np.uint8))
    sheets = {}
    for columns in (3, 100_000_000):
        out = tmp_path / f"{columns}.png"
        words = ["figures", "grid", str(tmp_path / "x.npz"), "--columns", str(columns), "--out", str(out)]
        assert cli.main(words) == 0
        sheets[columns] = out.read_bytes()
    assert sheets[3] == sheets[100_000_000]


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04broken"])
def test_array_files_that_are_none(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    assert cli.main(["figures", "grid", str(tmp_path / "x.npz"), "--out", str(tmp_path / "x.png")]) == 3
    assert "x.npz" in capsys.readouterr().err


def test_numbers_go_with_the_figure(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*words: str) -> dict[str, object]:
        capsys.readouterr()
        assert (
            cli.main(["figures", *words, "--runs", str(runs), "--out", str(tmp_path / f"{words[0]}.pdf"), "--json"])
            == 0
        )
        found = json.loads(capsys.readouterr().out)
        assert isinstance(found, dict)
        return found

    of_run = told("network", "digits")
    model = load("digits", runs=str(runs))
    assert of_run["parameters"] == sum(p.numel() for p in model.denoiser.network.parameters())
    quality = told("steps", "points", "--steps", "3,2", "--samplers", "ddim", "-n", "20")
    assert quality["metric"] == "energy_distance"
    samplers = quality["samplers"]
    assert isinstance(samplers, dict)
    assert list(samplers["ddim"]) == ["2", "3"]


def test_progress_of_points(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["figures", "progress", "points", "--runs", str(runs), "--out", str(tmp_path / "p.png"), "--json"]
    assert cli.main(command) == 3
    assert "no previews" in json.loads(capsys.readouterr().out)["error"]["what"]
    for step in (1, 2):
        save_preview(runs / "points" / "samples", step, np.zeros((5, 2)) + step, is_image=False)
    assert cli.main(command) == 0
    (runs / "points" / "samples" / "step-00000003.npz").write_bytes(b"torn")
    capsys.readouterr()
    assert cli.main([*command, "--force"]) == 3
    assert "step-00000003.npz cannot be read" in json.loads(capsys.readouterr().out)["error"]["what"]
