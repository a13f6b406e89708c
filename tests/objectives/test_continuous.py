"""The bound in continuous time against its closed form on Gaussian data, without Monte Carlo, and what trains its ends.

Every term is quadratic in (x_0, eps) for a denoiser that is affine in x_t, so four pairs with the second moments of the
data and of the noise give exact expectations; over t, Gauss nodes within each part of the schedule, whose weights are
handed in as `inv_density`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.core import (
    CosineAngle,
    Denoiser,
    DiscretizedGaussian,
    Edm,
    Flow,
    Image,
    Large,
    LearnedLogSnr,
    LogSnrInput,
    LogSnrLinear,
    Noise,
    NoiseSource,
    Parameterization,
    PiecewiseLogSnr,
    RectifiedFlow,
    Schedule,
    Score,
    Shifted,
    Tabulated,
    Ve,
    Velocity,
    check_terminal_signal,
)
from sfumato.errors import ConfigError
from sfumato.likelihood import continuous_bound
from sfumato.objectives import ContinuousBound, Draw, Losses

SCHEDULES: dict[str, Schedule] = {
    "linear": LogSnrLinear(-9.0, 8.0),
    "angle": CosineAngle(),
    "exploding": Ve(),
    "straight": RectifiedFlow(),
    "a span that starts late": Shifted(16, base=LogSnrLinear(-18.0, 18.0)),
}
TARGETS = [Noise(), Image(), Velocity(), Score(), Flow(), Edm()]


class Affine(nn.Module):
    """The F whose eps_hat is E[eps | x_t] + bias for data N(0, std²); knows the family of the schedule by `base`."""

    def __init__(self, target: Parameterization, base: Schedule, std: float, bias: float) -> None:
        super().__init__()
        self.target, self.base, self.std, self.bias = target, base, std, bias

    def forward(self, x: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
        log_snr = -8 * time.double()
        r = self.base.at(log_snr, log_snr)
        alpha, sigma = r.alpha[:, None], r.sigma[:, None]
        power = alpha**2 * self.std**2 + sigma**2
        x_t = x * power.sqrt()  # c_in undone
        eps = sigma * x_t / power + self.bias
        c = self.target.coefficients(r, self.std)
        return ((x_t - sigma * eps) / alpha - c.c_skip[:, None] * x_t) / c.c_out[:, None]


def affine(schedule: Schedule, std: float, bias: float = 0.0, target: Parameterization | None = None) -> Denoiser:
    target = target or Noise()
    return Denoiser(
        Affine(target, schedule, std, bias), schedule, target,
        time_input=LogSnrInput(), data_std=std, allow_terminal_signal=True,
    )  # fmt: skip


def points(schedule: Schedule, std: float, parts: int, nodes: int = 12) -> tuple[Tensor, Draw]:
    """x_0 (N, 1) and a draw, the mean of whose losses is the exact expectation, over t by Gauss nodes in each part."""
    start = schedule.t_min
    edges = np.maximum(np.linspace(0, 1, parts + 1), start)  # its own parts, where it has some; even in log_snr if not
    if not isinstance(schedule, PiecewiseLogSnr):
        noisy, clean = (float(schedule.rates(t).log_snr) for t in (1.0, start))
        edges = schedule.time(torch.linspace(clean, noisy, parts + 1, dtype=torch.float64)).numpy()
    place, weight = np.polynomial.legendre.leggauss(nodes)
    widths = np.diff(edges)[:, None]
    t = torch.from_numpy((edges[:-1, None] + widths * (place + 1) / 2).flatten())
    density = torch.from_numpy((widths * weight / 2).flatten()) * len(t) / (1 - start)
    x0 = std * torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    eps = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    draw = Draw(
        t.repeat_interleave(4),
        eps.repeat(len(t))[:, None],
        density.repeat_interleave(4),
        (eps.repeat(len(t))[:, None],),
    )
    return x0.repeat(len(t))[:, None], draw


@dataclass(frozen=True)
class Closed:
    """The bound of N(0, std²) by its formulas, NumPy alone, for an eps_hat that is off by a constant bias."""

    std: float
    bias: float = 0.0

    def clean(self, log_snr: float, alpha: float, sigma: float) -> float:
        """What of the bound depends on the clean end: -log p(x_0 | x_{t_min}), and the integral from there down."""
        mse = sigma**2 * self.std**2 / (alpha**2 * self.std**2 + sigma**2) + (self.bias * sigma / alpha) ** 2
        decoder = 0.5 * (math.log(2 * math.pi * sigma**2) + mse / sigma**2)
        return decoder + self.integral(log_snr)

    def noisy(self, log_snr: float, alpha: float, sigma: float, prior_std: float) -> float:
        """What depends on the noisy end: the prior term, less the integral below it."""
        ratio = (sigma**2 + alpha**2 * self.std**2) / prior_std**2
        return 0.5 * (ratio - 1 - math.log(sigma**2 / prior_std**2)) - self.integral(log_snr)

    def integral(self, log_snr: float) -> float:
        """½ ∫ E|eps - eps_hat|² dlog_snr: E[Var(eps | x_t)] = sigmoid(log_snr + 2 log std)."""
        return 0.5 * (np.logaddexp(0.0, log_snr + 2 * math.log(self.std)) + self.bias**2 * log_snr)

    def of(self, schedule: Schedule) -> float:
        ends = [schedule.rates(t) for t in (schedule.t_min, 1.0)]
        clean, noisy = ([float(v.detach()) for v in (r.log_snr, r.alpha, r.sigma)] for r in ends)
        return self.clean(*clean) + self.noisy(*noisy, schedule.prior_std)

    def preserving(self, ends: tuple[float, float]) -> float:
        """At (clean, noisy) log-SNRs, variance preserved."""
        clean, noisy = ((v, (1 + math.exp(-v)) ** -0.5, (1 + math.exp(v)) ** -0.5) for v in ends)
        return self.clean(*clean) + self.noisy(*noisy, 1.0)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: type(target).__name__)
@pytest.mark.parametrize("name", SCHEDULES)
def test_its_expectation_is_the_closed_form(name: str, target: Parameterization) -> None:
    """Ideal and with a bias; 40 parts of 12 nodes, in which each integrand is smooth: what is left is rounding."""
    schedule = SCHEDULES[name]
    x0, draw = points(schedule, 0.5, 40, 12)
    for bias in (0.0, 0.2):
        found = ContinuousBound()(affine(schedule, 0.5, bias, target), x0, draw).values.mean()
        assert float(found) == pytest.approx(Closed(0.5, bias).of(schedule), abs=1e-8)


def test_each_value_is_the_sum_of_its_terms() -> None:
    """The density of the times is that of the diffusion alone; only it is judged."""
    d, (x0, draw) = affine(LogSnrLinear(), 0.7, 0.3), points(LogSnrLinear(), 0.7, 3)
    terms, found = ContinuousBound().terms(d, x0, draw), ContinuousBound()(d, x0, draw)
    by_time = draw.inv_density * terms.diffusion
    torch.testing.assert_close(found.values, by_time + terms.prior + terms.reconstruction)
    assert found.judged.equal(by_time)
    assert Losses(by_time).judged is by_time


@dataclass(frozen=True)
class Handed:
    """Stands in for a `NoiseSource`: every normal is `eps`, so that the four pairs are met at every level."""

    eps: Tensor
    source: NoiseSource

    def normal(self, x: Tensor, *, draw: int) -> Tensor:
        return self.source.normal(x, draw=draw) if draw % 2 else self.eps.to(x)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_bound_that_is_evaluated_is_the_same(name: str) -> None:
    """`continuous_bound` in nats per example, every term, for a denoiser that is wrong; its times are its own."""
    schedule = SCHEDULES[name]
    x0, draw = points(schedule, 0.5, 40, 12)
    d = affine(schedule, 0.5, 0.2)
    terms = ContinuousBound().terms(d, x0, draw)
    noise = Handed(draw.eps[:4], NoiseSource.of(seed=0, count=4))
    bound = continuous_bound(
        d, x0[:4], variance=Large(), decoder=ContinuousBound().decoder, noise=noise, draws=500  # type: ignore[arg-type]
    )  # fmt: skip
    # one draw in each of 500 parts of up to 40 nats, for each of the four: steps of 0.08 nats, over √2000 of them
    assert float((draw.inv_density * terms.diffusion).mean()) == pytest.approx(float(bound.diffusion.mean()), abs=3e-3)
    torch.testing.assert_close(terms.prior[:4], bound.prior, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(terms.reconstruction[:4], bound.reconstruction, rtol=1e-12, atol=0)


def test_levels_are_decoded_by_the_mass_of_their_bins() -> None:
    """-log of the mass of N(x0_hat(x_{t_min}), sigma²) in the bin of each level, by the error function."""
    schedule, levels = LogSnrLinear(-9.0, 4.0), np.linspace(-1, 1, 9)
    d, x0 = affine(schedule, 0.6), torch.from_numpy(levels)[:, None]
    probe = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    draw = Draw(torch.full((9,), 0.5).double(), probe.flip(0), torch.ones(9).double(), (probe,))
    found = ContinuousBound(DiscretizedGaussian(9)).terms(d, x0, draw).reconstruction
    r = schedule.rates(schedule.t_min)
    alpha, sigma = float(r.alpha), float(r.sigma)
    x_t = alpha * levels + sigma * probe.flatten().numpy()
    mean = alpha * 0.36 / (alpha**2 * 0.36 + sigma**2) * x_t
    below = [0.0 if k == 0 else phi((v - 0.125 - m) / sigma) for k, (v, m) in enumerate(zip(levels, mean, strict=True))]
    above = [1.0 if k == 8 else phi((v + 0.125 - m) / sigma) for k, (v, m) in enumerate(zip(levels, mean, strict=True))]
    assert found.tolist() == pytest.approx((-np.log(np.subtract(above, below))).tolist(), rel=1e-9)


def phi(z: float) -> float:
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


def learned(knots: int = 6, *, std: float = 0.5, bias: float = 0.0, allow: bool = True) -> Denoiser:
    settings = LearnedLogSnr(knots, -6.0, 5.0, learn_ends=True)
    network = Affine(Noise(), LogSnrLinear(), std, bias)
    return Denoiser(network, settings, Noise(), time_input=LogSnrInput(), data_std=std, allow_terminal_signal=allow)


def mean_of(d: Denoiser, std: float, knots: int = 6) -> Tensor:
    x0, draw = points(d.schedule, std, knots)
    return ContinuousBound()(d, x0, draw).values.mean()


def test_the_inside_of_the_schedule_changes_nothing() -> None:
    """Between the same ends, two schedules: 12 nodes in each of 6 parts of up to 7 nats, to 1e-6."""
    d, found = learned(bias=0.1), []
    assert d.clock is not None
    for logits in (torch.zeros(6), torch.tensor([1.0, -1.0, 0.5, 1.2, -0.7, 0.0])):
        with torch.no_grad():
            d.clock.logits.copy_(logits)
        found.append(float(mean_of(d, 0.5).detach()))
        assert found[-1] == pytest.approx(Closed(0.5, 0.1).of(d.schedule), abs=1e-6)
    # log_snr at t_min = 1e-5 is off the end by up to 1e-5 · 40 nats, at ½ bias² nats per nat
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def spelled(ends: list[float]) -> tuple[float, float]:
    """The ends of `learned()` for their parameters: the middle is -0.5."""
    room, begun = np.array([20.5, -19.5]), np.array([5.5, -5.5])
    share = (begun / room - 0.001) / 0.998
    moved = 1 / (1 + (1 / share - 1) * np.exp(-np.array(ends)))
    clean, noisy = -0.5 + room * (0.001 + 0.998 * moved)
    return float(clean), float(noisy)


@pytest.mark.parametrize("std", [0.5, 1.0, 1.6])
def test_gradients_of_the_ends_are_those_of_the_closed_form(std: float) -> None:
    """Central differences of the closed form by the parameters of the ends, h = 1e-4."""
    d, start = learned(std=std, bias=0.1), [0.3, -0.2]
    assert d.clock is not None
    assert d.clock.ends is not None
    with torch.no_grad():
        d.clock.ends.copy_(torch.tensor(start))
        d.clock.logits.copy_(torch.tensor([1.0, -1.0, 0.5, 1.2, -0.7, 0.0]))
    # ends as they are: parameters are float32
    assert d.clock.span().tolist() == pytest.approx(spelled(start), abs=1e-6)
    mean_of(d, std).backward()
    assert d.clock.ends.grad is not None
    for k, h in enumerate(np.eye(2) * 1e-4):
        sides = [Closed(std, 0.1).preserving(spelled((np.array(start) + side * h).tolist())) for side in (1, -1)]
        # the bound is taken from t_min, within 4e-4 nats of the end, where the gradient has moved by as much of itself
        assert float(d.clock.ends.grad[k]) == pytest.approx((sides[0] - sides[1]) / 2e-4, rel=2e-3, abs=1e-5)


def test_ends_learn_from_the_mean_and_the_inside_from_the_square() -> None:
    """In judgement: the ends' gradient to the bit; the logits' by central differences of half the mean square."""
    d, generator = learned(bias=0.1), torch.Generator().manual_seed(0)
    clock = d.clock
    assert clock is not None
    assert clock.ends is not None
    x0, eps, probe = torch.randn(3, 64, 2, generator=generator, dtype=torch.float64)
    t = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    draw = Draw(t, eps, torch.ones(64, dtype=torch.float64), (probe,))

    def losses() -> Losses:
        return ContinuousBound()(d, 0.5 * x0, draw)

    losses().values.mean().backward()
    assert clock.ends.grad is not None
    assert float(clock.ends.grad.abs().min()) > 1e-4
    plain = clock.ends.grad.clone()
    d.zero_grad()
    found = losses()
    with clock.judged(found.judged):
        found.values.mean().backward()
    assert clock.ends.grad is not None
    assert clock.ends.grad.equal(plain)
    assert clock.logits.grad is not None
    expected = []
    for k in range(6):
        sides = []
        for h in (1e-2, -1e-2):
            with torch.no_grad():
                clock.logits.zero_()[k] = h
                sides.append(float(losses().judged.square().mean()) / 2)
        expected.append((sides[0] - sides[1]) / 2e-2)
    # h² times a third derivative of the order of the gradient
    assert clock.logits.grad.tolist() == pytest.approx(expected, abs=2e-3 * max(map(abs, expected)))


def least(cost: Callable[[float], float], low: float, high: float) -> float:
    grid = np.linspace(low, high, 20_001)
    return float(grid[np.argmin([cost(v) for v in grid])])


def trained(d: Denoiser, std: float, steps: int = 250) -> list[float]:
    """The bound on the way, descending by exact expectations; ends by the bound, inside in judgement."""
    assert d.clock is not None
    optimizer, bounds = torch.optim.Adam(d.clock.parameters()), []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        optimizer.zero_grad()
        x0, draw = points(d.schedule, std, 6, 6)
        losses = ContinuousBound()(d, x0, draw)
        with d.clock.judged(losses.judged):
            losses.values.mean().backward()
        bounds.append(float(losses.values.mean().detach()))
        optimizer.step()
    return bounds


def test_training_finds_the_ends_of_the_closed_form() -> None:
    """A bias of 0.05 makes every nat of log_snr cost: the bound has its least value at an inner pair of ends."""
    d, closed = learned(bias=0.05), Closed(0.5, 0.05)
    assert d.clock is not None
    clean, noisy = ((lambda v, of=part: closed.preserving((v, -6.0) if of else (5.0, v))) for part in (True, False))
    best = least(clean, 0.0, 12.0), least(noisy, -12.0, -0.5)
    bounds = trained(d, 0.5)
    lowest = closed.preserving(best)
    assert bounds[0] - lowest > 2e-3
    assert bounds[-1] - lowest < 1e-5
    # flat at the bottom: a second derivative of 0.0025 per nat²
    assert d.clock.span().tolist() == pytest.approx(best, abs=0.05)


def test_the_noisy_end_stays_where_sampling_may_start() -> None:
    """The same, where alpha² data_std²/sigma² may be 0.01 at most; whatever the parameters say, the check passes."""
    d = learned(bias=0.05, allow=False)
    assert d.clock is not None
    assert d.clock.ends is not None
    trained(d, 0.5)
    limit = math.log(0.01 / 0.25)
    assert float(d.clock.span()[1].detach()) == pytest.approx(limit, abs=1e-6)
    for values in ([50.0, -50.0], [-50.0, 50.0], [-50.0, -50.0]):
        with torch.no_grad():
            d.clock.ends.copy_(torch.tensor(values))
            check_terminal_signal(d.schedule, 0.5)
        knots = d.clock.values().detach()
        assert bool((knots.diff() < 0).all())
        assert float(knots.abs().max()) < 20


def test_on_the_prior_itself_the_ends_cost_nothing() -> None:
    """N(0, 1) and the ideal denoiser: the bound is the entropy, ½ log(2 pi e), wherever the ends are."""
    for ends in ([0.0, 0.0], [1.5, -2.0]):
        d = learned(std=1.0)
        assert d.clock is not None
        assert d.clock.ends is not None
        with torch.no_grad():
            d.clock.ends.copy_(torch.tensor(ends))
        assert float(mean_of(d, 1.0).detach()) == pytest.approx(0.5 * math.log(2 * math.pi * math.e), abs=1e-6)


def test_a_table_is_refused() -> None:
    x0, draw = points(LogSnrLinear(), 0.5, 2)
    with pytest.raises(ConfigError, match="schedule is Tabulated, a chain of steps") as caught:
        ContinuousBound()(affine(Tabulated(), 0.5), x0, draw)
    assert "objective: VariationalBound" in caught.value.fix
