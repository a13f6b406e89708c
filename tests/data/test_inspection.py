"""The facts of a data set against NumPy's."""

import json

import numpy as np
import pytest
import torch

from sfumato.data import DataConfig, Split, load_data, pack, split
from sfumato.data.inspection import inspect_packed


def test_channels_are_numpys_over_the_training_part() -> None:
    packed = load_data(DataConfig(source="sprites", limit=200), seed=0)
    parts = split(packed, 0.3, seed=1)
    found = inspect_packed(packed, parts)
    train = packed.values[parts.train].numpy().astype(np.float64)
    for index, channel in enumerate(found.channels):
        values = train[..., index]
        assert channel.mean == pytest.approx(values.mean(), rel=1e-12)  # the histogram is exact
        assert channel.std == pytest.approx(values.std(), rel=1e-12)
        assert (channel.low, channel.high) == (values.min(), values.max())
        assert channel.black == pytest.approx((values == 0).mean(), rel=1e-12)
        assert channel.white == pytest.approx((values == 255).mean(), rel=1e-12)
    assert len(found.channels) == 3
    assert (found.count, found.train, found.held_out) == (200, 140, 60)
    assert found.bytes == packed.values.numel()
    assert found.grey is False


@pytest.mark.parametrize(("shape", "channels"), [((5,), 5), ((65,), 1), ((3, 7), 3), ((2, 4, 4), 2)])
def test_coordinates_of_what_is_no_picture(shape: tuple[int, ...], channels: int) -> None:
    values = np.random.default_rng(0).normal(3, 2, (40, *shape)).astype(np.float32)
    found = inspect_packed(pack(torch.from_numpy(values)), Split(torch.arange(30), torch.arange(30, 40)))
    assert len(found.channels) == channels
    wide = values[:30].astype(np.float64)
    columns = np.moveaxis(wide, 1, 0).reshape(shape[0], -1) if channels > 1 else wide.reshape(1, -1)
    for channel, column in zip(found.channels, columns, strict=True):
        expected = (column.mean(), column.std(), column.min(), column.max())
        assert (channel.mean, channel.std, channel.low, channel.high) == pytest.approx(expected, rel=1e-12)
        assert channel.black is None
    assert found.copies.compared is None


def test_classes_gaps_and_empty_ones() -> None:
    packed = pack(
        torch.arange(8, dtype=torch.uint8).reshape(8, 1, 1, 1),
        labels=torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]),
        label_values=(1, 4, 5),
        class_names=("x", "y", "z"),
        absent_classes=("w",),
    )
    found = inspect_packed(packed, Split(torch.tensor([0, 1, 2, 5]), torch.tensor([3, 4, 6, 7]))).classes
    assert found is not None
    assert (found.counts, found.train_counts, found.gaps) == ((3, 2, 3), (3, 0, 1), (2, 3))
    assert found.empty == ("y", "w")
    assert found.imbalance == 1.5


def test_text_labels_have_no_gaps() -> None:
    values = torch.arange(2, dtype=torch.uint8).reshape(2, 1, 1, 1)
    packed = pack(values, labels=torch.tensor([0, 1]), label_values=("1", "9"))
    found = inspect_packed(packed, Split(torch.tensor([0, 1]), torch.arange(0)))
    assert found.classes is not None
    assert found.classes.gaps == ()
    assert found.classes.names == ("1", "9")


def test_blank_and_grey_pictures() -> None:
    values = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1), dtype=np.uint8).repeat(3, axis=3)
    values[2] = (10, 10, 10)
    values[4] = (10, 20, 30)
    parts = Split(torch.arange(6), torch.arange(0))
    found = inspect_packed(pack(torch.from_numpy(values), names=[f"{i}.png" for i in range(6)]), parts)
    assert found.blank == (2, 4)
    assert found.grey is False
    assert found.document()["blank"] == {"count": 2, "examples": ["2.png", "4.png"]}
    values[4] = 20
    assert inspect_packed(pack(torch.from_numpy(values)), parts).grey is True
    assert inspect_packed(pack(torch.from_numpy(values[..., :1])), parts).grey is None
    points = inspect_packed(pack(torch.tensor([[1.0, 1.0], [1.0, 2.0]])), Split(torch.arange(2), torch.arange(0)))
    assert points.blank == (0,)
    ones = inspect_packed(pack(torch.tensor([[1.0], [1.0]])), Split(torch.arange(2), torch.arange(0)))
    assert ones.blank == ()  # one number is always the same throughout


def test_numbers_and_labels_at_odds() -> None:
    values = torch.tensor([0, 0, 1, 1], dtype=torch.uint8).reshape(4, 1, 1, 1)
    packed = pack(
        values,
        labels=torch.tensor([0, 1, 1, 1]),
        label_values=(0, 1),
        conditions=torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [9.0, 5.0]]),
        condition_names=("age", "five"),
    )
    found = inspect_packed(packed, Split(torch.tensor([0, 1, 2]), torch.tensor([3])))
    assert found.conflicts == 1  # 0 and 1 are equal and of different classes; 2 and 3 agree
    assert [(n.name, n.mean, n.low, n.high) for n in found.numbers] == [("age", 2, 1, 3), ("five", 5, 5, 5)]
    assert found.leakage.exact == 1
    document = json.loads(json.dumps(found.document()))
    assert document["copies"]["groups"] == [["example 0", "example 1"], ["example 2", "example 3"]]
    assert document["copies"]["conflicting_groups"] == 1
