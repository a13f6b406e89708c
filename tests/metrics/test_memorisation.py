"""Copies and chance: the shares of a model that knows no example are known in closed form, in any dimension."""

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.errors import DataError, UsageError
from sfumato.metrics.memorisation import (
    CHANCE,
    COPY,
    Closeness,
    chance_share,
    closeness,
    copies,
    copy_share,
    copy_threshold,
    equal_parts,
    leaning,
    wilson,
)


def cloud(count: int, dim: int, seed: int) -> Tensor:
    """Points of N(0, I)."""
    return torch.from_numpy(np.random.default_rng([seed, dim, count]).standard_normal((count, dim)))


def innocent(n: int, training: int, held_out: int, dim: int, seed: int = 0) -> Closeness:
    """The closeness of a model that draws from the law itself."""
    return closeness([cloud(n, dim, seed)], cloud(training, dim, seed + 1), cloud(held_out, dim, seed + 2))


# --------------------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize(("training", "held_out"), [(64, 64), (540, 60), (60_000, 8000), (65, 64), (7, 4)])
def test_no_training_example_escapes_and_sides_are_equal(training: int, held_out: int) -> None:
    parts = equal_parts(training, held_out)
    assert torch.equal(torch.cat(parts.training).sort().values, torch.arange(training))
    (unseen,) = parts.held_out
    sizes = {len(part) for part in parts.training}
    assert sizes <= {parts.size, parts.size + 1}
    assert len(unseen) == parts.size <= held_out
    assert len(unseen.unique()) == len(unseen)
    assert len(parts.training) == math.ceil(training / held_out)


def test_many_held_out_examples_make_several_measures() -> None:
    parts = equal_parts(64, 8000)
    (mine,) = parts.training
    assert torch.equal(mine, torch.arange(64))
    assert [len(part) for part in parts.held_out] == [64] * 125
    assert len(torch.cat(parts.held_out).unique()) == 8000
    assert max(int(part.diff().max()) for part in parts.held_out) <= 2 * 125  # all over the order, not one stretch


def test_too_few_are_refused() -> None:
    for sizes in ((3, 100), (100, 0)):
        with pytest.raises(DataError, match="too few"):
            equal_parts(*sizes)
    with pytest.raises(UsageError):
        closeness([cloud(0, 2, 0)], cloud(9, 2, 0), cloud(9, 2, 1))


# -------------------------------------------------------------------------------------------------------------- chance


@pytest.mark.parametrize("dim", [1, 2, 4])
@pytest.mark.parametrize("threshold", [1 / 3, 0.7])
def test_chance_follows_the_dimension(dim: int, threshold: float) -> None:
    """P(d_T < c d_H) = c^D/(1 + c^D), for dense points: 4 standard errors and 3 % for the density's slope."""
    found = innocent(4000, 3000, 3000, dim)
    expected = threshold**dim / (1 + threshold**dim)
    for share in (copy_share(found, threshold), chance_share(found, threshold)):
        assert abs(share.value - expected) < 4 * share.std_error + 0.03 * expected + 4e-4
        # the stated error is the binomial one, or a little more; samples that share neighbours scatter by more than it
        assert 0.5 < share.std_error / math.sqrt(expected * (1 - expected) / 4000) < 2


def test_chance_in_several_parts_is_counted_in_each() -> None:
    """Four parts: the mean number of parts is 4 c^D/(1 + c^D), and the share flagged in any is no larger."""
    found = innocent(4000, 8000, 2000, 2)
    assert found.training.shape == (4000, 4)
    each = 0.5**2 / (1 + 0.5**2)
    floor, share = chance_share(found, 0.5), copy_share(found, 0.5)
    assert abs(floor.value - 4 * each) < 5 * floor.std_error + 0.02
    assert share.value < floor.value
    assert share.value > 1.5 * each


@pytest.mark.parametrize(("dim", "sizes"), [(1, (500, 500)), (2, (1000, 250)), (3, (200, 900)), (40, (400, 400))])
def test_the_threshold_keeps_chance_below_one_in_400(dim: int, sizes: tuple[int, int]) -> None:
    """In one dimension half of the distance is nothing unusual; in forty it never happens, and a half it is."""
    found = innocent(1000, *sizes, dim)
    threshold = copy_threshold(found)
    assert 0 < threshold <= COPY
    assert chance_share(found, threshold).value <= CHANCE + 1e-12
    assert (threshold == COPY) == (dim == 40)
    assert copy_share(found, threshold).value < 4 * CHANCE
    if dim < 40:
        wider = 1.000001 * threshold
        assert chance_share(found, wider).value > CHANCE - 1e-3  # not smaller than it need be


# -------------------------------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize("sizes", [(300, 300), (1000, 150), (80, 700)])
def test_the_share_of_copies_is_found(sizes: tuple[int, int]) -> None:
    """Of 1,000 samples 300 are training examples with a little noise."""
    training, held_out, dim = cloud(sizes[0], 20, 1), cloud(sizes[1], 20, 2), 20
    chosen = torch.arange(300) * sizes[0] // 300
    near = training[chosen] + 0.02 * cloud(300, dim, 3)
    found = closeness([torch.cat([near, cloud(700, dim, 4)])], training, held_out)
    share = copy_share(found, copy_threshold(found))
    assert share.provenance["copies"] == 300
    assert share.value == pytest.approx(0.3)
    assert torch.equal(copies(found, COPY), torch.arange(1000) < 300)
    assert torch.equal(found.original(torch.arange(300)), chosen)
    assert chance_share(found, COPY).value == 0
    lean = leaning(found)
    assert abs(lean.value - 0.3) < 4 * lean.std_error  # the others have no preference
    assert sizes[0] > 300 or float(str(lean.provenance["z"])) > 3  # few held-out examples make it blunt
    assert set(found.closest(300).tolist()) == set(range(300))


