"""Score matching against closed forms on Gaussian data, whose score is linear, and against Jacobians written out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.core import Denoiser, LogSnrInput, Noise, Parameterization, Rates, Schedule, Score, StepInput, Ve, marginal
from sfumato.errors import ConfigError
from sfumato.nn import FourierMlpConfig
from sfumato.objectives import (
    DenoisingLoss,
    DenoisingScoreMatching,
    Draw,
    ExactScoreMatching,
    NoiseError,
    Objective,
    SlicedScoreMatching,
    score,
)

Build = Callable[[Parameterization, Schedule], Any]  # a Scene of conftest
SCHEDULE = Ve(0.001, 10.0)
SIGNS = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
COV = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
MEAN = torch.tensor([0.3, -0.4], dtype=torch.float64)


def time_of(sigma: float) -> Tensor:
    """The t at which the noise has this standard deviation."""
    return SCHEDULE.time(torch.tensor(sigma, dtype=torch.float64).log() * -2)


class Linear(torch.nn.Module):
    """F = b - x A'."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, x: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.b - x @ self.a.T


def denoiser(network: torch.nn.Module, parameterization: Parameterization | None = None) -> Denoiser:
    """The network sees x_t unscaled; with the target Score it is the score."""
    return Denoiser(network, SCHEDULE, parameterization or Score(), time_input=StepInput(1), data_std=1.0)


def gaussian_points(sigma: float, probes: int = 0) -> tuple[Tensor, Draw]:
    """Sixteen pairs (x0, eps) with exactly the mean, covariance and independence of N(MEAN, COV) and N(0, I).

    The mean over them is the exact expectation of everything quadratic. `probes` repeats each sign vector as a probe.
    """
    root = torch.linalg.cholesky(COV)
    x0 = (MEAN + SIGNS @ root.T).repeat_interleave(4, 0)
    eps = SIGNS.repeat(4, 1)
    drawn = tuple(SIGNS[k].expand(16, 2) for k in range(probes))
    return x0, Draw(time_of(sigma).expand(16), eps, torch.ones(16, dtype=torch.float64), drawn)


def wavy(seed: int = 0) -> Denoiser:
    """A denoiser that is nothing like linear, in float64."""
    torch.manual_seed(seed)
    network = FourierMlpConfig(width=16, depth=2, frequencies=3).build((2,), steps=None, time_span=5.0)
    torch.nn.init.normal_(network.out.weight)
    return Denoiser(network.double(), SCHEDULE, Noise(), time_input=LogSnrInput(), data_std=0.6)


def jacobians(d: Denoiser, x_t: Tensor, t: Tensor) -> Tensor:
    """ds/dx of each example by reverse mode, one example at a time: (B, D, D)."""
    each = [
        torch.func.jacrev(lambda x, t=t_i: d(x[None], t[None]).score[0])(x_i) for x_i, t_i in zip(x_t, t, strict=True)
    ]
    return torch.stack(each).detach()


def random_batch(d: Denoiser, probes: int = 0, count: int = 5) -> tuple[Tensor, Draw]:
    generator = torch.Generator().manual_seed(1)
    x0, eps, *more = torch.randn(2 + probes, count, 2, generator=generator, dtype=torch.float64)
    t = torch.linspace(0.5, 1.0, count, dtype=torch.float64)  # sigma from 0.1 to 10
    return x0, Draw(t, eps, torch.rand(count, generator=generator, dtype=torch.float64) + 0.5, tuple(more))


LINEAR = torch.tensor([[1.3, 0.4], [-0.2, 0.7]], dtype=torch.float64)
SHIFT = torch.tensor([0.2, -0.5], dtype=torch.float64)


@pytest.mark.parametrize("sigma", [0.05, 1.0])
def test_exact_loss_of_a_linear_score_in_closed_form(sigma: float) -> None:
    """½ tr(A S A') + ½ |b - A m|² - tr A, with x_t ~ N(m, S)."""
    x0, draw = gaussian_points(sigma)
    noisy = COV + sigma**2 * torch.eye(2, dtype=torch.float64)
    expected = 0.5 * (LINEAR @ noisy @ LINEAR.T).trace() + 0.5 * (SHIFT - LINEAR @ MEAN).square().sum() - LINEAR.trace()
    values = ExactScoreMatching()(denoiser(Linear(LINEAR, SHIFT)), x0, draw).values
    torch.testing.assert_close(values.mean(), expected, rtol=1e-12, atol=1e-12)


