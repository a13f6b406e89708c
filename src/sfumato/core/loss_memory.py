"""What training remembers of its losses: the last few of every equal part of the time span.

    share of part b:   p_b = (1 - uniform) r_b / sum r + uniform / B,     r_b = sqrt(mean of L² over the last H losses)

Drawing t with these shares and weighting each loss by 1/(B p_b) leaves the objective as it is; p_b proportional to the
root of the mean square is what makes a single weighted loss vary least (Nichol & Dhariwal 2021, sec. 3.4).
"""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from sfumato.errors import CheckpointError

__all__ = ["LossMemory"]


@final
class LossMemory:
    """The last `history` losses of each of `bins` equal parts of (start, 1]; part of the state of a run.

    `losses` is (bins, history) float64, a ring per part; `seen` (bins,) int64 counts all losses that ever came. A loss
    that is not finite is passed over. The same losses in the same order leave the same bits.
    """

    def __init__(self, *, bins: int, history: int, start: float) -> None:
        self.start = start
        self.losses = torch.zeros((bins, history), dtype=torch.float64)
        self.seen = torch.zeros(bins, dtype=torch.int64)

    @property
    def bins(self) -> int:
        """B, the number of parts."""
        return len(self.seen)

    def part_of(self, t: Tensor) -> Tensor:
        """The part that holds each t, whole numbers from 0; a step k/T of a table of T parts lies in part k - 1."""
        position = (t - self.start) / (1 - self.start) * self.bins
        return (position - 1e-9).ceil().long().sub(1).clamp(0, self.bins - 1)  # k/T·T is k but for rounding

    def add(self, t: Tensor, losses: Tensor) -> None:
        """Take in the losses at times t, both (N,), in their order."""
        finite = losses.isfinite()
        part, values = self.part_of(t)[finite], losses[finite].to(torch.float64)
        order = part.argsort(stable=True)
        part, values = part[order], values[order]
        rank = torch.arange(len(part)) - torch.searchsorted(part, part)  # the how-manieth of its part in this batch
        hits = torch.bincount(part, minlength=self.bins)
        history = self.losses.shape[1]
        kept = rank >= hits[part] - history  # more than the ring holds: the last ones count
        self.losses[part[kept], (self.seen[part] + rank)[kept] % history] = values[kept]
        self.seen += hits

    def shares(self, uniform: float) -> Tensor:
        """p_b, (bins,) float64, summing to 1: all alike until every part has its history, and where no loss counts."""
        alike = torch.full((self.bins,), 1 / self.bins, dtype=torch.float64)
        if bool((self.seen < self.losses.shape[1]).any()):
            return alike
        roots = self.losses.square().mean(1).sqrt()
        total = roots.sum()
        return (1 - uniform) * roots / total + uniform * alike if float(total) > 0 else alike

    def state(self) -> dict[str, Tensor]:
        """The tensors that are this memory, not copied."""
        return {"losses": self.losses, "seen": self.seen}

    def check(self, stored: Mapping[str, Tensor]) -> None:
        """Refuse, by CheckpointError, tensors that cannot be the state of a memory like this one."""
        mine = self.state()
        bad = [name for name in (*mine, *stored) if name not in mine or not _alike(mine[name], stored.get(name))]
        if not bad and bool((stored["seen"] < 0).any()):
            bad = ["seen"]
        if bad:
            raise CheckpointError(
                f"the memory of losses in the checkpoint does not fit the times of training: {', '.join(bad[:5])}",
                expected=f"losses {tuple(self.losses.shape)} float64 and seen ({self.bins},) int64, none negative",
                fix="use the settings of `times` and `schedule` that it was trained with, or another checkpoint",
            )

    def restore(self, stored: Mapping[str, Tensor]) -> None:
        """Take up a stored state. Raises CheckpointError, and changes nothing then."""
        self.check(stored)
        self.losses.copy_(stored["losses"])
        self.seen.copy_(stored["seen"])


def _alike(mine: Tensor, stored: Tensor | None) -> bool:
    return stored is not None and stored.shape == mine.shape and stored.dtype == mine.dtype
