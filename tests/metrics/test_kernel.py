"""KID: against loops, closed forms, torchmetrics and torch-fidelity; its error against the scatter of repeats."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.errors import DataError, UsageError
from sfumato.metrics import (
    Estimate,
    jackknife_error,
    kernel,
    kernel_mean,
    kid,
    kid_replicates,
    kid_subsets,
    share_of,
)
from sfumato.verify.oracles import kernel_distance, kernel_distance_1d

GOLDEN = Path(__file__).parents[1] / "golden" / "torch_fidelity.npz"


def normal(count: int, dim: int, seed: int = 0, *, mean: float = 0.0, std: float = 1.0) -> Tensor:
    drawn = torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return mean + std * drawn


@pytest.mark.parametrize("sizes", [(7, 7), (9, 5), (2, 2)])
def test_it_is_the_mean_over_unequal_pairs(sizes: tuple[int, int]) -> None:
    x, y = normal(sizes[0], 3, 1), normal(sizes[1], 3, 2, mean=0.4)
    assert kid(x, y).value == pytest.approx(kernel_distance(x.numpy(), y.numpy()), rel=1e-12)
    known = kid(x, y, among_reference=kernel_mean(y))
    assert known.value == kid(x, y).value


def test_its_mean_is_the_distance_of_the_laws() -> None:
    """On the line the squared distance is Σ C(3, k) (Δ m_k)²; moments of N(m, s²) are m, m² + s², m³ + 3 m s²."""
    truth = kernel_distance_1d(np.array([0.3, 0.09 + 0.64, 0.027 + 0.9 * 0.64]), np.array([0.0, 1.0, 0.0]))
    found = [kid(normal(60, 1, 2 * k, mean=0.3, std=0.8), normal(50, 1, 2 * k + 1)).value for k in range(400)]
    mean, error = np.mean(found), np.std(found) / 20
    assert abs(mean - truth) < 4 * error
    assert error < 0.1 * truth


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files if arrays[name].dtype.kind == "f"}


def test_it_is_torch_fidelitys(golden: dict[str, Tensor]) -> None:
    """One subset of all features, in float64 on both sides: the same sums in another order."""
    found = kid(golden["x"], golden["y"])
    assert found.value == pytest.approx(float(golden["kid"]), abs=1e-10)


def test_it_is_torchmetrics() -> None:
    images = pytest.importorskip("torchmetrics.image.kid")

    class Given(torch.nn.Module):
        """Features are handed over as they are."""

        num_features = 6

        def forward(self, x: Tensor) -> Tensor:
            return x

    x, y = normal(40, 6, 1, mean=0.2), normal(40, 6, 2)
    theirs = images.KernelInceptionDistance(feature=Given(), subsets=1, subset_size=40, normalize=False)
    theirs.set_dtype(torch.float64)
    theirs.update(y, real=True)
    theirs.update(x, real=False)
    assert kid(x, y).value == pytest.approx(float(theirs.compute()[0]), rel=1e-6)


def repeats(
    measure: Callable[[Tensor], Estimate], draw: Callable[[int], Tensor], count: int = 400
) -> tuple[Tensor, Tensor]:
    """Values and errors of repeats."""
    found = [measure(draw(k)) for k in range(count)]
    return torch.tensor([e.value for e in found]), torch.tensor([e.std_error for e in found])


@pytest.mark.parametrize(("mean", "std"), [(0.3, 1.0), (0.0, 1.0), (0.0, 1.15)], ids=["moved", "same law", "wider"])
def test_its_error_covers_what_it_should(mean: float, std: float) -> None:
    """±1.96 errors hold the expectation given the reference in 95 ± 3 % of 400 repeats.

    Features are normal, whose cubes have heavy tails; where the laws agree the first-order term vanishes, and the error
    stands on the second one, twice. The expectation is the mean of the repeats, known to a twentieth of an error.
    """
    y = normal(300, 4, 10_000)
    c = kernel_mean(y)
    values, errors = repeats(lambda x: kid(x, y, among_reference=c), lambda k: normal(300, 4, k, mean=mean, std=std))
    covered = float(((values - values.mean()).abs() < 1.96 * errors).double().mean())
    assert covered == pytest.approx(0.95, abs=0.03)
    assert 0.9 < float(errors.square().mean().sqrt() / values.std()) < 1.5  # 1 to sqrt 2, with the scatter of both


def test_shares_cover_what_they_should() -> None:
    """Wilson's error of a share, for the shares that precision and classes have."""
    for p in (0.5, 0.8, 0.95):
        generator = torch.Generator().manual_seed(3)
        hits = torch.rand(400, 200, generator=generator) < p
        found = [share_of(row) for row in hits]
        covered = sum(abs(e.value - p) < 1.96 * e.std_error for e in found) / 400
        assert covered == pytest.approx(0.95, abs=0.03)


