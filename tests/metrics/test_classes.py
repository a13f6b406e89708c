"""Shares of classes against enumeration, binomials and known distributions."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from sfumato.errors import DataError, UsageError
from sfumato.metrics import (
    agreement,
    chi_square,
    class_shares,
    confusion,
    confusions,
    total_variation,
    total_variation_floor,
)

EVEN = torch.full((10,), 0.1, dtype=torch.float64)
UNEVEN = torch.tensor([0.4, 0.3, 0.2, 0.05, 0.05], dtype=torch.float64)


def test_agreement_counts_and_its_error_is_wilsons() -> None:
    asked = torch.arange(200) % 10
    judged = asked.clone()
    judged[:14] = (judged[:14] + 1) % 10
    found = agreement(asked, judged)
    assert found.value == 186 / 200
    assert found.n == 200
    # half of scipy's Wilson interval at the level of one sigma, 68.27 %
    low, high = stats.binomtest(186, 200).proportion_ci(math.erf(1 / math.sqrt(2)), method="wilson")
    assert found.std_error == pytest.approx((high - low) / 2, rel=1e-9)


def test_full_agreement_leaves_room() -> None:
    found = agreement(torch.zeros(1000, dtype=torch.int64), torch.zeros(1000, dtype=torch.int64))
    assert found.value == 1
    assert found.std_error == pytest.approx(1 / 2002)


@pytest.mark.parametrize(("p", "n"), [(0.97, 1000), (0.5, 40), (0.99, 200)])
def test_the_error_of_an_agreement_is_its_scatter(p: float, n: int) -> None:
    """The root mean square of the stated errors over all binomial outcomes is the standard deviation of the share.

    Wilson's is wider by 1/(4 n²) and narrower by 1/(1 + 1/n): a few per cent here, most where n p (1 - p) is 2.
    """
    counts = np.arange(n + 1)
    chances = stats.binom.pmf(counts, n, p)
    errors = [agreement(torch.zeros(n, dtype=torch.int64), (torch.arange(n) >= k).long()).std_error for k in counts]
    stated = math.sqrt((chances * np.square(errors)).sum())
    assert stated == pytest.approx(math.sqrt(p * (1 - p) / n), rel=0.07)


def test_agreement_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(DataError, match="judged"):
        agreement(torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(UsageError, match="0 examples"):
        agreement(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))


def test_confusion_is_listed_by_frequency() -> None:
    asked = torch.tensor([3, 3, 3, 3, 0, 1, 1])
    judged = torch.tensor([5, 5, 3, 3, 0, 1, 2])
    counts = confusion(asked, judged, 6)
    assert counts.sum() == 7
    assert counts[3, 5] == 2  # rows are what was asked for
    assert counts[5, 3] == 0
    names = tuple("abcdef")
    assert list(confusions(counts, names)) == ["asked for d, judged f: 2", "asked for b, judged c: 1"]
    assert list(confusions(counts, names, most=1)) == [
        "asked for d, judged f: 2",
        "and 1 more in 1 other pairs of classes",
    ]


def multinomial(n: int, shares: list[float]) -> list[tuple[tuple[int, ...], float]]:
    """Every outcome of n draws with its probability."""
    outcomes = [c for c in itertools.product(range(n + 1), repeat=len(shares)) if sum(c) == n]
    return [(c, float(stats.multinomial.pmf(c, n, shares))) for c in outcomes]


@pytest.mark.parametrize(
    ("n", "shares"), [(7, [0.5, 0.3, 0.2]), (5, [0.9, 0.06, 0.04]), (4, [0.25, 0.25, 0.5]), (6, [1.0, 0.0])]
)
def test_the_floor_is_the_exact_expectation(n: int, shares: list[float]) -> None:
    """E TV of n draws, by enumeration of all outcomes."""
    p = torch.tensor(shares, dtype=torch.float64)
    each = [(chance, total_variation(torch.tensor(c), p).value) for c, chance in multinomial(n, shares)]
    expected = sum(chance * value for chance, value in each)
    assert total_variation_floor(n, p).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("shares", "n"), [(EVEN, 1000), (UNEVEN, 300)], ids=["even", "uneven"])
def test_the_spread_of_the_floor(shares: torch.Tensor, n: int) -> None:
    """Mean and standard deviation of TV over 20,000 sets drawn from the shares themselves.

    The mean within 4 standard errors; the spread is that of normal counts: 2 % for its own scatter and whole numbers.
    """
    counts = np.random.default_rng(0).multinomial(n, shares.numpy(), size=20_000)
    values = 0.5 * np.abs(counts / n - shares.numpy()).sum(1)
    found = total_variation_floor(n, shares)
    assert found.std_error == 0
    assert found.value == pytest.approx(values.mean(), abs=4 * values.std() / math.sqrt(20_000))
    assert found.provenance["spread"] == pytest.approx(values.std(), rel=0.02)
    assert found.value < 0.06 or n < 1000  # ten classes, a thousand samples: 0.038


def test_the_error_of_a_total_variation_is_its_scatter() -> None:
    """Far from the floor the delta method's error is the standard deviation: 3 % for scatter and curvature."""
    true = torch.tensor([0.3, 0.15, 0.15, 0.2, 0.2], dtype=torch.float64)
    counts = torch.from_numpy(np.random.default_rng(1).multinomial(1000, true.numpy(), size=4000))
    found = [total_variation(c, UNEVEN) for c in counts]
    values = np.array([f.value for f in found])
    assert values.mean() == pytest.approx(0.5 * float((true - UNEVEN).abs().sum()), abs=0.002)
    assert np.mean([f.std_error for f in found]) == pytest.approx(values.std(), rel=0.03)


def test_near_the_floor_the_error_is_too_large_but_not_by_more_than_twice() -> None:
    counts = torch.from_numpy(np.random.default_rng(2).multinomial(1000, EVEN.numpy(), size=2000))
    found = [total_variation(c, EVEN) for c in counts]
    ratio = np.mean([f.std_error for f in found]) / np.std([f.value for f in found])
    assert 1 < ratio < 2


def test_a_single_class_leaves_room() -> None:
    """All of one class: the error is that of one sample in n + 1 that might have been another."""
    found = total_variation(torch.tensor([500, 0, 0, 0, 0]), UNEVEN)
    assert found.value == pytest.approx(0.6)
    moved = 0.6 / 501
    assert found.std_error == pytest.approx(math.sqrt(moved * (1 - moved) / 500), rel=1e-9)


def test_chi_square_is_scipys() -> None:
    counts = torch.tensor([55, 80, 62, 71, 32])
    expected = stats.chisquare(counts.numpy(), 300 * UNEVEN.numpy())
    found = chi_square(counts, UNEVEN)
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-12)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.degrees == 4
    facts = total_variation(counts, UNEVEN).provenance
    assert facts["chi_square"] == found.statistic


def test_a_class_that_the_data_do_not_have() -> None:
    found = chi_square(torch.tensor([3, 1]), torch.tensor([1.0, 0.0]))
    assert found.statistic == math.inf
    assert found.p_value == 0


def test_shares() -> None:
    shares = class_shares(torch.tensor([0, 2, 2, 2]), 4)
    assert shares.tolist() == [0.25, 0, 0.75, 0]
    with pytest.raises(DataError, match=r"add up to 0\.5"):
        total_variation(torch.tensor([1, 1]), torch.tensor([0.25, 0.25]))
