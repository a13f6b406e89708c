"""What people ask becomes labels, values and pictures; what a model cannot be told is refused with the way out."""

from typing import Any

import numpy as np
import pytest
import torch

from sfumato.condition import ConditionShape
from sfumato.data import Normalization
from sfumato.errors import UsageError
from sfumato.experiment.conditions import Asked, Tellable, condition_of, label_indices, labels_like_data
from sfumato.experiment.data_record import DataRecord, ValueFacts
from sfumato.guidance import Grey, Holes, LowResolution

FLOWERS = ("Daisy", "rose", "Tulip", "3")


def record(
    *,
    names: tuple[str, ...] | None = FLOWERS,
    values: tuple[str | int, ...] = (7, 3, 9, 12),
    counts: tuple[int, ...] = (),
    facts: ValueFacts | None = None,
    channels: int = 1,
    scale: tuple[float, ...] | None = None,
) -> DataRecord:
    """Of 8x8 pictures in four classes, written 7, 3, 9 and 12, the last of which is called 3."""
    normalization = Normalization("range", (127.5,) * channels, scale or (127.5,) * channels, size=(8, 8))
    shape = (channels, 8, 8)
    return DataRecord(shape, True, 0.5, normalization, names, values, "f", 40, 4, (), counts, facts)


FACTS = ValueFacts((10.0, 0.0), (2.0, 0.5), (5.0, -1.0), (15.0, 1.0), ("age", "tilt"))


def told(
    *, classes: int = 4, numbers: int = 0, dropout: float = 0.1, degradation: Any = None, **of_record: Any
) -> Tellable:
    found = record(facts=FACTS if numbers else None, **of_record)
    image = 0 if degradation is None else degradation.image_channels(found.shape[0])
    return Tellable("flowers", found, ConditionShape(classes, numbers, image), dropout, degradation)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("Daisy", [0, 0, 0, 0, 0]),
        ("dAISY ", [0, 0, 0, 0, 0]),
        ("3", [3, 3, 3, 3, 3]),  # the class called 3 wins over the one that the data wrote 3
        ("9", [2, 2, 2, 2, 2]),
        (1, [1, 1, 1, 1, 1]),  # an index counts from 0
        (np.int64(2), [2, 2, 2, 2, 2]),
        (np.array(2), [2, 2, 2, 2, 2]),
        (torch.tensor(2), [2, 2, 2, 2, 2]),
        ("all", [0, 1, 2, 3, 0]),
        ("ALL", [0, 1, 2, 3, 0]),
        ("rose, tulip", [1, 2, 1, 2, 1]),
        ([0, "rose", np.int32(2), "12", 0], [0, 1, 2, 3, 0]),
        (np.array([3, 2, 1, 0, 3]), [3, 2, 1, 0, 3]),
        (torch.tensor([3, 2, 1, 0, 3]), [3, 2, 1, 0, 3]),
    ],
    ids=str,
)
def test_labels(asked: object, expected: list[int]) -> None:
    found = label_indices(told(), asked, 5)
    assert found.dtype == torch.int64
    assert found.tolist() == expected


def test_where_labels_are_names_a_number_counts_them() -> None:
    known = told(names=("Daisy", "rose"), values=("Daisy", "rose"), classes=2)
    assert label_indices(known, "1", 2).tolist() == [1, 1]
    with pytest.raises(UsageError, match="no class 2"):
        label_indices(known, "2", 2)


def test_classes_called_all_and_none_win() -> None:
    known = told(names=("none", "all", "rose", "Tulip"))
    for text, index in (("all", 1), ("None", 0)):
        cond = condition_of(known, Asked(text), 3)
        assert cond is not None
        assert cond.dropped is None
        assert cond.labels is not None
        assert cond.labels.tolist() == [index] * 3


