"""Guidance by a dropped condition, by a weaker self, by a classifier; dynamic thresholds."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sfumato.core import Cond, CosineAngle, Denoise, NoiseSource, Prediction, Rates, RectifiedFlow, Schedule, Ve, VpSde
from sfumato.core.rates import spread
from sfumato.errors import NumericsError, UsageError
from sfumato.guidance import AutoGuided, ClassifierGuided, Clipped, Counting, Guided, Thresholded
from sfumato.samplers import Ancestral, Ddim, DormandPrince, Heun, Sampler, Trailing, sample
from sfumato.verify.checks.guidance import LAW, ExactClassifier, told
from sfumato.verify.ideal import Ideal

SCHEDULES = [CosineAngle(), Ve(), RectifiedFlow()]
T = torch.tensor(0.4, dtype=torch.float64)


class Told:
    """x0 = sin(x) + (k + 1)/3 for label k, sin(x) where dropped; var_output 10 + k, or 9."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        k = torch.zeros(len(x_t), dtype=x_t.dtype)
        if cond is not None and cond.labels is not None:
            k = cond.labels.to(x_t.dtype) + 1
            if cond.dropped is not None:
                k = torch.where(cond.dropped, 0.0, k)
        shift = spread(k, x_t)
        return Prediction(x_t, self.schedule.rates(t), x_t.sin() + shift / 3, torch.zeros_like(x_t) + 9 + shift)


def points(count: int = 6) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def labels(count: int = 6) -> Cond:
    return Cond(labels=torch.arange(count) % 3)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_formula(schedule: Schedule) -> None:
    x, cond, d = points(), labels(), Told(schedule)
    p = Guided(d, 2.5)(x, T, cond)
    expected = x.sin() + 2.5 * (torch.arange(6).double() % 3 + 1)[:, None] / 3
    torch.testing.assert_close(p.x0, expected, rtol=1e-14, atol=1e-14)
    eps_u, eps_c = d(x, T).eps, d(x, T, cond).eps
    torch.testing.assert_close(p.eps, eps_u + 2.5 * (eps_c - eps_u), rtol=1e-12, atol=1e-12)
    assert p.var_output is not None
    assert torch.equal(p.var_output, d(x, T, cond).var_output)  # the conditional's own words


@pytest.mark.parametrize("weight", [1.0, 0.0, 1, 0])
def test_trivial_weights_are_plain_calls(weight: float) -> None:
    counting, x, cond = Counting(Told(CosineAngle())), points(), labels()
    p = Guided(counting, weight)(x, T, cond)
    plain = Told(CosineAngle())(x, T, cond if weight == 1 else None)
    assert torch.equal(p.x0, plain.x0)
    assert torch.equal(p.var_output, plain.var_output)  # type: ignore[arg-type]
    assert counting.calls == 1


def test_mixed_weights_are_each_samples_own() -> None:
    """A batch of weights gives every sample what it has alone, to the last bit."""
    d, x, cond = Told(CosineAngle()), points(), labels()
    weights = torch.tensor([0.0, 1.0, 3.0, -1.0, 1.0, 0.5], dtype=torch.float64)
    mixed = Guided(d, weights)(x, T, cond)
    for b in range(6):
        alone = Guided(d, float(weights[b]))(x[b : b + 1], T, cond[b : b + 1])
        assert torch.equal(mixed.x0[b : b + 1], alone.x0)
        assert torch.equal(mixed.var_output[b : b + 1], alone.var_output)  # type: ignore[index,arg-type]


@pytest.mark.parametrize(
    "cond",
    [None, Cond(), labels().unconditional(), Cond(image=points())],
    ids=["none", "empty", "all dropped", "image only"],
)
def test_nothing_to_drop_is_one_plain_call(cond: Cond | None) -> None:
    counting, x = Counting(Told(CosineAngle())), points()
    assert torch.equal(Guided(counting, 4.0)(x, T, cond).x0, x.sin())
    assert counting.calls == 1


