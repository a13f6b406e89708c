"""Noise: Gaussian by scipy's tests, bitwise per seed in any batch; one Brownian path shared by every grid of times."""

import itertools
import math

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from sfumato.core import CosineAngle, LogSnrLinear, NoiseSource, Rates, batch_noise, derived_generator, derived_seed
from sfumato.errors import ConfigError

SCHEDULE = LogSnrLinear()


def at(log_snr: float) -> Rates:
    return SCHEDULE.rates(SCHEDULE.time(torch.tensor(log_snr, dtype=torch.float64)))


def increment(source: NoiseSource, start: float, stop: float, *shape: int) -> Tensor:
    """The increment over log_snr from start to stop > start, in float64."""
    like = torch.zeros(len(source.seeds), *shape, dtype=torch.float64)
    return source.increment(at(start), at(stop), like)


def draws(kind: str, source: NoiseSource, count: int) -> Tensor:
    like = torch.zeros(len(source.seeds), count)
    if kind == "initial":
        return source.initial(tuple(like.shape), like=like)
    return source.normal(like, draw=3) if kind == "normal" else source.increment(at(-2.0), at(1.0), like)


KINDS = ["initial", "normal", "increment"]


# --- the numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_gaussian(kind: str) -> None:
    """Moments up to the fourth within five standard errors, and Kolmogorov-Smirnov, over 400,000 numbers."""
    x = draws(kind, NoiseSource.of(seed=1, count=400), 1000).double().flatten()
    n = x.numel()
    moments = {1: (0.0, 1.0), 2: (1.0, 2.0), 3: (0.0, 15.0), 4: (3.0, 96.0)}  # of N(0, 1): E x^p and Var x^p
    for power, (mean, var) in moments.items():
        assert float((x**power).mean()) == pytest.approx(mean, abs=5 * math.sqrt(var / n)), power
    assert kstest(x.numpy(), "norm").pvalue > 1e-3  # seeds are fixed: this either holds or does not
    assert 4.0 < float(x.abs().max()) < 7.0  # tails: 400,000 normals reach 4.9; Box-Muller on 32 bits ends at 6.8


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_are_independent(kind: str) -> None:
    """Correlations of adjacent seeds, of adjacent elements, and of both halves of Box-Muller; of values and squares."""
    x = draws(kind, NoiseSource.of(seed=7, count=512), 512).double()
    pairs = {"seeds": (x[:-1], x[1:]), "elements": (x[:, :-1], x[:, 1:]), "halves": (x[:, :256], x[:, 256:])}
    for name, (a, b) in pairs.items():
        for f in (lambda v: v, lambda v: (v**2 - 1) / math.sqrt(2)):
            correlation = float((f(a) * f(b)).mean())
            assert abs(correlation) < 5 / math.sqrt(a.numel()), name


def test_far_seeds_and_extreme_seeds_differ() -> None:
    seeds = torch.tensor([0, 1, -1, 2**31, 2**62, -(2**62)])
    x = NoiseSource(seeds).initial((6, 256), like=torch.zeros(())).double()
    gram = x @ x.T / 256
    assert float((gram - torch.eye(6)).abs().max()) < 5 * math.sqrt(2 / 256)


def test_purposes_and_draws_share_nothing() -> None:
    source = NoiseSource.of(seed=0, count=64)
    like = torch.zeros(64, 1024)
    streams = [source.initial((64, 1024), like=like), *(source.normal(like, draw=k) for k in (0, 1, 2, 1000, 1 << 32))]
    streams += [source.increment(at(-3.0), at(3.0), like)]
    for a, b in itertools.combinations(streams, 2):
        assert abs(float((a * b).mean())) < 5 / math.sqrt(a.numel())


# --- bits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1,), (3,), (7,), (3, 5, 7), (1, 8, 8), (3, 32, 32)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_sample_i_of_a_seed_is_sample_0_of_the_next(kind: str, shape: tuple[int, ...]) -> None:
    """Bit for bit, alone or in any batch, at any place in it."""
    count = math.prod(shape)
    batch = draws(kind, NoiseSource.of(seed=5, count=9), count)
    for i in range(9):
        assert torch.equal(draws(kind, NoiseSource.of(seed=5 + i, count=1), count)[0], batch[i])
    assert torch.equal(draws(kind, NoiseSource.of(seed=5, count=4, first=3), count), batch[3:7])
    shuffled = draws(kind, NoiseSource(torch.tensor([13, 5, 9])), count)
    assert torch.equal(shuffled, batch[[8, 0, 4]])


def test_a_draw_depends_on_nothing_drawn_before() -> None:
    used = NoiseSource.of(seed=2, count=3)
    for start, stop in itertools.pairwise((-9.0, -4.0, -1.0, 0.5, 6.0, 12.0)):
        increment(used, start, stop, 4)
    used.normal(torch.zeros(3, 4), draw=0)
    used.initial((3, 4), like=torch.zeros(()))
    fresh = NoiseSource.of(seed=2, count=3)
    assert torch.equal(increment(used, -2.0, 3.0, 4), increment(fresh, -2.0, 3.0, 4))
    assert torch.equal(increment(used, -9.0, -4.0, 4), increment(fresh, -9.0, -4.0, 4))


