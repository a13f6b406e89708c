"""The adaptive solver against closed forms, scipy and torchdiffeq; every sample on a clock of its own."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torchdiffeq import odeint

from sfumato.core import ode
from sfumato.core.ode import State, Tolerances, solve
from sfumato.errors import ConfigError, NumericsError

TIGHT = Tolerances(1e-10, 1e-10, 10_000)


def pendulum(y: Tensor, u: Tensor) -> Tensor:
    """Driven pendulum: (angle, speed), each row alone; not autonomous."""
    return torch.stack([y[:, 1], -y[:, 0].sin() + 0.3 * (2 * u).cos()], 1)


def field(state: State, u: Tensor) -> State:
    return (pendulum(state[0], u),)


STARTS = torch.tensor([[0.1, 0.0], [2.5, 0.2], [-1.0, 3.0], [3.1, 0.0]], dtype=torch.float64)


def test_the_tableau_has_its_order() -> None:
    """Row sums are the nodes; Σ b c^k = 1/(k+1) up to order 5; the error weights have no moment up to order 4."""
    nodes = np.array([0.0, *ode.NODES])
    for row, node in zip(ode.STAGES, ode.NODES, strict=True):
        assert sum(row) == pytest.approx(node, abs=1e-14)
    weights, error = np.array([*ode.STAGES[-1], 0.0]), np.array(ode.ERROR)
    for k in range(5):
        assert weights @ nodes**k == pytest.approx(1 / (k + 1), abs=1e-14)
    for k in range(4):
        assert error @ nodes**k == pytest.approx(0.0, abs=1e-15)
    assert abs(error @ nodes**4) > 1e-4  # the embedded method is of order 4 and not more
    stages = np.zeros((7, 7))
    for i, row in enumerate(ode.STAGES):
        stages[i + 1, : len(row)] = row
    assert weights @ stages @ nodes**3 == pytest.approx(1 / 20, abs=1e-14)  # two of the trees of order 5
    assert weights @ stages @ stages @ nodes**2 == pytest.approx(1 / 60, abs=1e-14)


@pytest.mark.parametrize(("start", "end"), [(0.0, 5.0), (5.0, 0.0)])
def test_agrees_with_scipy_and_torchdiffeq(start: float, end: float) -> None:
    ours = solve(field, (STARTS,), start=start, end=end, tolerances=TIGHT).state[0]
    moments = torch.tensor([start, end], dtype=torch.float64)
    theirs = odeint(lambda u, y: pendulum(y, u.expand(len(y))), STARTS, moments, rtol=1e-11, atol=1e-11)[-1]
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
    for row, y0 in zip(ours.numpy(), STARTS.numpy(), strict=True):
        one = solve_ivp(
            lambda u, y: pendulum(torch.from_numpy(y)[None], torch.tensor([u]))[0].numpy(),
            (start, end), y0, method="DOP853", rtol=1e-12, atol=1e-12,
        )  # fmt: skip
        np.testing.assert_allclose(row, one.y[:, -1], rtol=1e-8, atol=1e-8)


def test_a_sample_alone_is_what_it_is_in_a_batch() -> None:
    """To rounding, with the same steps: stiff and easy neighbours do not touch each other."""
    together = solve(field, (STARTS,), start=0.0, end=20.0, tolerances=Tolerances(1e-6, 1e-6))
    for i in range(len(STARTS)):
        alone = solve(field, (STARTS[i : i + 1],), start=0.0, end=20.0, tolerances=Tolerances(1e-6, 1e-6))
        torch.testing.assert_close(alone.state[0][0], together.state[0][i], rtol=1e-13, atol=1e-13)
        assert int(alone.calls) == int(together.calls[i])


def test_stiff_and_easy_samples_take_different_steps() -> None:
    """dy/du = -k y for k = 0.1 and 200 in one batch: both right, at their own price; `calls` counts that price."""
    rate, asked = torch.tensor([[0.1], [200.0]], dtype=torch.float64), []

    def decay(state: State, u: Tensor) -> State:
        asked.append(u)
        return (-rate * state[0],)

    found = solve(decay, (torch.ones(2, 1, dtype=torch.float64),), start=0.0, end=1.0, tolerances=TIGHT)
    np.testing.assert_allclose(found.state[0].flatten(), [math.exp(-0.1), 0.0], atol=1e-9)
    assert int(found.calls[1]) > 10 * int(found.calls[0])
    assert found.calls.tolist() == (2 + 6 * (found.accepted + found.rejected)).tolist()
    assert found.evaluations == len(asked) == int(found.calls.max())
    assert all(len(u) == 2 for u in asked)  # shapes never change


def test_rejected_steps_leave_no_trace() -> None:
    """A kick that the first steps do not see: rejections, and the answer still held to the tolerance."""

    def kick(state: State, u: Tensor) -> State:
        return (torch.exp(-(((u - 3) / 0.05) ** 2))[:, None] * torch.ones_like(state[0]) + torch.cos(u)[:, None],)

    found = solve(kick, (torch.zeros(1, 1, dtype=torch.float64),), start=0.0, end=6.0, tolerances=TIGHT)
    assert int(found.rejected) > 0
    assert float(found.state[0]) == pytest.approx(0.05 * math.sqrt(math.pi) + math.sin(6), abs=1e-8)


def test_the_error_follows_the_tolerance() -> None:
    exact = solve(field, (STARTS,), start=0.0, end=5.0, tolerances=TIGHT).state[0]
    errors, calls = [], []
    for tolerance in (1e-3, 1e-5, 1e-7):
        found = solve(field, (STARTS,), start=0.0, end=5.0, tolerances=Tolerances(tolerance, tolerance))
        errors.append(float((found.state[0] - exact).abs().max()) / tolerance)
        calls.append(int(found.calls.sum()))
    assert max(errors) < 20  # local errors of five to fifty steps add up, near the upright pendulum they grow
    assert calls == sorted(calls)
    assert calls[-1] < 3 * 10 ** (4 / 5) * calls[0]  # order 5: a hundredth of the error for 2.5 times the steps


def test_an_augmented_state_is_controlled_in_all_its_parts() -> None:
    """y' = y and l' = 40 cos(40 u): the second part alone needs the small steps."""

    def both(state: State, u: Tensor) -> State:
        return state[0], 40 * torch.cos(40 * u)[:, None]

    start = (torch.ones(3, 2, 2), torch.zeros(3, 1, dtype=torch.float64))
    found = solve(both, start, start=0.0, end=1.0, tolerances=Tolerances(1e-6, 1e-8))
    assert found.state[0].dtype == torch.float32  # each part in its own
    assert found.state[0].shape == (3, 2, 2)
    np.testing.assert_allclose(found.state[0], math.e, rtol=1e-5)
    np.testing.assert_allclose(found.state[1], math.sin(40), atol=1e-5)


def test_a_path_that_does_not_arrive_is_refused() -> None:
    """y' = y² from 1 leaves every bound at u = 1: named with how many samples, which, and where they stand."""

    def explode(state: State, u: Tensor) -> State:
        return (state[0] ** 2,)

    start = torch.tensor([[1.0], [-1.0], [0.9]], dtype=torch.float64)
    with pytest.raises(
        NumericsError, match=r"2 of 3 samples .* \(sample 0 of the batch\) stands at u = 1\n"
    ) as refused:
        solve(explode, (start,), start=0.0, end=2.0, tolerances=Tolerances(1e-6, 1e-6, 1000))
    assert refused.value.exit_code == 5
    with pytest.raises(NumericsError, match="4 of 4 samples had not arrived after 3 steps"):
        solve(field, (STARTS,), start=0.0, end=5.0, tolerances=Tolerances(1e-8, 1e-8, 3))
    with pytest.raises(NumericsError, match="not finite at its start"):
        solve(lambda s, u: (s[0] * torch.nan,), (STARTS,), start=0.0, end=1.0, tolerances=TIGHT)


def test_no_step_is_longer_than_allowed() -> None:
    moments: list[float] = []

    def still(state: State, u: Tensor) -> State:
        moments.append(float(u[0]))
        return (torch.zeros_like(state[0]),)

    solve(still, (STARTS,), start=0.0, end=-10.0, tolerances=TIGHT, max_step=0.5)
    ends = sorted(set(moments), reverse=True)
    assert ends[-1] == -10.0
    assert max(a - b for a, b in itertools.pairwise(ends)) <= 0.5


@pytest.mark.parametrize("numbers", [(0.0, 1e-3, 10), (1e-3, -1.0, 10), (math.nan, 1e-3, 10), (1e-3, 1e-3, 0)])
def test_tolerances_that_cannot_be_meant(numbers: tuple[float, float, int]) -> None:
    with pytest.raises(ConfigError):
        Tolerances(*numbers)