def test_dropped_examples_are_not_guided() -> None:
    cond = Cond(labels=torch.arange(6) % 3, dropped=torch.tensor([True, False] * 3))
    x = points()
    p = Guided(Told(CosineAngle()), 4.0)(x, T, cond)
    assert torch.equal(p.x0[::2], x[::2].sin())
    assert bool((p.x0[1::2] != x[1::2].sin()).all())


def test_interval_sample_by_sample() -> None:
    """Noise levels differ within a batch, as an adaptive solver has them: each has the weight of its own."""
    schedule, x, cond = Ve(), points(), labels()
    levels = torch.tensor([0.05, 0.1, 0.5, 2.0, 2.1, 50.0], dtype=torch.float64)
    t = schedule.time(-2 * levels.log())
    low, high = (float(schedule.rates(t[k]).noise_level) for k in (1, 3))  # the ends belong to it
    p = Guided(Told(schedule), 3.0, (low, high))(x, t, cond)
    weights = torch.tensor([1.0, 3.0, 3.0, 3.0, 1.0, 1.0], dtype=torch.float64)
    expected = x.sin() + (weights * (torch.arange(6) % 3 + 1))[:, None] / 3
    torch.testing.assert_close(p.x0, expected, rtol=1e-14, atol=1e-14)
    assert torch.equal(p.x0[[0, 4, 5]], Told(schedule)(x, t, cond).x0[[0, 4, 5]])


def test_outside_the_interval_one_call() -> None:
    counting = Counting(Told(CosineAngle()))
    Guided(counting, 3.0, (100.0, 200.0))(points(), T, labels())
    assert counting.calls == 1


def test_autoguidance() -> None:
    class Weak(Told):
        def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
            return Prediction(x_t, self.schedule.rates(t), super().__call__(x_t, t, cond).x0 / 2)

    schedule, x, cond = CosineAngle(), points(), labels()
    good, weak = Counting(Told(schedule)), Counting(Weak(schedule))
    p = AutoGuided(good, weak, 2.0)(x, T, cond)
    plain = Told(schedule)(x, T, cond)
    torch.testing.assert_close(p.x0, 1.5 * plain.x0, rtol=1e-14, atol=1e-14)
    assert torch.equal(p.var_output, plain.var_output)  # type: ignore[arg-type]
    assert (good.calls, weak.calls) == (1, 1)
    assert torch.equal(AutoGuided(good, weak, 1.0)(x, T, cond).x0, plain.x0)
    assert torch.equal(AutoGuided(good, weak, 9.0, (50.0, 60.0))(x, T, cond).x0, plain.x0)
    assert weak.calls == 1


