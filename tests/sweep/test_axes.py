"""Axes: what is written, what it means, and what is refused."""

import math
import re

import pytest

from sfumato.core import CosineAngle
from sfumato.errors import ConfigError, UsageError
from sfumato.experiment.config import load_experiment
from sfumato.experiment.sweep.axes import Axis, Between, axes_of, require_known_keys, slug
from sfumato.experiment.sweep.plan import Plan
from sfumato.experiment.sweep.search import Grid, Random


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("objective.distance=mse,mae", "objective.distance", ("mse", "mae")),
        ("network.widths=[32,64],[64, 128]", "network.widths", ("[32,64]", "[64, 128]")),
        ("schedule={kind: CosineAngle, max_signal_rate: 0.9},VpSde", "schedule",
         ("{kind: CosineAngle, max_signal_rate: 0.9}", "VpSde")),
        ("data.label='a, b',c", "data.label", ("'a, b'", "c")),
        ("seed_of.x = 1 , 2 ", "seed_of.x", ("1", "2")),
    ],
)  # fmt: skip
def test_values_stand_between_commas_outside_of_brackets(text: str, key: str, values: tuple[str, ...]) -> None:
    assert Axis.parse(text) == Axis(key, values)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("objective.distance", "has no values: the grid is empty"),
        ("objective.distance=", "has no values: the grid is empty"),
        ("objective.distance=mse,,mae", "has an empty value"),
        ("=1,2", "names no setting"),
        ("a b=1,2", "names no setting"),
        ("seed=1,2", "--seeds K"),
        ("name=a,b", "--name names the sweep"),
        ("times.steps+times.steps=1", "names a setting twice"),
        ("schedule.steps+times.steps=1+2+3", "3 values for 2 settings"),
        ("training.learning_rate=0.1..0.2,0.3", "stands among other values"),
        ("training.learning_rate=0.2..0.1", "is no range"),
        ("training.learning_rate=0..1:log", "is no range"),
    ],
)
def test_what_is_no_axis_is_refused(text: str, what: str) -> None:
    """Row C10 of the fault matrix, the empty grid among it; each refusal has a remedy."""
    with pytest.raises(ConfigError, match=re.escape(what)) as refusal:
        Axis.parse(text).between  # noqa: B018
    assert refusal.value.fix.startswith("--")


def test_a_setting_that_there_is_not_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="no such setting") as refusal:
        require_known_keys([Axis("objective.distnace", ("mse",))])
    assert "objective.distance" in refusal.value.fix
    require_known_keys([Axis("schedule.steps+times.steps", ("10",)), Axis("network.widths", ("[8]",))])


def test_settings_that_change_together() -> None:
    both = Axis("schedule.steps+times.steps", ("10", "20+30"))
    assert both.pairs("10") == (("schedule.steps", "10"), ("times.steps", "10"))
    assert both.pairs("20+30") == (("schedule.steps", "20"), ("times.steps", "30"))
    assert Axis("training.learning_rate", ("1e+3",)).pairs("1e+3") == (("training.learning_rate", "1e+3"),)


def test_python_values_mean_what_their_texts_mean() -> None:
    """A value object, a tuple, a number, nothing and a truth: the same experiment as when the value itself is set."""
    values = {
        "schedule": CosineAngle(max_signal_rate=0.9),
        "network.widths": (8, 16),
        "training.learning_rate": 1e-5,
        "training.clip_norm": None,
        "data.flip": True,
    }
    axes = axes_of({key: [value] for key, value in values.items()})
    pairs = [pair for axis in axes for pair in axis.pairs(axis.values[0])]
    assert load_experiment("digits", pairs) == load_experiment("digits", values)


def test_a_setting_has_one_axis() -> None:
    with pytest.raises(ConfigError, match=r"two axes set times\.steps"):
        axes_of(["times.steps=1,2", "schedule.steps+times.steps=3"])


