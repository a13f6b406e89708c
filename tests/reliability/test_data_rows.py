"""Rows D1 to D18 as people meet them, through the command line: exit codes, three lines, what is recorded and kept.

What is decoded to which values is tested beside the code (tests/data); here is what a command says and leaves behind.
"""

import io
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from sfumato.cli.main import main

TINY = ["--training.steps", "2", "--training.batch_size", "4", "--training.preview_every", "0"]
SMALL = ["--network.widths", "8", "--network.depth", "1", "--sampling.steps", "2", *TINY]
TOLD = ["--condition.labels", "true"]

Refused = Callable[..., str]
Done = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to work in, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def untouched(here: Path, tree: Callable[[Path], Any]) -> Iterator[Callable[[], None]]:
    """Call it when the data lie there: at the end of the test they are as they were, to the byte and the date."""
    before: dict[str, Any] = {}

    def remember() -> None:
        before.clear()
        before.update(tree(here / "data"))

    yield remember
    after = tree(here / "data")
    assert {name: state for name, state in after.items() if before.get(name) != state} == {}
    assert set(after) == set(before)


@pytest.fixture
def refused(here: Path, untouched: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> Refused:
    """What `sfumato train` says where it refuses: three lines, the exit code, no run, no data touched."""

    def call(*words: str, code: int = 3, path: str = "data") -> str:
        untouched()
        capsys.readouterr()
        assert main(["train", "digits", *SMALL, "--data.path", path, *words]) == code
        caught = capsys.readouterr()
        assert caught.out == ""
        lines = caught.err.splitlines()
        assert [line.split(":")[0].split("[")[0] for line in lines] == ["error", "expected", "fix"], caught.err
        assert "Traceback" not in caught.err
        assert not list(here.glob("runs/*"))
        return lines[0]

    return call


@pytest.fixture
def done(untouched: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> Done:
    """The JSON document of a command that succeeds, and no data touched."""

    def call(*words: str) -> dict[str, Any]:
        untouched()
        capsys.readouterr()
        assert main([*words, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]

    return call


@pytest.fixture
def packed(done: Done) -> Callable[..., tuple[np.ndarray, list[str]]]:
    """The pictures (N, H, W, C) that `sfumato data pack` makes of the data, and what it records."""

    def call(*words: str) -> tuple[np.ndarray, list[str]]:
        made = done("data", "pack", "data", "--out", "out.safetensors", "--force", *words)
        return load_file("out.safetensors")["values"], made["report"]

    return call


def save(name: str, pixels: np.ndarray, folder: str = "data", **options: Any) -> Path:
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape or (8, 8), dtype=np.uint8)


def record_of(run: Path) -> dict[str, Any]:
    """What the newest checkpoint of a run says of its data."""
    newest = sorted((run / "checkpoints").iterdir())[-1]
    return json.loads((newest / "state.json").read_text())["data"]  # type: ignore[no-any-return]


def damage() -> dict[str, str]:
    """Files that are no pictures among six that are, and what is said of each."""
    for i in range(6):
        save(f"{'ab'[i % 2]}/{i}.png", noise(i))
    buffer = io.BytesIO()
    Image.fromarray(noise(0, 64, 64)).save(buffer, "JPEG")
    Path("data/a/cut.jpg").write_bytes(buffer.getvalue()[:-900])
    Path("data/a/text.jpg").write_text("not a picture")
    Path("data/b/empty.png").touch()
    return {"a/cut.jpg": "truncated", "a/text.jpg": "not a JPEG", "b/empty.png": "empty file"}


def test_bad_files_stop_training_and_are_listed(refused: Refused) -> None:
    """D4: each with its reason; of many the first ten, and how many more."""
    for name, reason in damage().items():
        assert f"{name}: " in (said := refused())
        assert reason in said.partition(f"{name}: ")[2].partition(";")[0]
    assert "3 of 9 pictures cannot be used" in said
    for i in range(20):
        Path(f"data/b/more{i}.gif").write_text("text")
    said = refused()
    assert "23 of 29 pictures cannot be used" in said
    assert said.count(": not a JPEG") + said.count("empty file") + said.count("truncated") == 10
    assert said.endswith("and 13 more")


def test_bad_files_are_left_out_and_the_run_says_so(here: Path, done: Done) -> None:
    """D4: the quarantine list and the count stand in the run's own record, and the run goes on as without them."""
    bad = damage()
    done("train", "digits", *SMALL, "--data.path", "data", "--data.bad_files", "skip", "--name", "all")
    record = record_of(here / "runs" / "all")
    assert record["count"] == 6
    listed = [line for line in record["report"] if line.startswith("left out ")]
    assert [line.split(": ")[0] for line in listed] == [f"left out {name}" for name in bad]
    assert all(reason in line for reason, line in zip(bad.values(), listed, strict=True))
    assert "3 of 9 pictures cannot be used" in record["report"]
    for name in bad:
        Path("data", name).unlink()
    done("train", "digits", *SMALL, "--data.path", "data", "--name", "good")
    assert record_of(here / "runs" / "good")["fingerprint"] == record["fingerprint"]


def test_inks_depth_alpha_and_turns_come_out_right(packed: Callable[..., tuple[np.ndarray, list[str]]]) -> None:
    """D5 to D8, as one folder: 16 x 16 pictures whose left upper quarter is what the name says."""
    red, plain = (255, 0, 0), np.zeros((16, 16, 3), np.uint8)
    plain[:8, :8] = red
    Path("data").mkdir()
    ink = np.zeros((16, 16, 4), np.uint8) + np.array([0, 0, 0, 255], np.uint8)
    ink[:8, :8] = (0, 255, 255, 0)
    Image.fromarray(ink, "CMYK").save("data/0-cmyk.jpg", quality=100)
    hidden = np.dstack([np.full((16, 16, 3), (0, 200, 0), np.uint8), np.zeros((16, 16), np.uint8)])
    hidden[:8, :8] = (*red, 255)
    save("1-alpha.png", hidden)
    save("2-palette.png", np.asarray(Image.fromarray(plain)), format="PNG")
    Image.fromarray(plain).quantize(4).save("data/2-palette.png")
    for turn in range(1, 9):
        stored = [plain, plain[:, ::-1], plain[::-1, ::-1], plain[::-1]]
        swapped = plain.swapaxes(0, 1)
        stored += [swapped, swapped[::-1], swapped[::-1, ::-1], swapped[:, ::-1]]
        exif = Image.Exif()
        exif[0x0112] = turn
        save(f"3-turned{turn}.jpg", np.ascontiguousarray(stored[turn - 1]), quality=95, subsampling=0, exif=exif)
    values, _ = packed()
    assert values.shape == (11, 16, 16, 3)
    for number, picture in enumerate(values.astype(int)):
        assert np.abs(picture[:8, :8] - red).max() <= 4, number  # JPEG
        background = 255 if number == 1 else 0
        assert np.abs(picture[8:, 8:] - background).max() <= 4, number
        assert np.abs(picture - values[3].astype(int)).mean() < 2 or number == 1
    values, _ = packed("--background", "black")
    assert np.abs(values[1, 8:, 8:].astype(int)).max() == 0


def test_deep_pictures_use_their_whole_range(
    packed: Callable[..., tuple[np.ndarray, list[str]]], refused: Refused
) -> None:
    """D6: a ramp of 16 bits keeps 256 levels; floats have no range until somebody gives one."""
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    save("0.png", ramp)
    save("1.tiff", ramp)
    Image.frombytes("I;16B", (16, 16), ramp.astype(">u2").tobytes()).save("data/2.tiff")
    values, _ = packed()
    assert np.array_equal(values[..., 0], np.broadcast_to(np.arange(256).reshape(16, 16), (3, 16, 16)))
    save("3.tiff", (ramp / 65_535).astype(np.float32))
    said = refused()
    assert "3.tiff: float or 32-bit values have no known range; give data.value_range" in said
    for name in ("0.png", "1.tiff", "2.tiff"):
        Path("data", name).unlink()
    values, _ = packed("--value_range", "[0, 1]")
    assert np.array_equal(values[0, ..., 0].ravel(), np.arange(256))


def test_mixed_sizes_and_colours_need_one_rule_and_it_is_recorded(here: Path, refused: Refused, done: Done) -> None:
    """D9: refused with both counts; the rule that was chosen stands in the run's settings."""
    save("a.png", noise(0, 8, 8))
    save("b.png", noise(1, 8, 8, 3))
    assert "1 grey and 1 colour pictures (grey: a.png; colour: b.png)" in refused()
    save("c.png", noise(2, 12, 20, 3))
    assert "2 different sizes" in refused("--data.channels", "3")
    done("train", "digits", *SMALL, "--data.path", "data", "--data.channels", "3", "--data.size", "8", "--name", "run")
    settings = (here / "runs" / "run" / "config.yaml").read_text()
    assert "size: 8" in settings
    assert "channels: 3" in settings
    record = record_of(here / "runs" / "run")
    assert (record["shape"], record["count"]) == ([3, 8, 8], 3)


def test_small_and_odd_shapes_are_enlarged_and_counted_or_named(
    packed: Callable[..., tuple[np.ndarray, list[str]]], refused: Refused
) -> None:
    """D10, D12."""
    save("a.png", noise(0, 4, 4))
    save("b.png", noise(1, 1, 1))
    save("c.png", np.full((1, 100_000), 9, np.uint8))
    save("d.png", noise(2, 16, 16))
    values, report = packed("--size", "8")
    assert values.shape == (4, 8, 8, 1)
    assert "3 of 4 pictures smaller than the target, enlarged" in report
    assert "the centre crop kept less than half of 1 picture" in report
    said = refused("--data.size", "8", "--data.min_size", "8")
    for name, size in (("a.png", "4x4"), ("b.png", "1x1"), ("c.png", "100000x1")):
        assert f"{name}: {size} pixels, shorter than data.min_size 8" in said


def test_frames_are_counted_and_other_formats_are_not_opened(
    packed: Callable[..., tuple[np.ndarray, list[str]]],
) -> None:
    """D13, D14: what is off the list is a pipe here, which would block whoever opens it."""
    frames = [np.full((8, 8, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 200, 0))]
    for name, options in (("a.gif", {}), ("b.webp", {"lossless": True}), ("c.png", {}), ("d.tiff", {})):
        save(name, frames[0], save_all=True, append_images=[Image.fromarray(frames[1])], **options)
    for suffix in ("fits", "eps", "psd", "pdf", "svg"):
        os.mkfifo(f"data/x.{suffix}")
    values, report = packed()
    assert np.array_equal(values, np.broadcast_to(frames[0], (4, 8, 8, 3)))
    assert "the first frame was taken of 4 files with several" in report
    assert "ignored files that are not pictures: 1 .eps, 1 .fits, 1 .pdf, 1 .psd, 1 .svg" in report


HOSTILE = ["-rf.png", "--help.png", "%s%n{0}.png", "new\nline.png", "esc\x1b[31m.png", "ünï/日本.png"]
HOSTILE += ["x" * 251 + ".png"]


def test_hostile_names_are_read_and_printed_escaped(
    here: Path, packed: Callable[..., tuple[np.ndarray, list[str]]], refused: Refused
) -> None:
    """D15: unicode, newline, 255 bytes, a leading dash, %s, what is no UTF-8; links round in circles and out."""
    for i, name in enumerate(HOSTILE):
        save(name, np.full((8, 8), 30 * i, np.uint8))
    os.rename(save("raw.png", np.full((8, 8), 250, np.uint8)), b"data/\xff\xfe.png")
    save("secret.png", np.full((8, 8), 99, np.uint8), folder="elsewhere")
    (here / "data" / "loop").symlink_to(here / "data")
    (here / "data" / "out").symlink_to(here / "elsewhere")
    (here / "data" / "out.png").symlink_to(here / "elsewhere" / "secret.png")
    values, report = packed()
    assert sorted(values[:, 0, 0, 0].tolist()) == [*range(0, 30 * len(HOSTILE), 30), 250]
    assert "ignored 2 links that lead out of the folder" in report
    assert "ignored 1 link to a folder above" in report
    for name in HOSTILE:
        Path("data", name).write_text("text")
    said = refused()
    assert r"new\nline.png: not a JPEG" in said
    assert r"esc\x1b[31m.png: not a JPEG" in said
    assert all(f"{name}: not a JPEG" in said for name in HOSTILE if name.isprintable())


@pytest.mark.parametrize("name", ["new\nline", "esc\x1b[31m", "-x", "%s"])
@pytest.mark.parametrize("suffix", [".npz", ".csv", ".zip", ".png", ""])
def test_a_place_of_a_hostile_name_is_printed_escaped(name: str, suffix: str, refused: Refused) -> None:
    """D15: the path itself, whatever kind of data it promises."""
    Path("data").mkdir()
    Path("data", name + suffix).write_text("text")
    said = refused(path=f"data/{name}{suffix}")
    assert "\x1b" not in said
    assert name.encode("unicode_escape").decode() in said


def test_numbers_that_are_none_are_named_with_place_and_count(refused: Refused) -> None:
    """D16: in a plain .npy, too; what pickle would run is never loaded."""
    Path("data").mkdir()
    values = np.random.default_rng(0).random((5, 8, 8))
    values[3, 2, 1] = values[4] = np.nan
    np.save("data/x.npy", values)
    assert "[3, 2, 1] is nan: 65 values NaN or infinite" in refused(path="data/x.npy")
    values = np.random.default_rng(0).random((5, 8, 8))
    values[1, 0, 7] = values[2, 0, 0] = 1.5
    np.save("data/x.npy", values)
    assert "2 values leave 0 to 1, the first at [1, 0, 7]" in refused(path="data/x.npy")
    said = refused("--data.value_range", "[0, 1]", path="data/x.npy")
    assert "[1, 0, 7] is 1.5: 2 values outside 0 to 1" in said
    np.save("data/x.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "pickled Python objects, which are never loaded" in refused(path="data/x.npy")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("-1", "labels.csv:4: label is '-1'"),
        ("1.5", "labels.csv:4: label is '1.5'"),
        ("", "labels.csv:4: label is missing"),
        ("two", "labels.csv:4: label is 'two' among 5 whole numbers"),
        ("99999999999999999999", "labels.csv:4: label is '99999999999999999999'"),
    ],
)
def test_a_wrong_label_is_named_with_file_line_and_value(bad: str, said: str, refused: Refused) -> None:
    """D17."""
    for i in range(6):
        save(f"{i}.png", noise(i))
    rows = [f"{i}.png,{bad if i == 2 else i % 2}" for i in range(6)]
    Path("data/labels.csv").write_text("\n".join(["file,label", *rows]))
    assert said in refused(*TOLD)


def test_a_label_beyond_the_names_and_more_classes_than_the_settings_say(refused: Refused) -> None:
    """D17: the ids that the file or the settings allow."""
    Path("data").mkdir()
    images, names = np.stack([noise(i) for i in range(6)]), np.array(["ant", "bee"])
    np.savez("data/x.npz", images=images, labels=np.array([0, 1, 0, 5, 1, 5]), class_names=names)
    assert "x.npz: label 3 is 5 (2 such" in refused(*TOLD, path="data/x.npz")
    np.savez("data/x.npz", images=images, labels=np.array([0, 1, 2, 7, 7, 1]))
    said = refused(*TOLD, "--condition.classes", "2", path="data/x.npz")
    assert "x.npz: the data have 4 classes, and condition.classes is 2; beyond them 2, 7" in said


def test_a_class_without_pictures(here: Path, refused: Refused, done: Done) -> None:
    """D18: refused where a model is told classes, unless that is allowed; no matter otherwise."""
    for i in range(8):
        save(f"{'ab'[i % 2]}/{i}.png", noise(i))
    Path("data/empty").mkdir()
    assert "data: no training example of the class empty" in refused(*TOLD)
    words = ["train", "digits", *SMALL, "--data.path", "data"]
    done(*words, *TOLD, "--condition.allow_empty_classes", "true", "--name", "allowed")
    done(*words, "--name", "untold")
    assert record_of(here / "runs" / "allowed")["class_names"] == ["a", "b"]


def test_one_picture_trains_and_what_that_means_is_said(
    here: Path, done: Done, capsys: pytest.CaptureFixture[str]
) -> None:
    """D2: also with a batch of one, where nothing is repeated within a step; D3: a larger batch says by how much."""
    save("only.png", noise(0))
    words = ["train", "digits", *SMALL, "--data.path", "data"]
    done(*words, "--training.batch_size", "1", "--name", "one")
    assert record_of(here / "runs" / "one")["count"] == 1
    assert main([*words, "--training.batch_size", "1"]) == 0
    assert "only one training example: the model learns it by heart" in capsys.readouterr().err
    assert main([*words, "--training.batch_size", "6"]) == 0
    said = capsys.readouterr().err
    assert "training.batch_size is 6, for 1 training example: every step sees each of them 6 times" in said


def test_a_bomb_is_refused_before_it_goes_off(here: Path, refused: Refused) -> None:
    """D11: by its header; the other pictures train without it."""
    for i in range(4):
        save(f"{i}.png", noise(i))
    whole = Path("data/0.png").read_bytes()
    sides = (60_000).to_bytes(4, "big") * 2
    header = whole[12:16] + sides + whole[24:29]
    crc = zlib.crc32(header).to_bytes(4, "big")
    Path("data/bomb.png").write_bytes(whole[:12] + header + crc + whole[33:])
    said = refused()
    assert "1 of 5 pictures cannot be used: bomb.png: its header announces" in said