def test_none_drops_label_and_values_and_keeps_the_picture() -> None:
    known = told(numbers=2, degradation=LowResolution(2))
    cond = condition_of(known, Asked("none", images=np.zeros((8, 8, 1), np.uint8)), 3)
    assert cond is not None
    assert cond.dropped is not None
    assert cond.dropped.all()
    assert (cond.labels, cond.values) == (None, None)
    assert cond.image is not None
    assert cond.image.shape == (3, 1, 8, 8)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([12, 0.25], [[1.0, 0.5]] * 3),  # (12 - 10)/2 and (0.25 - 0)/0.5
        ("12,0.25", [[1.0, 0.5]] * 3),
        (np.array([[10, 0], [12, 0.5], [8, -0.5]]), [[0, 0], [1, 1], [-1, -1]]),
    ],
    ids=str,
)
def test_values_are_normalised_as_in_training(given: object, expected: list[list[float]]) -> None:
    cond = condition_of(told(classes=0, numbers=2), Asked(values=given), 3)
    assert cond is not None
    assert cond.values is not None
    assert cond.values.dtype == torch.float32
    assert cond.values.tolist() == expected


def test_one_value_takes_turns_and_may_be_left_out() -> None:
    one = ValueFacts((10.0,), (2.0,), (5.0,), (15.0,))
    known = Tellable("ages", record(facts=one), ConditionShape(num_values=1), 0.1)
    for given in ("10,14", [10, 14, 10], np.array([[10.0], [14], [10]])):
        cond = condition_of(known, Asked(values=given), 3)
        assert cond is not None
        assert cond.values is not None
        assert cond.values.flatten().tolist() == [0, 2, 0]
    for left_out in (Asked(values="none"), Asked(labels="none")):
        cond = condition_of(known, left_out, 2)
        assert cond is not None
        assert cond.dropped is not None
        assert cond.dropped.tolist() == [True, True]


def test_pictures_are_degraded_as_in_training_or_taken_as_they_are() -> None:
    """Means of 2x2 blocks repeated: given whole, or as the small picture of the means."""
    known = told(classes=0, degradation=LowResolution(2))
    small = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 1), dtype=np.uint8)
    whole = small.repeat(2, axis=1).repeat(2, axis=2)
    found = [condition_of(known, Asked(images=pictures), 2) for pictures in (small, whole)]
    expected = torch.from_numpy((whole / 127.5 - 1).transpose(0, 3, 1, 2)).float()
    for cond in found:
        assert cond is not None
        assert cond.image is not None
        torch.testing.assert_close(cond.image, expected, atol=1e-6, rtol=0)  # float32


def test_a_grey_picture_is_taken_where_all_channels_are_normalised_alike() -> None:
    grey = np.full((8, 8, 1), 51, np.uint8)
    cond = condition_of(told(classes=0, channels=3, degradation=Grey()), Asked(images=grey), 2)
    assert cond is not None
    assert cond.image is not None
    torch.testing.assert_close(cond.image, torch.full((2, 1, 8, 8), 51 / 127.5 - 1))
    other = told(classes=0, channels=3, scale=(1.0, 2.0, 3.0), degradation=Grey())
    with pytest.raises(UsageError, match="8 x 8 with 1 channels"):
        condition_of(other, Asked(images=grey), 2)


def test_holes_belong_to_the_seed_of_a_sample() -> None:
    """Sample i of seed K has the hole of sample 0 of seed K + i, however many there are."""
    known, picture = told(classes=0, degradation=Holes()), np.full((8, 8, 1), 255, np.uint8)
    many = condition_of(known, Asked(images=picture), 40, seed=3)
    assert many is not None
    assert many.image is not None
    assert len(many.image.flatten(1).unique(dim=0)) > 20
    for i in (0, 7, 39):
        one = condition_of(known, Asked(images=picture), 1, seed=3 + i)
        assert one is not None
        assert one.image is not None
        assert one.image[0].equal(many.image[i])


def test_labels_like_data_have_its_frequencies_and_belong_to_seeds() -> None:
    """10,000 draws: standard errors of a share are at most 0.005."""
    known = record(counts=(10, 0, 70, 20))
    labels = labels_like_data(known, 10_000, seed=5)
    shares = np.bincount(labels, minlength=4) / 10_000
    np.testing.assert_allclose(shares, [0.1, 0, 0.7, 0.2], atol=0.02)  # four standard errors
    assert labels[37] == labels_like_data(known, 1, seed=42)[0]
    even = np.bincount(labels_like_data(record(), 10_000, seed=0), minlength=4) / 10_000
    np.testing.assert_allclose(even, 0.25, atol=0.02)