def test_a_weaker_model_of_fewer_noise_levels_is_refused() -> None:
    d = AutoGuided(Ideal(LAW, Ve(0.01, 80.0)), Ideal(LAW, Ve(0.01, 2.0)), 2.0)
    d(points(), Ve(0.01, 80.0).time(torch.tensor(0.0, dtype=torch.float64)), None)  # a level that both know
    with pytest.raises(UsageError, match="noise level of 80"):
        d(points(), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_classifier_gradient_by_differences(schedule: Schedule) -> None:
    """score + scale ∇ log p, the gradient by central differences of a function that autograd sees otherwise."""

    def log_prob(x_t: Tensor, t: Tensor, k: Tensor) -> Tensor:
        return -(x_t**2).sum(1) * (k + 1) + (x_t[:, 0] * 3).sin() * t

    x, cond, d = points(), labels(), Told(schedule)
    with torch.no_grad():
        p = ClassifierGuided(d, log_prob, 0.7)(x, T, cond)
    h = 1e-5
    steps = h * torch.eye(2, dtype=torch.float64)
    difference = [log_prob(x + step, T, cond.labels) - log_prob(x - step, T, cond.labels) for step in steps]  # type: ignore[arg-type]
    gradient = torch.stack(difference, dim=1) / (2 * h)
    torch.testing.assert_close(p.score, d(x, T, cond).score + 0.7 * gradient, rtol=1e-8, atol=1e-8)  # h² and 1e-16/h
    assert not p.x0.requires_grad


def test_classifier_leaves_the_dropped_alone() -> None:
    """Even where the classifier knows nothing of them: not a number times 0 is not a number."""

    def log_prob(x_t: Tensor, t: Tensor, k: Tensor) -> Tensor:
        return x_t.sum(1) * torch.where(k == 1, math.nan, 1.0)

    cond = Cond(labels=torch.arange(6) % 2, dropped=torch.arange(6) % 2 == 1)
    x, d = points(), Told(CosineAngle())
    p = ClassifierGuided(d, log_prob, 2.0)(x, T, cond)
    assert torch.equal(p.x0[1::2], d(x, T, cond).x0[1::2])
    assert bool((p.x0[::2] != d(x, T, cond).x0[::2]).all())
    silent = ClassifierGuided(d, log_prob, 0.0)(x, T, cond)
    assert torch.equal(silent.x0, d(x, T, cond).x0)


def test_classifier_guidance_can_be_differentiated() -> None:
    """What posterior sampling and likelihoods need of it: d(x0)/d(x_t) through the classifier's gradient."""

    def log_prob(x_t: Tensor, t: Tensor, k: Tensor) -> Tensor:
        return (x_t**3).sum(1)

    d = ClassifierGuided(Told(CosineAngle()), log_prob, 0.3)
    x = points(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda at: d(at, T, labels(2)).x0, (x,))


def test_thresholding_by_hand() -> None:
    """Bounds per channel, [0, 4] and [-1, 1], with the same z; the sample that lies within stays as it is."""
    z = torch.tensor([[-3.0, 0.5, 1.0, 2.0], [0.9, -1.0, 0.0, 0.3]], dtype=torch.float64)
    low, high = torch.tensor([[0.0], [-1.0]], dtype=torch.float64), torch.tensor([[4.0], [1.0]], dtype=torch.float64)
    x0 = torch.stack([2 + 2 * z, z], dim=1)

    class Fixed(Told):
        def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
            return Prediction(x_t, self.schedule.rates(t), x0)

    p = Thresholded(Fixed(CosineAngle()), 0.75, low, high)(torch.zeros_like(x0), T)  # 6 of 8 values are at most 2
    pulled = torch.tensor([-2.0, 0.5, 1.0, 2.0], dtype=torch.float64) / 2
    torch.testing.assert_close(p.x0[0], torch.stack([2 + 2 * pulled, pulled]), rtol=1e-14, atol=1e-14)
    assert torch.equal(p.x0[1], x0[1])
    assert float(Thresholded(Fixed(CosineAngle()), 1.0, low, high)(x0, T).x0[0, 1].min()) == -1.0


def test_the_threshold_counts_values_and_not_rounding() -> None:
    """0.07 of 100 values are 7 of them, although 0.07 * 100 > 7 in floating point: s is the 7th |z|, 1.07."""
    z = 1 + torch.arange(1, 101, dtype=torch.float64)[None] / 100

    class Fixed(Told):
        def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
            return Prediction(x_t, self.schedule.rates(t), z)

    low, high = torch.tensor(-1.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    assert 0.07 * 100 > 7
    p = Thresholded(Fixed(CosineAngle()), 0.07, low, high)(z, T)
    torch.testing.assert_close(p.x0, z.clamp(max=1.07) / 1.07, rtol=1e-14, atol=0)


@pytest.mark.parametrize("weight", [math.nan, math.inf, torch.tensor([1.0, math.nan]), torch.ones(2, 2)], ids=repr)
def test_weights_that_cannot_be_meant(weight: float | Tensor) -> None:
    d = Told(CosineAngle())
    makes: list[Callable[[], object]] = [
        lambda: Guided(d, weight),
        lambda: AutoGuided(d, d, weight),
        lambda: ClassifierGuided(d, lambda x, t, k: x.sum(1), weight),
    ]
    for make in makes:
        with pytest.raises(UsageError, match="guidance"):
            make()


def test_other_bad_settings() -> None:
    d, one = Told(CosineAngle()), torch.ones(())
    for interval in ((2.0, 1.0), (-1.0, 2.0), (math.nan, 1.0), (1.0, 1.0)):
        with pytest.raises(UsageError, match="noise levels"):
            Guided(d, 2.0, interval)
    with pytest.raises(UsageError, match="5 weights of guidance for 6 samples"):
        Guided(d, torch.ones(5))(points(), T, labels())
    for share in (0.0, 1.1, math.nan):
        with pytest.raises(UsageError, match="share"):
            Thresholded(d, share, -one, one)
    with pytest.raises(UsageError, match="bounds"):
        Thresholded(d, 0.9, one, -one)


SAMPLERS: list[Sampler[object]] = [Ddim(), Ancestral(), Heun(churn=0.3)]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_every_wrapper_in_every_sampler(sampler: Sampler[object]) -> None:
    """All at once, on one another: finite samples within the bounds; and w = 1 leaves the plain samples' bits."""
    x, low = points(), torch.tensor(-1.0)
    plain, noise, cond = told("cosine"), NoiseSource.of(seed=0, count=6), labels()
    times = Trailing().times(plain.schedule, 8)

    def end(d: Denoise) -> Tensor:
        *_, last = sample(sampler, d, x, times, noise=noise, cond=cond)
        return last.x

    unguided = Guided(AutoGuided(plain, plain, 1.0), 1.0, (0.1, 2.0))
    assert torch.equal(end(unguided), end(plain))
    d = AutoGuided(Guided(plain, 2.0), plain, torch.linspace(0, 3, 6))
    d = Thresholded(ClassifierGuided(d, ExactClassifier("cosine"), 1.5), 0.9, low, -low)
    assert float(end(Clipped(d, low, -low)).abs().max()) <= 1


def test_an_adaptive_solver_has_guidance() -> None:
    """Times differ within the batch; against Heun in many steps, whose error is 1e-4."""
    d, x, cond = Guided(told("cosine"), 2.0, (0.05, 5.0)), points(), labels()
    noise = NoiseSource.of(seed=0, count=6)
    *_, adaptive = sample(DormandPrince(rtol=1e-6, atol=1e-6), d, x, [1.0, 0.0], noise=noise, cond=cond)
    *_, steps = sample(Heun(), d, x, Trailing().times(d.schedule, 400), noise=noise, cond=cond)
    # an interval's end is a kink: both methods are of first order there
    torch.testing.assert_close(adaptive.x, steps.x, rtol=0, atol=5e-2)


def test_absurd_weights_end_finite_or_in_words() -> None:
    x, cond, d = points(), labels(), Told(CosineAngle())
    times, noise = Trailing().times(d.schedule, 10), NoiseSource.of(seed=0, count=6)
    for weight in (1e6, 1e300):
        try:
            *_, end = sample(Ddim(), Guided(d, weight), x, times, noise=noise, cond=cond)
        except NumericsError:
            continue
        assert bool(end.x.isfinite().all())
    low = torch.tensor(-1.0)
    *_, end = sample(Ddim(), Thresholded(Guided(d, 1e6), 0.99, low, -low), x, times, noise=noise, cond=cond)
    assert float(end.x.abs().max()) <= 1


def test_oracle_gradient_by_differences() -> None:
    """The closed form that all is held to: ∇ log p(class | x_t), by central differences of the shares."""
    from sfumato.verify import oracles

    x, group, h = points().numpy(), (0, 2), 1e-5
    r: Rates = VpSde().rates(0.3)
    alpha, sigma = float(r.alpha), float(r.sigma)
    gradient = oracles.guided_score(LAW, group, 1.0, x, alpha, sigma) - LAW.score(x, alpha, sigma)
    for axis in range(2):
        step = h * torch.eye(2, dtype=torch.float64)[axis].numpy()
        ahead, behind = (oracles.log_share(LAW, group, x + way * step, alpha, sigma) for way in (1, -1))
        assert gradient[:, axis] == pytest.approx((ahead - behind) / (2 * h), abs=1e-8)
    torch.testing.assert_close(
        torch.from_numpy(oracles.guided_score(LAW, group, 1.0, x, alpha, sigma)),
        torch.from_numpy(oracles.among(LAW, group).score(x, alpha, sigma)),
        rtol=1e-12,
        atol=1e-12,
    )
