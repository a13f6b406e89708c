"""Influences: their squares add up to the variance that is stated, their differences to that of a paired difference."""

import math

import pytest
import torch
from torch import Tensor

from sfumato.metrics import (
    EnergyDistance,
    Estimate,
    Mmd,
    PointDistance,
    SlicedWasserstein,
    agreement,
    class_shares,
    mean_of,
    mode_coverage,
    paired_difference,
    total_variation,
    total_variation_influences,
)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def length(found: Estimate) -> float:
    assert found.influences is not None
    return float(found.influences.norm())


def test_of_a_mean() -> None:
    """Also in another unit; rounding alone is left, 1e-12."""
    found = mean_of(normal(0, 500) + 3)
    assert length(found) == pytest.approx(found.std_error, rel=1e-12)
    in_bits = found.scaled(-1 / math.log(2))
    assert length(in_bits) == pytest.approx(in_bits.std_error, rel=1e-12)


def test_the_difference_of_two_means_is_the_mean_of_differences() -> None:
    """|u - w| is the standard error of `paired_difference`, whatever the two have in common."""
    common, one, other = normal(1, 300), normal(2, 300), normal(3, 300)
    first, second = common + 0.1 * one, common + 0.1 * other
    a, b = mean_of(first), mean_of(second)
    assert a.influences is not None
    assert b.influences is not None
    paired = paired_difference(first, second)
    assert float((a.influences - b.influences).norm()) == pytest.approx(paired.std_error, rel=1e-9)
    assert paired.std_error < 0.2 * math.hypot(a.std_error, b.std_error)


@pytest.mark.parametrize("distance", [SlicedWasserstein(), EnergyDistance(), Mmd()], ids=repr)
def test_of_a_jackknife(distance: PointDistance) -> None:
    found = distance(normal(4, 120, 2), normal(5, 120, 2) + 0.5)
    assert length(found) == pytest.approx(found.std_error, rel=1e-12)
    assert found.influences is not None
    assert len(found.influences) == 20


def test_the_paired_error_of_a_distance_is_how_much_the_difference_scatters() -> None:
    """Two models that draw x and 0.95 x of the same seeds, held against the same reference, 200 times over.

    The energy distances differ by far less than they scatter. A standard deviation of 200 values is known to 5 %; the
    jackknife of 20 blocks adds 16 % to a single error, little to their root mean square, and a bias of some per cent.
    """
    apart, errors, alone = [], [], []
    for seed in range(200):
        x, y = normal(10 + 2 * seed, 100, 2), normal(11 + 2 * seed, 100, 2) + 1
        one, other = EnergyDistance()(x, y), EnergyDistance()(0.95 * x, y)
        assert one.influences is not None
        assert other.influences is not None
        apart.append(other.value - one.value)
        errors.append(float((other.influences - one.influences).norm()))
        alone.append(one.std_error)
    truth = float(torch.tensor(apart).std())
    stated = float(torch.tensor(errors).square().mean().sqrt())
    assert stated == pytest.approx(truth, rel=0.2)
    assert stated < 0.2 * sum(alone) / len(alone)


def test_of_shares_and_classes() -> None:
    """Of the share Wilson's error has a correction more, and that of a total variation one draw more: of order 1/n."""
    draw = torch.Generator().manual_seed(6)
    asked = torch.randint(0, 5, (400,), generator=draw)
    judged = torch.where(torch.rand(400, generator=draw) < 0.8, asked, (asked + 1) % 5)
    right = agreement(asked, judged)
    assert length(right) == pytest.approx(right.std_error, rel=3 / 400)
    shares = torch.tensor([0.3, 0.3, 0.2, 0.1, 0.1], dtype=torch.float64)
    apart = total_variation(torch.bincount(judged, minlength=5), shares)
    influences = total_variation_influences(judged, shares)
    assert float(influences.norm()) == pytest.approx(apart.std_error, rel=3 / 400)
    assert float(influences.sum()) == pytest.approx(0, abs=1e-12)
    modes = mode_coverage(judged, shares)
    assert length(modes) == pytest.approx(modes.std_error, rel=1e-9)


def test_the_influence_of_a_sample_is_what_its_class_changes() -> None:
    """Sample i taken out of n moves TV by -influence_i n/(n - 1), where no share crosses the data's: 1e-12."""
    judged, shares = torch.tensor([0] * 6 + [1] * 3 + [2]), torch.tensor([0.2, 0.4, 0.4], dtype=torch.float64)
    influences = total_variation_influences(judged, shares)

    def distance(labels: Tensor) -> float:
        return 0.5 * float((class_shares(labels, 3) - shares).abs().sum())

    for i in range(10):
        without = distance(torch.cat([judged[:i], judged[i + 1 :]]))
        assert without - distance(judged) == pytest.approx(-float(influences[i]) * 10 / 9, abs=1e-12)


def test_too_few_have_none() -> None:
    assert agreement(torch.tensor([1]), torch.tensor([1])).influences is None


def test_influences_are_no_part_of_what_is_shown() -> None:
    found = mean_of(normal(7, 20))
    assert set(found.to_plain()) == {"value", "std_error", "n", "provenance"}
    assert "influences" not in repr(found)
    assert found == Estimate(found.value, found.std_error, found.n, found.provenance)
