"""Bounds as losses: kernel by kernel, gradients, what is detached, what is refused."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.core import (
    CosineAngle,
    CosineBetas,
    Decoder,
    Denoiser,
    DiscretizedGaussian,
    Edm,
    GaussianDecoder,
    GridTimes,
    Image,
    Large,
    Learned,
    LearnedRange,
    LinearBetas,
    Noise,
    Parameterization,
    PreviousMean,
    Rates,
    Small,
    StepInput,
    Tabulated,
    TimeInput,
    UniformTimes,
    Variance,
    Velocity,
    derived_generator,
    log_variances,
    marginal,
    posterior,
    reverse,
)
from sfumato.errors import ConfigError
from sfumato.nn import StepMlpConfig
from sfumato.objectives import (
    DenoisingLoss,
    Draw,
    Hybrid,
    Objective,
    OutputError,
    SohlDicksteinBound,
    StepElbo,
    VariationalBound,
    entropies,
)
from sfumato.verify.oracles import (
    posterior_coefficients,
    step_kl,
)

STEPS = 8
TABLE = Tabulated(CosineBetas(), STEPS)
BARS = (TABLE.rates(torch.arange(1, STEPS + 1).double() / STEPS).alpha ** 2).numpy()
PARAMETERIZATIONS = [Noise(), Image(), Velocity(), Edm(), PreviousMean(TABLE)]


class Clock(TimeInput):
    """Hands the network t itself, so that an ideal answer can be computed from the schedule."""

    def value(self, r: Rates) -> Tensor:
        return r.t

    @property
    def span(self) -> float:
        return 1.0

    def input_scale(self, r: Rates, data_std: float) -> Tensor:
        return torch.ones_like(r.t)


def test_loss_is_linear_in_the_inverse_density() -> None:
    x0, draw = batch()
    for objective in (VariationalBound(Small()), Hybrid(), SohlDicksteinBound(Small())):
        once = objective(wrong(Noise()), x0, draw).values
        thrice = objective(wrong(Noise()), x0, Draw(draw.t, draw.eps, 3 * draw.inv_density)).values
        torch.testing.assert_close(thrice, 3 * once, rtol=1e-14, atol=0)


class Affine(torch.nn.Module):
    """F = tanh(mean x + t), and tanh(variance x - t) of the variance: two parts with weights of their own."""

    def __init__(self, mean: Tensor, variance: Tensor) -> None:
        super().__init__()
        self.mean, self.variance = mean, variance

    def forward(self, x: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
        moment = time[:, None].to(x.dtype)
        of_mean, of_variance = self.mean.to(x.dtype) * x + moment, self.variance.to(x.dtype) * x - moment
        return torch.cat([torch.tanh(of_mean), torch.tanh(of_variance)], dim=1)


def wrong(parameterization: Parameterization, mean: float | Tensor = 0.7, variance: float | Tensor = -0.4) -> Denoiser:
    """A denoiser that is wrong everywhere, for three values."""
    as_tensor = [v if isinstance(v, Tensor) else torch.tensor(v, dtype=torch.float64) for v in (mean, variance)]
    network = Affine(*as_tensor)
    return Denoiser(network, TABLE, parameterization, time_input=Clock(), data_std=0.6, learn_variance=True)


def batch(count: int = STEPS) -> tuple[Tensor, Draw]:
    """One example of three values at each step, the steps in a mixed order."""
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, count, 3, generator=generator, dtype=torch.float64)
    k = torch.randperm(count, generator=generator) % STEPS + 1
    return 0.6 * x0, Draw(k.double() / STEPS, eps, torch.rand(count, generator=generator).double() + 0.5)


DECODERS: dict[str, Decoder] = {"density": GaussianDecoder(), "levels": DiscretizedGaussian(16, -3.0, 3.0)}
VARIANCES: list[Variance] = [Small(), Large(), LearnedRange(), Learned(steps=STEPS)]


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=list(DECODERS))
@pytest.mark.parametrize("variance", VARIANCES, ids=lambda v: type(v).__name__)
def test_a_mixed_batch_is_its_examples_one_by_one(variance: Variance, decoder: Decoder) -> None:
    """Each example's term is the KL or the decoder of the very kernels that samplers use."""
    d, (x0, draw) = wrong(Velocity()), batch()
    terms = VariationalBound(variance, decoder).terms(d, x0, draw)
    for i in range(STEPS):
        one, t = slice(i, i + 1), draw.t[i]
        r = TABLE.rates(t)
        p = d(marginal(x0[one], r).sample(draw.eps[one]), t)
        if t == 1 / STEPS:
            kernel = reverse(p, Rates.data(), variance, before=TABLE.rates(2 / STEPS))
            expected = -decoder.log_prob(x0[one], kernel).mean()
        else:
            s = TABLE.rates(t - 1 / STEPS)
            expected = posterior(x0[one], p.x_t, s=s, t=r).kl(reverse(p, s, variance)).mean()
        torch.testing.assert_close(terms.step[i], expected, rtol=1e-9, atol=1e-9)


