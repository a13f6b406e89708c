"""Array files: keys, ranges, labels, and refusals that name index and count."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.data import DataConfig, Packed, load_data, split
from sfumato.errors import ConfigError, DataError, SfumatoError

RAMP = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)


def load(path: Path, **settings: Any) -> Packed:
    return load_data(DataConfig(path=str(path), **settings), seed=0)


def refusal(path: Path, **settings: Any) -> SfumatoError:
    with pytest.raises((DataError, ConfigError)) as caught:
        load(path, **settings)
    assert len(str(caught.value).splitlines()) == 3
    return caught.value


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def write(**arrays: Any) -> Path:
        np.savez(tmp_path / "data.npz", **arrays)
        return tmp_path / "data.npz"

    return write


@pytest.mark.parametrize(
    "stored",
    [
        RAMP,
        RAMP[..., None],
        RAMP.astype(np.int64),
        RAMP.astype(np.uint16) * 257,
        RAMP.astype(np.float32) / 255,
        (RAMP.astype(np.float64) / 255).astype(np.float16),
        RAMP.astype(np.float32) / 127.5 - 1,
    ],
    ids=["u8", "u8-nhwc", "i64", "u16", "f32", "f16", "f32-symmetric"],
)
def test_every_pixel_type_gives_the_same_256_levels(save: Callable[..., Path], stored: np.ndarray) -> None:
    packed = load(save(images=stored))
    assert packed.shape == (1, 8, 8)
    # float16 holds 11 bits: the 8-bit level nearest to each value is still the right one
    assert np.array_equal(packed.values.numpy()[..., 0], RAMP)


def test_a_file_that_is_no_array_file_is_not_called_a_pickle(tmp_path: Path) -> None:
    for name, content, seen in (("a.npz", b"hello", "b'hello'"), ("b.npy", b"", "empty"), ("c.npz", b"<ht", "b'<ht'")):
        (tmp_path / name).write_bytes(content)
        error = refusal(tmp_path / name)
        assert f"{name}: is neither an .npz nor an .npy file" in error.what
        assert seen in error.what


def test_a_stated_range_is_used_for_any_type(save: Callable[..., Path]) -> None:
    """D16."""
    path = save(images=np.array([[[0, 8], [16, 4]]], np.uint8))
    assert load(path).values.flatten().tolist() == [0, 8, 16, 4]
    assert load(path, value_range=(0, 16)).values.flatten().tolist() == [0, 128, 255, 64]
    error = refusal(path, value_range=(0, 10))
    assert "images[0, 1, 0] is 16: 1 value outside 0 to 10" in error.what


def test_a_range_that_cannot_be_known_is_asked_for(save: Callable[..., Path]) -> None:
    error = refusal(save(images=np.linspace(0, 255, 64, dtype=np.float32).reshape(1, 8, 8)))
    assert "run from 0 to 255" in error.what
    assert "value_range" in error.fix


def test_bad_numbers_are_refused_with_index_and_count(save: Callable[..., Path], untouched: Callable) -> None:
    """D16."""
    images = np.zeros((3, 4, 4), np.float32)
    images[1, 2, 3], images[2, 0, 0] = np.nan, np.inf
    path = save(images=images)
    untouched()
    assert "images[1, 2, 3] is nan: 2 values NaN or infinite" in refusal(path).what
    values = np.zeros((5, 2))
    values[3, 1] = 1e300
    path = save(values=values)
    untouched()
    assert "values[3, 1] is 1e+300: 1 value NaN, infinite or beyond float32" in refusal(path).what


def test_a_bare_array_is_known_by_its_shape(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(7, 3))
    np.save(tmp_path / "points.npy", points)
    packed = load(tmp_path / "points.npy")
    assert (packed.is_image, packed.shape) == (False, (3,))
    assert np.array_equal(packed.values.numpy(), points.astype(np.float32))
    np.save(tmp_path / "scalars.npy", points[:, 0])
    assert load(tmp_path / "scalars.npy").shape == (1,)
    np.save(tmp_path / "images.npy", RAMP)
    assert load(tmp_path / "images.npy").is_image


def test_values_of_any_shape_stay_float(save: Callable[..., Path]) -> None:
    packed = load(save(values=RAMP))
    assert (packed.is_image, packed.shape) == (False, (8, 8))
    assert torch.equal(packed.values, torch.from_numpy(RAMP).float())
    for setting in ({"size": 4}, {"channels": 1}, {"flip": True}, {"pad": 16}, {"value_range": (0, 1)}):
        assert f"data.{next(iter(setting))}" in refusal(save(values=RAMP), **setting).what


def test_images_are_cropped_resized_and_composited(save: Callable[..., Path]) -> None:
    rgba = np.zeros((2, 4, 8, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[1, ..., 3] = 255
    packed = load(save(images=rgba), size=2, background="black")
    assert packed.shape == (3, 2, 2)
    assert packed.values[0].max() == 0  # transparent: the background, not the hidden red
    assert packed.values[1, 0, 0].tolist() == [200, 0, 0]
    assert "transparent pixels were composited over black" in packed.report


def test_channels_first_images_are_named_as_such(save: Callable[..., Path]) -> None:
    error = refusal(save(images=np.zeros((2, 3, 16, 16), np.uint8)))
    assert "(2, 3, 16, 16)" in error.what
    assert "transpose(0, 2, 3, 1)" in error.fix


def test_labels_are_mapped_to_the_classes_that_occur(save: Callable[..., Path]) -> None:
    packed = load(save(images=RAMP, labels=np.array([7, 3, 7, 9], np.int16)))
    assert packed.label_values == (3, 7, 9)
    assert packed.class_names is None
    assert packed.labels is not None
    assert packed.labels.tolist() == [1, 0, 1, 2]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([1, 4, 4, 2], ("one", "two", "four")),  # none below 1 and the largest is their number: counted from 1
        ([0, 3, 3, 1], ("one", "two", "four")),
        ([1, 3, 3, 2], ("two", "three", "four")),  # the largest is not their number: counted from 0
    ],
)
def test_class_names_follow_labels_from_0_or_from_1(save: Callable[..., Path], labels: list, names: tuple) -> None:
    class_names = np.array(["one", "two", "three", "four"])
    packed = load(save(images=RAMP, labels=np.array(labels), class_names=class_names))
    assert packed.class_names == names
    assert packed.label_values == tuple(sorted(set(labels)))


def test_class_names_of_a_part_are_those_of_the_whole(save: Callable[..., Path]) -> None:
    """Few of many examples need not hold the last class; labels that count from 1 are still called after it."""
    images = np.repeat(np.arange(12, dtype=np.uint8), 16).reshape(12, 4, 4)
    path = save(images=images, labels=np.arange(12) % 4 + 1, class_names=np.array(["a", "b", "c", "d"]))
    packed = load(path, limit=3)  # examples 0, 4 and 8: all of class 1
    assert (packed.label_values, packed.class_names) == ((1,), ("a",))
    assert packed.absent_classes == ("b", "c", "d")


def test_string_labels_name_their_classes_in_natural_order(save: Callable[..., Path]) -> None:
    packed = load(save(images=RAMP, labels=np.array(["c10", "c2", "c10", "a"])))
    assert packed.class_names == packed.label_values == ("a", "c2", "c10")
    assert packed.labels is not None
    assert packed.labels.tolist() == [2, 1, 2, 0]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 1, 2], r"shape \(3,\), but there are 4 examples"),
        ([0, 1, -1, 2], r"label 2 is -1 \(1 such"),
        ([0, 1, 5, 6], r"label 2 is 5 \(2 such"),
        ([0, 1.5, 1, 1], r"label 1 is 1\.5"),
        ([0, 1, 1, np.nan], r"label 3 is nan"),
    ],
)
def test_wrong_labels_are_named(save: Callable[..., Path], untouched: Callable, labels: list, said: str) -> None:
    """D17."""
    path = save(images=RAMP, labels=np.array(labels), class_names=np.array(["a", "b", "c"]))
    untouched()
    with pytest.raises(DataError, match=said):
        load(path)


def test_the_test_part_is_held_out_and_never_trained_on(save: Callable[..., Path]) -> None:
    path = save(x_train=RAMP, y_train=np.array([[0], [1], [2], [0]]), x_test=RAMP[:2] + 1, y_test=np.array([[2], [1]]))
    packed = load(path)
    assert packed.labels is not None
    assert packed.labels.tolist() == [0, 1, 2, 0, 2, 1]
    parts = split(packed, 0.5, seed=3)
    assert (parts.train.tolist(), parts.held_out.tolist()) == ([0, 1, 2, 3], [4, 5])
    assert split(packed, 0.0, seed=3).held_out.tolist() == []
    limited = load(path, limit=2)
    assert limited.values[:, 0, 0, 0].tolist() == [0, 128, 1, 65]
    assert limited.test_count == 2


def test_pickles_are_never_loaded(tmp_path: Path, untouched: Callable) -> None:
    """D16."""
    canary = tmp_path / "canary"

    class Payload:
        def __reduce__(self) -> tuple:
            return (Path.touch, (canary,))

    np.save(tmp_path / "object.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "object.npz", images=np.array([Payload()], dtype=object))
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Payload()))
    untouched()
    for name in ("object.npy", "object.npz", "bare.npy"):
        assert "pickled Python objects, which are never loaded" in refusal(tmp_path / name).what
    assert not canary.exists()


def test_unknown_keys_and_damage_are_named(save: Callable[..., Path], tmp_path: Path) -> None:
    assert "holds pictures" in refusal(save(pictures=RAMP)).what
    assert "holds images, values" in refusal(save(images=RAMP, values=RAMP)).what
    assert "complex64" in refusal(save(images=RAMP.astype(np.complex64))).what
    assert "(0, 8, 8)" in refusal(save(images=RAMP[:0])).what
    whole = save(images=RAMP).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("not an archive")
    (tmp_path / "empty.npy").touch()
    for name in ("cut.npz", "text.npz", "empty.npy"):
        assert name in refusal(tmp_path / name).what


def test_padding_must_fit(save: Callable[..., Path]) -> None:
    assert load(save(images=RAMP), pad=(8, 12)).shape == (1, 8, 12)
    assert "data.pad is 6x6, smaller than the 8x8" in refusal(save(images=RAMP), pad=6).what


def test_byte_labels_and_endless_numbers_are_names(save: Callable[..., Path]) -> None:
    """Bytes need not be UTF-8, and Python refuses to read a number of more than 4,300 digits."""
    packed = load(save(images=np.zeros((3, 4, 4), np.uint8), labels=np.array([b"\xff\xfe", b"a", b"a"])))
    assert packed.class_names == ("a", "\ufffd\ufffd")
    long, longer = "9" * 5000, "1" + "0" * 5000
    packed = load(save(images=np.zeros((3, 4, 4), np.uint8), labels=np.array([longer, long, "x2"])))
    assert packed.class_names == (long, longer, "x2")


def test_as_many_labels_as_examples_are_mapped_in_time(save: Callable[..., Path]) -> None:
    """Each its own name: the work must not grow with the square of their number."""
    names = np.array([f"picture {i}" for i in range(20_000)])[::-1]
    packed = load(save(images=np.zeros((20_000, 1, 1), np.uint8), labels=names))
    assert packed.labels is not None
    assert packed.labels[:3].tolist() == [19_999, 19_998, 19_997]


def test_an_endless_header_and_a_missing_training_part_are_named(save: Callable[..., Path], tmp_path: Path) -> None:
    """What NumPy says of such a header is advice to trust the file: not a word of pickles."""
    head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b"1," * 30_000 + b"), }\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x02\x00" + len(head).to_bytes(4, "little") + head)
    with pytest.raises(DataError, match="its header is longer than that of any array"):
        load(tmp_path / "x.npy")
    images = np.zeros((3, 4, 4), np.uint8)
    with pytest.raises(DataError, match="x_train is empty beside x_test"):
        load(save(x_train=images[:0], x_test=images))
