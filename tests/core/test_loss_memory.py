"""Times that follow the losses: shares by hand, an objective that stays what it was, and a variance that falls."""

import math

import pytest
import torch
from torch import Tensor

from sfumato.core import CosineAngle, LossAwareTimes, LossMemory, Schedule, Tabulated, derived_generator
from sfumato.core.times import Spread
from sfumato.errors import CheckpointError, ConfigError

SPREADS: list[Spread] = ["independent", "stratified", "antithetic"]
CHAIN = Tabulated(steps=10)


def profile(t: Tensor) -> Tensor:
    """Losses that fall by five orders of magnitude along the span, as those of a noise predictor's bound do."""
    return 1e-3 + (-12 * t).exp() * 100


def filled(times: LossAwareTimes, schedule: Schedule) -> LossMemory:
    """A memory that has seen the profile everywhere."""
    memory = times.memory(schedule)
    middles = memory.start + (1 - memory.start) * (torch.arange(memory.bins, dtype=torch.float64) + 0.5) / memory.bins
    for _ in range(times.history):
        memory.add(middles, profile(middles))
    return memory


def test_shares_by_hand() -> None:
    """Root mean squares of the last two: sqrt((9 + 16)/2) and sqrt((1 + 1)/2), a tenth of it all uniform."""
    memory = LossMemory(bins=2, history=2, start=0.0)
    memory.add(torch.tensor([0.5, 1.0, 0.5, 1.0, 0.5]).double(), torch.tensor([7.0, 1.0, -3.0, 1.0, 4.0]).double())
    first, second = math.sqrt(12.5), 1.0
    expected = [0.9 * r / (first + second) + 0.05 for r in (first, second)]
    assert memory.shares(0.1).tolist() == pytest.approx(expected, rel=1e-15)
    assert float(memory.shares(0.1).sum()) == pytest.approx(1, rel=1e-15)


def test_uniform_until_every_part_has_its_history() -> None:
    memory = LossMemory(bins=3, history=2, start=0.0)
    thirds = torch.tensor([1, 2, 3], dtype=torch.float64) / 3
    for losses in ([9.0, 1.0, 1.0], [9.0, 1.0, math.nan]):
        memory.add(thirds, torch.tensor(losses, dtype=torch.float64))
        assert memory.shares(0.001).tolist() == [1 / 3] * 3
    assert memory.seen.tolist() == [2, 2, 1]  # what is not finite is passed over
    memory.add(thirds[2:], torch.ones(1, dtype=torch.float64))
    assert float(memory.shares(0.001)[0]) > 0.8


