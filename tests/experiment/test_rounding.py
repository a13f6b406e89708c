"""A number and its error as text: read back, they are the two, each to the second digit of the error."""

import math

import numpy as np
import pytest

from sfumato.experiment.rounding import p_value, rounded, value_and_error, with_error


def read(text: str) -> float:
    return float(text.replace(",", ""))


def test_what_is_read_is_what_was_known_to_the_second_digit_of_the_error() -> None:
    rng = np.random.default_rng(5)
    for _ in range(3000):
        error = float(10 ** rng.uniform(-12, 9))
        value = float(rng.normal() * error * 10 ** rng.uniform(-2, 6))
        said, sign, room = with_error(value, error).partition(" ± ")
        assert sign
        # half a unit of the second digit is a twentieth of the error at most; both are rounded to the same place
        assert abs(read(said) - value) <= 0.05 * error * (1 + 1e-6)
        assert abs(read(room) - error) <= 0.05 * error * (1 + 1e-6)
        digits = room.partition("e")[0].replace(",", "").replace(".", "").strip("0")
        assert len(digits) <= 2
        if "e" not in said + room and "." in room:
            assert len(said.partition(".")[2]) == len(room.partition(".")[2])


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (0.29212, 0.0996, "+0.29 ± 0.10"),  # rounds up to another power of ten
        (123456.0, 1234.0, "+123,500 ± 1,200"),
        (2.5e9, 1.2e7, "+2.500e+09 ± 1.2e+07"),
        (0.29212, 2e-9, "+2.921200000e-01 ± 2.0e-09"),
        (1e-12, 2e-8, "0 ± 2.0e-08"),
        (-0.001, 0.5, "0.00 ± 0.50"),  # neither -0.00 nor +0.00
        (0.5, 0.0, "+0.5"),
        (0.5, None, "+0.5"),
        (0.5, math.inf, "+0.5"),
        (123456.7, 0.0, "+123,457"),
        (math.nan, 0.1, "not a number"),
        (-math.inf, 0.1, "-∞"),
    ],
)
def test_the_ends(value: float, error: float | None, said: str) -> None:
    assert with_error(value, error, signed=True) == said
    assert with_error(value, error) == said.removeprefix("+")
    assert rounded(value, error, signed=True) == said.partition(" ± ")[0]
    text, room = value_and_error(value, error)
    assert f"{text} {room}".rstrip() == said.removeprefix("+")


def test_chances() -> None:
    assert [p_value(p) for p in (0.0123, 1.0, 3e-5, 1e-13, 0.0)] == ["0.012", "1", "3e-05", "< 1e-12", "< 1e-12"]
