"""Likelihoods by the probability-flow ODE, its adaptive solver, inversion and the arcs between noises.

Truths: the density of the law that reaches t_min, known for Gaussians and mixtures; the flow's endpoint, in closed form
for Gaussians (Song et al. 2021, eq. 13 and 39). Started from the exact density at t = 1, what is left is integration.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from sfumato.core import NoiseSource, Schedule, VpSde
from sfumato.likelihood import Exact, Rademacher, flow_log_prob
from sfumato.samplers import Dpmpp2M, Heun, UniformLogSnr, round_trip, sample, slerp
from sfumato.samplers.adaptive import DormandPrince
from sfumato.verify import oracles
from sfumato.verify.check import AtMost, Check, Near, proves
from sfumato.verify.checks.material import SCHEDULES, largest, normals, worst
from sfumato.verify.checks.samplers import endpoints, starts
from sfumato.verify.ideal import MIXTURE, Ideal

__all__ = ["CHECKS"]

DIM = 8
VP = VpSde()


@lru_cache(maxsize=1)
def correlated() -> oracles.GaussianOracle:
    """N(m, C) in eight dimensions, eigenvalues from 0.05 to 2: not isotropic, or random signs would have no error."""
    axes = torch.linalg.qr(normals(DIM, DIM, seed=40)).Q.numpy()
    mean = 0.3 * normals(1, DIM, seed=50)[0].numpy()
    return oracles.GaussianOracle(mean, axes @ np.diag(np.geomspace(0.05, 2.0, DIM)) @ axes.T)


def points(count: int) -> Tensor:
    """Draws of that Gaussian, (count, 8)."""
    law = correlated()
    z = normals(count, DIM, seed=60).numpy() * np.sqrt(law.eigenvalues)
    return torch.from_numpy(z @ law.axes.T + law.mean)


def law_at(oracle: oracles.Oracle, schedule: Schedule, t: float) -> Callable[[Tensor], Tensor]:
    """log p_t of the oracle's law, (B, *) -> (B,)."""
    r = schedule.rates(t)
    return lambda x: torch.from_numpy(oracle.log_p(x.detach().numpy(), float(r.alpha), float(r.sigma)))


def eight_dimensions() -> float:
    """|mean error| in bits/dim at tolerances of 1e-5, from t_min = 1e-5, with the exact density at t = 1."""
    x0 = points(32)
    found = flow_log_prob(
        Ideal(correlated(), VP),
        x0,
        divergence=Exact(),
        noise=NoiseSource.of(seed=0, count=32),
        terminal=law_at(correlated(), VP, 1.0),
    )
    error = found.log_prob.numpy() + correlated().nll(x0.numpy())
    return abs(float(error.mean())) / DIM / math.log(2)


def own_prior() -> float:
    """With N(0, I) at t = 1 instead: the error left after the change of density at the flow's exact endpoint."""
    x0, law = points(32), correlated()
    found = flow_log_prob(Ideal(law, VP), x0, divergence=Exact(), noise=NoiseSource.of(seed=0, count=32))
    start, stop = VP.rates(VP.t_min), VP.rates(1.0)
    end = law.flow(
        float(start.alpha) * x0.numpy(),
        alpha=float(start.alpha),
        sigma=float(start.sigma),
        to_alpha=float(stop.alpha),
        to_sigma=float(stop.sigma),
    )
    of_prior = -0.5 * (end**2 + math.log(2 * math.pi)).sum(axis=1)
    expected = -law.nll(x0.numpy()) + of_prior - law.log_p(end, float(stop.alpha), float(stop.sigma))
    return float(np.abs(found.log_prob.numpy() - expected).mean()) / DIM / math.log(2)


def mixture(where: str) -> float:
    """Largest error in nats/dim for 24 points of a mixture at tolerances of 1e-7, against its density at t_min."""
    schedule = SCHEDULES[where]
    x0 = normals(24, 2, seed=5)
    r = schedule.rates(schedule.t_min)
    found = flow_log_prob(
        Ideal(MIXTURE, schedule),
        x0,
        divergence=Exact(),
        noise=NoiseSource.of(seed=0, count=24),
        rtol=1e-7,
        atol=1e-7,
        terminal=law_at(MIXTURE, schedule, 1.0),
    )
    truth = MIXTURE.log_p(float(r.alpha) * x0.numpy(), float(r.alpha), float(r.sigma)) + 2 * math.log(float(r.alpha))
    return largest(found.log_prob.numpy() - truth) / 2


def probes() -> Tensor:
    """Errors of 200 examples by eight Rademacher probes, each over its own standard error: (200,)."""
    x0, law = points(200), correlated()
    noise = NoiseSource.of(seed=100, count=200)
    found = flow_log_prob(
        Ideal(law, VP),
        x0,
        divergence=Rademacher(8),
        noise=noise,
        rtol=1e-4,
        atol=1e-4,
        terminal=law_at(law, VP, 1.0),
    )
    assert found.probe_std_error is not None  # eight probes have one
    return (found.log_prob + torch.from_numpy(law.nll(x0.numpy()))) / found.probe_std_error


def covered() -> float:
    """Share of 200 examples whose probe estimate lies within Student's 95 % interval (7 degrees) of the truth."""
    return float((probes().abs() < 2.365).double().mean())


def arrives(where: str) -> float:
    """Largest distance from the probability flow's endpoint at tolerances of 1e-8."""
    schedule = SCHEDULES[where]
    d, x = Ideal(MIXTURE, schedule), starts(schedule)
    noise = NoiseSource.of(seed=0, count=len(x))
    *_, end = sample(DormandPrince(1e-8, 1e-8), d, x, [1.0, schedule.t_min], noise=noise)
    return largest(end.x - endpoints(schedule))


