"""Estimates: their errors against closed forms and against the scatter of repeats."""

import json
import math

import pytest
import torch

from sfumato.errors import NumericsError, UsageError
from sfumato.metrics import Estimate, difference, jackknife_error, mean_of, paired_difference


def test_a_mean_has_the_error_of_its_formula() -> None:
    """1, 2, 3, 6: mean 3, Σ (v - 3)² = 14, error sqrt(14/(4 · 3))."""
    found = mean_of(torch.tensor([1.0, 2.0, 3.0, 6.0]), {"data": "four numbers"})
    assert (found.value, found.n) == (3.0, 4)
    assert found.std_error == pytest.approx(math.sqrt(14 / 12), rel=1e-15)
    assert json.loads(json.dumps(found.to_plain())) == {
        "value": 3.0,
        "std_error": found.std_error,
        "n": 4,
        "provenance": {"data": "four numbers"},
    }


def test_the_jackknife_of_a_mean_is_the_error_of_the_mean() -> None:
    values = torch.randn(30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    without = (values.sum() - values) / 29
    assert jackknife_error(without) == pytest.approx(mean_of(values).std_error, rel=1e-12)


def test_pairs_lose_what_they_share() -> None:
    """v and w = v + 1 + small: the paired error is that of the small part, the independent one that of v twice."""
    g = torch.Generator().manual_seed(0)
    v, small = (torch.randn(1000, dtype=torch.float64, generator=g) for _ in range(2))
    w = v - 1 + 0.01 * small
    paired, apart = paired_difference(v, w), difference(mean_of(v), mean_of(w))
    assert paired.value == pytest.approx(apart.value, abs=1e-12)
    assert paired.std_error == pytest.approx(0.01 / math.sqrt(1000), rel=0.1)
    assert apart.std_error == pytest.approx(math.sqrt(2 / 1000), rel=0.1)
    assert paired.provenance["difference"] == "paired"


def test_another_unit_scales_value_and_error() -> None:
    bits = Estimate(3.0, 0.5, 7, {"unit": "nats"}).scaled(-2.0, unit="bits")
    assert (bits.value, bits.std_error, bits.n, bits.provenance) == (-6.0, 1.0, 7, {"unit": "bits"})


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UsageError, match="1 examples"):
        mean_of(torch.ones(1))
    with pytest.raises(UsageError, match="paired"):
        paired_difference(torch.ones(3), torch.ones(4))
    with pytest.raises(NumericsError, match="nan"):
        mean_of(torch.tensor([1.0, math.nan]))