def test_samples_of_one_law_are_at_0() -> None:
    found = kid(normal(500, 16, 1), normal(700, 16, 2))
    assert abs(found.value) < 4 * found.std_error
    assert kid(normal(500, 16, 1, mean=0.3), normal(700, 16, 2)).value > 4 * found.std_error


def test_the_error_is_a_jackknife() -> None:
    """Leaving out one sample at a time and measuring again, written out."""
    x, y = normal(15, 5, 1, mean=0.2), normal(17, 5, 2)
    values = [kid(torch.cat([x[:i], x[i + 1 :]]), y).value for i in range(15)]
    assert kid(x, y).std_error == pytest.approx(jackknife_error(torch.tensor(values, dtype=torch.float64)), rel=1e-10)


def test_the_second_order_is_part_of_the_error() -> None:
    """Where the laws agree it is all there is: errors fall as 1/n, not as its root."""
    y = normal(2000, 4, 1)
    c = kernel_mean(y)
    errors = [
        np.mean([kid(normal(n, 4, 50 + k), y, among_reference=c).std_error for k in range(12)]) for n in (50, 200)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.4)


def test_replicates_leave_a_block_out() -> None:
    x, y = normal(23, 5, 1, mean=0.2), normal(17, 5, 2)
    found = kid_replicates(x, y, 4)
    assert found.whole == pytest.approx(kid(x, y).value, rel=1e-11)
    for block in range(4):
        kept = x[torch.arange(23) % 4 != block]
        assert float(found.without[block]) == pytest.approx(kid(kept, y).value, rel=1e-10)


def test_subsets_scatter_around_the_whole() -> None:
    """Their mean is that of the whole within the error of the choice; all in one subset is the whole itself."""
    x, y = normal(120, 6, 1, mean=0.2), normal(150, 6, 2)
    whole = kid(x, y)
    found = kid_subsets(x, y, whole=whole, generator=torch.Generator().manual_seed(0), count=200, size=40)
    own = float(found.provenance["std_of_subsets"]) / math.sqrt(200)  # type: ignore[arg-type]
    assert abs(found.value - whole.value) < 4 * own
    assert found.std_error == pytest.approx(math.hypot(whole.std_error, own), rel=1e-12)
    one = kid_subsets(x, y[:120], whole=whole, generator=torch.Generator().manual_seed(0), count=3, size=5000)
    assert one.value == pytest.approx(kid(x, y[:120]).value, rel=1e-12)
    assert one.provenance["subset_size"] == 120


def test_a_subset_is_a_kid() -> None:
    """The sums by masks are the KID of the subset, drawn from the same generator."""
    x, y = normal(30, 4, 1), normal(25, 4, 2, mean=0.5)
    whole = kid(x, y)
    found = kid_subsets(x, y, whole=whole, generator=torch.Generator().manual_seed(7), count=1, size=10)
    generator = torch.Generator().manual_seed(7)
    first, second = (torch.randperm(n, generator=generator)[:10] for n in (30, 25))
    assert found.value == pytest.approx(kid(x[first], y[second]).value, rel=1e-11)


def test_subsets_of_large_sets_are_measured_one_by_one() -> None:
    """Where all pairs are more than those of the subsets; both ways give the same."""
    x, y = normal(90, 4, 1), normal(70, 4, 2, mean=0.5)
    found = kid_subsets(x, y, whole=kid(x, y), generator=torch.Generator().manual_seed(7), count=5, size=12)
    generator = torch.Generator().manual_seed(7)
    chosen = [kernel._indicators(len(z), 12, 5, generator) for z in (x, y)]
    values = kernel._of_subsets(x, y, *chosen, 12)
    assert found.value == pytest.approx(float(values.mean()), rel=1e-11)
    assert found.provenance["std_of_subsets"] == pytest.approx(float(values.std()), rel=1e-9)


@pytest.mark.parametrize("count", [2, 3, 4, 10])
def test_constant_features_are_finite(count: int) -> None:
    """E13: all pictures alike. The same on both sides is at 0, another is not; nothing scatters."""
    x = torch.ones(count, 5)
    assert kid(x, torch.ones(4, 5)).value == 0
    found = kid(x, torch.zeros(4, 5))
    assert found.value == pytest.approx(8 + 1 - 2, rel=1e-12)
    assert math.isfinite(found.std_error)


@pytest.mark.parametrize(
    ("x", "y", "error"),
    [
        (torch.zeros(0, 3), torch.zeros(5, 3), UsageError),
        (torch.zeros(1, 3), torch.zeros(5, 3), UsageError),
        (torch.zeros(5, 3), torch.zeros(1, 3), UsageError),
        (torch.zeros(5, 3), torch.zeros(5, 4), DataError),
        (torch.full((5, 3), torch.nan), torch.zeros(5, 3), DataError),
    ],
)
def test_refusals(x: Tensor, y: Tensor, error: type[Exception]) -> None:
    """E12: nothing is said of one sample."""
    with pytest.raises(error):
        kid(x, y)