def test_losses_of_nothing_leave_the_times_uniform() -> None:
    memory = LossMemory(bins=2, history=1, start=0.0)
    memory.add(torch.tensor([0.5, 1.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    assert memory.shares(0.001).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("history", [1, 3, 8])
def test_one_batch_is_the_same_as_its_losses_one_by_one(history: int) -> None:
    """In their order, also where a batch brings more to a part than it remembers."""
    generator = derived_generator(0, "losses")
    t = torch.randint(1, 6, (200,), generator=generator).double() / 5
    losses = torch.rand(200, generator=generator, dtype=torch.float64)
    whole, each = (LossMemory(bins=5, history=history, start=0.0) for _ in range(2))
    for part in (slice(0, 7), slice(7, 120), slice(120, 200)):
        whole.add(t[part], losses[part])
    for one in range(200):
        each.add(t[one : one + 1], losses[one : one + 1])
    assert whole.losses.equal(each.losses)
    assert whole.seen.equal(each.seen)
    last = [losses[(t * 5).round() == k + 1][-history:].sort().values for k in range(5)]
    assert whole.losses.sort(dim=1).values.equal(torch.stack(last))


@pytest.mark.parametrize("steps", [1, 7, 100, 1000])
def test_each_step_of_a_chain_is_its_own_part(steps: int) -> None:
    memory = LossAwareTimes().memory(Tabulated(steps=steps))
    k = torch.arange(1, steps + 1, dtype=torch.float64)
    assert memory.part_of(k / steps).tolist() == list(range(steps))


@pytest.mark.parametrize("spread", SPREADS)
def test_the_expectation_is_that_of_uniform_steps(spread: Spread) -> None:
    """Enumerated: the sum over steps of p_k · f_k/(T p_k) = mean of f, to rounding."""
    times = LossAwareTimes(spread=spread, uniform=0.01)
    memory = filled(times, CHAIN)
    shares = memory.shares(times.uniform)
    drawn = times.draw(CHAIN, 200_000, derived_generator(0, "times"), memory)
    k = (drawn.t * 10).round().long()
    torch.testing.assert_close(drawn.t, k.double() / 10, rtol=0, atol=0)  # on the grid, to the bit
    weight = torch.zeros(10, dtype=torch.float64).index_put((k - 1,), drawn.inv_density)
    f = torch.linspace(3, -8, 10, dtype=torch.float64)
    assert float((shares * weight * f).sum()) == pytest.approx(float(f.mean()), rel=1e-12)
    found = torch.bincount(k - 1, minlength=10) / len(k)
    # the shares that are drawn are those that are undone: five standard errors of a count, √2 for pairs
    error = 5 * (2 * shares / len(k)).sqrt()
    assert bool(((found - shares).abs() <= error).all())


@pytest.mark.parametrize("spread", SPREADS)
def test_weighted_draws_integrate_over_the_span(spread: Spread, schedule: Schedule) -> None:
    """Mean of inv_density · f, f = t²: (1 + m + m²)/3 over [m, 1]; mean of k²/T² for a chain."""
    times = LossAwareTimes(bins=13, spread=spread, uniform=0.05)
    drawn = times.draw(schedule, 8192, derived_generator(1, "times"), filled(times, schedule))
    values = drawn.inv_density * drawn.t**2
    low, steps = schedule.t_min, schedule.num_steps
    expected = (1 + low + low**2) / 3 if steps is None else (steps + 1) * (2 * steps + 1) / (6 * steps**2)
    assert float(drawn.t.min()) >= low * (1 - 1e-12)
    assert float(drawn.t.max()) <= 1
    assert float(values.mean()) == pytest.approx(expected, abs=5 * math.sqrt(2 / 8192) * float(values.std()))


@pytest.mark.parametrize("schedule", [CHAIN, CosineAngle()], ids=["chain", "continuous"])
def test_the_variance_falls_to_its_floor(schedule: Schedule) -> None:
    """Var(L/p) with p ~ L is 0 but for the uniform share and the width of the parts; uniform draws have (Σ L²/n - m²).

    On the profile the standard deviation is about 2 to 3 times the mean for uniform times.
    """
    times = LossAwareTimes(bins=100, spread="independent")
    memory = filled(times, schedule)
    drawn = times.draw(schedule, 20_000, derived_generator(2, "times"), memory)
    fresh = times.draw(schedule, 20_000, derived_generator(2, "times"), times.memory(schedule))
    if schedule.num_steps is not None:  # the memory saw the middle of each part; a step stands at its end
        memory = times.memory(schedule)
        steps = torch.arange(1, 11, dtype=torch.float64) / 10
        for _ in range(times.history):
            memory.add(steps, profile(steps))
        drawn = times.draw(schedule, 20_000, derived_generator(2, "times"), memory)
    weighted, plain = (d.inv_density * profile(d.t) for d in (drawn, fresh))
    assert float(weighted.std() / weighted.mean()) < 0.1
    assert float(plain.std() / plain.mean()) > 1.5


def test_times_fill_every_part_evenly() -> None:
    """Within a part t is uniform, not its middle: an integral of what bends would be a sum over the parts otherwise.

    The largest gap between an empirical distribution of n uniform numbers and its law is 1.63/sqrt(n) in 1 % of cases
    (Kolmogorov); the seed is fixed.
    """
    schedule, times = CosineAngle(), LossAwareTimes(bins=3, uniform=0.3, spread="independent")
    memory = filled(times, schedule)
    t = times.draw(schedule, 30_000, derived_generator(1, "even"), memory).t
    position = (t - memory.start) / (1 - memory.start) * 3
    for part in range(3):
        inside = (position[position.floor() == part] - part).sort().values
        even = (torch.arange(len(inside), dtype=torch.float64) + 0.5) / len(inside)
        assert len(inside) > 2000
        assert float((inside - even).abs().max()) < 1.63 / math.sqrt(len(inside))


def test_a_draw_is_a_function_of_its_generator_and_of_the_memory() -> None:
    times = LossAwareTimes()
    memory = filled(times, CHAIN)
    first, again = (times.draw(CHAIN, 64, derived_generator(0, "t"), memory).t for _ in range(2))
    assert first.equal(again)
    assert not first.equal(times.draw(CHAIN, 64, derived_generator(0, "t")).t)  # nothing is remembered


def test_a_state_put_back_goes_on_to_the_bit() -> None:
    times = LossAwareTimes(history=3)
    one, other = filled(times, CHAIN), times.memory(CHAIN)
    other.restore({name: tensor.clone() for name, tensor in one.state().items()})
    for memory in (one, other):
        memory.add(torch.tensor([0.3, 0.7], dtype=torch.float64), torch.tensor([0.25, 0.5], dtype=torch.float64))
    assert one.losses.equal(other.losses)
    assert one.seen.equal(other.seen)


BAD = {
    "no counts": lambda s: {"losses": s["losses"]},
    "another name": lambda s: {**s, "extra": s["seen"]},
    "another shape": lambda s: {**s, "losses": s["losses"][:, :2]},
    "another type": lambda s: {**s, "losses": s["losses"].float()},
    "a negative count": lambda s: {**s, "seen": s["seen"] - 100},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_a_state_that_does_not_fit_is_refused(change: object) -> None:
    times = LossAwareTimes(history=3)
    memory = filled(times, CHAIN)
    before = memory.losses.clone()
    with pytest.raises(CheckpointError, match="the memory of losses in the checkpoint does not fit"):
        memory.restore(change(memory.state()))  # type: ignore[operator]
    assert memory.losses.equal(before)


@pytest.mark.parametrize("settings", [{"bins": 0}, {"history": 0}, {"uniform": 0.0}, {"uniform": 1.5}], ids=str)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="times"):
        LossAwareTimes(**settings)  # type: ignore[arg-type]
