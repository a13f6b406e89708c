"""The data section refuses what cannot be meant, naming field, value and remedy."""

import math
from typing import Any

import pytest

from sfumato.data import DataConfig, declared_shape
from sfumato.errors import ConfigError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source", "imagenet"),
        ("path", ""),
        ("size", 0),
        ("size", (64, -1)),
        ("size", 64.0),
        ("size", True),
        ("pad", 10**6),
        ("channels", 2),
        ("normalize", "minmax"),
        ("flip", 1),
        ("download", "yes"),
        ("test_part", 0),
        ("label", ""),
        ("held_out", 1.0),
        ("held_out", -0.1),
        ("held_out", math.nan),
        ("limit", 0),
        ("count", 10**30),
        ("noise", -0.1),
        ("noise", math.inf),
        ("background", "no colour"),
        ("background", "#ffffff80"),
        ("value_range", (1.0, 1.0)),
        ("value_range", (0.0, math.nan)),
        ("bad_files", "ignore"),
        ("min_size", 0),
        ("max_pixels", 10**9),
        ("cache", "\0"),
        ("label", " "),
        ("columns", "age"),
        ("columns", ("age", "age")),
        ("columns", ("age", "")),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: object) -> None:
    settings: dict[str, Any] = {field: value}
    with pytest.raises(ConfigError) as caught:
        DataConfig(**settings)
    assert f"data.{field} is {value!r}" in caught.value.what
    assert caught.value.expected
    assert caught.value.fix


@pytest.mark.parametrize(
    ("written", "meant"), [("swis_roll", "swiss-roll"), ("Digits", "digits"), ("sprite", "sprites")]
)
def test_the_nearest_source_is_suggested(written: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DataConfig(source=written)
    assert f"--data.source {meant}" in caught.value.fix


def test_padding_below_the_size_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.pad is 60.*data\.size 64"):
        DataConfig(size=64, pad=60)


def test_one_number_means_a_square() -> None:
    config = DataConfig(size=64, pad=(64, 96))
    assert (config.size_hw, config.pad_hw) == ((64, 64), (64, 96))


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (DataConfig(source="digits"), (1, 8, 8)),
        (DataConfig(source="digits", pad=16), (1, 16, 16)),
        (DataConfig(source="sprites", size=(16, 24), channels=1), (1, 16, 24)),
        (DataConfig(source="swiss-roll"), (2,)),
        (DataConfig(size=64), (3, 64, 64)),
        (DataConfig(source="digits", path="elsewhere"), None),
    ],
)
def test_the_shape_is_known_without_the_data(config: DataConfig, shape: tuple[int, ...] | None) -> None:
    assert declared_shape(config) == shape
