"""The laws of the 2-D sets: total mass, score by differences, agreement with the points they describe."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.data import DataConfig
from sfumato.data.laws import Law, law_of, law_of_set
from sfumato.data.points import Checkerboard, Circles, Mixture, Moons, Pinwheel, PointSet, SwissRoll
from sfumato.errors import DataError
from sfumato.verify.oracles.worlds import GaussianOracle, MixtureOracle

SETS: list[PointSet] = [SwissRoll(), Moons(), Circles(), Mixture(), Pinwheel(), Checkerboard(noise=0.05)]
LEVELS = [(1.0, 0.0), (0.8, 0.15), (0.05, 0.9987)]  # alpha, sigma: clean, mild, nearly noise


def lattice(reach: float, count: int) -> Tensor:
    """Midpoints of a square [-reach, reach]², (count², 2)."""
    axis = (torch.arange(count, dtype=torch.float64) + 0.5) / count * 2 * reach - reach
    return torch.cartesian_prod(axis, axis)


@pytest.mark.parametrize("points", SETS, ids=repr)
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS[1:])
def test_the_density_has_mass_one(points: PointSet, alpha: float, sigma: float) -> None:
    """The midpoint rule of a smooth density of width at least .15 is exact to rounding at a spacing of .09."""
    reach = 3.6 if sigma < 0.5 else 8.0
    count = 80 if sigma < 0.5 else 60
    density = law_of_set(points).log_density(lattice(reach, count), alpha, sigma).exp()
    assert float(density.sum()) * (2 * reach / count) ** 2 == pytest.approx(1, abs=2e-8)


@pytest.mark.parametrize(
    ("points", "tolerance"),
    [
        *((SwissRoll(), 1e-9), (Moons(), 1e-7), (Mixture(), 1e-9), (Checkerboard(), 1e-12)),
        (Pinwheel(noise=0.2), 5e-3),  # the fold, where the density is unbounded, and a midpoint rule beside it
    ],
    ids=repr,
)
def test_clean_densities_have_mass_one(points: PointSet, tolerance: float) -> None:
    count = 120
    total = float(law_of_set(points).log_density(lattice(2.5, count)).exp().sum()) * (5 / count) ** 2
    assert total == pytest.approx(1, abs=tolerance)


@pytest.mark.parametrize("points", SETS, ids=repr)
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_the_score_is_the_gradient(points: PointSet, alpha: float, sigma: float) -> None:
    """Central differences of step 1e-5 of a density of width w err by (1e-5/w)² relative and 1e-11 of rounding."""
    if isinstance(points, Pinwheel) and sigma == 0:
        pytest.skip("its score without blur is not known")
    law = law_of_set(points)
    x = alpha * law.draw(40, 1) + sigma * torch.linspace(-2, 2, 80, dtype=torch.float64).reshape(40, 2)
    found, step = law.score(x, alpha, sigma), 1e-5
    for axis in (0, 1):
        shift = step * torch.eye(2, dtype=torch.float64)[axis]
        ahead, behind = law.log_density(x + shift, alpha, sigma), law.log_density(x - shift, alpha, sigma)
        assert torch.allclose(found[:, axis], (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("points", [*SETS, Checkerboard()], ids=repr)
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS[:2])
def test_the_density_is_that_of_the_points(points: PointSet, alpha: float, sigma: float) -> None:
    """Shares of 100,000 points in 64 cells against the integral of the density over each (14² midpoints): chi-squared.

    63 degrees of freedom exceed 120 with probability 2e-5.
    """
    law = law_of_set(points)
    noise = torch.randn(100_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x = alpha * law.draw(100_000, 3) + sigma * noise
    cells, fine, reach = 8, 14, 2.0
    where = ((x + reach) / (2 * reach) * cells).floor().long()
    inside = ((where >= 0) & (where < cells)).all(1)
    counts = torch.bincount(where[inside, 0] * cells + where[inside, 1], minlength=cells**2).double()
    density = law.log_density(lattice(reach, cells * fine), alpha, sigma).exp().reshape(cells, fine, cells, fine)
    expected = 100_000 * density.sum((1, 3)).flatten() * (2 * reach / (cells * fine)) ** 2
    seen = expected > 20
    assert float(((counts - expected).square() / expected)[seen].sum()) < 120
    assert float(counts[~seen].sum()) < 20 * 64


def test_the_mixture_is_the_oracles() -> None:
    angles = np.arange(8) * 2 * math.pi / 8
    means = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    oracle = MixtureOracle(np.ones(8), means, np.full((8, 2), 0.01))
    law = law_of_set(Mixture())
    x = lattice(1.5, 12)
    for alpha, sigma in LEVELS:
        found = law.log_density(x, alpha, sigma).numpy()
        assert np.allclose(found, oracle.log_p(x.numpy(), alpha, sigma), rtol=1e-12, atol=1e-12)
        assert np.allclose(law.score(x, alpha, sigma).numpy(), oracle.score(x.numpy(), alpha, sigma), rtol=1e-10)


def test_quadrature_is_converged() -> None:
    """A circle of radius ρ blurred by v: p(y) = exp(-(r² + ρ²)/2v²) I_0(rρ/v²)/(2πv²), for two of them."""
    law, width = law_of_set(Circles()), 0.03
    y = lattice(1.1, 15)
    r = y.norm(dim=1)
    each = [
        torch.special.i0e(r * rho / width**2) * (-((r - rho) ** 2) / (2 * width**2)).exp() / (2 * math.pi * width**2)
        for rho in (1.0, 0.5)
    ]
    expected = (each[0] + each[1]).log() - math.log(2)
    seen = expected > -200  # far from both circles 20 nodes of a panel carry the last digits of nothing
    assert torch.allclose(law.log_density(y)[seen], expected[seen], rtol=0, atol=1e-9)


def test_a_law_without_blur_is_the_limit_of_blur() -> None:
    """Checkerboard and pinwheel: the density at blur 4e-3 differs from the clean one by its curvature, below 1 %."""
    for points in (Checkerboard(), Pinwheel(noise=0.2)):
        law = law_of_set(points)
        x = law.draw(60, 5)
        near = (law.log_density(x) - law.log_density(x, 1.0, 4e-3)).abs()
        assert float(near.median()) < 1e-2
    assert float(law_of_set(Checkerboard()).log_density(torch.tensor([[-0.8, -0.8]]))) == pytest.approx(-math.log(2))


@pytest.mark.parametrize("points", [SwissRoll(), Checkerboard(noise=0.1), Pinwheel(), Mixture()], ids=repr)
def test_a_normalised_law_is_a_change_of_variables(points: PointSet) -> None:
    """Clean densities differ by log |scale|; with blur the mass is still one, and the score the gradient."""
    law, mean, scale = law_of_set(points), (0.2, -0.1), (0.7, 1.3)
    moved = law.normalized(mean, scale)
    z = moved.draw(50, 1)
    m, c = torch.tensor([mean, scale], dtype=torch.float64)
    assert torch.allclose(m + c * z, law.draw(50, 1))
    assert torch.allclose(moved.log_density(z), law.log_density(m + c * z) + math.log(0.7 * 1.3), atol=1e-9)
    total = float(moved.log_density(lattice(5.0, 120), 0.8, 0.2).exp().sum()) * (10 / 120) ** 2
    assert total == pytest.approx(1, abs=1e-7)
    shift = torch.tensor([1e-5, 0.0], dtype=torch.float64)
    slope = (moved.log_density(z + shift, 0.8, 0.2) - moved.log_density(z - shift, 0.8, 0.2)) / 2e-5
    assert torch.allclose(moved.score(z, 0.8, 0.2)[:, 0], slope, rtol=1e-5, atol=1e-4)


def test_entropies() -> None:
    """The clean checkerboard: log 2 for its area. One Gaussian of the mixture: log 8 more than its own, apart."""
    assert law_of_set(Checkerboard()).entropy(count=1000) == pytest.approx(math.log(2), abs=1e-12)
    own = GaussianOracle(np.zeros(2), np.full(2, 0.05**2)).entropy()
    assert law_of_set(Mixture(noise=0.05)).entropy() == pytest.approx(own + math.log(8), abs=0.01)


def test_modes() -> None:
    law = law_of_set(Mixture(noise=0.01))
    assert law.mode_shares is not None
    assert law.mode_shares.tolist() == [0.125] * 8
    drawn = Mixture(noise=0.01).draw(100, torch.Generator().manual_seed(0))
    assert torch.equal(law.mode_of(drawn.values), drawn.labels)
    scaled = law.normalized((1.0, 1.0), (2.0, 0.5))
    assert torch.equal(scaled.mode_of((drawn.values - 1) / torch.tensor([2.0, 0.5])), drawn.labels)
    assert law_of_set(SwissRoll()).mode_shares is None
    with pytest.raises(DataError, match="no modes"):
        law_of_set(SwissRoll()).mode_of(drawn.values)


def test_which_configurations_have_a_law() -> None:
    found = law_of(DataConfig(source="moons", noise=0.3))
    x = torch.zeros(1, 2)
    assert found is not None
    assert torch.equal(found.log_density(x), law_of_set(Moons(noise=0.3)).log_density(x))
    assert law_of(DataConfig(source="digits")) is None
    assert law_of(DataConfig(source="moons", path="points.npy")) is None


@pytest.mark.parametrize("points", [SwissRoll(noise=0.0), Mixture(noise=0.0), Pinwheel(noise=0.0)], ids=repr)
def test_curves_have_no_density(points: PointSet) -> None:
    law: Law = law_of_set(points)
    with pytest.raises(DataError, match="no density"):
        law.log_density(torch.zeros(1, 2))
    assert bool(law.log_density(torch.zeros(1, 2), 1.0, 0.2).isfinite().all())


def test_what_cannot_be_had_is_refused() -> None:
    with pytest.raises(DataError, match="no score"):
        law_of_set(Pinwheel()).score(torch.ones(1, 2))
    with pytest.raises(DataError, match="nodes"):
        law_of_set(SwissRoll(noise=0.0)).log_density(torch.zeros(1, 2), 1.0, 1e-4)