UNCONDITIONAL = Tellable("plain", record(), ConditionShape())
BOTH = told(numbers=2)
PICTURE = np.zeros((8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    ("known", "asked", "parts"),
    [
        (told(), Asked(), ["no label", "4 classes", "Daisy", "--label all", "--label none"]),
        (told(dropout=0), Asked("none"), ["never trained without", "dropout is 0", "--label all"]),
        (told(), Asked("daysi"), ["no class daysi", "4 classes", "7, 3, 9, 12", "did you mean Daisy?"]),
        (told(), Asked(4), ["no class 4", "0..3", "did you mean 3?"]),
        (told(), Asked(-1), ["no class -1", "0..3", "did you mean Daisy?"]),
        (told(), Asked(1.0), ["no class 1.0", "0..3"]),
        (told(), Asked(True), ["no class True"]),
        (told(), Asked("rose,dog"), ["no class dog"]),
        (told(names=None), Asked("0"), ["no class 0", "4 classes: 7, 3, 9, 12"]),
        (told(values=("a", "b", "c", "d")), Asked("4"), ["no class 4", "in 0..3"]),
        (told(), Asked(" "), ["no class ' '", "--label all"]),
        (told(), Asked([0, 1]), ["2 labels", "5 samples", "one for each"]),
        (told(), Asked([0, 1, None, 2, 3]), ["one of the labels is None", "guidance 0"]),
        (UNCONDITIONAL, Asked(0), ["a label", "without labels", "--label"]),
        (UNCONDITIONAL, Asked("none"), ["a label", "without labels"]),
        (UNCONDITIONAL, Asked(values=1), ["a value", "without values", "--value"]),
        (UNCONDITIONAL, Asked(images=PICTURE), ["a picture", "--pictures"]),
        (told(), Asked(0, values=0.5), ["a value", "without values", "a label, which it was trained with"]),
        (BOTH, Asked(0), ["no values", "2 of them", "age, tilt", "--value"]),
        (BOTH, Asked(0), ["(--value 0.3,1.3), or labels='none' (--label none)"]),
        (BOTH, Asked("none", values=[1, 2]), ["no label at all", "together"]),
        (BOTH, Asked("none", values="1,2"), ["no label at all", "together"]),
        (BOTH, Asked(0, values="none"), ["no values at all", "together", "--label none"]),
        (BOTH, Asked(0, values=[1, 1e40]), ["1e+40", "single precision"]),
        (told(classes=0, numbers=2), Asked(), ["2 real numbers", "or values='none' (--value none)"]),
        (told(classes=0, numbers=2), Asked(values="1"), ["shape (1, 1)", "--value 0.3,1.3"]),
        (BOTH, Asked(0, values=[1, float("nan")]), ["values of sample 0", "nan", "finite"]),
        (BOTH, Asked(0, values=np.full((5, 2), np.inf)), ["values of sample 0", "finite"]),
        (BOTH, Asked(0, values="a,b"), ["values are a,b", "real numbers"]),
        (BOTH, Asked(0, values=[1, 2, 3]), ["shape (1, 3)", "2 real numbers", "(5, 2)"]),
        (BOTH, Asked(0, values=np.ones((4, 2))), ["shape (4, 2)", "5 samples"]),
        (told(classes=0, degradation=LowResolution(2)), Asked(), ["no picture", "8 x 8", "--pictures"]),
        (
            told(classes=0, degradation=LowResolution(2)),
            Asked(images=np.zeros((5, 6, 6, 1), np.uint8)),
            ["6 x 6 with 1", "8 x 8", "4 x 4"],
        ),
        (
            told(classes=0, degradation=LowResolution(2)),
            Asked(images=np.zeros((2, 8, 8, 1), np.uint8)),
            ["2 pictures", "5 samples", "-n 2"],
        ),
        (
            told(classes=0, degradation=LowResolution(2)),
            Asked(images=np.zeros((5, 8, 8, 1))),
            ["float64", "uint8"],
        ),
    ],
    ids=str,
)
def test_what_is_refused(known: Tellable, asked: Asked, parts: list[str]) -> None:
    """E4, each with what there is and how to ask for it."""
    with pytest.raises(UsageError) as caught:
        condition_of(known, asked, 5)
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    assert caught.value.exit_code == 2


def test_a_classifier_takes_labels_of_a_model_without() -> None:
    from dataclasses import replace

    cond = condition_of(replace(UNCONDITIONAL, steered=True), Asked("rose"), 2)
    assert cond is not None
    assert cond.labels is not None
    assert cond.labels.tolist() == [1, 1]
