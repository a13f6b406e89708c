"""The likelihood of the probability-flow ODE, by the change of variables along its paths.

In the coordinates of `core.probability_flow` (z at unit power, clock w)

    log p(z at t_min) = log p(z at 1) + ∫ div dw,        div = c D - tr(d x0_hat/dz),   from t_min to 1

(Chen et al. 2018, theorem 1; Song et al. 2021, eq. 39), and for what becomes of data, y = x/alpha at t_min,

    log p(y) = log p(x) + D log alpha,      log p(x) = log p(z) - D log power      for x = alpha y = power z.

The path starts at y = x_0, that is at x = alpha x_0, with no noise added: what is evaluated is the density of the law
of y at t_min, a proper density of x_0. For an ideal denoiser that is the law of the data blurred by N(0, u² I), with
u = sigma/alpha at t_min. It exceeds the data's own density by about ½ u² ∇²p/p: nothing to speak of at the default
t_min of 1e-5, a lot where a schedule keeps noise at its clean end (`CosineAngle`: u = 0.33). The terminal density is
the schedule's prior, whatever the data left there; give the exact one to judge the integration alone.

`flow_bound` is for schedules of that kind, and for levels: it starts from noised data and undoes the noise by the last
step of the chain, at the price of a bound.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfumato.core import Cond, Decoder, Denoise, Gaussian, NoiseSource, Variance, marginal
from sfumato.core.ode import State, Tolerances, solve
from sfumato.core.probability_flow import MAX_STEP, ProbabilityFlow
from sfumato.core.rates import spread
from sfumato.likelihood.bound import reconstruction_term
from sfumato.likelihood.divergence import PROBE_DRAW, Divergence
from sfumato.likelihood.totals import total, wide

__all__ = ["FlowLikelihood", "LogDensity", "flow_bound", "flow_log_prob"]

LogDensity = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class FlowLikelihood:
    """log p(x_0) by the probability-flow ODE; all (B,).

    log_prob: nats per example, float64.
    probe_std_error: standard error of log_prob from the random probes of the divergence, nats; None where it has none.
    calls: denoiser calls that each example took, int64.
    """

    log_prob: Tensor
    probe_std_error: Tensor | None
    calls: Tensor


def flow_log_prob(
    d: Denoise,
    x0: Tensor,
    *,
    divergence: Divergence,
    noise: NoiseSource,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 1000,
    terminal: LogDensity | None = None,
    cond: Cond | None = None,
) -> FlowLikelihood:
    """log p(x0) in nats for x0 (B, *) under the probability-flow ODE of d (see the module), each example on its own.

    divergence: exact, or by probes drawn from `noise` once per example.
    rtol, atol: of the solver; the log-density is held to them per dimension.
    terminal: log-density at t = 1 of x (B, *) -> (B,), nats; None takes the schedule's prior.

    Raises NumericsError when the solver does not arrive within max_steps.
    """
    start = d.schedule.rates(d.schedule.t_min)
    y = spread(start.alpha, x0) * x0
    path = Path(d, divergence, Tolerances(rtol, atol, max_steps), terminal, cond)
    found = path.log_prob(y, noise)
    return replace(found, log_prob=found.log_prob + x0[0].numel() * start.alpha.log())


def flow_bound(
    d: Denoise,
    x0: Tensor,
    *,
    variance: Variance,
    decoder: Decoder,
    divergence: Divergence,
    noise: NoiseSource,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 1000,
    terminal: LogDensity | None = None,
    cond: Cond | None = None,
) -> FlowLikelihood:
    """A lower bound on log p(x0) in nats, x0 (B, *), of the flow down to t_min followed by one step to data.

        log p(x_0) >= E_q [log p(x at t_min) + log p(x_0 | x) - log q(x | x_0)],     x = alpha x_0 + sigma eps

    with one eps per example. The last step is that of the ancestral chain, scored by the decoder: nothing is blurred,
    however much noise the schedule keeps at its clean end, and levels need no dequantisation. With the ideal last step
    it is tight. Arguments and errors as in `flow_log_prob` and `variational_bound`.
    """
    decoder.require(x0)
    start = d.schedule.rates(d.schedule.t_min)
    q = marginal(x0, start)
    x = q.sample(noise.normal(x0, draw=PROBE_DRAW - 1))
    path = Path(d, divergence, Tolerances(rtol, atol, max_steps), terminal, cond)
    found = path.log_prob(x, noise)
    with torch.no_grad():
        reconstruction = reconstruction_term(d(x, start.t, cond), x0, variance, decoder)
    log_q = total(Gaussian(wide(q.mean), wide(q.log_var)).log_prob(wide(x)))
    return replace(found, log_prob=found.log_prob - reconstruction - log_q, calls=found.calls + 1)


@dataclass(frozen=True, slots=True)
class Path:
    """The way from t_min to 1: how it is integrated and what density it ends in."""

    denoiser: Denoise
    divergence: Divergence
    tolerances: Tolerances
    terminal: LogDensity | None
    cond: Cond | None

    def log_prob(self, x: Tensor, noise: NoiseSource) -> FlowLikelihood:
        """log p(x) of the state x (B, *) at t_min, nats."""
        d, dim = self.denoiser, x[0].numel()
        flow, start, end = ProbabilityFlow(d, self.cond), d.schedule.rates(d.schedule.t_min), d.schedule.rates(1.0)
        z = x / spread(flow.power(start), x)
        probes = self.divergence.probes(z, noise)

        def field(state: State, w: Tensor) -> State:
            with torch.enable_grad():
                place = state[0].detach().requires_grad_(True)
                slope = flow.slope(place, flow.predict(place, w))
                traces = self.divergence.traces(slope, place, probes)
            return slope.detach(), traces / dim

        columns = max(len(probes), 1)
        solution = solve(
            field,
            (z, torch.zeros(len(x), columns, dtype=torch.float64)),
            start=flow.clock(d.schedule.t_min),
            end=flow.clock(1.0),
            tolerances=self.tolerances,
            max_step=MAX_STEP,
            place=flow.place,
        )
        arrived, thinned = solution.state[0], dim * solution.state[1]
        density = gaussian_log_density(d.schedule.prior) if self.terminal is None else self.terminal
        at_end = density(spread(flow.power(end), arrived) * arrived) + dim * flow.power(end).log()
        log_prob = at_end + thinned.mean(1) - dim * flow.power(start).log()
        error = thinned.std(1) / math.sqrt(columns) if columns > 1 else None
        return FlowLikelihood(log_prob, error, solution.calls)


def gaussian_log_density(law: Gaussian) -> LogDensity:
    """log N(x; mean, var), summed over each example: x (B, *) -> (B,) float64, nats."""

    def log_density(x: Tensor) -> Tensor:
        return total(Gaussian(law.mean.to(x.device), law.log_var.to(x.device)).log_prob(wide(x)))

    return log_density
