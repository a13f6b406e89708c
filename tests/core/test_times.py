"""Training times: every density integrates to what it says, spreads spread, and draws are functions of their seed."""

import math

import pytest
import torch
from scipy.special import ndtr
from torch import Tensor

from sfumato.core import (
    CosineAngle,
    GridTimes,
    LogNormalTimes,
    LogSnrLinear,
    RectifiedFlow,
    Schedule,
    Tabulated,
    Times,
    UniformTimes,
    Ve,
    derived_generator,
)
from sfumato.core.times import Spread
from sfumato.errors import ConfigError

SPREADS: list[Spread] = ["independent", "stratified", "antithetic"]
COUNT = 8192


def generator(index: int = 0) -> torch.Generator:
    return derived_generator(0, "times", index)


def density(schedule: Schedule, t: Tensor) -> Tensor:
    """-dlog_snr/dt by central differences: independent of `slope`."""
    h = 1e-5 * torch.minimum(t - schedule.t_min, 1 - t) + 1e-9
    low, high = (t - h).clamp(min=schedule.t_min), (t + h).clamp(max=1)
    return (schedule.log_snr(low) - schedule.log_snr(high)) / (high - low)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("make", [UniformTimes, LogNormalTimes], ids=lambda make: make.__name__)
def test_weighted_draws_integrate_over_uniform_time(
    make: type[UniformTimes] | type[LogNormalTimes], schedule: Schedule, spread: Spread
) -> None:
    """E_q[f/q] is the mean of f over [t_min, 1], whatever q: f = bump(ln u) · |dlog_snr/dt| has a known integral.

    With u the noise level, ∫ bump(ln u) |dlog_snr| = 2 ∫ bump(z) dz over the schedule's span of z = ln u.
    """
    centre, width = -0.4, 0.7
    times: Times = make(spread=spread)
    drawn = times.draw(schedule, COUNT, generator())
    z = -schedule.log_snr(drawn.t) / 2
    f = (-0.5 * ((z - centre) / width) ** 2).exp() * density(schedule, drawn.t)
    values = drawn.inv_density * f
    low, high = (-float(schedule.rates(t).log_snr) / 2 for t in (schedule.t_min, 1.0))
    inside = ndtr((high - centre) / width) - ndtr((low - centre) / width)
    expected = 2 * width * math.sqrt(2 * math.pi) * inside / (1 - schedule.t_min)
    # Five standard errors of independent draws; the other spreads are closer. Pairs may correlate fully: √2.
    error = 5 * math.sqrt(2) * float(values.std()) / math.sqrt(COUNT)
    assert abs(float(values.mean()) - expected) < error + 1e-6 * expected
    if spread == "stratified":  # one draw per cell: the error is the variation inside a cell, far below 1/√n
        assert abs(float(values.mean()) - expected) < error / 20 + 1e-6 * expected


@pytest.mark.parametrize("spread", SPREADS)
def test_times_lie_in_the_span(schedule: Schedule, spread: Spread) -> None:
    steps = schedule.num_steps or 7
    for times in (UniformTimes(spread), LogNormalTimes(spread=spread), GridTimes(steps, spread)):
        drawn = times.draw(schedule, 257, generator())  # odd: an antithetic batch ends without a partner
        assert drawn.t.shape == drawn.inv_density.shape == (257,)
        assert drawn.t.dtype == drawn.inv_density.dtype == torch.float64
        lowest = schedule.t_min if not isinstance(times, GridTimes) else 1 / steps
        assert lowest * (1 - 1e-15) <= float(drawn.t.min()) <= float(drawn.t.max()) <= 1
        assert bool((drawn.inv_density > 0).all())


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_stratified_puts_one_in_each_cell(count: int) -> None:
    schedule = CosineAngle()
    t = UniformTimes("stratified").draw(schedule, count, generator()).t
    u = (t - schedule.t_min) / (1 - schedule.t_min)
    assert (u * count).floor().long().sort().values.tolist() == list(range(count))