def test_learned_mean_and_log_variance_are_those_of_the_step_before() -> None:
    """esling's first network: KL(q ‖ N(F, e^said)) with F and said straight from the network."""
    d, (x0, draw) = wrong(PreviousMean(TABLE)), batch()
    terms = VariationalBound(Learned(steps=STEPS)).terms(d, x0, draw)
    r = TABLE.rates(draw.t)
    x_t = marginal(x0, r).sample(draw.eps)
    mean, log_var = (v.numpy() for v in d.network(x_t, draw.t).chunk(2, dim=1))
    c = posterior_coefficients(BARS)
    for i, k in enumerate((draw.t * STEPS).round().int().tolist()):
        var = np.exp(log_var[i])
        if k == 1:
            expected = (0.5 * np.log(2 * np.pi * var) + (x0[i].numpy() - mean[i]) ** 2 / (2 * var)).mean()
        else:
            true = c.on_x0[k - 1] * x0[i].numpy() + c.on_x_t[k - 1] * x_t[i].numpy()
            expected = step_kl(c.variance[k - 1], var, (true - mean[i]) ** 2).mean()
        assert float(terms.step[i]) == pytest.approx(float(expected), rel=1e-9)


def test_it_trains_the_network_of_43012_parameters() -> None:
    """2-128-128-4 at T = 100, mean and log-variance of x_s: a few steps lower the bound of points on a circle."""
    torch.manual_seed(0)
    table = Tabulated(LinearBetas(), 100)
    network = StepMlpConfig(widths=(128, 128)).build((2,), steps=100, time_span=100, out_channels=4)
    assert sum(p.numel() for p in network.parameters()) == 43_012
    d = Denoiser(network, table, PreviousMean(table), time_input=StepInput(100), data_std=0.7, learn_variance=True)
    objective, optimizer = VariationalBound(Learned(steps=100)), torch.optim.Adam(network.parameters(), lr=1e-3)
    assert objective.learns_variance
    generator, history = derived_generator(0, "circle"), []
    for _ in range(150):
        angle, eps = torch.rand(256, generator=generator) * 2 * math.pi, torch.randn(256, 2, generator=generator)
        drawn = GridTimes(100).draw(table, 256, generator)
        x0 = torch.stack([angle.cos(), angle.sin()], dim=1)
        loss = objective(d, x0, Draw(drawn.t, eps, drawn.inv_density)).values.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert np.mean(history[-20:]) < 0.25 * np.mean(history[:5])


def test_the_weighted_loss_of_eps_is_the_bound_of_the_small_variance() -> None:
    """DenoisingLoss(StepElbo) + ½ T log(2 pi var) at the last step = T L_{t-1}, example by example, for any target."""
    x0, draw = batch()
    draw = Draw(draw.t, draw.eps, torch.ones(STEPS, dtype=torch.float64))
    log_var = log_variances(Rates.data(), TABLE.rates(1 / STEPS), before=TABLE.rates(2 / STEPS)).small
    constant = torch.where(draw.t == 1 / STEPS, 0.5 * STEPS * (math.log(2 * math.pi) + log_var), 0.0)
    for parameterization in PARAMETERIZATIONS:
        d = wrong(parameterization)
        weighted = DenoisingLoss(weighting=StepElbo())(d, x0, draw).values
        step = VariationalBound(Small()).terms(d, x0, draw).step
        torch.testing.assert_close(weighted + constant, STEPS * step, rtol=1e-8, atol=1e-8)


OBJECTIVES: list[Objective] = [
    VariationalBound(),
    VariationalBound(Learned(steps=STEPS), DiscretizedGaussian(16, -3.0, 3.0)),
    SohlDicksteinBound(),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS, ids=lambda p: type(p).__name__)
def test_gradients_are_those_of_finite_differences(objective: Objective, parameterization: Parameterization) -> None:
    x0, draw = batch()

    def per_example(mean: Tensor, variance: Tensor) -> Tensor:
        return objective(wrong(parameterization, mean, variance), x0, draw).values

    inputs = (torch.tensor(0.7).double().requires_grad_(), torch.tensor(-0.4).double().requires_grad_())
    assert torch.autograd.gradcheck(per_example, inputs)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS, ids=lambda p: type(p).__name__)
