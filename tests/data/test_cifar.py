"""The binary version of CIFAR: planes, classes, names, and what is not it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.data import DataConfig, Packed, load_data, split
from sfumato.errors import ConfigError, DataError

LaidOut = Callable[..., Path]


def load(source: str, path: Path, **settings: Any) -> Packed:
    return load_data(DataConfig(source=source, path=str(path), **settings), seed=0)


def unpacked(publisher: Any, folder: str) -> dict[str, bytes]:
    return {f"{folder}{name}": content for name, content in publisher.cifar10_parts().items()}


@pytest.mark.parametrize("folder", [None, "cifar-10-batches-bin/", "cifar10/cifar-10-batches-bin/", ""])
def test_pictures_and_classes(publisher: Any, laid_out: LaidOut, folder: str | None) -> None:
    files = publisher.cifar10() if folder is None else unpacked(publisher, folder)
    packed = load("cifar10", laid_out(files))
    assert torch.equal(packed.values, torch.from_numpy(publisher.colour))
    assert packed.labels is not None
    assert torch.equal(packed.labels, torch.from_numpy(publisher.classes.astype(np.int64)))
    assert packed.class_names is not None
    assert (packed.class_names[0], packed.class_names[9]) == ("airplane", "truck")
    assert split(packed, 0.1, seed=0).held_out.tolist() == [20, 21, 22]


def test_the_archive_itself_may_be_named(publisher: Any, laid_out: LaidOut) -> None:
    folder = laid_out(publisher.cifar10())
    assert len(load("cifar10", folder / "cifar-10-binary.tar.gz")) == 23


@pytest.mark.parametrize("label", [None, "fine", "coarse"])
def test_classes_of_the_hundred(publisher: Any, laid_out: LaidOut, label: str | None) -> None:
    packed = load("cifar100", laid_out(publisher.cifar100()), label=label)
    truth = publisher.fine // 5 if label == "coarse" else publisher.fine
    assert packed.labels is not None
    assert packed.class_names is not None
    assert [packed.class_names[k] for k in packed.labels.tolist()] == [f"{label or 'fine'} {k}" for k in truth]
    assert torch.equal(packed.values, torch.from_numpy(publisher.colour))


def test_a_column_that_there_is_not(publisher: Any, laid_out: LaidOut) -> None:
    folder = laid_out(publisher.cifar100())
    with pytest.raises(ConfigError, match=r"data\.label is 'medium'") as caught:
        load("cifar100", folder, label="medium")
    assert (caught.value.expected, caught.value.fix) == ("one of fine, coarse", "--data.label fine")
    with pytest.raises(ConfigError, match="have no real values"):
        load("cifar100", folder, columns=("x",))


def test_classes_without_their_file_have_no_names(publisher: Any, laid_out: LaidOut) -> None:
    files = unpacked(publisher, "")
    del files["batches.meta.txt"]
    packed = load("cifar10", laid_out(files))
    assert packed.class_names is None
    assert packed.num_classes == 10


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("data_batch_3.bin", lambda content: content[:-1], "data_batch_3.bin has 12,291 bytes"),
        ("data_batch_3.bin", lambda content: b"", "data_batch_3.bin has 0 bytes"),
        ("test_batch.bin", lambda content: content[:3073] + b"\x0a" + content[3074:], "record 1 says class 10"),
        ("batches.meta.txt", lambda content: content + b"plane\n", "batches.meta.txt has 11 names"),
    ],
)
def test_damage_is_named(
    publisher: Any, laid_out: LaidOut, name: str, change: Callable[[bytes], bytes], what: str
) -> None:
    files = unpacked(publisher, "")
    with pytest.raises(DataError) as caught:
        load("cifar10", laid_out({**files, name: change(files[name])}))
    assert what in caught.value.what


def test_a_missing_batch_is_named(publisher: Any, laid_out: LaidOut) -> None:
    files = unpacked(publisher, "")
    del files["data_batch_4.bin"], files["test_batch.bin"]
    with pytest.raises(DataError, match=r"no data_batch_4\.bin, test_batch\.bin in it"):
        load("cifar10", laid_out(files))


def test_an_archive_that_is_cut_off(publisher: Any, laid_out: LaidOut) -> None:
    whole = publisher.cifar10()["cifar-10-binary.tar.gz"]
    for size in (0, 10, len(whole) // 2, len(whole) - 2000):
        folder = laid_out({"cifar-10-binary.tar.gz": whole[:size]}, f"cut {size}")
        with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz: (cannot be read|no \S+.* in it)"):
            load("cifar10", folder)


@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "cifar-10-batches-py/data_batch_1"])
def test_the_pickle_is_never_loaded(laid_out: LaidOut, name: str) -> None:
    folder = laid_out({name: b"\x80\x02cos\nsystem\n"})
    with pytest.raises(DataError, match=r"is the pickled version, which is never loaded") as caught:
        load("cifar10", folder)
    assert "cifar-10-binary.tar.gz (170.1 MB)" in caught.value.expected
    if "tar" in name:
        with pytest.raises(DataError, match="is the pickled version"):
            load("cifar10", folder / name)


def test_the_real_pictures(real_data: Path, laid_out: LaidOut) -> None:
    """Records written plane by plane from real pictures give these pictures again."""
    arrays = np.load(real_data / "cifar10.npz")
    images, labels = arrays["x_train"][:600], arrays["y_train"][:600]
    records = np.concatenate([labels[:, None], images.transpose(0, 3, 1, 2).reshape(600, -1)], axis=1)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    folder = laid_out({name: records[100 * i : 100 * i + 100].tobytes() for i, name in enumerate(names)})
    packed = load("cifar10", folder)
    assert np.array_equal(packed.values.numpy(), images)
    assert packed.labels is not None
    assert np.array_equal(packed.labels.numpy(), labels)
