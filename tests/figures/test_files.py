"""Figures as files, and animations: formats by suffix, exact pixels, equal bytes, nothing overwritten."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.core import CosineAngle
from sfumato.data import Normalization, Packed
from sfumato.errors import ResourceError, UsageError
from sfumato.experiment.model import Trajectory
from sfumato.figures import Animation, animation, check_target, embedding, forward, grid, is_moving, save, schedules
from sfumato.figures.material import Pictures
from sfumato.figures.sheets import image_sheet

Data = tuple[Packed, Normalization]
MakePath = Callable[..., Trajectory]


def frames_of(path: Path) -> list[Image.Image]:
    with Image.open(path) as image:
        found = []
        for index in range(image.n_frames):
            image.seek(index)
            found.append(image.copy())
        return found


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".SVG", b"<?xml")])
def test_the_suffix_says_the_format(tmp_path: Path, digits: Data, suffix: str, magic: bytes) -> None:
    """Both kinds of still pictures; a second drawing of the same gives the same bytes."""
    for name, draw in (("curves", lambda: schedules("Ve")), ("sheet", lambda: grid(digits[0].values[:4]))):
        first, second = (save(draw(), tmp_path / "new" / f"{name}{k}{suffix}") for k in (1, 2))
        assert first.read_bytes().startswith(magic)
        assert first.read_bytes() == second.read_bytes()
    assert sorted(path.suffix for path in (tmp_path / "new").iterdir()) == [suffix] * 4  # no temporary files


def test_the_users_own_settings_do_not_matter(tmp_path: Path) -> None:
    import matplotlib

    before = save(embedding(), tmp_path / "a.png").read_bytes()
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 50, "image.cmap": "jet"}):
        assert save(embedding(), tmp_path / "b.png").read_bytes() == before
        assert matplotlib.rcParams["font.size"] == 20  # and they are left as they were


def test_a_sheet_keeps_its_pixels(tmp_path: Path, sprites: Data) -> None:
    sheet = grid(sprites[0].values[:9])
    assert isinstance(sheet, Image.Image)
    with Image.open(save(sheet, tmp_path / "sheet.png")) as image:
        assert np.array_equal(np.asarray(image), np.asarray(sheet))
    import base64
    import re

    svg = save(sheet, tmp_path / "sheet.svg").read_text()
    embedded = re.search(r"data:image/png;base64,([^\"]+)", svg)
    assert embedded is not None
    with Image.open(io.BytesIO(base64.b64decode(embedded.group(1)))) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(sheet))


def test_grey_sheets_stay_grey(tmp_path: Path, digits: Data) -> None:
    with Image.open(save(grid(digits[0].values[:4]), tmp_path / "grey.png")) as image:
        assert image.mode == "L"


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_an_animation_goes_from_noise_to_data(tmp_path: Path, digits: Data, suffix: str, trajectory: MakePath) -> None:
    """Frame count, first and last frame, and the last one held; grey needs no more than the 256 colours of GIF."""
    packed, normalization = digits
    path = trajectory(packed.values[:9], normalization, CosineAngle(), 12)
    moving = animation(path, hold=1.5)
    assert len(moving.frames) == 13
    assert moving.milliseconds[-1] == 1500
    assert np.array_equal(
        np.asarray(moving.frames[0]), np.asarray(image_sheet(Pictures(path.states[0][..., 0]), scale=8))
    )
    frames = frames_of(save(moving, tmp_path / f"moving{suffix}"))
    assert len(frames) == 13
    for written, drawn in zip(frames, moving.frames, strict=True):
        assert np.array_equal(np.asarray(written.convert("L")), np.asarray(drawn))
    last = np.asarray(frames[-1].convert("L"))
    assert np.array_equal(last, np.asarray(image_sheet(Pictures(packed.values[:9, ..., 0].numpy()), scale=8)))
    if suffix == ".gif":
        assert frames[-1].info["duration"] == 1500
        assert frames[0].info["duration"] == moving.milliseconds[0]
        assert frames[0].info["loop"] == 0


def test_colour_animations(tmp_path: Path, sprites: Data, trajectory: MakePath) -> None:
    """WebP keeps every value; GIF has 256 colours, which for these tiles is within 8 levels on average."""
    packed, normalization = sprites
    path = trajectory(packed.values[:4], normalization, CosineAngle(), 5)
    moving = animation(path)
    exact, few = (frames_of(save(moving, tmp_path / f"moving{suffix}")) for suffix in (".webp", ".gif"))
    for written, drawn in zip(exact, moving.frames, strict=True):
        assert np.array_equal(np.asarray(written.convert("RGB")), np.asarray(drawn))
    off = np.asarray(few[-1].convert("RGB")).astype(int) - np.asarray(moving.frames[-1]).astype(int)
    assert np.abs(off).mean() < 8


def test_points_move_within_fixed_axes(tmp_path: Path, roll: Data, trajectory: MakePath) -> None:
    """Frames differ where points and the time are, and nowhere in the margins that hold the axes."""
    path = trajectory(roll[0].values[:200], roll[1], CosineAngle(), 4)
    moving = animation(path)
    first, last = (np.asarray(moving.frames[k]).astype(int) for k in (0, -1))
    assert len(moving.frames) == 5
    assert len({frame.size for frame in moving.frames}) == 1
    height, width = first.shape[:2]
    changed = np.abs(first - last).sum(axis=2) > 0
    assert changed[int(0.15 * height) : int(0.8 * height), int(0.25 * width) :].any()
    assert not changed[int(0.9 * height) :].any()  # the labels of x
    assert not changed[:, : int(0.08 * width)].any()  # the labels of y
    assert len(frames_of(save(moving, tmp_path / "points.gif"))) == 5


def test_long_trajectories_are_thinned(digits: Data, trajectory: MakePath) -> None:
    packed, normalization = digits
    path = trajectory(packed.values[:1], normalization, CosineAngle(), 100)
    moving = animation(path, frames=11)
    assert len(moving.frames) == 11
    last = image_sheet(Pictures(path.states[-1][..., 0]), scale=8)
    assert np.array_equal(np.asarray(moving.frames[-1]), np.asarray(last))


def test_nothing_is_replaced_unasked(tmp_path: Path, digits: Data) -> None:
    target = tmp_path / "figure.png"
    target.write_bytes(b"precious")
    with pytest.raises(UsageError, match="exists already"):
        save(grid(digits[0].values[:4]), target)
    assert target.read_bytes() == b"precious"
    save(grid(digits[0].values[:4]), target, force=True)
    assert target.read_bytes().startswith(b"\x89PNG")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        check_target(tmp_path / "folder.png", force=True)


@pytest.mark.parametrize("name", ["figure.jpg", "figure", "figure.gif", "figure.png.exe"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError) as refusal:
        save(schedules("Ve"), tmp_path / name)
    assert ".png, .pdf, .svg" in refusal.value.expected
    assert list(tmp_path.iterdir()) == []


def test_animations_have_their_own_formats(tmp_path: Path) -> None:
    moving = Animation((Image.new("L", (4, 4)),), (100,))
    with pytest.raises(UsageError) as refusal:
        save(moving, tmp_path / "moving.png")
    assert ".gif, .webp" in refusal.value.expected
    assert is_moving("a/b.GIF")
    assert not is_moving("b.png")


def test_a_failing_disk_leaves_nothing_behind(tmp_path: Path, digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.training.storage import LocalStorage

    def full(self: LocalStorage, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalStorage, "fsync", full)
    with pytest.raises(ResourceError, match="no space left"):
        save(grid(digits[0].values[:4]), tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []


def test_no_window_and_no_global_state(digits: Data) -> None:
    """pyplot, whose figures stay open until they are closed, is never imported."""
    import subprocess
    import sys

    code = (
        "import sys, sfumato.figures as f; assert 'matplotlib' not in sys.modules;"
        "f.schedules('Ve'); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_forward_bytes_repeat(tmp_path: Path, roll: Data) -> None:
    a, b = (
        save(forward(roll[0].values[:1500], CosineAngle(), normalization=roll[1]), tmp_path / f"{k}.pdf") for k in "ab"
    )
    assert a.read_bytes() == b.read_bytes()