def test_stratified_cells_come_in_random_order() -> None:
    """A slice of a batch, which one process gets, covers the whole span too."""
    t = UniformTimes("stratified").draw(CosineAngle(), 4096, generator()).t
    for part in t.chunk(4):
        assert float(part.mean()) == pytest.approx(0.5, abs=5 / math.sqrt(12 * 1024))


def test_strata_are_uniform_within_their_cells() -> None:
    inside = torch.cat(
        [UniformTimes("stratified").draw(LogSnrLinear(), 64, generator(i)).t.sort().values * 64 % 1 for i in range(64)]
    )
    assert float(inside.mean()) == pytest.approx(0.5, abs=5 / math.sqrt(12 * 4096))
    assert float(inside.var()) == pytest.approx(1 / 12, rel=0.1)


def test_antithetic_draws_come_in_pairs() -> None:
    schedule = RectifiedFlow()
    t = UniformTimes("antithetic").draw(schedule, 100, generator()).t
    torch.testing.assert_close(t[0::2] + t[1::2], torch.full((50,), 1 + schedule.t_min, dtype=torch.float64))
    k = GridTimes(10, "antithetic").draw(Tabulated(steps=10), 100, generator()).t * 10
    torch.testing.assert_close(k[0::2] + k[1::2], torch.full((50,), 11.0, dtype=torch.float64))


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_grid_covers_every_step_alike(steps: int, spread: Spread) -> None:
    """Counts of k = 1 … T: exact when stratified, within five standard errors of a binomial otherwise."""
    count = max(steps * 32, 512 // steps * steps)
    t = GridTimes(steps, spread).draw(Tabulated(steps=steps), count, generator()).t
    k = (t * steps).round()
    torch.testing.assert_close(t, k / steps, rtol=0, atol=0)
    counts = torch.bincount(k.long(), minlength=steps + 1)
    assert counts[0] == 0
    assert len(counts) == steps + 1
    expected = count / steps
    if spread == "stratified":
        assert counts[1:].tolist() == [expected] * steps
    assert float((counts[1:] - expected).abs().max()) <= 5 * math.sqrt(2 * expected) * (steps > 1)


@pytest.mark.parametrize("spread", SPREADS)
def test_log_normal_quantiles(spread: Spread) -> None:
    """ln(noise level) has the normal's mean and standard deviation where the span leaves it whole."""
    times = LogNormalTimes(-1.2, 1.2, spread)
    z = Ve().rates(times.draw(Ve(), COUNT, generator()).t).noise_level.log()
    assert float(z.mean()) == pytest.approx(-1.2, abs=5 * 1.2 / math.sqrt(COUNT))
    assert float(z.std()) == pytest.approx(1.2, rel=5 / math.sqrt(2 * COUNT))


def test_log_normal_is_truncated_not_clamped() -> None:
    """Where the span cuts the distribution, no draws pile up at its ends."""
    schedule = CosineAngle()  # noise levels from 0.33: cuts off 45 % of the default's mass
    t = LogNormalTimes(spread="independent").draw(schedule, COUNT, generator()).t
    assert len(t.unique()) == COUNT
    assert float(t.min()) > schedule.t_min


def test_log_normal_far_from_the_schedule_is_refused() -> None:
    with pytest.raises(ConfigError, match="of its mass"):
        LogNormalTimes(mean=30.0).draw(CosineAngle(), 4, generator())


@pytest.mark.parametrize("make", [lambda: GridTimes(0), lambda: LogNormalTimes(std=0.0)])
def test_settings_out_of_range_are_refused(make: object) -> None:
    with pytest.raises(ConfigError, match="times"):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("times", [UniformTimes(), GridTimes(1000), LogNormalTimes()], ids=repr)
def test_a_draw_is_a_function_of_its_generator(times: Times) -> None:
    first, again, other = (times.draw(Tabulated(), 64, generator(i)).t for i in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
