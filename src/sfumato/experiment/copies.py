"""The alarm of training: at intervals, whether samples have become copies of training examples.

Always the same noise, the averaged weights, and distances in the values themselves. It rings where the lower end of
the 95 % interval of the share of copies is a hundredth above what chance makes (`metrics.memorisation`) and there are
three copies or more, and says so once: copying began between that step and the look before.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sfumato.condition import Condition
from sfumato.core import Denoiser
from sfumato.data import Split
from sfumato.errors import NumericsError, UsageError
from sfumato.experiment.build import PreparedData
from sfumato.experiment.config import Experiment
from sfumato.experiment.drawing import draw
from sfumato.experiment.guiding import Requests, plainly
from sfumato.experiment.likeness import Values, beside
from sfumato.metrics import Estimate
from sfumato.metrics.memorisation import (
    Interval,
    chance_share,
    copy_share,
    copy_threshold,
    interval_of,
    leaning,
)
from sfumato.training.trainer import Reporter

__all__ = ["CopyWatch"]

MARGIN, LEAST = 0.01, 3  # of the share of copies above chance, and copies at least: a single likeness is no alarm


@dataclass(slots=True)
class CopyWatch:
    """Looks for copies of the training part among samples.

    held_out: indices of the examples to compare with. cond: what the samples are told, on their device. like: a tensor
    of that device and dtype.
    """

    experiment: Experiment
    data: PreparedData
    held_out: Tensor
    cond: Condition | None
    like: Tensor
    reporter: Reporter
    quiet_at: int | None = field(default=None, init=False)
    ringing: bool = field(default=False, init=False)

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, done: int) -> dict[str, Any]:
        """The figures of the log after `done` steps; none where the samples do not come out finite."""
        count = self.experiment.evaluation.copies_count
        config = plainly(replace(self.experiment.sampling, micro_batch=count))
        record, asked = self.data.record, Requests(self.cond)
        try:
            drawn = draw(denoiser, record, config, count=count, seed=0, like=self.like, asked=asked)
        except (NumericsError, UsageError) as error:  # a look is not worth a run
            self.reporter.note(f"no look for copies after step {done}: {error.what}")
            return {}
        space, flip = Values(record.normalization), self.experiment.data.flip
        sides = Split(self.data.parts.train, self.held_out)
        found = beside(drawn, self.data.packed.values, sides, space, mirrored=flip)
        threshold = copy_threshold(found)
        share, floor, lean = copy_share(found, threshold), chance_share(found, threshold), leaning(found)
        sure = interval_of(share)
        self._ring(done, share, sure, floor)
        return {
            "copies": share.value,
            "copies_interval": [sure.low, sure.high],
            "copies_floor": floor.value,
            "leaning": lean.value,
            "leaning_std_error": lean.std_error,
        }

    def _ring(self, done: int, share: Estimate, sure: Interval, floor: Estimate) -> None:
        """Say once that samples are copies, and between which steps they became so."""
        count = round(share.value * share.n)
        ringing = count >= LEAST and sure.low > floor.value + MARGIN
        if ringing and not self.ringing:
            before = "" if self.quiet_at is None else f"; after step {self.quiet_at:,} they were not"
            self.reporter.note(
                f"copies: after step {done:,}, {count} of {share.n} samples are copies of training examples "
                f"({sure.low:.0%} to {sure.high:.0%} of all; chance makes {floor.value:.1%}){before}. More data, a "
                "smaller network or fewer steps help"
            )
        self.ringing = ringing
        if not ringing:
            self.quiet_at = done