def test_numbers_of_a_range() -> None:
    """Both ends, the middle by difference or by ratio, and whole numbers each with the same share of [0, 1)."""
    assert [Between(1.0, 3.0).at(u) for u in (0.0, 0.5)] == ["1", "2"]
    assert Between(1e-4, 1e-2, log=True).at(0.5) == "0.001"  # sqrt(1e-4 * 1e-2)
    assert Between(1e-4, 1e-2, log=True).at(0.25) == "0.0003162"
    assert float(Between(1 / 3, 1.0).at(0.0)) >= 1 / 3  # rounding to four digits never leaves the range
    assert float(Between(1 / 3, 2 / 3).at(1 - 1e-12)) <= 2 / 3
    whole = Between(2.0, 5.0, whole=True)
    assert [whole.at((k + 0.5) / 4) for k in range(4)] == ["2", "3", "4", "5"]
    assert whole.at(1 - 1e-12) == "5"
    ratios = Between(1.0, 7.0, log=True, whole=True)  # 1 … 7 by halves of log 8: 1; 2, 3; 4 … 7
    assert [ratios.at(u) for u in (0.0, 0.34, 0.67)] == ["1", "2", "4"]


def test_random_points_follow_the_law_of_their_range() -> None:
    """The mean of log10 over 2,000 draws is that of a uniform law within 4 of its errors, and so is its variance."""
    axis = Axis("training.learning_rate", ("1e-4..1e-2:log",))
    draws = [math.log10(float(p[axis.key])) for p in Random(2000).points([axis], ())]
    mean = sum(draws) / len(draws)
    assert abs(mean + 3) < 4 * (2 / math.sqrt(12)) / math.sqrt(len(draws))
    variance = sum((x - mean) ** 2 for x in draws) / len(draws)
    assert variance == pytest.approx(4 / 12, rel=0.1)  # the error of a variance of 2,000 uniform numbers is 2 %


def test_axes_are_drawn_independently() -> None:
    """The correlation of two axes with one range over 2,000 points is 0 within 4 of its errors."""
    axes = [Axis("training.learning_rate", ("0.0..1.0",)), Axis("training.weight_decay", ("0.0..1.0",))]
    pairs = [tuple(float(v) for v in p.values()) for p in Random(2000).points(axes, ())]
    means = [sum(p[k] for p in pairs) / len(pairs) for k in (0, 1)]
    covariance = sum((a - means[0]) * (b - means[1]) for a, b in pairs) / len(pairs)
    assert abs(covariance * 12) < 4 / math.sqrt(len(pairs))


def test_more_trials_add_points_and_change_none() -> None:
    axes = [Axis("training.learning_rate", ("1e-4..1e-2:log",)), Axis("objective.distance", ("mse", "mae"))]
    few, many = (list(Random(trials, seed=3).points(axes, ())) for trials in (5, 20))
    assert many[:5] == few
    assert list(Random(5, seed=4).points(axes, ())) != few


def test_a_random_search_over_few_values_finds_each_once() -> None:
    axes = [Axis("objective.distance", ("mse", "mae")), Axis("parameterization", ("noise", "image", "velocity"))]
    found = list(Random(50).points(axes, ()))
    assert len(found) == 6 == Random(50).count(axes)
    assert len({tuple(point.values()) for point in found}) == 6


def test_a_range_in_a_grid_is_refused() -> None:
    axis = Axis("training.learning_rate", ("1e-4..1e-2",))
    with pytest.raises(ConfigError, match="a range, and a grid takes every value") as refusal:
        Plan("x", load_experiment("digits"), (axis,), search=Grid())
    assert "--search random" in refusal.value.fix


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("schedule", "CosineAngle", "cosineangle"),
        ("objective.distance", "MSE", "mse"),
        ("training.learning_rate", "1e-3", "learning_rate-0.001"),
        ("training.learning_rate", "0.0010", "learning_rate-0.001"),
        ("training.learning_rate", "1e-12", "learning_rate-1e-12"),
        ("training.steps", "12000", "steps-12000"),
        ("data.flip", "true", "flip-true"),
        ("training.clip_norm", "null", "clip_norm-null"),
        ("network.widths", "[32, 64]", "widths-32-64"),
        ("schedule", "{kind: CosineAngle, max_signal_rate: 0.9}", "cosineangle-max-signal-rate-0.9"),
        ("schedule.shift", "-2", "shift--2"),
        ("schedule.steps+times.steps", "10+20", "steps-10-20"),
    ],
)
def test_names_of_values(key: str, value: str, name: str) -> None:
    assert slug(Axis(key, (value,)), value) == name
