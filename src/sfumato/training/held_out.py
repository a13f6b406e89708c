"""Held-out loss: always the same examples, noise and noise levels, so that it moves only with the model.

The K levels are the midpoints of K equal parts of [t_min, 1], on the grid for a table; the loss is the objective's own
under times uniform in t, and is shown per level with its log_snr. A bound is a sum over every step of a chain, of which
a few can be most, or an integral over all t: for such an objective (`whole_chain`) example i of N looks at the place
(i + ½)/N of each part, so that all times are seen by some example, always the same one.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.condition import Condition
from sfumato.core import Denoiser, Schedule, batch_noise
from sfumato.objectives import Draw, Objective

__all__ = ["HeldOut"]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Examples x0 (N, *) on the device, already normalised, with what scores them.

    cond: what the network is told of them, always all of it and always the same.
    """

    x0: Tensor
    objective: Objective
    levels: int
    seed: int
    batch_size: int = 64
    cond: Condition | None = None

    def times(self, schedule: Schedule) -> Tensor:
        """The K fixed times, increasing; (K,) float64. A table with fewer steps than levels uses each of its steps."""
        middles = (torch.arange(self.levels, dtype=torch.float64) + 0.5) / self.levels
        if schedule.num_steps is None:
            return schedule.t_min + (1 - schedule.t_min) * middles
        return ((middles * schedule.num_steps).floor() + 1).unique() / schedule.num_steps

    def times_of_examples(self, schedule: Schedule) -> Tensor:
        """The K times of each of the N examples, (K, N) float64: the same for all, or spread over the whole span."""
        times, count = self.times(schedule), len(self.x0)
        if not self.objective.whole_chain:
            return times[:, None].expand(-1, count)
        places = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        parts = torch.arange(len(times), dtype=torch.float64)[:, None]
        whole = (parts + places) / len(times)
        if schedule.num_steps is None:
            return schedule.t_min + (1 - schedule.t_min) * whole
        return ((whole * schedule.num_steps).floor() + 1) / schedule.num_steps

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser) -> dict[str, Any]:
        """The mean loss with its standard error over examples, and per noise level: plain numbers for the log."""
        losses = self.losses(denoiser)
        per_example = losses.mean(0)
        return {
            "held_out_loss": float(per_example.mean()),
            "held_out_std_error": float(per_example.std() / math.sqrt(len(per_example)))
            if len(per_example) > 1
            else None,
            "held_out_by_level": {
                "log_snr": denoiser.schedule.log_snr(self.times(denoiser.schedule)).tolist(),
                "loss": losses.mean(1).tolist(),
            },
        }

    @torch.no_grad()
    def losses(self, denoiser: Denoiser) -> Tensor:
        """The loss of each example at each of the K times, (K, N) float64 on the CPU."""
        times = self.times_of_examples(denoiser.schedule)
        return torch.stack([self._losses(denoiser, t, level) for level, t in enumerate(times)])

    def _losses(self, denoiser: Denoiser, t: Tensor, level: int) -> Tensor:
        """The loss of every example at its time (N,), (N,) float64 on the CPU; the noise depends on (seed, level)."""
        shape, device = tuple(self.x0.shape), self.x0.device
        eps = batch_noise(shape, self.seed, "held-out", level).to(device)
        probes = [
            batch_noise(shape, self.seed, "held-out-probe", level, k).to(device)
            for k in range(self.objective.num_probes)
        ]
        found = []
        for start in range(0, len(self.x0), self.batch_size):
            part = slice(start, start + self.batch_size)
            x0 = self.x0[part]
            ones = torch.ones(len(x0), dtype=torch.float64)
            draw = Draw(t[part], eps[part], ones, tuple(probe[part] for probe in probes))
            cond = None if self.cond is None else self.cond[part]
            found.append(self.objective(denoiser, x0, draw, cond).values.detach())  # score matching leaves a graph
        return torch.cat(found).to("cpu", torch.float64)
