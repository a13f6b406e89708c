"""Grids of times: diffusers' integer tables, any number of steps, strictly decreasing, and what is refused."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from sfumato.core import (
    CosineAngle,
    CosineBetas,
    LogSnrLinear,
    RectifiedFlow,
    Schedule,
    Shifted,
    Tabulated,
    Ve,
    VpSde,
    ZeroTerminalSnr,
)
from sfumato.errors import UsageError
from sfumato.samplers import Karras, Leading, Linspace, Quadratic, TimeGrid, Trailing, UniformLogSnr

GRIDS = [Trailing(), Leading(), Linspace(), Quadratic(), Quadratic(0.8)]
IN_NOISE = [UniformLogSnr(), Karras(), Karras(1.0), Karras(3.0)]
SCHEDULES = [
    Tabulated(),
    Tabulated(CosineBetas(), 100),
    CosineAngle(),
    VpSde(),
    Ve(),
    RectifiedFlow(),
    LogSnrLinear(),
    Shifted(256),
    Shifted(2, base=RectifiedFlow()),
    ZeroTerminalSnr(),
]


def indices(grid: TimeGrid, steps: int, num_steps: int = 1000) -> list[int]:
    """The zero-based indices k - 1 of a grid on a table, without the final 0."""
    times = grid.times(Tabulated(CosineBetas(), num_steps), steps)
    assert times[-1] == 0
    scaled = [t * num_steps - 1 for t in times[:-1]]
    assert [round(i) for i in scaled] == pytest.approx(scaled, abs=1e-9)
    return [round(i) for i in scaled]


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        (Leading(), [852, 710, 568, 426, 284, 142, 0]),
        (Linspace(), [999, 832, 666, 500, 333, 166, 0]),
        (Trailing(), [999, 856, 713, 570, 428, 285, 142]),
    ],
    ids=repr,
)
def test_seven_of_a_thousand_steps(grid: TimeGrid, expected: list[int]) -> None:
    """Printed by diffusers 0.38 for T = 1000 and 7 steps."""
    assert indices(grid, 7) == expected


SPACINGS = [(Leading(), "leading"), (Linspace(), "linspace"), (Trailing(), "trailing")]


def is_tie(spacing: str, num_steps: int, steps: int, k: int) -> bool:
    """Whether the exact place of the k-th time from the noisy end lies half-way between two steps."""
    if spacing == "linspace":
        return Fraction((steps - 1 - k) * (num_steps - 1), steps - 1) % 1 == Fraction(1, 2)
    return Fraction(k * num_steps, steps) % 1 == Fraction(1, 2)


@pytest.mark.parametrize(("grid", "spacing"), SPACINGS)
@pytest.mark.parametrize("num_steps", [1000, 100, 37])
def test_tables_are_diffusers(grid: TimeGrid, spacing: str, num_steps: int) -> None:
    """Equal for every S, but for exact halves, which theirs rounds up or down as its rounding errors fall."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=num_steps, timestep_spacing=spacing)
    compared = 0
    for steps in [*range(2, min(num_steps, 120) + 1), num_steps // 2, num_steps - 1, num_steps]:
        scheduler.set_timesteps(steps)
        theirs, ours = scheduler.timesteps.tolist(), indices(grid, steps, num_steps)
        if len(theirs) != steps:
            continue  # their arange(T, 0, -T/S) makes one too many for some S
        apart = [k for k in range(steps) if ours[k] != theirs[k]]
        assert all(abs(ours[k] - theirs[k]) == 1 and is_tie(spacing, num_steps, steps, k) for k in apart), steps
        compared += 1
    assert compared > 30


def test_one_step_starts_from_noise_where_it_can() -> None:
    assert indices(Trailing(), 1) == indices(Linspace(), 1) == indices(Quadratic(), 1) == [999]
    assert indices(Leading(), 1) == [0]  # multiples of T from the clean end: the grid's own definition


@pytest.mark.parametrize("steps", [2, 5, 10, 50, 100])
def test_quadratic_is_the_square_of_a_linspace(steps: int) -> None:
    """DDIM's code: int(linspace(0, sqrt(0.8 T), S)²); steps repeated near data are moved up, so that none is lost."""
    squares = np.linspace(0, np.sqrt(1000 * 0.8), steps) ** 2
    expected: list[int] = []
    for square in np.floor(squares + 1e-9).astype(int).tolist():  # their square of a root may lie an ulp below 800
        expected.append(max(square, expected[-1] + 1 if expected else 0))
    assert indices(Quadratic(0.8), steps) == expected[::-1]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("grid", [*GRIDS, *IN_NOISE], ids=repr)
def test_any_number_of_steps(grid: TimeGrid, schedule: Schedule) -> None:
    """1, 2, 3, primes that divide nothing, T - 1 and T: exactly S distinct, strictly decreasing times, then 0."""
    most = schedule.num_steps or 1000
    for steps in (1, 2, 3, 7, 13, 50, 97, most - 1, most):
        times = grid.times(schedule, steps)
        assert len(times) == steps + 1
        assert all(t > s for t, s in pairwise(times))
        assert times[0] <= 1
        assert times[-2] >= schedule.t_min
        assert times[-1] == 0


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("grid", [Trailing(), Linspace(), Quadratic(), *IN_NOISE], ids=repr)
@pytest.mark.parametrize("steps", [1, 10, 73])
def test_sampling_starts_at_the_noisy_end(grid: TimeGrid, schedule: Schedule, steps: int) -> None:
    """`Leading` is the exception and says so."""
    assert grid.times(schedule, steps)[0] == 1


def test_all_steps_of_a_table_is_the_table() -> None:
    for grid in (Trailing(), Leading(), Linspace(), Quadratic()):
        assert indices(grid, 100, 100) == list(range(99, -1, -1))


def test_continuous_grids() -> None:
    """Equal steps of t for the first three, equal steps of sqrt(t) for the last, on [t_min, 1]."""
    schedule = CosineAngle()
    low = schedule.t_min

    def shares(grid: TimeGrid) -> list[float]:
        return [(t - low) / (1 - low) for t in grid.times(schedule, 4)[:-1]]

    assert shares(Trailing()) == pytest.approx([1, 3 / 4, 1 / 2, 1 / 4], abs=1e-12)
    assert shares(Leading()) == pytest.approx([3 / 4, 1 / 2, 1 / 4, 0], abs=1e-12)
    assert shares(Linspace()) == pytest.approx([1, 2 / 3, 1 / 3, 0], abs=1e-12)
    assert shares(Quadratic()) == pytest.approx([1, 4 / 9, 1 / 9, 0], abs=1e-12)


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
@pytest.mark.parametrize("steps", [0, -3, 101])
def test_steps_that_cannot_be_are_refused(grid: TimeGrid, steps: int) -> None:
    with pytest.raises(UsageError, match=f"in {steps} steps with a schedule of 100") as caught:
        grid.times(Tabulated(steps=100), steps)
    assert "from 1 to 100" in caught.value.expected


def test_continuous_time_takes_any_positive_number() -> None:
    assert len(Trailing().times(CosineAngle(), 5000)) == 5001
    with pytest.raises(UsageError, match="in 0 steps"):
        Trailing().times(CosineAngle(), 0)


@pytest.mark.parametrize("end", [0.0, 1.5, float("nan")])
def test_quadratic_end_is_a_fraction(end: float) -> None:
    with pytest.raises(UsageError, match=f"end is {end}"):
        Quadratic(end)


# --- grids in noise --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("grid", [*GRIDS, *IN_NOISE], ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 9, 60])
def test_a_grid_to_t_min_ends_there(grid: TimeGrid, schedule: Schedule, steps: int) -> None:
    """S intervals as well, none of them to data; from t = 1 where the rule starts there."""
    times = grid.times_to_t_min(schedule, steps)
    assert len(times) == steps + 1
    assert all(t > s for t, s in pairwise(times))
    assert times[-1] == schedule.t_min
    if not isinstance(grid, Leading) and grid != Quadratic(0.8):
        assert times[0] == 1


def test_trailing_to_t_min_is_trailing_without_the_step_to_data() -> None:
    """The step to data is where t_min takes its place, at equal distances on a continuous schedule."""
    schedule = CosineAngle()
    assert Trailing().times_to_t_min(schedule, 5) == [*Trailing().times(schedule, 5)[:-1], schedule.t_min]
    assert Linspace().times_to_t_min(schedule, 5) == Linspace().times(schedule, 6)[:-1]


def test_a_table_has_only_so_many_times_to_t_min() -> None:
    table = Tabulated(steps=10)
    assert Trailing().times_to_t_min(table, 9) == [k / 10 for k in range(10, 0, -1)]
    with pytest.raises(UsageError, match="in 11 steps with a schedule of 10"):
        Trailing().times_to_t_min(table, 10)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_uniform_log_snr(schedule: Schedule) -> None:
    """Equal steps of log-SNR to the precision of t, on tables as well: times there lie between its steps."""
    times = torch.tensor(UniformLogSnr().times(schedule, 12)[:-1], dtype=torch.float64)
    steps = schedule.log_snr(times).diff().numpy()
    assert steps == pytest.approx(np.full(11, steps.mean()), rel=1e-6)  # near t_min log-SNR of a flow is steep in t


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0, 1000.0])
def test_karras(schedule: Schedule, rho: float) -> None:
    """Karras et al. 2022, eq. 5: (u_max^(1/rho) + i/(N - 1) (u_min^(1/rho) - u_max^(1/rho)))^rho."""
    times = Karras(rho).times(schedule, 12)[:-1]
    levels = np.array([float(schedule.rates(t).noise_level) for t in times])
    high, low = (float(schedule.rates(t).noise_level) for t in (1.0, schedule.t_min))
    expected = (high ** (1 / rho) + np.arange(12) / 11 * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    # t resolves 1e-16, which is 1e-11 of a noise level of 5e-5, and of 1/u of the flow's 2e4
    assert levels == pytest.approx(expected, rel=1e-7)


def test_grids_in_noise_may_have_more_steps_than_a_table() -> None:
    for grid in (UniformLogSnr(), Karras()):
        times = grid.times(Tabulated(steps=10), 35)
        assert len(set(times)) == 36
        with pytest.raises(UsageError, match="in 0 steps"):
            grid.times(Tabulated(steps=10), 0)
        assert grid.times(Tabulated(CosineBetas(), 1), 1) == [1.0, 0.0]


@pytest.mark.parametrize("rho", [0.0, -7.0, float("nan")])
def test_rho_out_of_range_is_refused(rho: float) -> None:
    with pytest.raises(UsageError, match=f"rho is {rho}"):
        Karras(rho)
