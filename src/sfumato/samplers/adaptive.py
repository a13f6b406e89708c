"""Sampling by an ODE solver that chooses its own steps, for every sample alone.

The probability-flow ODE (`core.probability_flow`) is integrated by Dormand and Prince's method from t = 1 to t_min,
where the prediction of x0 is the sample. Easy samples arrive in few steps and hard ones take more; what a sample
becomes does not depend on the others in its batch.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.core import Cond, Denoise, NoiseSource, Prediction
from sfumato.core.ode import State, Tolerances, solve
from sfumato.core.probability_flow import MAX_STEP, ProbabilityFlow
from sfumato.core.rates import spread
from sfumato.errors import UsageError
from sfumato.samplers.base import Sampler, Stepped, predict

__all__ = ["DormandPrince"]


@dataclass(frozen=True, slots=True)
class DormandPrince(Sampler[None]):
    """Adaptive steps of order 5 along the probability-flow ODE; `steps` and `grid` say nothing to it.

    rtol: local error allowed per step, as a share of the state at unit power.
    atol: local error allowed besides, in units of the prepared data.
    max_steps: steps of one sample, rejected ones included, after which sampling is refused as not converged.
    """

    order: ClassVar[int] = 5
    adaptive: ClassVar[bool] = True
    rtol: float = 1e-3
    atol: float = 1e-3
    max_steps: int = 1000

    def __post_init__(self) -> None:
        _ = self.tolerances  # which refuses what cannot be meant

    @property
    def tolerances(self) -> Tolerances:
        """The same three numbers, as the solver takes them."""
        return Tolerances(self.rtol, self.atol, self.max_steps)

    def calls(self, steps: int) -> int:
        raise UsageError(
            f"DormandPrince was asked for its calls in {steps} steps",
            expected="tolerances: an adaptive method finds its steps itself and reports the calls of each sample",
            fix="leave the steps out, or choose a sampler with fixed steps, such as ddim",
        )

    def init(self, x: Tensor) -> None:
        return None

    def step(
        self, d: Denoise, x_t: Tensor, *, t: float, s: float, state: None, noise: NoiseSource, cond: Cond | None
    ) -> Stepped[None]:
        """x_s from x_t over as many solver steps as it takes; s = 0 goes to t_min and returns x0 from there."""
        end = max(s, d.schedule.t_min)
        if end >= t:  # t_min itself: nothing to integrate
            p = predict(d, x_t, t, cond)
            return Stepped(p.x0, None, p, 1, torch.ones(len(x_t), dtype=torch.int64))
        flow, said = ProbabilityFlow(d, cond), list[Prediction]()

        def field(state: State, w: Tensor) -> State:
            p = flow.predict(state[0], w)
            if not said:
                said.append(p)
            return (flow.slope(state[0], p),)

        solution = solve(
            field,
            (x_t / spread(flow.power(d.schedule.rates(t)), x_t),),
            start=flow.clock(t),
            end=flow.clock(end),
            tolerances=self.tolerances,
            max_step=MAX_STEP,
            place=flow.place,
        )
        x = spread(flow.power(d.schedule.rates(end)), x_t) * solution.state[0]
        first = replace(said[0], rates=d.schedule.rates(t))  # one time for all, as every sampler's predictions have
        if s > 0:
            return Stepped(x, None, first, solution.evaluations, solution.calls)
        return Stepped(predict(d, x, end, cond).x0, None, first, solution.evaluations + 1, solution.calls + 1)
