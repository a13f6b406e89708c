"""Distances of point sets: against closed forms of Gaussians, against SciPy, and their errors against repeats."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from sfumato.errors import ConfigError, DataError, UsageError
from sfumato.metrics import (
    EnergyDistance,
    Mmd,
    PointDistance,
    SlicedWasserstein,
    directions,
    floor,
    mode_coverage,
    wasserstein_1d,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def quantiles(count: int, mean: float, std: float) -> Tensor:
    """A "sample" of N(mean, std²) without scatter: its mid-quantiles, (count, 1)."""
    levels = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return (mean + std * torch.special.ndtri(levels))[:, None]


def folded_mean(mean: float, std: float) -> float:
    """E|z| for z ~ N(mean, std²)."""
    return std * math.sqrt(2 / math.pi) * math.exp(-(mean**2) / (2 * std**2)) + mean * math.erf(
        mean / (std * math.sqrt(2))
    )


def test_wasserstein_of_two_gaussians() -> None:
    """W_2² = (m_1 - m_2)² + (s_1 - s_2)² (Dowson & Landau 1982); with equal spreads W_1 = |m_1 - m_2|.

    Mid-quantiles of 20,000 levels miss the tails' 2e-5 of the second moment.
    """
    x, y = quantiles(20_000, 1.0, 2.0), quantiles(20_000, 0.5, 0.7)
    assert float(wasserstein_1d(x, y, 2)) == pytest.approx(0.5**2 + 1.3**2, rel=2e-4)
    assert float(wasserstein_1d(x, quantiles(20_000, 0.25, 2.0), 1)) == pytest.approx(0.75, rel=1e-12)


@pytest.mark.parametrize("sizes", [(50, 50), (50, 70), (7, 91), (1, 13)])
def test_wasserstein_is_scipys(sizes: tuple[int, int]) -> None:
    """SciPy has order 1 only; order 2 of unequal sizes is held to that of the samples repeated to a common size."""
    x, y = normal(sizes[0], 1, seed=1), 1.5 * normal(sizes[1], 1, seed=2) + 0.3
    expected = stats.wasserstein_distance(x[:, 0], y[:, 0])
    assert float(wasserstein_1d(x, y, 1)) == pytest.approx(expected, rel=1e-12)
    n, m = sizes
    repeated = wasserstein_1d(x.repeat(m, 1), y.repeat(n, 1), 2)
    assert float(wasserstein_1d(x, y, 2)) == pytest.approx(float(repeated), rel=1e-12)


def test_slices_of_a_shift() -> None:
    """y = x + c: every slice is (u·c)² away, whose mean over directions is |c|²/D: exact for evenly spread ones."""
    x, shift = normal(300, 2), torch.tensor([0.3, -0.4], dtype=torch.float64)
    assert SlicedWasserstein()(x + shift, x).value == pytest.approx(0.5 / math.sqrt(2), rel=1e-12)
    assert SlicedWasserstein(order=1)(x + shift, x).value == pytest.approx(0.5 * 2 / math.pi, rel=1e-3)


EVEN = ((1, 1, 1e-15), (2, 64, 1e-14), (5, 60, 1e-14), (128, 128, 1e-14), (3, 64, 0.02))


def test_directions_fill_the_sphere_evenly() -> None:
    """E u u' = I/D: exact in the plane and for whole bases, nearly for a base that is cut."""
    for dimensions, count, tolerance in EVEN:
        u = directions(dimensions, count)
        assert u.shape == (dimensions, count)
        assert torch.allclose(u.norm(dim=0), torch.ones(count, dtype=torch.float64))
        second = u @ u.T / count
        assert torch.allclose(second, torch.eye(dimensions, dtype=torch.float64) / dimensions, atol=tolerance)


def test_directions_are_fixed_and_of_no_pattern() -> None:
    """The same at every call; neighbouring coordinates have nothing to do with each other, few directions or many."""
    assert torch.equal(directions(100, 64), directions(100, 64))
    u = directions(100, 64)
    beside = (u[1:] * u[:-1]).sum(0) * 100 / 99  # 0 in the mean, scattering by 1/sqrt(D)
    assert float(beside.mean().abs()) < 4 * 0.1 / 8


def test_fine_and_coarse_faults_of_a_sequence_are_seen_alike() -> None:
    """A shift of 64 values by c, all of them or every other up and down, is |c|/8 away."""
    x = normal(50, 64)
    for shift in (torch.ones(64), torch.tensor([1.0, -1.0]).repeat(32)):
        assert SlicedWasserstein()(x + shift, x).value == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("sizes", [(200, 200), (150, 90)])
def test_energy_distance_is_scipys(sizes: tuple[int, int]) -> None:
    x, y = normal(sizes[0], 1, seed=1), 1.5 * normal(sizes[1], 1, seed=2) + 0.3
    expected = stats.energy_distance(x[:, 0], y[:, 0])
    assert EnergyDistance()(x, y).value == pytest.approx(expected, rel=1e-12)


def test_energy_distance_of_two_gaussians() -> None:
    """2 E|x - y| - E|x - x'| - E|y - y'| with E|z| of a folded normal; 2,000 mid-quantiles are right to 1e-3."""
    x, y = quantiles(2000, 1.0, 2.0), quantiles(2000, 0.0, 0.7)
    cross = folded_mean(1.0, math.hypot(2.0, 0.7))
    squared = 2 * cross - folded_mean(0.0, 2.0 * math.sqrt(2)) - folded_mean(0.0, 0.7 * math.sqrt(2))
    assert EnergyDistance()(x, y).value == pytest.approx(math.sqrt(squared), rel=2e-3)


