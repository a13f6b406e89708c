"""One step of a T-step chain for every example of a batch, whatever its t: what bounds are made of.

    k ≥ 2   KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t)),  t = k/T, s = (k - 1)/T
    k = 1   -log p(x_0 | x_t),  t = 1/T and s data, by a decoder

(Ho et al. 2020, eq. 5.) A batch is parted by k, which is known on the CPU: each part meets exactly the kernels that
samplers use, and neither is ever computed where it does not belong (small is 0 at data; a bin has no mass far away).
"""

from torch import Tensor

from sfumato.core import Decoder, Prediction, Rates, Schedule, Variance, posterior, reverse
from sfumato.errors import ConfigError

__all__ = ["decoder_nll", "inner_kl", "require_chain", "steps_of"]

OFF_GRID = 1e-6  # of a step: k/T T is off by rounding, the times of another sampler are not


def require_chain(objective: str, schedule: Schedule, variance: Variance) -> int:
    """T of the schedule. Raises ConfigError where it has no steps, or others than the variance speaks of."""
    num_steps = schedule.num_steps
    if num_steps is None:
        raise ConfigError(
            f"objective is {objective} and schedule is {type(schedule).__name__}, which has no steps",
            expected="a table, whose steps the bound is a sum over",
            fix="set schedule: Tabulated, or objective: DenoisingLoss with the weighting Elbo for continuous time",
        )
    if variance.chain_steps not in (None, num_steps):
        raise ConfigError(
            f"objective.variance is {type(variance).__name__} of {variance.chain_steps} steps "
            f"and schedule has {num_steps}",
            expected="the same number of steps",
            fix=f"set objective.variance.steps: {num_steps}",
        )
    return num_steps


def steps_of(t: Tensor, num_steps: int) -> Tensor:
    """k of t = k/T, (B,) float64, 1 … T. Raises ConfigError for times between the steps."""
    k = (t * num_steps).round()
    if bool(((t * num_steps - k).abs() > OFF_GRID).any()) or bool((k < 1).any()):
        raise ConfigError(
            "the times drawn lie between the steps of the chain, and its bound is a sum over the steps",
            expected="times: GridTimes, with as many steps as the schedule",
            fix=f"set times: GridTimes and times.steps: {num_steps}",
        )
    return k


def inner_kl(p: Prediction, x0: Tensor, k: Tensor, schedule: Schedule, variance: Variance) -> Tensor:
    """KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t)) per element in nats, 0 for the examples at k = 1; (B, *).

    Those zeros are the prediction times 0: a batch of k = 1 alone still has a gradient, which is 0.
    """
    result = 0 * p.x0
    rows = (k >= 2).nonzero().flatten()
    if len(rows) == 0:  # read on the CPU
        return result
    part, there = part_of(p, rows), rows.to(x0.device, non_blocking=True)
    s = schedule.rates((k[rows] - 1) / schedule_steps(schedule))
    q = posterior(x0.index_select(0, there), part.x_t, s=s, t=part.rates)
    return result.index_copy(0, there, q.kl(reverse(part, s, variance)))


def decoder_nll(
    p: Prediction, x0: Tensor, k: Tensor, schedule: Schedule, variance: Variance, decoder: Decoder
) -> Tensor:
    """-log p(x_0 | x_t) per element in nats, 0 for the examples at k ≥ 2; (B, *)."""
    result = 0 * p.x0
    rows = (k < 2).nonzero().flatten()
    if len(rows) == 0:
        return result
    num_steps, part, there = schedule_steps(schedule), part_of(p, rows), rows.to(x0.device, non_blocking=True)
    before = schedule.rates(2 / num_steps) if num_steps > 1 else None
    kernel = reverse(part, Rates.data(), variance, before=before)
    nll = -decoder.log_prob(x0.index_select(0, there), kernel)
    return result.index_copy(0, there, nll.to(result.dtype))


def schedule_steps(schedule: Schedule) -> int:
    """T, of a schedule that `require_chain` has passed."""
    assert schedule.num_steps is not None
    return schedule.num_steps


def part_of(p: Prediction, rows: Tensor) -> Prediction:
    """The prediction of some examples; `rows` is on the CPU, where the rates are."""
    there = rows.to(p.x_t.device, non_blocking=True)
    r = Rates(p.rates.t[rows], p.rates.alpha[rows], p.rates.sigma[rows])
    said = None if p.var_output is None else p.var_output.index_select(0, there)
    return Prediction(p.x_t.index_select(0, there), r, p.x0.index_select(0, there), said)
