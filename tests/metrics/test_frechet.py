"""FID: against closed forms, torchmetrics and torch-fidelity; its floor, its error and its extrapolation."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.metrics import Moments, fid, fid_extrapolated, fid_floor, fid_replicates, frechet_distance, moments
from sfumato.verify.oracles import frechet

GOLDEN = Path(__file__).parents[1] / "golden" / "torch_fidelity.npz"


def normal(count: int, dim: int, seed: int = 0, *, mean: float = 0.0, std: float = 1.0) -> Tensor:
    drawn = torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return mean + std * drawn


def test_diagonal_normals_in_closed_form() -> None:
    """Σ (m - m')² + (s - s')²."""
    generator = torch.Generator().manual_seed(0)
    mean, other_mean, std, other_std = (torch.rand(9, dtype=torch.float64, generator=generator) for _ in range(4))
    found = frechet_distance(Moments(mean, torch.diag(std**2), 0), Moments(other_mean, torch.diag(other_std**2), 0))
    expected = float(((mean - other_mean) ** 2 + (std - other_std) ** 2).sum())
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "m", "dim"), [(60, 50, 7), (12, 30, 20), (15, 12, 20), (40, 12, 20)])
def test_samples_have_the_distance_of_their_moments(n: int, m: int, dim: int) -> None:
    """Three routes: singular values of the data, of roots of the covariances, eigenvalues of their product.

    Without full rank the last takes roots of rounding errors, 1e-8 each.
    """
    x, y = normal(n, dim, 1, mean=0.3) @ normal(dim, dim, 3), normal(m, dim, 2) @ normal(dim, dim, 4)
    by_moments = frechet_distance(moments(x), moments(y))
    assert fid(x, y).value == pytest.approx(by_moments, rel=1e-9)
    oracle = frechet(x.mean(0).numpy(), np.cov(x.numpy().T), y.mean(0).numpy(), np.cov(y.numpy().T))
    assert by_moments == pytest.approx(oracle, rel=1e-9 if min(n, m) > dim else 1e-6)
    assert fid_replicates(x, y, 3).whole == pytest.approx(by_moments, rel=1e-6)


def test_it_is_torch_fidelitys() -> None:
    with np.load(GOLDEN) as golden:
        x, y, expected = torch.from_numpy(golden["x"]), torch.from_numpy(golden["y"]), float(golden["fid"])
    assert fid(x, y).value == pytest.approx(expected, rel=1e-6)


def test_it_is_torchmetrics() -> None:
    images = pytest.importorskip("torchmetrics.image.fid")

    class Given(torch.nn.Module):
        """Features are handed over as they are."""

        num_features = 6

        def forward(self, x: Tensor) -> Tensor:
            return x

    x, y = normal(80, 6, 1, mean=0.2), normal(70, 6, 2, std=1.3)
    theirs = images.FrechetInceptionDistance(feature=Given(), normalize=True, input_img_size=(1, 1, 6))
    theirs.set_dtype(torch.float64)
    theirs.update(y, real=True)
    theirs.update(x, real=False)
    assert fid(x, y).value == pytest.approx(float(theirs.compute()), rel=1e-6)


def test_equal_sets_are_at_0() -> None:
    x = normal(30, 5)
    assert fid(x, x).value == pytest.approx(0, abs=1e-12)
    assert fid(x, x.flip(0)).value == pytest.approx(0, abs=1e-12)
    assert fid(x + 2, x).value == pytest.approx(4 * 5, rel=1e-12)


def test_replicates_leave_a_block_out() -> None:
    x, y = normal(23, 5, 1, mean=0.2), normal(17, 5, 2)
    found = fid_replicates(x, y, 4)
    for block in range(4):
        kept = x[torch.arange(23) % 4 != block]
        assert float(found.without[block]) == pytest.approx(fid(kept, y).value, rel=1e-7)


@pytest.mark.parametrize("dim", [4, 150])
def test_the_error_is_the_scatter_of_repeats(dim: int) -> None:
    """The root mean square of 60 errors is the standard deviation of 60 values, known to 9 %: 3 of these.

    With 100 samples of 150 features too, where the value itself is nearly all bias.
    """
    y = normal(120, dim, 10_000)
    found = [fid(normal(100, dim, k, mean=0.3, std=1.2), y) for k in range(60)]
    values, errors = (torch.tensor([getattr(e, name) for e in found]) for name in ("value", "std_error"))
    assert float(errors.square().mean().sqrt()) == pytest.approx(float(values.std()), rel=0.3)


def test_the_floor_is_what_real_samples_score() -> None:
    """Its mean over draws is that of FID of the same sizes; it falls as 1/n."""
    y = normal(2000, 8, 1)
    small, large = (fid_floor(normal(4 * n, 8, 2), y, n=n) for n in (100, 400))
    assert (small.n, large.n) == (100, 400)
    one = [fid(normal(100, 8, 100 + k), y).value for k in range(40)]
    assert abs(small.value - np.mean(one)) < 4 * math.hypot(small.std_error, np.std(one) / math.sqrt(40))
    assert small.value / large.value == pytest.approx(4, rel=0.5)
    few = fid_floor(normal(90, 8, 2), y, n=100)
    assert (few.n, few.provenance["floor"]) == (90, "one set of real pictures")


def test_the_extrapolation_finds_the_distance_of_the_laws() -> None:
    """Σ m² + (s - 1)² of N(m, s²) and N(0, 1), within 4 errors of 40 repeats; FID itself is further away than that."""
    truth = 6 * (0.3**2 + 0.2**2)
    pairs = [(normal(150, 6, 2 * k, mean=0.3, std=1.2), normal(150, 6, 2 * k + 1)) for k in range(40)]
    values, plain = (np.array([measure(x, y).value for x, y in pairs]) for measure in (fid_extrapolated, fid))
    error = values.std(ddof=1) / math.sqrt(40)
    assert abs(values.mean() - truth) < 4 * error
    assert plain.mean() - truth > 4 * plain.std(ddof=1) / math.sqrt(40)
    same = fid_extrapolated(normal(300, 6, 1), normal(300, 6, 2))
    assert abs(same.value) < 4 * same.std_error + 0.02


def test_the_extrapolation_is_its_line() -> None:
    """Twice FID of all less the mean of four halves: even and odd places, and every other pair of them."""
    x, y = normal(50, 4, 1, mean=0.3), normal(41, 4, 2)
    masks = [((torch.arange(50) >> bit) & 1) == side for bit in (0, 1) for side in (0, 1)]
    halves = [fid(x[mask], y[mask[:41]]).value for mask in masks]
    assert fid_extrapolated(x, y).value == pytest.approx(2 * fid(x, y).value - sum(halves) / 4, rel=1e-9)


def test_the_error_of_the_extrapolation() -> None:
    y = normal(300, 5, 10_000)
    found = [fid_extrapolated(normal(200, 5, k, mean=0.3), y) for k in range(60)]
    values, errors = (torch.tensor([getattr(e, name) for e in found]) for name in ("value", "std_error"))
    assert float(errors.square().mean().sqrt()) == pytest.approx(float(values.std()), rel=0.35)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_constant_features_are_finite(count: int) -> None:
    """E13: no root of a negative number, nothing complex."""
    x, y = torch.ones(count, 5), torch.zeros(8, 5)
    assert fid(x, y).value == pytest.approx(5, rel=1e-12)
    assert fid(x, torch.ones(8, 5)).value == 0
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(5, rel=1e-12)
    assert math.isfinite(fid(x, y).std_error)


def test_one_sample_is_refused() -> None:
    """E12."""
    with pytest.raises(UsageError, match="1 examples"):
        fid(normal(1, 3), normal(9, 3))
    with pytest.raises(UsageError, match="21 examples"):
        fid_extrapolated(normal(21, 3), normal(90, 3))