def losses(sigma: float) -> dict[str, tuple[Objective, Draw]]:
    """Every form; the sliced ones over all the sign vectors of the plane, which is their expectation."""
    _, plain = gaussian_points(sigma)
    _, probed = gaussian_points(sigma, probes=4)
    return {
        "exact": (ExactScoreMatching(), plain),
        "sliced": (SlicedScoreMatching(probes=4), probed),
        "sliced-reduced": (SlicedScoreMatching(probes=4, variance_reduced=True), probed),
        "denoising": (DenoisingScoreMatching(), plain),
    }


@pytest.mark.parametrize("name", ["exact", "sliced", "sliced-reduced", "denoising"])
def test_every_form_has_the_gradient_of_the_true_score_error(name: str) -> None:
    """E ½ |s - grad log p_t|² has gradient (A S - I, …): all forms differ from it by a constant."""
    sigma = 0.3
    objective, draw = losses(sigma)[name]
    x0, _ = gaussian_points(sigma)
    a, b = LINEAR.clone().requires_grad_(), SHIFT.clone().requires_grad_()
    loss = objective(denoiser(Linear(a, b)), x0, draw).values.mean()
    gradients = torch.autograd.grad(loss, (a, b))
    noisy = COV + sigma**2 * torch.eye(2, dtype=torch.float64)
    offset = SHIFT - LINEAR @ MEAN
    torch.testing.assert_close(
        gradients[0], LINEAR @ noisy - torch.eye(2).double() - offset[:, None] * MEAN, rtol=1e-11, atol=1e-11
    )
    torch.testing.assert_close(gradients[1], offset, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["exact", "sliced", "sliced-reduced", "denoising"])
