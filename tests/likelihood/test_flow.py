"""Likelihoods along the probability flow: exact for Gaussian data, with an error that covers when it is estimated."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.core import (
    CosineAngle,
    GaussianDecoder,
    Large,
    LogVariances,
    NoiseSource,
    Prediction,
    RectifiedFlow,
    Schedule,
    Tabulated,
    Variance,
    Ve,
    VpSde,
)
from sfumato.core.rates import spread
from sfumato.errors import ConfigError, NumericsError, UsageError
from sfumato.likelihood import Divergence, Exact, GaussianProbes, Rademacher, flow_bound, flow_log_prob, to_bits

SCHEDULES = {"table": Tabulated(), "angle": CosineAngle(), "vp": VpSde(), "ve": Ve(), "flow": RectifiedFlow()}
MakeLaw = Callable[[Schedule], Any]


def examples(law: Any, count: int) -> Tensor:
    return law.draw(NoiseSource.of(seed=3, count=count).initial((count, 8), like=law.mean))


def noise(count: int, seed: int = 0) -> NoiseSource:
    return NoiseSource.of(seed=seed, count=count)


def terminal(law: Any) -> Callable[[Tensor], Tensor]:
    """The exact density at t = 1."""
    r = law.schedule.rates(1.0)
    return lambda x: law.log_p(x, float(r.alpha), float(r.sigma) ** 2)


def test_gaussian_data_at_tolerances_of_1e_5(eight: MakeLaw) -> None:
    """Within 1e-5 bits/dim over 200 examples, t_min = 1e-5, exact terminal density; about 80 calls."""
    law = eight(VpSde())
    x0 = examples(law, 200)
    found = flow_log_prob(law, x0, divergence=Exact(), noise=noise(200), terminal=terminal(law))
    error = to_bits(law.log_p(x0) - found.log_prob) / 8
    assert abs(float(error.mean())) < 1e-5
    assert float(error.abs().max()) < 2e-4  # of one example: local errors of a dozen steps, times its own |score|
    assert found.probe_std_error is None
    assert found.calls.shape == (200,)
    assert float(found.calls.double().mean()) < 100


def test_the_schedules_own_prior_costs_what_it_costs(eight: MakeLaw) -> None:
    """With N(0, I) at t = 1 the mean differs by E[log p_1 - log N(0, I)] along the flow = KL(p_1 || N(0, I)).

    By closed form, for examples that have exactly the mean and covariance of the law.
    """
    law = eight(VpSde())
    corners = math.sqrt(8) * torch.cat([torch.eye(8, dtype=torch.float64), -torch.eye(8, dtype=torch.float64)])
    x0 = law.draw(corners)
    tight = dict(divergence=Exact(), noise=noise(16), rtol=1e-9, atol=1e-9)
    honest, exact = flow_log_prob(law, x0, **tight), flow_log_prob(law, x0, **tight, terminal=terminal(law))
    r = law.schedule.rates(1.0)
    variances, shift = r.alpha**2 * law.eigenvalues + r.sigma**2, r.alpha * law.mean
    kl = 0.5 * float((variances - 1 - variances.log() + shift**2).sum())
    assert float((exact.log_prob - honest.log_prob).mean()) == pytest.approx(kl, rel=1e-4)  # O(t_min) of the start
    assert kl / (8 * math.log(2)) == pytest.approx(3.79e-6, rel=1e-2)  # the price in bits/dim


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
def test_what_is_measured_is_the_law_blurred_by_the_noise_at_t_min(schedule: Schedule, eight: MakeLaw) -> None:
    """The density of y = x/alpha at t_min, for every family; 1e-6 nats where the ODE is solved to 1e-9."""
    law = eight(schedule)
    x0, r = examples(law, 20), schedule.rates(schedule.t_min)
    tight = dict(divergence=Exact(), noise=noise(20), rtol=1e-9, atol=1e-9, terminal=terminal(law))
    found = flow_log_prob(law, x0, **tight)
    blurred = law.log_p(x0, 1.0, float(r.noise_level) ** 2)
    torch.testing.assert_close(found.log_prob, blurred, rtol=0, atol=1e-6)


class Left(Variance):
    """What x_t leaves open of x_0, for data of one variance: the ideal last step."""

    def __init__(self, data_var: float) -> None:
        self.data_var = data_var

    def log_var(self, bounds: LogVariances, p: Prediction) -> Tensor:
        r = p.rates
        mmse = r.sigma**2 * self.data_var / (r.alpha**2 * self.data_var + r.sigma**2)
        return spread(mmse.log(), p.x_t)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
def test_the_flow_and_an_ideal_last_step_are_the_law_itself(schedule: Schedule, eight: MakeLaw) -> None:
    """log p(x) + log p(x_0 | x) - log q(x | x_0) = log p(x_0) for every eps, by Bayes: nothing is blurred."""
    law = replace(eight(schedule), eigenvalues=torch.full((8,), 0.3, dtype=torch.float64))
    x0 = examples(law, 20)
    found = flow_bound(
        law, x0, variance=Left(0.3), decoder=GaussianDecoder(), divergence=Exact(), noise=noise(20),
        rtol=1e-9, atol=1e-9, terminal=terminal(law),
    )  # fmt: skip
    torch.testing.assert_close(found.log_prob, law.log_p(x0), rtol=0, atol=1e-6)


def test_the_flow_bound_falls_short_by_its_last_step(eight: MakeLaw) -> None:
    """By KL(q(x_0 | x) || N(x0_hat, sigma²)), a last step of one variance for all axes; 5 standard errors."""
    law = eight(CosineAngle())
    x0, r = examples(law, 1600), CosineAngle().rates(CosineAngle().t_min)
    found = flow_bound(
        law, x0, variance=Large(), decoder=GaussianDecoder(), divergence=Exact(), noise=noise(1600),
        rtol=1e-4, atol=1e-4, terminal=terminal(law),
    )  # fmt: skip
    ratio = law.eigenvalues / (r.alpha**2 * law.eigenvalues + r.sigma**2)  # mmse over the variance of the step
    kl = 0.5 * float((ratio - 1 - ratio.log()).sum())
    shortfall = law.log_p(x0) - found.log_prob
    error = float(shortfall.std()) / 40
    assert abs(float(shortfall.mean()) - kl) < 5 * error < kl


@pytest.mark.parametrize("divergence", [Rademacher(3), GaussianProbes(3)], ids=repr)
def test_probes_agree_with_the_exact_trace(divergence: Divergence, eight: MakeLaw) -> None:
    """2,000 examples, 5 standard errors of their mean; each example's own error is of the right size."""
    law = eight(VpSde())
    x0 = examples(law, 2000)
    truth = flow_log_prob(law, x0, divergence=Exact(), noise=noise(2000), rtol=1e-4, atol=1e-4).log_prob
    found = flow_log_prob(law, x0, divergence=divergence, noise=noise(2000), rtol=1e-4, atol=1e-4)
    assert found.probe_std_error is not None
    error = found.log_prob - truth
    std_error = float(found.probe_std_error.square().mean().sqrt())
    assert abs(float(error.mean())) < 5 * std_error / math.sqrt(2000)
    assert float(error.square().mean().sqrt()) == pytest.approx(std_error, rel=0.1)  # χ² with 2,000 and 4,000 d.o.f.
    assert std_error > 0.5  # nats: correlated data are no easy case


