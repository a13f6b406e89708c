"""IDX files: what the header says is what is read, and nothing that is not one whole array is."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.data import DataConfig, load_data, split
from sfumato.data.idx import read_idx
from sfumato.errors import DataError

TYPES = {8: "u1", 9: "i1", 11: "i2", 12: "i4", 13: "f4", 14: "f8"}
LaidOut = Callable[..., Path]


@pytest.mark.parametrize("code", TYPES)
@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 5), (2, 1, 3, 2)])
@pytest.mark.parametrize("packed", [False, True])
def test_every_type_and_shape(tmp_path: Path, code: int, shape: tuple[int, ...], packed: bool) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(TYPES[code])
    values[-1] = -100 if code != 8 else 200  # a byte order or a sign that is lost shows
    content = bytes([0, 0, code, len(shape)])
    content += b"".join(n.to_bytes(4, "big") for n in shape) + values.astype(">" + TYPES[code]).tobytes()
    (tmp_path / "x").write_bytes(gzip.compress(content) if packed else content)
    found = read_idx(tmp_path / "x")
    assert found.dtype == np.dtype(TYPES[code])
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, values)
    assert read_idx(tmp_path / "x", header_only=True).shape == shape


GOOD = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + b"abcdef"
DAMAGE = {
    "empty": b"",
    "cut in its magic": GOOD[:3],
    "cut in its header": GOOD[:9],
    "cut in its values": GOOD[:-1],
    "more than its values": GOOD + b"g",
    "other magic": b"\1" + GOOD[1:],
    "unknown type": GOOD[:2] + b"\x0a" + GOOD[3:],
    "no dimensions": GOOD[:3] + b"\0" + GOOD[4:],
    "nothing in it": GOOD[:7] + b"\0" + GOOD[8:12],
    "more than there can be": GOOD[:4] + b"\xff" * 8 + GOOD[12:],
    "cut gzip": gzip.compress(GOOD)[:-9],
    "damaged gzip": gzip.compress(GOOD)[:12] + b"\xff" * 9,
    "gzip of more than it can hold": gzip.compress(GOOD[:4] + b"\x7f" * 8),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x-idx2").write_bytes(DAMAGE[kind])
    with pytest.raises(DataError) as caught:
        read_idx(tmp_path / "x-idx2")
    assert caught.value.what.startswith(f"{tmp_path}/x-idx2: ")


def load(path: Path, **settings: Any) -> Any:
    return load_data(DataConfig(source="mnist", path=str(path), **settings), seed=0)


def test_the_digits_and_their_test_part(publisher: Any, laid_out: LaidOut) -> None:
    packed = load(laid_out(publisher.mnist()))
    assert torch.equal(packed.values[..., 0], torch.from_numpy(publisher.grey))
    assert torch.equal(packed.labels, torch.from_numpy(publisher.digits.astype(np.int64)))
    assert packed.class_names == tuple("0123456789")
    parts = split(packed, 0.1, seed=0)
    assert (parts.train.tolist(), parts.held_out.tolist()) == (list(range(30)), list(range(30, 42)))


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name,
        lambda name: name.removesuffix(".gz"),
        lambda name: name.replace("-idx", ".idx"),
        lambda name: name.replace("-idx", ".idx").removesuffix(".gz"),
        lambda name: f"MNIST/raw/{name}",
    ],
)
def test_the_names_that_people_keep_them_under(publisher: Any, laid_out: LaidOut, rename: Callable[[str], str]) -> None:
    files = publisher.mnist()
    renamed = {
        rename(name): content if rename(name).endswith(".gz") else gzip.decompress(content)
        for name, content in files.items()
    }
    folder = laid_out(renamed)
    assert torch.equal(load(folder).values[..., 0], torch.from_numpy(publisher.grey))
    if rename("x.gz") == "x.gz":  # one of the files stands for its folder
        assert len(load(folder / rename("t10k-images-idx3-ubyte.gz"))) == 42


def test_settings_apply_as_to_an_array(publisher: Any, laid_out: LaidOut, tmp_path: Path) -> None:
    folder = laid_out(publisher.mnist())
    np.savez(
        tmp_path / "same.npz",
        x_train=publisher.grey[:30],
        y_train=publisher.digits[:30],
        x_test=publisher.grey[30:],
        y_test=publisher.digits[30:],
        class_names=np.array(list("0123456789")),
    )
    settings = {"size": 14, "channels": 3, "limit": 20, "pad": 16}
    ours = load(folder, **settings)
    theirs = load_data(DataConfig(path=str(tmp_path / "same.npz"), **settings), seed=0)
    assert ours.fingerprint == theirs.fingerprint
    assert (ours.shape, ours.test_count, ours.class_names) == (theirs.shape, theirs.test_count, theirs.class_names)


def test_files_that_do_not_belong_together(publisher: Any, laid_out: LaidOut) -> None:
    files = publisher.mnist()
    swapped = {**files, "train-labels-idx1-ubyte.gz": files["t10k-labels-idx1-ubyte.gz"]}
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz: it has 12 labels for 30 pictures"):
        load(laid_out(swapped, "a"))
    swapped = {**files, "t10k-images-idx3-ubyte.gz": files["t10k-labels-idx1-ubyte.gz"]}
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz: it holds uint8 \(12,\)"):
        load(laid_out(swapped, "b"))


def test_another_length_than_the_published_is_noted(publisher: Any, laid_out: LaidOut) -> None:
    packed = load(laid_out(publisher.mnist()))
    size = len(publisher.mnist()["t10k-labels-idx1-ubyte.gz"])
    assert f"t10k-labels-idx1-ubyte.gz has {size} bytes, the published file of mnist 4,542" in packed.report


def test_garments_have_their_names(publisher: Any, laid_out: LaidOut) -> None:
    packed = load_data(DataConfig(source="fashion-mnist", path=str(laid_out(publisher.mnist()))), seed=0)
    assert packed.class_names is not None
    assert (packed.class_names[0], packed.class_names[9]) == ("T-shirt/top", "Ankle boot")


def test_the_real_digits(real_data: Path) -> None:
    """Fewer than published, their counts in their headers; byte for byte the digits of the array file."""
    packed = load(real_data / "samples" / "mnist_idx")
    arrays = np.load(real_data / "mnist.npz")
    assert (len(packed), packed.test_count) == (18_000, 8_000)
    assert np.array_equal(packed.values[:10_000, ..., 0].numpy(), arrays["x_train"][:10_000])
    assert np.array_equal(packed.values[10_000:, ..., 0].numpy(), arrays["x_test"])
    labels = np.concatenate([arrays["y_train"][:10_000], arrays["y_test"]])
    assert np.array_equal(packed.labels.numpy(), labels)
    assert len(packed.report) == 4


def test_files_in_folders_of_their_own_names(publisher: Any, laid_out: LaidOut) -> None:
    """As some programs unpack them, each into a folder of its own name; a pipe of that name is no file at all."""
    files = {name.removesuffix(".gz"): gzip.decompress(content) for name, content in publisher.mnist().items()}
    folder = laid_out({f"{name}/{name}": content for name, content in files.items()})
    assert len(load_data(DataConfig(source="mnist", path=str(folder)), seed=0)) == 42
    os.mkfifo(folder / "train-images-idx3-ubyte.gz")
    assert len(load_data(DataConfig(source="mnist", path=str(folder)), seed=0)) == 42