def test_the_minimiser_is_the_true_score(name: str) -> None:
    """The loss is a parabola in (A, b): one Newton step from anywhere finds A = S⁻¹ and b = S⁻¹ m."""
    sigma = 0.3
    objective, draw = losses(sigma)[name]
    x0, _ = gaussian_points(sigma)

    def mean_loss(weights: Tensor) -> Tensor:
        return objective(denoiser(Linear(weights[:4].view(2, 2), weights[4:])), x0, draw).values.mean()

    start = torch.cat([LINEAR.flatten(), SHIFT])
    (gradient,) = torch.autograd.grad(mean_loss(at := start.clone().requires_grad_()), at)
    hessian = torch.autograd.functional.hessian(mean_loss, start)
    found = start - torch.linalg.solve(hessian, gradient)
    precision = torch.linalg.inv(COV + sigma**2 * torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(found, torch.cat([precision.flatten(), precision @ MEAN]), rtol=1e-10, atol=1e-10)


def test_exact_loss_agrees_with_the_jacobian_written_out() -> None:
    d = wavy()
    x0, draw = random_batch(d)
    x_t = marginal(x0, SCHEDULE.rates(draw.t)).sample(draw.eps)
    s, j = d(x_t, draw.t).score.detach(), jacobians(d, x_t, draw.t)
    expected = draw.inv_density * (0.5 * s.square().sum(1) + j.diagonal(dim1=1, dim2=2).sum(1))
    torch.testing.assert_close(ExactScoreMatching()(d, x0, draw).values.detach(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("projections", ["rademacher", "gaussian"])
@pytest.mark.parametrize("reduced", [False, True], ids=["plain", "reduced"])
def test_sliced_loss_is_that_of_its_projections(projections: Any, reduced: bool) -> None:
    """½ (v·s)² + v'Jv for the very v of the draw, not their mean: a sum of squares in place of (v·s)² is another."""
    d = wavy()
    x0, draw = random_batch(d, probes=2)
    x_t = marginal(x0, SCHEDULE.rates(draw.t)).sample(draw.eps)
    s, j = d(x_t, draw.t).score.detach(), jacobians(d, x_t, draw.t)
    expected = torch.zeros(5, dtype=torch.float64)
    for probe in draw.probes:
        v = probe.sign() if projections == "rademacher" else probe
        square = s.square().sum(1) if reduced else torch.einsum("bi,bi->b", v, s) ** 2
        expected += (0.5 * square + torch.einsum("bi,bij,bj->b", v, j, v)) / 2
    objective = SlicedScoreMatching(probes=2, variance_reduced=reduced, projections=projections)
    assert objective.num_probes == 2
    values = objective(d, x0, draw).values.detach()
    torch.testing.assert_close(values, draw.inv_density * expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("reduced", [False, True], ids=["plain", "reduced"])
def test_all_the_sign_vectors_together_are_the_exact_loss(reduced: bool) -> None:
    """Example by example, for any network."""
    d = wavy()
    x0, draw = random_batch(d)
    signs = Draw(draw.t, draw.eps, draw.inv_density, tuple(v.expand(5, 2) for v in SIGNS))
    exact = ExactScoreMatching()(d, x0, draw).values
    sliced = SlicedScoreMatching(probes=4, variance_reduced=reduced)(d, x0, signs).values
    torch.testing.assert_close(sliced, exact, rtol=1e-11, atol=1e-11)


def test_denoising_loss_of_no_score_is_the_floor_of_ten_thousand() -> None:
    """D/(2 sigma²) at sigma = 0.01 in the plane; the true score of N(MEAN, COV) lowers it by ½ tr S⁻¹, 3.6."""
    x0, draw = gaussian_points(0.01)
    nothing = denoiser(Linear(torch.zeros(2, 2).double(), torch.zeros(2).double()))
    floor = DenoisingScoreMatching()(nothing, x0, draw).values
    torch.testing.assert_close(floor, torch.full_like(floor, 1e4), rtol=1e-9, atol=0)  # sigma is found through a log
    precision = torch.linalg.inv(COV + 1e-4 * torch.eye(2, dtype=torch.float64))
    ideal = denoiser(Linear(precision, precision @ MEAN))
    learned = DenoisingScoreMatching()(ideal, x0, draw).values.mean()
    torch.testing.assert_close(1e4 - learned, 0.5 * precision.trace(), rtol=1e-5, atol=0)  # as above, of 10,000 to 3.6
    assert float(0.5 * precision.trace()) == pytest.approx(3.6, abs=0.1)


OBJECTIVES = [
    ExactScoreMatching(),
    SlicedScoreMatching(probes=2),
    SlicedScoreMatching(probes=2, variance_reduced=True, projections="gaussian"),
    DenoisingScoreMatching(),
]


@pytest.mark.parametrize("make", [ExactScoreMatching, SlicedScoreMatching, DenoisingScoreMatching])
def test_weighted_is_times_sigma_squared(make: Callable[..., Objective]) -> None:
    d = wavy()
    x0, draw = random_batch(d, probes=1)
    sigma = SCHEDULE.rates(draw.t).sigma
    weighted = make(weighted=True)(d, x0, draw).values
    torch.testing.assert_close(weighted, sigma**2 * make()(d, x0, draw).values, rtol=1e-12, atol=0)


def test_weighted_denoising_over_many_levels_is_half_the_noise_error(
    pair: tuple[Parameterization, Schedule], scene: Build
) -> None:
    """NCSN's objective is D/2 times L_simple, for every target and schedule."""
    s = scene(*pair)
    ncsn = DenoisingScoreMatching(weighted=True)(s.denoiser, s.x0, s.draw).values
    simple = DenoisingLoss(weighting=NoiseError())(s.denoiser, s.x0, s.draw).values
    # s + eps/sigma is a difference of numbers up to e^10 times as large where one of alpha and sigma is e^-10
    torch.testing.assert_close(ncsn, 6 / 2 * simple, rtol=1e-6, atol=0)


def test_score_is_that_of_the_prediction(pair: tuple[Parameterization, Schedule], scene: Build) -> None:
    s = scene(*pair)
    r = pair[1].rates(s.draw.t)
    x_t = marginal(s.x0, r).sample(s.draw.eps)
    said = s.denoiser(x_t, s.draw.t).score
    # the prediction's own score cancels where sigma is small: x_t - alpha x0_hat is sigma² of it
    torch.testing.assert_close(score(s.denoiser, x_t, r), said, rtol=1e-5, atol=1e-9)


def test_a_network_of_scores_is_the_score_without_rounding() -> None:
    """In float32 at sigma = 0.001, where (alpha x0_hat - x_t)/sigma² has one digit left."""
    d = denoiser(Linear(torch.eye(2), torch.zeros(2)))
    x, t = torch.tensor([[0.7, -1.3]]), time_of(0.0011)[None]
    torch.testing.assert_close(score(d, x, SCHEDULE.rates(t)), -x, rtol=1e-6, atol=0)
    assert float((d(x, t).score + x).abs().max()) > 1e-3


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("parameterization", [Score(), Noise()], ids=repr)
def test_gradients_are_those_of_finite_differences(objective: Objective, parameterization: Parameterization) -> None:
    """The derivatives by x keep their graph."""

    class Tanh(torch.nn.Module):
        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, x: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
            return torch.tanh(x @ self.weight + time[:, None])

    def per_example(weight: Tensor) -> Tensor:
        d = denoiser(Tanh(weight), parameterization)
        x0, draw = random_batch(d, probes=objective.num_probes)
        return objective(d, x0, draw).values

    assert torch.autograd.gradcheck(per_example, (LINEAR.clone().requires_grad_(),))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_values_are_the_same_without_gradients_and_in_training_mode(objective: Objective) -> None:
    d = wavy().train()
    x0, draw = random_batch(d, probes=objective.num_probes)
    values = objective(d, x0, draw).values
    with torch.no_grad():
        held_out = objective(d, x0, draw).values
    assert values.requires_grad
    assert not held_out.requires_grad
    # autograd takes another route through silu when it keeps the graph
    torch.testing.assert_close(held_out, values.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_losses_belong_to_their_examples(objective: Objective) -> None:
    d = wavy()
    x0, draw = random_batch(d, probes=objective.num_probes)
    part = slice(1, 3)
    of_part = Draw(draw.t[part], draw.eps[part], draw.inv_density[part], tuple(v[part] for v in draw.probes))
    torch.testing.assert_close(
        objective(d, x0[part], of_part).values, objective(d, x0, draw).values[part], rtol=1e-12, atol=1e-12
    )


def test_a_constant_score_has_no_derivative() -> None:
    """A network that does not look at x: the trace is 0, not an error."""

    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.b = torch.nn.Parameter(SHIFT)

        def forward(self, x: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
            return self.b.expand_as(x)

    d = denoiser(Constant())
    x0, draw = random_batch(d)
    values = ExactScoreMatching()(d, x0, draw).values
    # of_x_t is (1 - alpha/alpha)/sigma², which float64 makes 0 to rounding
    torch.testing.assert_close(values.detach(), draw.inv_density * 0.5 * SHIFT.square().sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("objective", "size"), [(ExactScoreMatching(), 129), (SlicedScoreMatching(), 16_385)])
def test_too_many_values_are_refused_with_another_way(objective: Objective, size: int) -> None:
    class Same(torch.nn.Module):
        def forward(self, x: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
            return x

    x0 = torch.zeros(1, size)
    draw = Draw(torch.ones(1, dtype=torch.float64), x0, torch.ones(1), (x0,))
    with pytest.raises(ConfigError, match=f"{size:,} values") as caught:
        objective(denoiser(Same()), x0, draw)
    assert "DenoisingScoreMatching" in caught.value.fix


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="probes is 0"):
        SlicedScoreMatching(probes=0)
    with pytest.raises(ConfigError, match="projections is 'uniform'"):
        SlicedScoreMatching(projections="uniform")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "objective",
    [ExactScoreMatching(), SlicedScoreMatching(variance_reduced=True), DenoisingScoreMatching(weighted=True)],
    ids=lambda objective: type(objective).__name__,
)
def test_a_network_learns_the_score(objective: Objective) -> None:
    """FourierMlp on N(MEAN, COV) at sigma = 0.5: the Fisher divergence falls below 2 % of E|grad log p|²."""
    torch.manual_seed(0)
    network = FourierMlpConfig(width=32, depth=1, frequencies=2).build((2,), steps=None, time_span=5.0)
    d = Denoiser(network, SCHEDULE, Noise(), time_input=LogSnrInput(), data_std=0.6)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    generator, root, t = torch.Generator().manual_seed(0), torch.linalg.cholesky(COV).float(), time_of(0.5)
    steps, count = 300, 512
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / steps)
        normal, eps, probe = torch.randn(3, count, 2, generator=generator)
        draw = Draw(t.expand(count), eps, torch.ones(count), (probe,) * objective.num_probes)
        loss = objective(d, MEAN.float() + normal @ root.T, draw).values.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    normal, eps = torch.randn(2, 4096, 2, generator=generator)
    x_t = MEAN.float() + normal @ root.T + 0.5 * eps
    precision = torch.linalg.inv(COV + 0.25 * torch.eye(2)).float()
    true = -(x_t - MEAN.float()) @ precision
    r: Rates = SCHEDULE.rates(t.expand(4096))
    with torch.no_grad():
        error = (score(d, x_t, r) - true).square().sum(1).mean() / true.square().sum(1).mean()
    assert float(error) < 0.02