def test_hybrid_teaches_the_mean_by_the_simple_loss_and_the_variance_by_the_bound(
    parameterization: Parameterization,
) -> None:
    x0, draw = batch()
    mean, variance = torch.tensor(0.7).double().requires_grad_(), torch.tensor(-0.4).double().requires_grad_()
    d = wrong(parameterization, mean, variance)
    hybrid, bound = Hybrid(weight=0.01, weighting=OutputError()), VariationalBound(LearnedRange())
    simple = DenoisingLoss(weighting=OutputError())

    def gradients(objective: Objective) -> tuple[Tensor, ...]:
        return torch.autograd.grad(objective(d, x0, draw).values.mean(), (mean, variance), allow_unused=True)

    of_mean, of_variance = gradients(hybrid)
    simple_mean, simple_variance = gradients(simple)
    bound_mean, bound_variance = gradients(bound)
    torch.testing.assert_close(of_mean, simple_mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(of_variance, 0.01 * bound_variance, rtol=1e-12, atol=0)
    assert float(simple_variance or 0) == 0
    assert abs(float(bound_mean)) > 1e-3  # which the hybrid must not show
    value = simple(d, x0, draw).values + 0.01 * bound(d, x0, draw).values
    torch.testing.assert_close(hybrid(d, x0, draw).values, value, rtol=1e-12, atol=0)


def test_hybrid_is_l_simple_by_default() -> None:
    """On eps whatever the target: mean |eps_hat - eps|² plus a thousandth of the bound."""
    x0, draw = batch()
    d = wrong(Velocity())
    p = d(marginal(x0, TABLE.rates(draw.t)).sample(draw.eps), draw.t)
    simple = draw.inv_density * (p.eps - draw.eps).square().mean(1)
    expected = simple + 0.001 * VariationalBound()(d, x0, draw).values
    torch.testing.assert_close(Hybrid()(d, x0, draw).values, expected, rtol=1e-9, atol=0)


def test_bound_of_2015_has_a_term_less_than_steps() -> None:
    """The first step, which is fixed, counts nothing, and a batch of it alone has a gradient of 0."""
    x0, draw = batch()
    mean = torch.tensor(0.7).double().requires_grad_()
    d = wrong(Noise(), mean)
    step = SohlDicksteinBound(Small()).step(d, x0, draw)
    first = draw.t == 1 / STEPS
    assert int(first.sum()) == 1
    assert float(step[first].detach()) == 0
    torch.testing.assert_close(step[~first], VariationalBound(Small()).terms(d, x0, draw).step[~first])
    alone = Draw(draw.t[first], draw.eps[first], draw.inv_density[first])
    value = SohlDicksteinBound(Small())(d, x0[first], alone).values
    (gradient,) = torch.autograd.grad(value.mean(), mean)
    assert float(gradient) == 0
    e = entropies(TABLE)
    expected = float(draw.inv_density[first]) * float(e.first - e.last + e.prior)
    assert float(value.detach()) == pytest.approx(expected, rel=1e-12)


def test_float32_agrees_with_float64() -> None:
    x0, draw = batch()
    single = Draw(draw.t, draw.eps.float(), draw.inv_density)
    for objective in (*OBJECTIVES, Hybrid(), VariationalBound(Small())):
        exact = objective(wrong(Noise()), x0, draw).values
        values = objective(wrong(Noise()), x0.float(), single).values
        assert values.dtype == torch.float32
        torch.testing.assert_close(values.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "objective",
    [VariationalBound(Small()), Hybrid(), SohlDicksteinBound(Small())],
    ids=lambda o: type(o).__name__,
)
def test_what_is_no_chain_is_refused(objective: Objective) -> None:
    class Zero(torch.nn.Module):
        def forward(self, x: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
            return torch.zeros(len(x), 6, dtype=x.dtype)

    x0, draw = batch()
    d = Denoiser(Zero(), CosineAngle(), Noise(), time_input=Clock(), data_std=1.0, learn_variance=True)
    with pytest.raises(ConfigError, match="CosineAngle, which has no steps"):
        objective(d, x0, draw)
    between = UniformTimes().draw(TABLE, STEPS, derived_generator(0, "between"))
    with pytest.raises(ConfigError, match="between the steps") as caught:
        objective(wrong(Noise()), x0, Draw(between.t, draw.eps, between.inv_density))
    assert "times.steps: 8" in caught.value.fix


def test_bad_settings_are_refused() -> None:
    x0, draw = batch()
    with pytest.raises(ConfigError, match="Learned of 1000 steps and schedule has 8"):
        VariationalBound(Learned())(wrong(Noise()), x0, draw)
    for weight in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match=r"objective\.weight is"):
            Hybrid(weight=weight)
    with pytest.raises(ConfigError, match="Small, which is not learned"):
        Hybrid(variance=Small())
    one = Tabulated(CosineBetas(), 1)
    network = Affine(*torch.tensor([0.7, -0.4], dtype=torch.float64))
    d = Denoiser(
        network, one, Noise(), time_input=Clock(), data_std=0.6, learn_variance=True, allow_terminal_signal=True
    )
    with pytest.raises(ConfigError, match="one step"):
        SohlDicksteinBound(Small())(d, x0, Draw(torch.ones_like(draw.t), draw.eps, draw.inv_density))
