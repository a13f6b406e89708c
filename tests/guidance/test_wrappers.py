"""Wrappers of a denoiser: what they change, what follows, and that they are denoisers themselves."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sfumato.core import CosineAngle, Denoise, NoiseSource, Prediction, RectifiedFlow, Schedule, Ve
from sfumato.guidance import Clipped, Counting
from sfumato.samplers import Ancestral, Ddim, Trailing, sample


class Doubling:
    """x0 = 2 x_t, and a record of what it was asked."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.asked: list[tuple[float, Tensor | None]] = []

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        self.asked.append((float(t), cond))
        return Prediction(x_t, self.schedule.rates(t), 2 * x_t, x_t + 1)


def pixels(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


T = torch.tensor(0.4, dtype=torch.float64)


@pytest.mark.parametrize("schedule", [CosineAngle(), Ve(), RectifiedFlow()], ids=repr)
def test_x0_is_clamped_and_the_rest_follows(schedule: Schedule) -> None:
    x = pixels()
    p = Clipped(Doubling(schedule), torch.tensor(-1.0), torch.tensor(0.5))(x, T)
    x0 = (2 * x).clamp(-1.0, 0.5)
    r = schedule.rates(T)
    torch.testing.assert_close(p.x0, x0, rtol=0, atol=0)
    eps = (x - r.alpha * x0) / r.sigma
    torch.testing.assert_close(p.eps, eps, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(p.score, -eps / r.sigma, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(p.v, r.alpha * eps - r.sigma * x0, rtol=1e-12, atol=1e-12)
    assert p.var_output is not None
    assert torch.equal(p.var_output, x + 1)  # what the network said of the variance stays


def test_bounds_per_channel() -> None:
    low = torch.tensor([-1.0, -0.2, 0.0], dtype=torch.float64)[:, None, None]
    high = torch.tensor([1.0, 0.3, 0.1], dtype=torch.float64)[:, None, None]
    x = pixels()
    p = Clipped(Doubling(CosineAngle()), low, high)(x, T)
    for c in range(3):
        expected = (2 * x[:, c]).clamp(float(low[c]), float(high[c]))
        torch.testing.assert_close(p.x0[:, c], expected, rtol=0, atol=0)


def test_bounds_take_the_dtype_of_the_state() -> None:
    """Bounds measured in float64 leave a float32 state float32."""
    low, high = torch.tensor(-1 / 3, dtype=torch.float64), torch.tensor(1 / 3, dtype=torch.float64)
    p = Clipped(Doubling(CosineAngle()), low, high)(pixels(torch.float32), T)
    assert p.x0.dtype == torch.float32
    assert float(p.x0.max()) == float(torch.tensor(1 / 3))


def test_what_is_not_a_number_is_not_hidden() -> None:
    class Broken(Doubling):
        def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
            return Prediction(x_t, self.schedule.rates(t), torch.full_like(x_t, float("nan")))

    one = torch.ones(())
    assert bool(Clipped(Broken(CosineAngle()), -one, one)(pixels(), T).x0.isnan().all())


@pytest.mark.parametrize(
    "wrap", [Counting, lambda d: Clipped(d, torch.tensor(-9.0), torch.tensor(9.0))], ids=["counting", "clipped"]
)
def test_wrappers_hand_everything_on(wrap: Callable[[Denoise], Denoise]) -> None:
    inner, label = Doubling(CosineAngle()), torch.tensor([3])
    outer = wrap(inner)
    assert outer.schedule is inner.schedule
    x = pixels() / 10  # within the bounds: nothing to clip
    assert torch.equal(outer(x, T, label).x0, 2 * x)
    outer(x, T)
    assert [cond for _, cond in inner.asked] == [label, None]
    assert [t for t, _ in inner.asked] == [0.4, 0.4]


def test_counting_counts() -> None:
    counting = Counting(Doubling(CosineAngle()))
    for expected in range(1, 4):
        counting(pixels(), T)
        assert counting.calls == expected


@pytest.mark.parametrize("sampler", [Ddim(), Ancestral()], ids=repr)
def test_clipped_samples_end_within_the_bounds(sampler: Ddim | Ancestral) -> None:
    """The last step returns x0, so the bounds hold for what comes out, and each step's states used them."""
    half = torch.tensor(0.5)
    d = Clipped(Doubling(CosineAngle()), -half, half)
    noise = NoiseSource.of(seed=0, count=5)
    steps = list(sample(sampler, d, pixels(), Trailing().times(d.schedule, 6), noise=noise))
    assert float(steps[-1].x.abs().max()) == 0.5
    assert all(float(step.prediction.x0.abs().max()) <= 0.5 for step in steps)