def test_probes_stay_with_their_examples(eight: MakeLaw) -> None:
    """An example alone, with its seed, is what it is in a batch; other seeds are other probes."""
    law = eight(VpSde())
    x0 = examples(law, 5)
    together = flow_log_prob(law, x0, divergence=Rademacher(2), noise=noise(5))
    alone = flow_log_prob(law, x0[3:4], divergence=Rademacher(2), noise=NoiseSource.of(seed=0, count=1, first=3))
    torch.testing.assert_close(alone.log_prob[0], together.log_prob[3], rtol=1e-11, atol=0)
    assert int(alone.calls) == int(together.calls[3])
    other = flow_log_prob(law, x0, divergence=Rademacher(2), noise=noise(5, seed=100))
    assert float((other.log_prob - together.log_prob).abs().min()) > 1e-3
    assert flow_log_prob(law, x0, divergence=Rademacher(1), noise=noise(5)).probe_std_error is None


def coverage(law: Any, *, repeats: int, per_repeat: int, tolerance: float) -> float:
    """Share of repeats in which mean ± 1.96 standard errors, by 3 probes an example, holds the mean without probes."""
    count = repeats * per_repeat
    x0 = examples(law, per_repeat).repeat(repeats, 1)
    settings = dict(rtol=tolerance, atol=tolerance)
    truth = flow_log_prob(law, x0[:per_repeat], divergence=Exact(), noise=noise(per_repeat), **settings).log_prob
    found = flow_log_prob(law, x0, divergence=Rademacher(3), noise=noise(count), **settings)
    assert found.probe_std_error is not None
    means = found.log_prob.reshape(repeats, per_repeat).mean(1)
    errors = found.probe_std_error.reshape(repeats, per_repeat).square().sum(1).sqrt() / per_repeat
    return float(((means - truth.mean()).abs() < 1.96 * errors).double().mean())


def test_the_standard_error_covers_the_truth(eight: MakeLaw) -> None:
    """200 examples, 100 repeats: 95 % within 4 of the standard errors (2.2 %) of that share."""
    assert 0.86 < coverage(eight(VpSde()), repeats=100, per_repeat=200, tolerance=1e-3) <= 1.0


@pytest.mark.proof
def test_the_standard_error_covers_the_truth_in_95_percent(eight: MakeLaw) -> None:
    """200 examples, 1,000 repeats, 95 ± 3 %: more than four standard errors (0.7 %) of the share itself."""
    assert 0.92 < coverage(eight(VpSde()), repeats=1000, per_repeat=200, tolerance=1e-3) < 0.98


def test_what_is_refused(eight: MakeLaw) -> None:
    law = eight(VpSde())
    x0 = examples(law, 3)
    with pytest.raises(UsageError, match="exact divergence of examples with 8 values"):
        flow_log_prob(law, x0, divergence=Exact(largest=7), noise=noise(3))
    with pytest.raises(NumericsError, match="3 of 3 samples had not arrived after 4 steps") as refused:
        flow_log_prob(law, x0, divergence=Exact(), noise=noise(3), max_steps=4)
    assert refused.value.exit_code == 5
    for probes in (Rademacher, GaussianProbes):
        with pytest.raises(ConfigError, match="num_probes is 0"):
            probes(0)


def test_float32_agrees_with_float64(eight: MakeLaw) -> None:
    """State in float32, sums in float64: 1e-4 nats, what float32 leaves of a log-density of order 10."""
    law = eight(VpSde())
    narrow = type(law)(law.mean.float(), law.eigenvalues.float(), law.axes.float(), law.schedule)
    x0 = examples(law, 10)
    exact = flow_log_prob(law, x0, divergence=Exact(), noise=noise(10))
    found = flow_log_prob(narrow, x0.float(), divergence=Exact(), noise=noise(10))
    assert found.log_prob.dtype == torch.float64
    torch.testing.assert_close(found.log_prob, exact.log_prob, rtol=0, atol=2e-3)
