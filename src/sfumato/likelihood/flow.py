"""The likelihood of the probability-flow ODE, by the change of variables along its paths.

In the coordinates of `core.probability_flow` (z at unit power, clock w)

    log p(z at t_min) = log p(z at 1) + ∫ div dw,        div = c D - tr(d x0_hat/dz),   from t_min to 1

(Chen et al. 2018, theorem 1; Song et al. 2021, eq. 39), and for what becomes of data, y = x/alpha at t_min,

    log p(y) = log p(z) - D log(power/alpha),        log p(z at 1) = log p(x at 1) + D log(power at 1).

The path starts at y = x_0, that is at x = alpha x_0, with no noise added: what is evaluated is the density of the law
of y at t_min, a proper density of x_0. For an ideal denoiser that is the law of the data blurred by N(0, u² I), with
u = sigma/alpha at t_min. It exceeds the data's own density by about ½ u² ∇²p/p: nothing to speak of at the default
t_min of 1e-5, a lot where a schedule keeps noise at its clean end (`CosineAngle`: u = 0.33). The terminal density is
the schedule's prior, whatever the data left there; give the exact one to judge the integration alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core import Cond, Denoise, Gaussian, NoiseSource
from sfumato.core.ode import State, Tolerances, solve
from sfumato.core.probability_flow import MAX_STEP, ProbabilityFlow
from sfumato.core.rates import spread
from sfumato.likelihood.divergence import Divergence
from sfumato.likelihood.totals import total, wide

__all__ = ["FlowLikelihood", "LogDensity", "flow_log_prob"]

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
    flow, start, end = ProbabilityFlow(d, cond), d.schedule.rates(d.schedule.t_min), d.schedule.rates(1.0)
    dim = x0[0].numel()
    z = spread(flow.signal(start), x0) * x0
    probes = divergence.probes(z, noise)

    def field(state: State, w: Tensor) -> State:
        with torch.enable_grad():
            place = state[0].detach().requires_grad_(True)
            slope = flow.slope(place, flow.predict(place, w))
            traces = divergence.traces(slope, place, probes)
        return slope.detach(), traces / dim

    columns = max(len(probes), 1)
    solution = solve(
        field,
        (z, torch.zeros(len(x0), columns, dtype=torch.float64)),
        start=flow.clock(d.schedule.t_min),
        end=flow.clock(1.0),
        tolerances=Tolerances(rtol, atol, max_steps),
        max_step=MAX_STEP,
        place=flow.place,
    )
    arrived, thinned = solution.state[0], dim * solution.state[1]
    density = gaussian_log_density(d.schedule.prior) if terminal is None else terminal
    at_end = density(spread(flow.power(end), arrived) * arrived) + dim * flow.power(end).log()
    log_prob = at_end + thinned.mean(1) + dim * flow.signal(start).log()
    error = thinned.std(1) / math.sqrt(columns) if columns > 1 else None
    return FlowLikelihood(log_prob, error, solution.calls)


def gaussian_log_density(law: Gaussian) -> LogDensity:
    """log N(x; mean, var), summed over each example: x (B, *) -> (B,) float64, nats."""

    def log_density(x: Tensor) -> Tensor:
        return total(Gaussian(law.mean.to(x.device), law.log_var.to(x.device)).log_prob(wide(x)))

    return log_density
