"""Posterior sampling: methods against literal formulas with the Jacobian in full, and against exact posteriors."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sfumato.core import (
    Cond,
    CosineAngle,
    Denoise,
    NoiseSource,
    Prediction,
    Schedule,
    Tabulated,
    Ve,
    VpSde,
    log_variances,
)
from sfumato.core import mean_weights as weights_of_mean
from sfumato.errors import UsageError
from sfumato.guidance import Dense, Dps, Guided, Masking, Measurement, MomentMatched, PseudoInverseGuided
from sfumato.guidance.measurement import conjugate_gradients
from sfumato.samplers import Ancestral, Ddim, DormandPrince, Heun, Trailing, UniformLogSnr, sample
from sfumato.verify.checks import editing
from sfumato.verify.ideal import Ideal

D, ROWS, COUNT = 6, 4, 3
A = torch.randn(ROWS, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
B = torch.randn(D, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 4
T = torch.tensor(0.4, dtype=torch.float64)
SCHEDULES = [CosineAngle(), Ve(), VpSde()]


class Bent:
    """x0 = ∇ of log Σ cosh-like, with a symmetric positive Jacobian that depends on x, as an ideal denoiser has."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        x0 = (x_t @ B.to(x_t).T).tanh() @ B.to(x_t) + 0.2 * x_t  # B' tanh(B x) + x/5
        return Prediction(x_t, self.schedule.rates(t), x0, x_t + 1)


