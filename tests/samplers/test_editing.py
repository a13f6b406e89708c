"""RePaint and SDEdit: the walk, what is kept, what is drawn, and how resampling comes closer to the posterior."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from sfumato.core import Cond, NoiseSource, Prediction, VpSde
from sfumato.core.kernels import posterior
from sfumato.errors import UsageError
from sfumato.samplers import (
    Ancestral,
    Ddim,
    DormandPrince,
    Heun,
    Move,
    Trailing,
    UniformLogSnr,
    repaint,
    repaint_moves,
    sample,
    times_below,
    vary,
)
from sfumato.verify.checks import editing
from sfumato.verify.ideal import MIXTURE, Ideal
from sfumato.verify.output_law import Law, output_law

SCHEDULE = VpSde()
D = Ideal(MIXTURE, SCHEDULE)
COUNT = 5
NOISE = NoiseSource.of(seed=0, count=COUNT)
MASK = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
KNOWN = torch.tensor([[0.7, math.nan]], dtype=torch.float64)  # what is not known is not read


def start() -> torch.Tensor:
    return NOISE.initial((COUNT, 2), like=MASK)


def test_walk_by_hand() -> None:
    """Six steps in jumps of 2, walked three times: back up from 3 and from 5, the last place before data."""
    places = [0, 1, 2, 3, 1, 2, 3, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5, 6]
    assert repaint_moves(6, resamplings=3, jump=2) == [Move(a, b) for a, b in pairwise(places)]


@pytest.mark.parametrize(("steps", "resamplings", "jump"), [(250, 10, 10), (11, 4, 3), (6, 2, 1), (4, 3, 9)])
def test_walk_is_the_papers(steps: int, resamplings: int, jump: int) -> None:
    """Lugmayr et al. 2022, appendix B, whose times count down from T - 1 to 0 and end with -1 for data."""
    left = dict.fromkeys(range(0, steps - jump, jump), resamplings - 1)
    time, walked = steps - 1, [steps - 1]
    while time >= 1:
        time -= 1
        walked.append(time)
        if left.get(time, 0):
            left[time] -= 1
            time += jump
            walked.append(time)
    places = [steps - 1 - time for time in [*walked, -1]]
    assert repaint_moves(steps, resamplings=resamplings, jump=jump) == [Move(a, b) for a, b in pairwise(places)]


@pytest.mark.parametrize(("steps", "resamplings", "jump"), [(1, 1, 1), (7, 1, 3), (10, 4, 1), (20, 10, 10), (3, 5, 9)])
def test_walk_goes_from_noise_to_data(steps: int, resamplings: int, jump: int) -> None:
    moves = repaint_moves(steps, resamplings=resamplings, jump=jump)
    assert moves[0].start == 0
    assert moves[-1].stop == steps
    assert all(a.stop == b.start for a, b in pairwise(moves))
    assert all(m.stop - m.start in (1, -jump) for m in moves)
    assert sum(m.stop > m.start for m in moves) == steps + (resamplings - 1) * jump * ((steps - 1) // jump)
    assert all(m.start < steps for m in moves)


def test_what_is_known_stays() -> None:
    for sampler in (Ancestral(), Ddim(), Heun()):
        times = Trailing().times(SCHEDULE, 6)
        steps = list(repaint(sampler, D, start(), times, known=KNOWN, mask=MASK, noise=NOISE, resamplings=2))
        assert torch.equal(steps[-1].x[:, 0], torch.full((COUNT,), 0.7, dtype=torch.float64))
        assert steps[-1].s == 0
        assert len(steps) == 6 + 5
        assert steps[-1].calls == sum(1 + (isinstance(sampler, Heun) and step.s > 0) for step in steps)


def test_known_parts_are_as_noisy_as_the_rest() -> None:
    """alpha known + sigma n, with n ~ N(0, 1) fresh at every step: moments over 2,000 samples, five standard errors."""
    count = 2000
    noise = NoiseSource.of(seed=1, count=count)
    x, times = noise.initial((count, 2), like=MASK), Trailing().times(SCHEDULE, 4)
    seen = []
    for step in repaint(Ancestral(), D, x, times, known=KNOWN, mask=MASK, noise=noise, resamplings=2):
        if step.s > 0:
            r = SCHEDULE.rates(step.s)
            seen.append((step.x[:, 0] - float(r.alpha) * 0.7) / float(r.sigma))
            assert abs(float(seen[-1].mean())) < 5 / count**0.5
            assert float(seen[-1].var()) == pytest.approx(1, abs=5 * (2 / count) ** 0.5)
    together = torch.corrcoef(torch.stack(seen)) - torch.eye(len(seen), dtype=torch.float64)
    assert float(together.abs().max()) < 5 / count**0.5


def test_without_anything_known_one_pass_is_plain_sampling() -> None:
    """A mask of 0 and no resampling: DDIM, which asks for no noise, draws what it draws alone."""
    times = Trailing().times(SCHEDULE, 8)
    *_, plain = sample(Ddim(), D, start(), times, noise=NOISE)
    *_, painted = repaint(
        Ddim(), D, start(), times, known=torch.zeros(1, 2), mask=torch.zeros(1, 2), noise=NOISE, resamplings=1
    )
    assert torch.equal(plain.x, painted.x)


def test_going_back_up_keeps_the_law() -> None:
    """With nothing known, resampled walks draw the prior: exact law; 80 steps of Heun err by 0.4 %."""
    law = editing.prior(editing.SMALL)
    d, times = Ideal(law, SCHEDULE), UniformLogSnr().times(SCHEDULE, 80)
    nothing = torch.zeros(1, *editing.SMALL, dtype=torch.float64)

    def walked(x: torch.Tensor, noise: NoiseSource) -> torch.Tensor:
        *_, end = repaint(Heun(), d, x, times, known=nothing, mask=nothing, noise=noise, resamplings=2, jump=4)
        return end.x

    found = output_law(walked, editing.SMALL, Law(np.zeros(16), np.eye(16)))
    assert np.trace(found.cov) == pytest.approx(np.trace(law.cov), rel=0.01)
    assert found.cov == pytest.approx(law.cov, abs=0.01)


def test_resampling_comes_closer_to_the_posterior() -> None:
    once, twice, often = (editing.by_repainting(count, steps=20) for count in (1, 2, 5))
    assert once > 1.15 * twice > 1.15 * 1.15 * often


def test_samples_do_not_see_each_other() -> None:
    times = Trailing().times(SCHEDULE, 5)

    def drawn(first: int, count: int) -> torch.Tensor:
        noise = NoiseSource.of(seed=0, first=first, count=count)
        x = noise.initial((count, 2), like=MASK)
        *_, end = repaint(Ancestral(), D, x, times, known=KNOWN, mask=MASK, noise=noise, resamplings=3)
        return end.x

    torch.testing.assert_close(drawn(0, 4)[2:3], drawn(2, 1), rtol=0, atol=1e-12)


def test_each_pass_draws_fresh_noise() -> None:
    """Steps of the same interval, walked three times from the same guess: what is added is independent (5 errors)."""
    count = 2000
    noise, nothing = NoiseSource.of(seed=3, count=count), torch.zeros(1, 2, dtype=torch.float64)

    class Blind:
        """Guesses 0 and is asked nothing else: a step is then a part of x_t and noise."""

        schedule = SCHEDULE

        def __call__(self, x_t, t, cond=None):  # type: ignore[no-untyped-def]
            return Prediction(x_t, SCHEDULE.rates(t), torch.zeros_like(x_t))

    x, times = noise.initial((count, 2), like=MASK), Trailing().times(SCHEDULE, 3)
    added: dict[float, list[torch.Tensor]] = {}
    for step in repaint(Ancestral(), Blind(), x, times, known=nothing, mask=nothing, noise=noise, resamplings=3):
        if step.s > 0:
            kept = posterior(
                torch.zeros_like(x), step.prediction.x_t, s=SCHEDULE.rates(step.s), t=SCHEDULE.rates(step.t)
            )
            added.setdefault(step.t, []).append(((step.x - kept.mean) / kept.std).flatten())
    assert [len(draws) for draws in added.values()] == [3, 3]
    for draws in added.values():
        apart = torch.corrcoef(torch.stack(draws)) - torch.eye(len(draws), dtype=torch.float64)
        assert float(apart.abs().max()) < 5 / (2 * count) ** 0.5


def test_repainting_and_variations_hand_the_condition_on() -> None:
    """Every call hears it, in the walk down and in the passes that are walked again."""
    cond, heard = Cond(labels=torch.arange(COUNT)), []

    class Hearing:
        schedule = SCHEDULE

        def __call__(self, x_t, t, cond=None):  # type: ignore[no-untyped-def]
            heard.append(cond)
            return D(x_t, t)

    times = Trailing().times(SCHEDULE, 4)
    painted = repaint(Heun(), Hearing(), start(), times, known=KNOWN, mask=MASK, noise=NOISE, resamplings=2, cond=cond)
    varied = vary(Heun(), Hearing(), start(), times, start=0.6, noise=NOISE, cond=cond)
    assert len([*painted, *varied]) == 4 + 3 + 3
    assert len(heard) > 10
    assert all(each is cond for each in heard)


def test_what_repaint_refuses() -> None:
    times = Trailing().times(SCHEDULE, 4)
    with pytest.raises(UsageError, match="resamplings"):
        repaint_moves(4, resamplings=0, jump=1)
    with pytest.raises(UsageError, match="mask of shape"):
        next(repaint(Ddim(), D, start(), times, known=KNOWN, mask=torch.ones(3), noise=NOISE))
    with pytest.raises(UsageError, match="between 0 and 1"):
        next(repaint(Ddim(), D, start(), times, known=KNOWN, mask=MASK / 2, noise=NOISE))
    with pytest.raises(UsageError, match="DormandPrince"):
        next(repaint(DormandPrince(), D, start(), times, known=KNOWN, mask=MASK, noise=NOISE))


def test_variations_begin_where_they_should() -> None:
    """The first state is alpha x0 + sigma n, seen by a denoiser that remembers; later times are those of the grid."""
    asked: list[tuple[float, torch.Tensor]] = []

    class Remembering:
        schedule = SCHEDULE

        def __call__(self, x_t, t, cond=None):  # type: ignore[no-untyped-def]
            asked.append((float(t), x_t))
            return D(x_t, t, cond)

    x0 = torch.ones(COUNT, 2, dtype=torch.float64)
    steps = list(vary(Ddim(), Remembering(), x0, Trailing().times(SCHEDULE, 10), start=0.45, noise=NOISE))
    assert [t for t, _ in asked] == pytest.approx([0.45, 0.4, 0.3, 0.2, 0.1], abs=1e-5)  # the grid is even from t_min
    r = SCHEDULE.rates(0.45)
    torch.testing.assert_close(asked[0][1], float(r.alpha) * x0 + float(r.sigma) * start(), rtol=1e-14, atol=1e-14)
    assert steps[-1].s == 0


def test_variations_from_the_end_are_samples() -> None:
    """At t = 1 hardly anything of the picture is left: 0.0066 of it, whatever it was."""
    times = Trailing().times(SCHEDULE, 30)
    *_, plain = sample(Ddim(), D, start(), times, noise=NOISE)
    *_, varied = vary(Ddim(), D, torch.ones(COUNT, 2, dtype=torch.float64), times, start=1.0, noise=NOISE)
    torch.testing.assert_close(varied.x, plain.x, rtol=0, atol=0.05)


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.1, math.nan, 1e-6])
def test_times_that_are_no_start(bad: float) -> None:
    with pytest.raises(UsageError, match="variations"):
        vary(Ddim(), D, torch.ones(1, 2, dtype=torch.float64), Trailing().times(SCHEDULE, 4), start=bad, noise=NOISE)


def test_times_below() -> None:
    assert times_below([1.0, 0.75, 0.5, 0.25, 0.0], 0.5) == [0.5, 0.25, 0.0]
    assert times_below([1.0, 0.0], 0.3) == [0.3, 0.0]