def gaussian_endpoint(where: str) -> float:
    """Largest distance of the adaptive solver from the closed form of the flow of a correlated Gaussian."""
    schedule, law = SCHEDULES[where], correlated()
    start, stop = schedule.rates(1.0), schedule.rates(schedule.t_min)
    x = schedule.prior_std * normals(8, DIM, seed=3)
    noise = NoiseSource.of(seed=0, count=8)
    *_, end = sample(DormandPrince(1e-8, 1e-8), Ideal(law, schedule), x, [1.0, schedule.t_min], noise=noise)
    exact = law.flow(
        x.numpy(),
        alpha=float(start.alpha),
        sigma=float(start.sigma),
        to_alpha=float(stop.alpha),
        to_sigma=float(stop.sigma),
    )
    return largest(end.x.numpy() - exact)


def neighbours_alone() -> float:
    """Largest difference between sample 2 of a batch of 6 and the same start alone, each with its own steps."""
    schedule = SCHEDULES["cosine"]
    d, x = Ideal(MIXTURE, schedule), starts(schedule)[:6]

    def drawn(start: Tensor) -> Tensor:
        noise = NoiseSource.of(seed=0, count=len(start))
        *_, end = sample(DormandPrince(), d, start, [1.0, 0.0], noise=noise)
        return end.x

    return largest(drawn(x)[2:3] - drawn(x[2:3]))


def inversion_order() -> float:
    """Slope of the round trip's error over 20, 40 and 80 steps of Heun: way and way back share their error of h²."""
    schedule = SCHEDULES["cosine"]
    errors = []
    for steps in (20, 40, 80):
        times = UniformLogSnr().times_to_t_min(schedule, steps)
        errors.append(float(round_trip(Heun(), Ideal(MIXTURE, schedule), normals(24, 2, seed=5), times).rms.mean()))
    return -float(np.polyfit(np.log((20, 40, 80)), np.log(errors), 1)[0])


def round_trip_error() -> float:
    """Root mean squared difference of data and their decoded latents after 200 steps of Dpmpp2M each way."""
    schedule = SCHEDULES["cosine"]
    times = UniformLogSnr().times_to_t_min(schedule, 200)
    trip = round_trip(Dpmpp2M(), Ideal(MIXTURE, schedule), normals(24, 2, seed=5), times)
    return float(trip.rms.square().mean().sqrt())


def arcs() -> float:
    """Unit vectors 1 radian apart: the arc at share w is the rotation by w, and norms are interpolated linearly."""
    a = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    b = 3 * torch.tensor([[math.cos(1.0), math.sin(1.0)]], dtype=torch.float64)
    shares = torch.linspace(0, 1, 11, dtype=torch.float64)
    turned = torch.stack([shares.cos(), shares.sin()], dim=-1)[:, None, :]
    return largest(slerp(a, b, shares) - (2 + shares[:, None, None]) * turned)


def derivative() -> float:
    """Largest error of the ideal denoiser's own Jacobian, which the checks of likelihoods rest on, for a Gaussian."""
    law, r = correlated(), VP.rates(0.3)
    x = normals(4, DIM, seed=8).requires_grad_(True)
    gain = float(r.alpha) * law.cov @ np.linalg.inv(float(r.alpha) ** 2 * law.cov + float(r.sigma) ** 2 * np.eye(DIM))
    x0 = Ideal(law, VP)(x, r.t).x0
    rows = [torch.autograd.grad(x0[:, i].sum(), x, retain_graph=True)[0].numpy() for i in range(DIM)]
    return worst(*(largest(row - gain[i]) for i, row in enumerate(rows)))


CHECKS = (
    # ten times the tolerance of the solver and the blur at t_min leave 3e-6
    Check("flow[8-d gaussian]", proves(eight_dimensions), AtMost(1e-5), eight_dimensions),
    Check("flow[8-d gaussian, normal prior]", proves(own_prior), AtMost(2e-5), own_prior),
    *(
        # a solver holds its local error to the tolerance; along a path they add up
        Check(f"flow[mixture, {where}]", proves(mixture), AtMost(1e-5), partial(mixture, where), quick=where == "vp")
        for where in ("cosine", "vp", "ve", "flow", "linear table")
    ),
    # three standard errors of a share of 200
    Check("flow[probes cover the truth]", proves(covered), Near(0.95, 0.047), covered, quick=False),
    Check("flow[jacobian of the ideal denoiser]", proves(derivative), AtMost(1e-8), derivative),
    *(
        Check(f"flow[dormand-prince, {where}]", proves(arrives), AtMost(1e-6), partial(arrives, where), quick=False)
        for where in ("cosine", "ve", "flow", "linear table")
    ),
    *(
        Check(
            f"flow[dormand-prince, 8-d gaussian, {where}]",
            proves(gaussian_endpoint),
            AtMost(1e-6),
            partial(gaussian_endpoint, where),
        )
        for where in ("cosine", "ve")
    ),
    Check("flow[dormand-prince, every sample alone]", proves(neighbours_alone), AtMost(1e-12), neighbours_alone),
    Check("order[inversion by heun, cosine]", proves(inversion_order), Near(3, 0.1), inversion_order),
    Check("flow[round trip]", proves(round_trip_error), AtMost(1e-3), round_trip_error),
    Check("flow[arc between noises]", proves(arcs), AtMost(1e-12), arcs),
)