def points(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(COUNT, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


def measured() -> Tensor:
    return torch.randn(COUNT, ROWS, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def jacobians(d: Denoise, x: Tensor) -> Tensor:
    """∂x0/∂x_t for each example, (B, D, D)."""
    each = [torch.autograd.functional.jacobian(lambda at: d(at[None], T).x0[0], row) for row in x]
    return torch.stack(each)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_moment_matched_by_its_formula(schedule: Schedule) -> None:
    """x0 + V A' (s² + A V A')⁻¹ (y - A x0), V = (sigma²/alpha) J, by a direct solution."""
    d, x, y, std = Bent(schedule), points(), measured(), 0.3
    r = schedule.rates(T)
    v = float(r.sigma**2 / r.alpha) * jacobians(d, x)
    seen = std**2 * torch.eye(ROWS, dtype=torch.float64) + A @ v @ A.T
    x0 = d(x, T).x0
    z = torch.linalg.solve(seen, y - x0 @ A.T)
    expected = x0 + torch.einsum("bij,bj->bi", v @ A.T, z)
    with torch.no_grad():  # as samplers call it
        p = MomentMatched(d, Measurement(Dense(A, (D,)), y, std), iterations=ROWS + 2)(x, T)
    torch.testing.assert_close(p.x0, expected, rtol=1e-8, atol=1e-8)
    assert torch.equal(p.x_t, x)
    assert not p.x0.requires_grad
    assert p.var_output is not None
    assert torch.equal(p.var_output, x + 1)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("std", [0.0, 0.3])
def test_pseudo_inverse_by_its_formula(schedule: Schedule, std: float) -> None:
    """x0 + (sigma²/alpha) J' A' (s² + r² A A')⁻¹ (y - A x0), r² = u² d²/(u² + d²)."""
    d, x, y, data_std = Bent(schedule), points(), measured(), 0.6
    r = schedule.rates(T)
    level = float(r.noise_level**2)
    left = level * data_std**2 / (level + data_std**2)
    seen = std**2 * torch.eye(ROWS, dtype=torch.float64) + left * A @ A.T
    x0 = d(x, T).x0
    z = torch.linalg.solve(seen, (y - x0 @ A.T).T).T
    pulled = torch.einsum("bji,bj->bi", jacobians(d, x), z @ A)
    with torch.no_grad():
        p = PseudoInverseGuided(d, Measurement(Dense(A, (D,)), y, std), data_std)(x, T)
    torch.testing.assert_close(p.x0, x0 + float(r.sigma**2 / r.alpha) * pulled, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("steps", [4, 7])
def test_dps_is_its_algorithm(steps: int) -> None:
    """Ancestral sampling with x_s <- x_s - scale ∇|y - A x0|, written out with autograd (Chung et al. 2023, alg. 1)."""
    schedule, scale, y = Tabulated(steps=28), 0.3, measured()
    d, noise, x = Bent(schedule), NoiseSource.of(seed=0, count=COUNT), points()
    times = Trailing().times(schedule, steps)
    *_, end = sample(Ancestral(), Dps(d, Measurement(Dense(A, (D,)), y), steps, scale), x, times, noise=noise)
    for t, s in pairwise(times):
        at = x.detach().requires_grad_()
        p = d(at, torch.tensor(t, dtype=torch.float64))
        (gradient,) = torch.autograd.grad((y - p.x0 @ A.T).norm(dim=1).sum(), at)
        if s == 0:
            x = p.x0.detach() - scale * gradient
            continue
        now, then = schedule.rates(t), schedule.rates(s)
        w = weights_of_mean(then, now)
        std = float(log_variances(then, now).small.exp()) ** 0.5
        x = float(w.keep) * x + float(w.pull) * p.x0.detach() + std * noise.increment(now, then, x) - scale * gradient
    torch.testing.assert_close(end.x, x, rtol=1e-9, atol=1e-9)


def test_conjugate_gradients_at_each_samples_pace() -> None:
    """Sizes from 1e-6 to 1e6, one right side of 0, one matrix with a null space: each as its own exact solution."""
    root = torch.randn(4, D, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    scale = torch.tensor([1e-6, 1.0, 1e6, 1.0], dtype=torch.float64)[:, None, None]
    s = scale * (root @ root.mT + torch.eye(D, dtype=torch.float64))
    s[3, :, 0] = s[3, 0, :] = 0  # never measured
    right = torch.randn(4, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    right[1], right[3, 0] = 0, 0
    z = conjugate_gradients(lambda v: torch.einsum("bij,bj->bi", s, v), right, iterations=40, tolerance=1e-12)
    exact = torch.einsum("bij,bj->bi", torch.linalg.pinv(s, hermitian=True, rtol=1e-12), right)
    torch.testing.assert_close(z, exact, rtol=1e-8, atol=1e-12)
    assert bool((z[1] == 0).all())


def test_conjugate_gradients_stop_where_it_is_not_positive() -> None:
    """A Jacobian of a network may be anything: no step is taken along a direction of negative curvature."""
    s = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    right = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    z = conjugate_gradients(lambda v: v @ s, right, iterations=10, tolerance=1e-12)
    torch.testing.assert_close(z, torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64))


@pytest.mark.parametrize("task", list(editing.TASKS))
def test_gaussian_posteriors_are_exact(task: str) -> None:
    assert editing.moment_matched(task, 0.1) < 1e-7  # a central difference in the place of the Jacobian
    assert editing.white(task) < 1e-7


@pytest.mark.parametrize("task", ["mask", "means", "grey"])
def test_a_measurement_without_noise_is_met(task: str) -> None:
    """Samples of the exact method have A x = y; what is left is the equations' relative residual."""
    at, schedule = editing.given(task, 0.0), VpSde()
    d = MomentMatched(Ideal(at.prior, schedule), at.measurements, iterations=32)
    x = NoiseSource.of(seed=0, count=16).initial(tuple(at.pictures.shape), like=at.pictures)
    for sampler in (Ddim(), Ancestral(), Heun()):
        *_, end = sample(sampler, d, x, UniformLogSnr().times(schedule, 12), noise=NoiseSource.of(seed=0, count=16))
        torch.testing.assert_close(at.operator.apply(end.x), at.y, rtol=1e-7, atol=1e-7)


def test_the_adaptive_solver_draws_posteriors() -> None:
    """Times differ within the batch; the end against 160 steps of Heun."""
    at, schedule = editing.given("means"), VpSde()
    d = MomentMatched(Ideal(at.prior, schedule), at.measurements, iterations=16)
    noise = NoiseSource.of(seed=0, count=16)
    x = noise.initial(tuple(at.pictures.shape), like=at.pictures)
    *_, adaptive = sample(DormandPrince(rtol=1e-5, atol=1e-5), d, x, [1.0, 0.0], noise=noise)
    *_, steps = sample(Heun(), d, x, UniformLogSnr().times(schedule, 160), noise=noise)
    torch.testing.assert_close(adaptive.x, steps.x, rtol=0, atol=5e-3)  # Heun's error, about 1e-3 of 1


def test_conditions_are_handed_on_and_float32_stays() -> None:
    class Recording(Bent):
        asked: Cond | None = None

        def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
            self.asked = cond
            return super().__call__(x_t, t, cond)

    inner, cond = Recording(VpSde()), Cond(labels=torch.arange(COUNT))
    known = Measurement(Dense(A, (D,)), measured(), 0.1)
    for wrap in (MomentMatched(inner, known), PseudoInverseGuided(inner, known), Dps(inner, known, 10)):
        inner.asked = None
        p = wrap(points(torch.float32), T, cond)
        assert inner.asked is cond
        assert p.x0.dtype == torch.float32
        assert wrap.schedule is inner.schedule
    guided = MomentMatched(Guided(inner, 2.0), known)
    assert bool(guided(points(), T, cond).x0.isfinite().all())


def test_bad_settings() -> None:
    d, known = Bent(VpSde()), Measurement(Dense(A, (D,)), measured())
    with pytest.raises(UsageError, match="measurement of shape"):
        MomentMatched(d, Measurement(Dense(A, (D,)), measured()[:2]))(points(), T)
    with pytest.raises(UsageError, match="iterations"):
        MomentMatched(d, known, iterations=0)
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match="data_std"):
            PseudoInverseGuided(d, known, bad)
    with pytest.raises(UsageError, match="steps"):
        Dps(d, known, 0)
    with pytest.raises(UsageError, match="scale"):
        Dps(d, known, 10, math.nan)


def test_one_measurement_for_all_samples() -> None:
    d, x, y = Bent(VpSde()), points(), measured()[:1]
    one = MomentMatched(d, Measurement(Dense(A, (D,)), y, 0.1))(x, T)
    each = MomentMatched(d, Measurement(Dense(A, (D,)), y.repeat(COUNT, 1), 0.1))(x, T)
    assert torch.equal(one.x0, each.x0)
    mask = Masking((torch.arange(D) % 2).double())
    known = Measurement(mask, mask.apply(points()[:1]), 0.0)
    assert bool(MomentMatched(d, known)(x, T).x0.isfinite().all())
