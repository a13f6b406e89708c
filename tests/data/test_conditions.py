"""Numbers that belong to examples: read, checked, limited, split, batched, and part of the fingerprint."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data import Batches, DataConfig, Normalization, fingerprint_of, load_data, pack, split
from sfumato.errors import DataError


def saved(path: Path, **arrays: Any) -> DataConfig:
    np.savez(path / "set.npz", **arrays)
    return DataConfig(path=str(path / "set.npz"))


def points(count: int = 6) -> np.ndarray[Any, Any]:
    return np.arange(2 * count, dtype=np.float32).reshape(count, 2)


def test_numbers_are_read_with_their_names(tmp_path: Path) -> None:
    told = np.arange(12, dtype=np.float64).reshape(6, 2) / 8
    packed = load_data(saved(tmp_path, values=points(), conditions=told, condition_names=["angle", "age"]), seed=0)
    assert packed.conditions is not None
    assert torch.equal(packed.conditions, torch.from_numpy(told).float())
    assert (packed.condition_names, packed.num_conditions) == (("angle", "age"), 2)


@pytest.mark.parametrize("column", [False, True])
def test_one_number_for_each_example_is_a_column(column: bool, tmp_path: Path) -> None:
    told = np.arange(6)[:, None] if column else np.arange(6)
    packed = load_data(saved(tmp_path, values=points(), conditions=told), seed=0)
    assert packed.conditions is not None
    assert packed.conditions.tolist() == [[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]]
    assert packed.condition_names is None


def test_the_test_part_brings_its_own(tmp_path: Path) -> None:
    config = saved(
        tmp_path, x_train=points(4), x_test=points(2), conditions_train=[1.0, 2, 3, 4], conditions_test=[8.0, 9]
    )
    packed = load_data(config, seed=0)
    assert packed.conditions is not None
    assert packed.conditions.flatten().tolist() == [1, 2, 3, 4, 8, 9]
    assert split(packed, 0.5, seed=0).held_out.tolist() == [4, 5]


def test_a_limit_takes_the_numbers_of_the_examples_it_takes(tmp_path: Path) -> None:
    """values[i, 0] is 2i, and the number of example i is 10 i: they stay together."""
    config = saved(tmp_path, values=points(20), conditions=10 * np.arange(20))
    packed = load_data(DataConfig(path=config.path, limit=7), seed=0)
    assert packed.conditions is not None
    assert torch.equal(packed.conditions[:, 0], 5 * packed.values[:, 0])
    assert len(packed) == 7


BAD: list[tuple[dict[str, Any], str]] = [
    ({"conditions": [0, 1, np.nan, 3, np.inf, 5]}, r"conditions\[2\] is nan \(2 such values\)"),
    ({"conditions": [[0.0, 1]] * 5 + [[0.0, np.inf]]}, r"conditions\[5, 1\] is inf \(1 such value\)"),
    ({"conditions": [1e300, 1, 1, 1, 1, 1]}, r"conditions\[0\] is 1e\+300"),  # beyond float32
    ({"conditions": [0.0, 1, 2]}, r"conditions has shape \(3,\), but there are 6 examples"),
    ({"conditions": np.zeros((6, 2, 2))}, r"conditions has shape \(6, 2, 2\)"),
    ({"conditions": np.zeros((6, 0))}, r"conditions has shape \(6, 0\)"),
    ({"conditions": ["a"] * 6}, r"conditions has type <U1"),
    ({"conditions": np.zeros((6, 2)), "condition_names": ["one"]}, r"2 numbers .* condition_names are \['one'\]"),
    ({"conditions": np.zeros((6, 2)), "condition_names": ["a", "a"]}, r"condition_names are \['a', 'a'\]"),
    ({"conditions": np.zeros(6), "condition_names": [1]}, r"condition_names is int64"),
    ({"conditions_train": np.zeros(6)}, r"there is conditions_train beside values"),
]


@pytest.mark.parametrize(("arrays", "said"), BAD, ids=[said[:20] for _, said in BAD])
def test_bad_numbers_are_refused_with_their_place(arrays: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as refused:
        load_data(saved(tmp_path, values=points(), **arrays), seed=0)
    assert "set.npz" in refused.value.what


def test_the_two_parts_of_a_file_must_agree(tmp_path: Path) -> None:
    parts = {"x_train": points(4), "x_test": points(2), "conditions_train": np.zeros(4)}
    with pytest.raises(DataError, match="no conditions_test"):
        load_data(saved(tmp_path, **parts), seed=0)
    with pytest.raises(DataError, match=r"conditions_test has shape \(2, 3\)"):
        load_data(saved(tmp_path, **parts, conditions_test=np.zeros((2, 3))), seed=0)
    with pytest.raises(DataError, match="there is conditions beside x_train"):
        load_data(saved(tmp_path, x_train=points(4), conditions=np.zeros(4)), seed=0)


def test_they_are_a_part_of_the_fingerprint() -> None:
    """Where there are none, the fingerprint is what it always was."""
    values, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    first, second = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    assert pack(values, labels=labels, label_values=(0, 1)).fingerprint == fingerprint_of(values, labels)
    assert fingerprint_of(values, labels, None) == fingerprint_of(values, labels)
    seen = {fingerprint_of(values, labels, told) for told in (None, first, second)}
    assert len(seen) == 3
    assert pack(values, conditions=second).fingerprint == fingerprint_of(values, None, second)


@pytest.mark.parametrize("part", [None, slice(3, 6)])
def test_batches_keep_examples_labels_and_numbers_together(part: slice | None) -> None:
    """Picture i is all of brightness 7i, its label is i and its number i/4: through shuffling, mirrors and slices."""
    rows = torch.arange(10)
    values = (7 * rows).to(torch.uint8)[:, None, None, None].repeat(1, 2, 3, 1)
    packed = pack(values, labels=rows, label_values=tuple(range(10)), conditions=rows[:, None] / 4)
    plain = Normalization("range", (127.5,), (127.5,), size=(2, 3))
    batches = Batches(packed, rows, plain, seed=3, batch_size=6, flip=True, device="cpu")
    for step in range(4):
        batch = batches.batch(step, part=part)
        assert batch.labels is not None
        assert batch.conditions is not None
        brightness = ((batch.x0[:, 0, 0, 0] * 127.5 + 127.5) / 7).round().long()
        assert torch.equal(brightness, batch.labels)
        assert torch.equal(brightness[:, None] / 4, batch.conditions)
        assert torch.equal(brightness, batch.indices)
    taken = batches.take(torch.tensor([4, 1]))
    assert taken.conditions is not None
    assert taken.conditions.tolist() == [[1.0], [0.25]]


def test_classes_without_an_example_are_known(tmp_path: Path) -> None:
    """Names of an array file that no label means, and folders without a picture, empty or not."""
    config = saved(tmp_path, values=points(3), labels=[0, 2, 2], class_names=["ant", "bee", "cat", "dog"])
    packed = load_data(config, seed=0)
    assert (packed.class_names, packed.absent_classes) == (("ant", "cat"), ("bee", "dog"))
    for name in ("rose", "tulip", "daisy/more"):
        (tmp_path / "flowers" / name).mkdir(parents=True)
    (tmp_path / "flowers" / "tulip" / "notes.txt").write_text("none yet")
    Image.new("RGB", (4, 4)).save(tmp_path / "flowers" / "daisy" / "more" / "1.png")
    for _ in range(2):  # decoded, then from the cache
        flowers = load_data(
            DataConfig(path=str(tmp_path / "flowers"), cache=str(tmp_path / "cache")), seed=0, cache=tmp_path / "cache"
        )
        assert (flowers.class_names, flowers.absent_classes) == (("daisy",), ("rose", "tulip"))


@pytest.mark.parametrize("sizes", [((4, 4), (5, 4)), ((4, 4), (4, 4))])
def test_mixed_pictures_are_refused_in_class_folders_too(sizes: tuple[tuple[int, int], ...], tmp_path: Path) -> None:
    """Different sizes, then grey beside colour: one rule for the whole set, none for each class."""
    for name, mode, size in zip(("ant", "bee"), ("RGB", "RGB" if sizes[0] != sizes[1] else "L"), sizes, strict=True):
        (tmp_path / name).mkdir()
        Image.effect_noise(size, 50).convert(mode).save(tmp_path / name / "1.png")
        if mode == "RGB":
            Image.new(mode, size, "red").save(tmp_path / name / "1.png")
    said = "2 different sizes" if sizes[0] != sizes[1] else "1 grey and 1 colour"
    with pytest.raises(DataError, match=said):
        load_data(DataConfig(path=str(tmp_path), cache="off"), seed=0)