def test_mmd_of_two_gaussians() -> None:
    """E exp(-|z|²/(2b²)) = b/sqrt(b² + s²) exp(-m²/(2(b² + s²))) for z ~ N(m, s²), which repeats average to."""
    b, factors = 0.8, (0.5, 2.0)

    def mean_kernel(mean: float, variance: float) -> float:
        lengths = [(b * f) ** 2 for f in factors]
        each = [math.sqrt(c / (c + variance)) * math.exp(-(mean**2) / (2 * (c + variance))) for c in lengths]
        return sum(each) / len(each)

    truth = mean_kernel(0, 2 * 1.0) + mean_kernel(0, 2 * 0.49) - 2 * mean_kernel(0.3, 1.49)
    distance = Mmd(bandwidth=b, factors=factors)
    found = [
        distance.replicates(normal(40, 1, seed=2 * k) + 0.3, 0.7 * normal(30, 1, seed=2 * k + 1), 2).whole
        for k in range(400)
    ]
    mean, error = sum(found) / 400, torch.tensor(found).std().item() / 20
    assert abs(mean - truth) < 4 * error
    assert error < 0.15 * truth


DISTANCES = [SlicedWasserstein(), SlicedWasserstein(order=1), EnergyDistance(), Mmd()]


@pytest.mark.parametrize("distance", DISTANCES, ids=repr)
def test_a_replicate_is_the_distance_of_what_remains(distance: PointDistance) -> None:
    """The block sums give what computing anew gives; the order of a sample does not matter."""
    x, y = normal(47, 2, seed=1), normal(31, 2, seed=2) + 1
    distance = Mmd(bandwidth=1.0) if isinstance(distance, Mmd) else distance
    found = distance.replicates(x, y, 5)
    for block in range(5):
        first = x[torch.arange(47) % 5 != block]
        second = y[torch.arange(31) % 5 != block]
        again = distance.replicates(first, second, 2).whole
        assert float(found.without[block]) == pytest.approx(again, rel=1e-11)
    assert distance.replicates(x.flip(0), y, 5).whole == pytest.approx(found.whole, rel=1e-12)


@pytest.mark.parametrize("distance", DISTANCES, ids=repr)
def test_the_error_is_the_scatter_of_repeats(distance: PointDistance) -> None:
    """The root mean square of 60 jackknife errors is the standard deviation of the 60 values, known to 9 %: 3 of these.

    The jackknife of 20 blocks errs by 16 % itself, which its mean over repeats does not.
    """
    found = [distance(normal(120, 2, seed=2 * k) + 1.0, 1.5 * normal(150, 2, seed=2 * k + 1)) for k in range(60)]
    values, errors = (torch.tensor([getattr(e, name) for e in found]) for name in ("value", "std_error"))
    assert float(errors.square().mean().sqrt()) == pytest.approx(float(values.std()), rel=0.3)


@pytest.mark.proof
@pytest.mark.parametrize("distance", DISTANCES, ids=repr)
def test_intervals_cover_the_expectation(distance: PointDistance) -> None:
    """±1.96 errors hold the expectation in 95 ± 3 % of 400 repeats, the expectation being the mean of the repeats."""
    found = [distance(normal(200, 2, seed=2 * k) + 1.0, 1.5 * normal(200, 2, seed=2 * k + 1)) for k in range(400)]
    values, errors = (torch.tensor([getattr(e, name) for e in found]) for name in ("value", "std_error"))
    covered = float(((values - values.mean()).abs() < 1.96 * errors).double().mean())
    assert covered == pytest.approx(0.95, abs=0.03)


def test_the_floor_is_what_real_samples_show() -> None:
    """Between samples of one law the plug-in distances are above 0 and shrink as 1/sqrt(n); MMD² is around 0."""

    def pairs(n: int) -> list[tuple[Tensor, Tensor]]:
        return [(normal(n, 2, seed=2 * k), normal(n, 2, seed=2 * k + 1)) for k in range(12)]

    for distance in (SlicedWasserstein(), EnergyDistance()):
        small, large = floor(distance, pairs(100)), floor(distance, pairs(400))
        assert small.value > 5 * small.std_error
        assert small.value / large.value == pytest.approx(2, rel=0.3)
        assert large.n == 400
    found = floor(Mmd(), pairs(200))
    assert abs(found.value) < 4 * found.std_error


def test_mode_coverage_counts_what_is_in_proportion() -> None:
    shares = torch.full((4,), 0.25)
    assert mode_coverage(torch.arange(400) % 4, shares).value == 1.0
    found = mode_coverage(torch.arange(300) % 3, shares)  # one mode of four is missing
    assert (found.value, found.provenance["modes_met"]) == (0.75, "3 of 4")
    uneven = torch.tensor([0] * 10 + [1] * 90)  # shares .1 and .9 where .5 and .5 belong
    assert mode_coverage(uneven, torch.tensor([0.5, 0.5])).value == pytest.approx(0.6)
    assert mode_coverage(uneven, torch.tensor([0.5, 0.5])).std_error == pytest.approx(math.sqrt(0.09 / 99), rel=1e-9)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: EnergyDistance()(normal(3, 2), normal(9, 2)), UsageError, "3 examples"),
        (lambda: EnergyDistance()(normal(9, 2), normal(9, 3)), DataError, "compared"),
        (lambda: EnergyDistance()(normal(9, 2) / 0, normal(9, 2)), DataError, "not finite"),
        (lambda: SlicedWasserstein(order=3), ConfigError, "order 3"),
        (lambda: Mmd(bandwidth=0.0), ConfigError, "bandwidth"),
    ],
)
def test_refusals(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
