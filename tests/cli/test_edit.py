"""`sfumato edit` from end to end on a model of a second: pictures, metadata, the sheet, refusals with exit codes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato.cli import main as cli

TINY = ["--training.steps", "2", "--training.batch_size", "8", "--training.preview_every", "0", "--data.limit", "60"]
SMALL = ["--network.widths", "8", "--network.depth", "1", "--sampling.steps", "2", "--sampling.micro_batch", "4"]
BOX = ["--pictures", "data", "--box", "2,1,4,5"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for recipe, name, settings in (
        ("digits", "plain", SMALL),
        ("digits", "super", [*SMALL, "--condition.image", "LowResolution", "--condition.image.factor", "2"]),
        ("swiss-roll", "points", ["--data.count", "60"]),
    ):
        words = ["train", recipe, *[w for w in TINY if recipe == "digits" or w not in ("--data.limit", "60")]]
        assert cli.main([*words, *settings, "--runs", str(folder), "--name", name]) == 0
    return folder


@pytest.fixture
def document(runs: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs `sfumato edit` on these runs with --json and gives its document."""

    def run(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert cli.main(["edit", *words, "--runs", str(runs), "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return run


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_inpainting_writes_pictures_with_known_pixels_and_a_sheet(
    document: Callable[..., Any], runs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "filled"
    found = document("plain", "inpaint", *BOX, "-n", "3", "--limit", "2", "--seed", "7", "--out", str(out))
    assert (found["files"], found["pictures"], found["variants"], found["method"]) == (6, 2, 3, "moments")
    assert found["psnr"]["n"] == 2
    assert found["psnr"]["std_error"] >= 0
    held = sfumato.experiment.evaluation.subject.data_of(sfumato.load(runs / "plain"))
    originals = held.packed.values[held.parts.held_out[:2]].numpy()[..., 0]
    hidden = np.zeros((8, 8), bool)
    hidden[2:6, 1:6] = True
    for i in range(6):
        image = opened(out / f"{i:06d}.png")
        assert (image[~hidden] == originals[i // 3][~hidden]).all()
        assert (image[hidden] != originals[i // 3][hidden]).any()
    with Image.open(out / "000004.png") as written:
        about = written.info
    assert (about["sfumato:seed"], about["sfumato:edit"], about["sfumato:box"]) == ("1008", "inpaint", "2,1,4,5")
    # 8 pixels six times as large, five columns of them with gutters of 2, a line of heads of 16 pixels
    assert opened(out / "before-after.png").shape == (16 + 2 + 2 * 50, 2 + 5 * 50)
    sheet = opened(out / "before-after.png")
    assert sheet[18 + 2 * 6, 2 + 50 + 1 * 6] == 128  # the first hidden pixel, in the column of what was given
    again = tmp_path / "again"
    document("plain", "inpaint", *BOX, "-n", "3", "--limit", "1", "--seed", "7", "--out", str(again))
    assert opened(again / "000002.png").tobytes() == opened(out / "000002.png").tobytes()


def test_masks_and_small_pictures_are_read_from_files(document: Callable[..., Any], tmp_path: Path) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.full((4, 4), 99, np.uint8)).save(tmp_path / "small.png")
    grey, out = str(tmp_path / "grey.png"), tmp_path / "out"
    document("plain", "inpaint", "--pictures", grey, "--mask", str(tmp_path / "mask.png"), "--out", str(out))
    image = opened(out / "000000.png")
    assert (image[:, :4] == 99).all()
    found = document("super", "upscale", "--pictures", str(tmp_path / "small.png"), "--factor", "2", "--out", f"{out}2")
    assert (found["method"], found["psnr"], found["factor"]) == ("condition", None, 2)
    assert opened(Path(f"{out}2") / "before-after.png").shape == (68, 102)  # nothing to compare with: two columns
    found = document(
        "plain", "deblur", "--pictures", grey, "--degrade", "--std", "0.7", "--noise", "3", "--out", f"{out}3"
    )
    assert (found["noise"], found["std"]) == (3.0, 0.7)
    assert found["psnr"]["std_error"] is None
    found = document("plain", "vary", "--pictures", grey, "--strength", "1e-5", "--out", f"{out}4")
    assert (opened(Path(f"{out}4") / "000000.png") == 99).all()
    assert found["method"] == "vary"


def test_methods_have_settings(document: Callable[..., Any], tmp_path: Path) -> None:
    few, many, alike = (
        document("plain", "inpaint", *BOX, "--limit", "1", *words, "--out", str(tmp_path / name))
        for name, words in (
            ("a", ["--method", "repaint", "--method.resamplings", "1"]),
            ("b", ["--method", "repaint", "--method.resamplings", "3"]),
            ("c", ["--method", "repaint", "--method.resamplings", "3", "--sampler", "ancestral"]),
        )
    )
    pixels = [opened(Path(each["out"]) / "000000.png").tobytes() for each in (few, many, alike)]
    assert pixels[0] != pixels[1] == pixels[2]
    assert few["sampler"] == "Ancestral"


def test_paths_end_where_they_should(document: Callable[..., Any], runs: Path, tmp_path: Path) -> None:
    found = document("plain", "interpolate", "--from", "1", "--to", "2", "-n", "4", "--out", str(tmp_path / "path"))
    assert found["files"] == 4
    sampled = sfumato.load(runs / "plain").sample(1, seed=1).images
    assert sampled is not None
    first = opened(tmp_path / "path" / "000000.png").astype(int)
    assert np.abs(first - sampled[0, ..., 0]).max() <= 1
    assert opened(tmp_path / "path" / "path.png").shape == (68, 202)
    there = ["--from", str(tmp_path / "path" / "000002.png"), "--to", "2", "--steps", "40"]
    document("plain", "interpolate", *there, "-n", "3", "--out", str(tmp_path / "other"))
    back = opened(tmp_path / "other" / "000000.png").astype(int)
    assert np.abs(back - opened(tmp_path / "path" / "000002.png")).max() <= 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["plain", "inpant", *BOX], 2, "did you mean inpaint"),
        (["plain", "inpaint", "--box", "1,1,2,2"], 2, "without pictures"),
        (["plain", "inpaint", "--pictures", "data"], 2, "either a mask or a box"),
        (["plain", "inpaint", "--pictures", "data", "--box", "1,1,2,9"], 2, "within pictures of 8 x 8"),
        (["plain", "inpaint", "--pictures", "data", "--box", "0,0,8,8"], 2, "hides all"),
        (["plain", "inpaint", "--pictures", "data", "--box", "1,1,two,2"], 2, "--box 1,1,two,2"),
        (["plain", "inpaint", *BOX, "--limit", "0"], 2, "--limit is 0"),
        (["plain", "inpaint", *BOX, "-n", "0"], 2, "0 variants"),
        (["plain", "inpaint", *BOX, "--method", "momnts"], 2, "did you mean moments"),
        (["plain", "inpaint", *BOX, "--method", "condition"], 2, "without pictures to go by"),
        (["plain", "inpaint", *BOX, "--method.iterationz", "3"], 2, "--method.iterations"),
        (["plain", "inpaint", *BOX, "--method.iterations", "0"], 2, "iterations is 0"),
        (["plain", "inpaint", *BOX, "--noise", "-1"], 2, "noise is -1"),
        (["plain", "inpaint", *BOX, "--label", "3"], 2, "trained without labels"),
        (["plain", "vary", *BOX], 2, "--box was given to vary"),
        (["plain", "vary", "--pictures", "data", "--strength", "2"], 2, "strength is 2"),
        (["plain", "vary", "--pictures", "data", "--method.iterations", "2"], 2, "given to vary"),
        (["plain", "upscale", "--pictures", "data", "--factor", "3"], 2, "2, 4, 8"),
        (["plain", "upscale", "--pictures", "nowhere"], 3, "no such file"),
        (["super", "upscale", "--pictures", "data"], 2, "trained to go by LowResolution"),
        (["plain", "colourise", "--pictures", "data"], 2, "1 channel"),
        (["plain", "interpolate", "--from", "1"], 2, "without --to"),
        (["plain", "interpolate", "--from", "1", "--to", "2", "-n", "1"], 2, "1 samples"),
        (["points", "inpaint", *BOX], 2, "model of points"),
        (["points", "interpolate", "--from", "1", "--to", "2"], 2, "model of points"),
        (["nobody", "inpaint", *BOX], 4, "there is no run"),
    ],
)
def test_refusals(words: list[str], code: int, said: str, document: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    error = document(*words, "--out", str(out), code=code)["error"]
    assert said in " ".join(error.values())
    assert not out.exists()


def test_nothing_is_replaced_unasked(document: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "before-after.png").write_bytes(b"")
    words = ["plain", "vary", "--pictures", "data", "--limit", "1", "--out", str(tmp_path)]
    assert "exists already" in document(*words, code=2)["error"]["what"]
    assert document(*words, "--force")["files"] == 1