def test_neither_scale_nor_rotation_nor_order_matters() -> None:
    samples, training, held_out = cloud(200, 6, 0), cloud(90, 6, 1), cloud(40, 6, 2)
    turn = torch.linalg.qr(cloud(6, 6, 3)).Q
    plain = closeness([samples], training, held_out)
    other = closeness([7 * samples.flip(0) @ turn], 7 * training @ turn, 7 * held_out @ turn)
    torch.testing.assert_close(other.ratio.flip(0), plain.ratio, rtol=1e-6, atol=0)
    for share in (copy_share, chance_share):
        assert share(other, 0.8).value == share(plain, 0.8).value
    assert leaning(other).value == leaning(plain).value
    assert leaning(other).std_error == pytest.approx(leaning(plain).std_error)


def test_a_mirrored_copy_is_a_copy() -> None:
    """Both forms of a sample count, on both sides alike: mirrored held-out examples are no copies."""
    training, held_out = cloud(50, 8, 0), cloud(50, 8, 1)
    samples = torch.cat([training[:10].flip(1), held_out[:10].flip(1)]) + 0.01 * cloud(20, 8, 2)
    plain, both = closeness([samples], training, held_out), closeness([samples, samples.flip(1)], training, held_out)
    assert not copies(plain, COPY).any()
    assert torch.equal(copies(both, COPY), torch.arange(20) < 10)
    assert chance_share(both, COPY).value == 0.5
    assert torch.equal(both.original(torch.arange(10)), torch.arange(10))
    assert torch.equal(both.held_out_neighbour(torch.arange(10, 20)), torch.arange(10))


def test_an_example_of_both_sides_is_no_evidence() -> None:
    shared = cloud(20, 5, 0)
    found = closeness([shared[:5]], shared, shared)
    assert found.ratio.tolist() == [1.0] * 5
    assert copy_share(found, COPY).value == 0
    assert leaning(found).value == 0


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(("n", "sizes", "dim"), [(12, (4, 4), 1), (40, (5, 5), 3), (25, (8, 4), 2), (25, (4, 8), 2)])
def test_the_error_of_leaning_is_that_of_all_exchanges(n: int, sizes: tuple[int, int], dim: int) -> None:
    """Every way to cut the pool in two: mean 0, and the variance of the whole distribution is the one stated."""
    pool = sum(sizes)
    samples, points = cloud(n, dim, 5), cloud(pool, dim, 6)
    values, stated = [], []
    for mine in combinations(range(pool), sizes[0]):
        theirs = sorted(set(range(pool)) - set(mine))
        found = leaning(closeness([samples], points[list(mine)], points[theirs]))
        values.append(found.value)
        stated.append(found.std_error)
    assert np.mean(values) == pytest.approx(0, abs=1e-12)
    assert stated == pytest.approx([float(np.std(values))] * len(stated))


@pytest.mark.parametrize("sizes", [(60, 60), (240, 40), (40, 240)])
def test_the_error_of_leaning_covers(sizes: tuple[int, int]) -> None:
    """400 models that know nothing: 0 in the mean, and within 1.96 errors in 95 ± 3 % of them."""
    found = [leaning(innocent(100, *sizes, 3, seed=10 * k)) for k in range(400)]
    values, errors = (np.array([getattr(one, name) for one in found]) for name in ("value", "std_error"))
    assert abs(values.mean()) < 4 * values.std() / 20
    assert 0.92 < (np.abs(values) < 1.96 * errors).mean() < 0.98


def test_leaning_of_a_model_that_only_copies_is_one() -> None:
    """Whatever the sizes, though the copies be too rough to be told one by one."""
    for sizes in ((300, 300), (900, 100), (100, 900)):
        training = cloud(sizes[0], 30, 1)
        samples = training[torch.arange(200) % sizes[0]] + 0.65 * cloud(200, 30, 2)
        found = closeness([samples], training, cloud(sizes[1], 30, 3))
        assert leaning(found).value > 0.99
        assert copy_share(found, COPY).value < 0.3


def test_wilsons_interval_is_wilsons() -> None:
    """None of ten: 0 to z²/(n + z²); a published example: 81 of 263 is 0.2553 to 0.3662 (Newcombe 1998, table I)."""
    nothing = wilson(0, 10)
    assert (nothing.low, nothing.high) == (0.0, pytest.approx(1.959964**2 / (10 + 1.959964**2)))
    found = wilson(81, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    assert wilson(10, 10).high == pytest.approx(1.0)


def test_the_interval_covers() -> None:
    """Wilson's interval of the share of copies over all outcomes of a binomial: 95 ± 3 % at shares of 0.02 to 0.98."""
    n = 300
    counts = np.arange(n + 1)
    inside = [wilson(int(k), n) for k in counts]
    log_choose = np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in counts])
    for p in np.linspace(0.02, 0.98, 25):
        weight = np.exp(log_choose + counts * math.log(p) + (n - counts) * math.log1p(-p))
        covered = sum(w for w, i in zip(weight, inside, strict=True) if i.low <= p <= i.high)
        assert 0.92 < covered < 0.98, p


def test_everything_says_how_it_was_measured() -> None:
    found = innocent(50, 90, 30, 5)
    shares: list[Callable[[], object]] = [
        lambda: copy_share(found, COPY, {"extractor": "x"}).provenance,
        lambda: chance_share(found, COPY, {"extractor": "x"}).provenance,
        lambda: leaning(found, {"extractor": "x"}).provenance,
    ]
    for share in shares:
        facts = share()
        assert isinstance(facts, dict)
        assert (facts["extractor"], facts["examples_a_side"], facts["parts"]) == ("x", 30, 3)
