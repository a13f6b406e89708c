"""Folders of pictures: what is found, in which order, and what is said when it cannot be used."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.data import DataConfig, Packed, describe, load_data, split
from sfumato.errors import ConfigError, DataError, SfumatoError

Save = Callable[..., None]


def load(path: Path, **settings: object) -> Packed:
    return load_data(DataConfig(path=str(path), **settings), seed=0)  # type: ignore[arg-type]


def refusal(path: Path, **settings: object) -> SfumatoError:
    with pytest.raises((DataError, ConfigError)) as caught:
        load(path, **settings)
    assert len(str(caught.value).splitlines()) == 3
    return caught.value


def first_values(packed: Packed) -> list[int]:
    return packed.values[:, 0, 0, 0].tolist()


def test_class_folders_become_labels_in_natural_order(tmp_path: Path, save_png: Save, untouched: Callable) -> None:
    for i, name in enumerate(["10/a.png", "2/b10.png", "2/b9.png", "2/deeper/c.png", "Zebra/x.PNG"]):
        save_png(tmp_path / name, 10 * i)
    untouched()
    packed = load(tmp_path)
    assert packed.label_values == packed.class_names == ("2", "10", "Zebra")
    assert first_values(packed) == [20, 10, 30, 0, 40]  # b9, b10, deeper/c, 10/a, Zebra/x
    assert packed.labels is not None
    assert packed.labels.tolist() == [0, 0, 0, 1, 2]
    assert packed.shape == (3, 4, 4)


def test_flat_folders_have_no_labels_and_mixed_ones_say_so(tmp_path: Path, save_png: Save) -> None:
    save_png(tmp_path / "a.png", 1)
    assert load(tmp_path).labels is None
    assert load(tmp_path).report == ()
    save_png(tmp_path / "class" / "b.png", 2)
    packed = load(tmp_path)
    assert packed.labels is None
    assert any("outside the class folders" in note for note in packed.report)


def test_missing_empty_and_pictureless_folders_are_told_apart(tmp_path: Path, untouched: Callable) -> None:
    """D1."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.txt", "c.eps", "LICENSE"):
        (tmp_path / "texts" / name).write_text("%!PS")
    untouched()
    assert "no such folder" in refusal(tmp_path / "absent").what
    assert "no such file" in refusal(tmp_path / "absent.npz").what
    assert "no such folder" in refusal(tmp_path / ("x" * 5000)).what
    assert "the folder is empty" in refusal(tmp_path / "empty").what
    message = refusal(tmp_path / "texts").what
    assert "no picture among its files" in message
    assert "1 .eps, 2 .txt, 1 no suffix" in message
    assert "neither a folder nor" in refusal(tmp_path / "texts" / "a.txt").what
    with pytest.raises(ConfigError, match=r"data\.path is not given"):
        load_data(DataConfig(), seed=0)


def test_all_bad_files_are_found_before_failing(tmp_path: Path, save_png: Save, untouched: Callable) -> None:
    """D4."""
    for i in range(3):
        save_png(tmp_path / f"good{i}.png", i)
    for i in range(12):
        (tmp_path / f"bad{i}.jpg").write_text("text")
    untouched()
    message = refusal(tmp_path).what
    assert "12 of 15 pictures cannot be used" in message
    assert "bad0.jpg: not a JPEG" in message
    assert "bad9.jpg" in message
    assert "bad10.jpg" not in message
    assert "and 2 more" in message


def test_bad_files_are_quarantined_when_asked(tmp_path: Path, save_png: Save, untouched: Callable) -> None:
    """D4."""
    save_png(tmp_path / "a" / "good.png", 7)
    (tmp_path / "a" / "empty.png").touch()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "text.jpg").write_text("text")
    untouched()
    packed = load(tmp_path, bad_files="skip")
    assert first_values(packed) == [7]
    assert packed.class_names == ("a",)  # a class that lost all its pictures does not occur
    assert [n for n in packed.report if n.startswith("left out")] == [
        "left out a/empty.png: empty file",
        "left out b/text.jpg: not a JPEG, PNG, WEBP, BMP, GIF or TIFF picture",
    ]
    (tmp_path / "a" / "good.png").rename(tmp_path / "good.txt")
    with pytest.raises(DataError, match="2 of 2 pictures cannot be used"):
        load(tmp_path, bad_files="skip")
    (tmp_path / "good.txt").rename(tmp_path / "a" / "good.png")


def test_a_folder_with_one_picture_is_a_data_set(tmp_path: Path, save_png: Save) -> None:
    """D2."""
    save_png(tmp_path / "only.png", 3)
    packed = load(tmp_path)
    parts = split(packed, 0.1, seed=0)
    assert (parts.train.tolist(), parts.held_out.tolist()) == ([0], [])


def test_unequal_sizes_need_a_size(tmp_path: Path, save_png: Save) -> None:
    """D9, D10."""
    save_png(tmp_path / "a.png", 5, (4, 6, 3))
    save_png(tmp_path / "b.png", 6, (4, 6, 3))
    save_png(tmp_path / "c.png", 7, (8, 8, 3))
    error = refusal(tmp_path)
    assert "2 different sizes, height x width (2 of 4x6, 1 of 8x8)" in error.what
    assert "--data.size" in error.fix
    packed = load(tmp_path, size=6)
    assert packed.shape == (3, 6, 6)
    assert first_values(packed) == [5, 6, 7]
    assert "2 of 3 pictures smaller than the target, enlarged" in packed.report
    assert "2 of 3 pictures" in refusal(tmp_path, size=6, min_size=6).what