def test_one_source_serves_two_shapes() -> None:
    source = NoiseSource.of(seed=2, count=3)
    wide = increment(source, -1.0, 1.0, 6)
    assert torch.equal(increment(source, -1.0, 1.0, 5), increment(NoiseSource.of(seed=2, count=3), -1.0, 1.0, 5))
    assert torch.equal(increment(source, -1.0, 1.0, 6), wide)


def test_dtype_follows_the_state() -> None:
    source = NoiseSource.of(seed=0, count=2)
    single, double = (source.normal(torch.zeros(2, 3, dtype=d), draw=0) for d in (torch.float32, torch.float64))
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert torch.equal(single.double(), double)


def test_derived_seeds_are_a_fixed_function() -> None:
    """63 bits of SHA-256: a run resumed by a later version must draw the same numbers."""
    assert derived_seed(0, "times", 1) == int.from_bytes(bytes.fromhex(SHA_TIMES)[:8], "little") >> 1
    assert len({derived_seed(s, p, i) for s in range(4) for p in ("a", "b") for i in range(4)}) == 32
    assert torch.equal(
        torch.rand(4, generator=derived_generator(3, "x", 1)), torch.rand(4, generator=derived_generator(3, "x", 1))
    )


SHA_TIMES = "2e474098521ef59365dc59ae26eaf1124ffcbebbfd35bd565ec6bd105658a542"  # printf 0:times:1 | sha256sum


def test_batch_noise_is_drawn_whole_and_sliced() -> None:
    """The noise of a global batch does not depend on how many processes share it; float32 N(0, 1)."""
    whole = batch_noise((64, 3, 32, 32), 0, "noise", 5)
    assert torch.equal(whole, batch_noise((64, 3, 32, 32), 0, "noise", 5))
    assert not torch.equal(whole[:8], batch_noise((64, 3, 32, 32), 0, "noise", 6)[:8])
    assert whole.dtype == torch.float32
    assert float(whole.mean()) == pytest.approx(0, abs=5 / math.sqrt(whole.numel()))
    assert float(whole.var()) == pytest.approx(1, abs=5 * math.sqrt(2 / whole.numel()))


# --- the Brownian path -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [(-6.0, 0.0, 6.0), (-9.3, -9.1, 4.0), (-5.0, -4.0, -2.5, 0.0, 0.01, 7.0)], ids=str)
def test_increments_add_up_over_unions(cuts: tuple[float, ...]) -> None:
    """W(last) - W(first) is the sum of the parts, each weighted by the root of its length."""
    source = NoiseSource.of(seed=3, count=50)
    parts = [math.sqrt(b - a) * increment(source, a, b, 7) for a, b in itertools.pairwise(cuts)]
    whole = math.sqrt(cuts[-1] - cuts[0]) * increment(source, cuts[0], cuts[-1], 7)
    # Times are rounded to a lattice of 0.001 nats, so the weights are off by up to 0.0005/length of a part: for that of
    # 0.01 nats it is 5 % of an increment of size 0.1.
    torch.testing.assert_close(sum(parts), whole, rtol=0, atol=0.03)


@pytest.mark.parametrize("length", [0.002, 0.05, 1.0, 20.0])
def test_increments_have_unit_variance_at_every_length(length: float) -> None:
    x = increment(NoiseSource.of(seed=11, count=400), -7.0, -7.0 + length, 100)
    assert float(x.var()) == pytest.approx(1, abs=5 * math.sqrt(2 / x.numel()))
    assert float(x.mean()) == pytest.approx(0, abs=5 / math.sqrt(x.numel()))


def test_increments_over_disjoint_intervals_are_independent() -> None:
    """All pairs of 40 consecutive steps of a sampler, 20,000 numbers each: correlations within five standard errors."""
    source = NoiseSource.of(seed=0, count=200)
    cuts = torch.linspace(-12.0, 12.0, 41).tolist()
    x = torch.stack([increment(source, a, b, 100).flatten() for a, b in itertools.pairwise(cuts)])
    gram = x @ x.T / x.shape[1]
    assert float((gram - torch.eye(40)).abs().max()) < 5 * math.sqrt(2 / x.shape[1])


def test_the_path_is_of_log_snr_not_of_time() -> None:
    """Two schedules between the same log-SNRs use the same increments, to the lattice."""
    other = CosineAngle()
    like = torch.zeros(3, 5)
    ours = NoiseSource.of(seed=1, count=3).increment(at(-4.0), at(1.0), like)
    t, s = (other.rates(other.time(torch.tensor(v, dtype=torch.float64))) for v in (-4.0, 1.0))
    torch.testing.assert_close(NoiseSource.of(seed=1, count=3).increment(t, s, like), ours, rtol=0, atol=0)


def test_times_too_close_for_the_path_are_refused() -> None:
    with pytest.raises(ConfigError, match="nats of log-SNR apart"):
        increment(NoiseSource.of(seed=0, count=1), 0.0, 1e-5, 2)


def test_memory_does_not_grow_with_the_steps() -> None:
    source = NoiseSource.of(seed=0, count=2)
    cuts = torch.linspace(-10.0, 10.0, 601).tolist()
    for a, b in itertools.pairwise(cuts):
        increment(source, a, b, 3)
    assert len(source._tree) <= 2 * 18  # two root-to-leaf walks at the most
