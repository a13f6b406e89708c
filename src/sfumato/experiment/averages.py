"""Averages of any width, put together after training from those that a run stored (`training.power_ema`).

A width sigma_rel is the standard deviation, as a share of the time trained, of how much each moment of training counts
(`training.power_ema`). The stored averages of different moments and widths are combined with the weights whose profile
is nearest to the wanted one; the average ends where the newest of them does.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import Tensor

from sfumato.data.wording import counted
from sfumato.errors import CheckpointError, UsageError
from sfumato.training.average_store import AverageStore, Moment, StoredAverage
from sfumato.training.manifest import silent
from sfumato.training.power_ema import WIDEST, Fit, Profile, exponent_of, fit

__all__ = ["COARSEST", "Average", "StoredAverages", "averaged"]

COARSEST = 0.1  # residual of a profile beyond which it is not called by the width that was asked for
ROUGH = 0.01  # residual from which on it is told
OFFERED = (0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.14, 0.2, 0.25, 0.28)

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Average:
    """Weights put together.

    tensors: by name, in the dtype they were stored in; integer buffers are those of the newest moment.
    width: sigma_rel of the average.
    residual: relative L2 distance of its profile from the wanted one.
    step: the step after which it ends.
    parts: how many stored files it is made of.
    """

    tensors: dict[str, Tensor]
    width: float
    residual: float
    step: int
    parts: int


def averaged(folder: Path, width: float, *, report: Report = silent) -> dict[str, Tensor]:
    """The weights of a run averaged with relative width `width`, by the names of its network.

    `report` hears of damaged files, which are left out, and of a profile that is met only roughly. Raises UsageError
    for a width that the stored averages cannot give, CheckpointError where there are none.
    """
    return StoredAverages(folder, report=report).average(width).tensors


@final
class StoredAverages:
    """The stored averages of a run folder, as far as they are whole; a file is checked whenever it is read."""

    def __init__(self, folder: Path, *, report: Report = silent) -> None:
        self.store, self.report = AverageStore(folder), report
        self._left_out: set[StoredAverage] = set()
        self._began = self._beginning()

    def _beginning(self) -> int:
        """The step at which the averages began: 0, unless they were asked for when a run was resumed."""
        for stored in reversed(self.store.files()):
            moment = self._read(stored)
            if moment is not None:
                return stored.step - moment.updates
        raise self._none()

    def files(self) -> list[StoredAverage]:
        """What is stored and not known to be damaged, oldest first. Raises CheckpointError for nothing."""
        found = [stored for stored in self.store.files() if stored not in self._left_out]
        if not found:
            raise self._none()
        return found

    @property
    def widths(self) -> tuple[float, ...]:
        """The widths that training kept, increasing."""
        return tuple(sorted({stored.width for stored in self.files()}))

    def fitted(self, width: float) -> Fit:
        """How the profile of a width is put together from `files()`, and how well. Raises UsageError for no width."""
        if not 0 < width < WIDEST:
            raise UsageError(
                f"an average of width {width!r} was asked for",
                expected=f"a share of training above 0 and below {WIDEST:.4f}, that of the mean of all of it",
                fix="choose 0.1",
            )
        files = self.files()
        profiles = [Profile(exponent_of(stored.width), stored.step - self._began) for stored in files]
        return fit(profiles, Profile(exponent_of(width), files[-1].step - self._began))

    def average(self, width: float) -> Average:
        """The average of a width. Raises UsageError where its profile is not met to 10 %, CheckpointError for none."""
        while True:
            files, found = self.files(), self.fitted(width)
            if found.residual > COARSEST:
                raise self._too_coarse(width, found.residual)
            tensors = self._combined(files, found.weights)
            if tensors is not None:
                break
        if found.residual > ROUGH:
            self.report(f"the profile of width {width:g} is missed by {100 * found.residual:.1f} % (relative L2)")
        return Average(tensors, width, found.residual, files[-1].step, len(files))

    def _combined(self, files: Sequence[StoredAverage], weights: Sequence[float]) -> dict[str, Tensor] | None:
        """Σ weight · tensors, summed in float64; None when a file turned out damaged, left out from then on."""
        sums: dict[str, Tensor] = {}
        newest: Mapping[str, Tensor] = {}
        for stored, weight in zip(files, weights, strict=True):
            moment = self._read(stored)
            if moment is None:
                return None
            newest = moment.tensors
            for name, tensor in newest.items():
                if not tensor.is_floating_point():
                    sums[name] = tensor
                elif name in sums:
                    sums[name] += weight * tensor.double()
                else:
                    sums[name] = weight * tensor.double()
        return {name: total.to(newest[name].dtype) for name, total in sums.items()}

    def _read(self, stored: StoredAverage) -> Moment | None:
        """One file; None, told, when it is damaged."""
        try:
            return self.store.read(stored)
        except CheckpointError as error:
            self._left_out.add(stored)
            self.report(f"{error.what}; it is left out of the average")
            return None

    def _none(self) -> CheckpointError:
        damaged = f" but {len(self._left_out)} damaged ones" if self._left_out else ""
        return CheckpointError(
            f"{self.store.folder} holds no stored averages{damaged}",
            expected="a run that was trained with training.power_ema",
            fix="leave the width out (sampling.ema_width: null), or train with --training.power_ema 0.05,0.1",
        )

    def _too_coarse(self, width: float, residual: float) -> UsageError:
        can = [w for w in (*self.widths, *OFFERED) if self.fitted(w).residual <= COARSEST]
        nearest = min(can, key=lambda w: abs(math.log(w / width)), default=None)
        moments = len({stored.step for stored in self.files()})
        return UsageError(
            f"the {counted(moments, 'stored moment')} of {self.store.folder} cannot give an average of width "
            f"{width:g}: its profile is missed by {100 * residual:.0f} % (relative L2)",
            expected=f"a width whose profile is missed by at most {100 * COARSEST:.0f} %",
            fix="store them more often (training.power_ema_every)" if nearest is None else f"choose {nearest:g}",
        )