def test_grey_and_colour_do_not_mix_unless_asked(tmp_path: Path, save_png: Save) -> None:
    """D9."""
    save_png(tmp_path / "grey.png", 5, (4, 4))
    palette = Image.new("P", (4, 4))
    palette.putpalette([9, 9, 9])
    palette.save(tmp_path / "palette.gif")
    assert load(tmp_path).shape == (1, 4, 4)  # a palette of greys passes as grey
    save_png(tmp_path / "colour.png", 6, (4, 4, 3))
    error = refusal(tmp_path)
    assert "grey.png" in error.what
    assert "colour.png" in error.what
    assert "--data.channels 3" in error.fix
    assert load(tmp_path, channels=3).shape == (3, 4, 4)
    assert load(tmp_path, channels=1).shape == (1, 4, 4)
    (tmp_path / "grey.png").unlink()
    packed = load(tmp_path)  # ... and as colour
    assert packed.shape == (3, 4, 4)
    assert packed.values[1, 0, 0].tolist() == [9, 9, 9]


def test_links_stay_inside_and_loops_end(tmp_path: Path, save_png: Save) -> None:
    """D15."""
    root = tmp_path / "root"
    save_png(root / "a" / "x.png", 1)
    save_png(tmp_path / "elsewhere" / "secret.png", 99)
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "a" / "out.png").symlink_to(tmp_path / "elsewhere" / "secret.png")
    (root / "out").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "y.png").symlink_to(root / "a" / "x.png")
    packed = load(root)
    assert first_values(packed) == [1, 1]
    assert "ignored 2 links that lead out of the folder" in packed.report
    assert "ignored 2 links to a folder above" in packed.report
    only_links = tmp_path / "links"
    only_links.mkdir()
    (only_links / "x.png").symlink_to(root / "a" / "x.png")
    assert "only 1 link that lead out" in refusal(only_links).what


def test_strange_names_work_and_are_printed_escaped(tmp_path: Path, save_png: Save) -> None:
    """D15."""
    names = ["-rf.png", "%s%n.png", "new\nline.png", "ünï/日本.png", "x" * 251 + ".png", ".hidden.png"]
    for i, name in enumerate(names):
        save_png(tmp_path / name, i)
    save_png(tmp_path / "raw.png", 9)
    os.rename(tmp_path / "raw.png", os.fsencode(tmp_path) + b"/\xff\xfe.png")  # no UTF-8
    assert sorted(first_values(load(tmp_path))) == [0, 1, 2, 3, 4, 9]
    (tmp_path / "new\nline.png").write_text("text")
    assert r"new\nline.png: not a JPEG" in refusal(tmp_path).what


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "pipe.png: not a regular file" in refusal(tmp_path).what


def test_animations_count_once(tmp_path: Path) -> None:
    """D13."""
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    packed = load(tmp_path, channels=3)
    assert packed.values[0, 0, 0].tolist() == [255, 0, 0]
    assert "the first frame was taken of 1 file with several" in packed.report


def test_formats_off_the_list_are_ignored_and_listed(tmp_path: Path, save_png: Save) -> None:
    """D14."""
    save_png(tmp_path / "a.png", 1)
    (tmp_path / "b.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0")
    (tmp_path / "c.svg").write_text("<svg/>")
    assert load(tmp_path).report == ("ignored files that are not pictures: 1 .eps, 1 .svg",)


def test_a_limit_is_spread_over_the_classes(tmp_path: Path, save_png: Save) -> None:
    for i in range(12):
        save_png(tmp_path / "abc"[i // 4] / f"{i}.png", i)
    packed = load(tmp_path, limit=6)
    assert first_values(packed) == [0, 2, 4, 6, 8, 10]
    assert describe(packed).smallest_class == describe(packed).largest_class == 2


def test_the_result_does_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(4):
        pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        for root in ("one", "two"):
            path = tmp_path / root / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(path)
    assert load(tmp_path / "one").fingerprint == load(tmp_path / "two").fingerprint
    assert load(tmp_path / "one").fingerprint != load(tmp_path / "two", size=8).fingerprint


def test_links_to_themselves_are_broken_links(tmp_path: Path, save_png: Save) -> None:
    save_png(tmp_path / "a.png", 1)
    for name in ("b.png", "c"):
        (tmp_path / name).symlink_to(name)
    (tmp_path / "d").symlink_to("e")
    (tmp_path / "e").symlink_to("d")
    assert "1 of 2 pictures cannot be used: b.png: a broken link" in refusal(tmp_path).what
    packed = load(tmp_path, bad_files="skip")
    assert first_values(packed) == [1]
    assert "ignored files that are not pictures: 3 no suffix" in packed.report


def test_a_setting_of_tables_is_refused_with_a_warm_cache_too(tmp_path: Path, save_png: Save) -> None:
    save_png(tmp_path / "a" / "a.png", 1)
    load(tmp_path)
    for settings in ({"label": "breed"}, {"columns": ("angle",)}):
        assert "holds no table" in refusal(tmp_path, **settings).what
