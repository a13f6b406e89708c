"""Nearest neighbours are exact; precision, recall, density and coverage are their definitions, errors their scatter."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.metrics import Estimate, coverage, density, nearest, neighbours, precision, recall
from sfumato.verify.oracles import balls

GOLDEN = Path(__file__).parents[1] / "golden" / "torch_fidelity.npz"
MEASURES = {"precision": precision, "recall": recall, "density": density, "coverage": coverage}


def normal(count: int, dim: int, seed: int = 0, *, mean: float = 0.0, std: float = 1.0) -> Tensor:
    drawn = torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return mean + std * drawn


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_nearest_is_exact(k: int, offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all distances in float64, far from the origin too, cut into pieces, with some near-copies."""
    monkeypatch.setattr(neighbours, "FLAT", 500)
    r = normal(40, 12, 2) + offset
    q = torch.cat([normal(23, 12, 1) + offset, r[:5] + 1e-6 * normal(5, 12, 3)])
    expected = torch.cdist(q, r, compute_mode="donot_use_mm_for_euclid_dist").sort(dim=1)
    found = nearest(q, r, k=k)
    assert torch.equal(found.indices, expected.indices[:, :k])
    torch.testing.assert_close(found.distances, expected.values[:, :k], rtol=1e-9, atol=0)
    assert found.indices[23:, 0].tolist() == list(range(5))


def test_copies_are_at_distance_0() -> None:
    """Float32 products would leave 1e-3 of a picture's own length."""
    r = 200 + normal(30, 700)
    found = nearest(r.float(), r.float(), k=2)
    assert torch.equal(found.indices[:, 0], torch.arange(30))
    assert bool((found.distances[:, 0] == 0).all())
    assert bool((found.distances[:, 1] > 1).all())


def test_what_cannot_be_near_is_refused() -> None:
    for queries, references, k in ((normal(3, 2), normal(4, 2), 5), (normal(3, 2), normal(4, 3), 1)):
        with pytest.raises(UsageError, match="nearest of"):
            nearest(queries, references, k=k)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("n", "m"), [(40, 40), (60, 31)])
def test_they_are_their_definitions(n: int, m: int, k: int) -> None:
    x, y = normal(n, 3, 1, mean=0.5), normal(m, 3, 2)
    expected = balls(x.numpy(), y.numpy(), k)
    for name, measure in MEASURES.items():
        assert measure(x, y, k=k).value == pytest.approx(getattr(expected, name), rel=1e-12), name


def test_they_are_torch_fidelitys() -> None:
    with np.load(GOLDEN) as golden:
        x, y = torch.from_numpy(golden["x"]), torch.from_numpy(golden["y"])
        expected = {name: float(golden[name]) for name in ("precision", "recall")}
    for name, value in expected.items():
        assert MEASURES[name](x, y).value == pytest.approx(value, abs=1e-6), name  # theirs is a mean in float32


def test_they_see_what_they_are_for() -> None:
    """Half of the modes: precise, not recalled; noise around all of them: recalled, not precise."""
    modes = torch.tensor([[10.0 * k, 0.0] for k in range(6)], dtype=torch.float64)
    y = modes[torch.arange(300) % 6] + normal(300, 2, 1)
    half = modes[torch.arange(300) % 3] + normal(300, 2, 2)
    wide = modes[torch.arange(300) % 6] + normal(300, 2, 3, std=5.0)
    assert precision(half, y).value > 0.9
    assert recall(half, y).value == pytest.approx(0.5, abs=0.1)
    assert coverage(half, y).value == pytest.approx(0.5, abs=0.05)
    assert precision(wide, y).value < 0.6
    assert recall(wide, y).value > 0.9


def test_real_samples_score_as_papers_say() -> None:
    """Density is 1 in the mean for samples of the same law, coverage 1 - Π_{i<k} (m - 1 - i)/(n + m - 1 - i) exactly.

    A ball holds no sample where the k nearest others of its centre all come before the first of n samples, in a random
    order of n + m - 1 points (Naeem et al. 2020, §3.3).
    """
    n, m, k, rounds = 60, 60, 5, 80
    pairs = [(normal(n, 4, 2 * s), normal(m, 4, 2 * s + 1)) for s in range(rounds)]
    dense, covered = (np.array([measure(x, y).value for x, y in pairs]) for measure in (density, coverage))
    assert abs(dense.mean() - 1) < 4 * dense.std() / np.sqrt(rounds)
    missed = np.prod([(m - 1 - i) / (n + m - 1 - i) for i in range(k)])
    assert abs(covered.mean() - (1 - missed)) < 4 * covered.std() / np.sqrt(rounds)


def repeats(name: str, count: int, n: int = 100) -> tuple[Tensor, Tensor]:
    y = normal(120, 3, 10_000)
    found = [MEASURES[name](normal(n, 3, k, mean=0.6), y) for k in range(count)]
    return torch.tensor([e.value for e in found]), torch.tensor([e.std_error for e in found])


@pytest.mark.parametrize("name", ["precision", "density"])
def test_errors_cover_the_expectation(name: str) -> None:
    """±1.96 errors hold the expectation given the reference in 95 ± 3 % of 400 repeats."""
    values, errors = repeats(name, 400)
    covered = float(((values - values.mean()).abs() < 1.96 * errors).double().mean())
    assert covered == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("name", ["recall", "coverage"])
def test_jackknives_are_not_too_small(name: str) -> None:
    """±1.96 errors of shares that jump hold the expectation in 92 % or more of 100 repeats; none is twice too large.

    The jackknife counts what one ball alone covers as lost, though its neighbours grow.
    """
    values, errors = repeats(name, 100)
    assert float(((values - values.mean()).abs() < 1.96 * errors).double().mean()) >= 0.92
    assert 0.9 < float(errors.square().mean().sqrt() / values.std()) < 2


@pytest.mark.parametrize("name", ["recall", "coverage"])
def test_the_jackknife_is_that_of_the_measure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks left out at once give what leaving them out and measuring again gives."""
    x, y = normal(41, 3, 1, mean=0.4), normal(37, 3, 2)
    kept: list[Tensor] = []
    monkeypatch.setattr(neighbours, "jackknife_error", lambda without: kept.append(without) or 0.0)
    blocks = len(MEASURES[name](x, y) and kept[0])
    again = [MEASURES[name](x[torch.arange(41) % blocks != b], y).value for b in range(blocks)]
    assert kept[0].tolist() == pytest.approx(again, abs=1e-12)


@pytest.mark.parametrize("name", list(MEASURES))
def test_copies_and_constants(name: str) -> None:
    """E13: the data themselves score 1 by all but density, however many of them are equal; constants are finite."""
    y = normal(30, 4).repeat(2, 1)
    found = MEASURES[name](y, y)
    assert found.value == 1.0 or name == "density"
    flat = MEASURES[name](torch.ones(30, 4), torch.ones(30, 4))
    assert isinstance(flat, Estimate)
    assert flat.value == (1.0 if name != "density" else 6.0)  # 30 balls hold each sample, over k = 5
    assert MEASURES[name](torch.ones(30, 4), torch.zeros(30, 4)).value == 0.0


@pytest.mark.parametrize("name", list(MEASURES))
def test_too_few_are_refused(name: str) -> None:
    """E12."""
    with pytest.raises(UsageError):
        MEASURES[name](normal(1 if name == "density" else 0, 3), normal(20, 3))
    with pytest.raises(UsageError):
        MEASURES[name](normal(20, 3), normal(3, 3))
