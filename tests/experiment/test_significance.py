"""p-values against SciPy's, and Holm's correction against its definition and what it promises."""

import math

import numpy as np
import pytest

from sfumato.experiment.significance import holm, two_sided


@pytest.mark.parametrize("degrees", [1, 2, 3, 19, 79, 999, 59_999])
@pytest.mark.parametrize("t", [0.0, 1e-6, 0.3, 1.0, 1.96, -2.5, 4.0, 9.0, 38.0])
def test_student_is_scipys(degrees: int, t: float) -> None:
    """To 1e-10 of p, down to p of 1e-300: the continued fraction keeps its digits where 1 - cdf has none left.

    The logarithms of gamma functions of 3e4 cancel to about 1e-11.
    """
    stats = pytest.importorskip("scipy.stats")
    assert two_sided(t, degrees) == pytest.approx(2 * stats.t.sf(abs(t), degrees), rel=1e-10)


def test_the_ends_of_student() -> None:
    assert two_sided(0.0, 5) == 1.0
    assert two_sided(math.inf, 5) == 0.0
    assert two_sided(1.0, 1) == pytest.approx(0.5, rel=1e-14)  # Cauchy: P(|T| >= 1) = 1/2


def test_holm_by_hand() -> None:
    """Three: 3 · 0.01; then 2 · 0.03; then the last, which may not fall below the one before."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_holm_is_wrong_once_in_twenty_at_most() -> None:
    """Of 2,000 families of eight comparisons without any difference: the share with a false alarm, 0.05 in theory.

    4 standard errors of the share are 0.0195.
    """
    p_values = np.random.default_rng(0).random((2000, 8))
    alarms = sum(min(holm(family.tolist())) < 0.05 for family in p_values) / 2000
    assert alarms == pytest.approx(1 - 0.99375**8, abs=4 * math.sqrt(0.05 * 0.95 / 2000))
