"""The best checkpoint of a run, by a figure that is measured at intervals: which it is, and which steps beat it.

    best after step k = the earliest step j <= k whose figure is the best of all measured up to k

Every checkpoint says which one is the best so far, so a resumed run goes on with what it knew. Weights that beat it are
saved at once, and their checkpoint stays when older ones go. The best of many measurements looks better than it is: it
is chosen for its luck too. Its figure is a reason to keep it and no measurement of it.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["BEST", "Best", "KeepBest"]

BEST = "best"
ERROR = "_std_error"  # ends the name of what a figure is uncertain by: held_out_loss, held_out_std_error


@dataclass(frozen=True, slots=True)
class Best:
    """The best so far.

    figure: the name under which it was logged. step: after which it was measured. value, std_error: what it was.
    measured: how many measurements it is the best of.
    """

    figure: str
    step: int
    value: float
    std_error: float | None
    measured: int

    def to_plain(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: object) -> "Best | None":
        """The inverse of `to_plain`; None for anything else."""
        if not isinstance(plain, dict):
            return None
        parts: list[Any] = [plain.get(key) for key in ("figure", "step", "value", "std_error", "measured")]
        figure, step, value, error, measured = parts
        whole = type(step) is int and type(measured) is int and step >= 0
        number = isinstance(value, int | float) and (error is None or isinstance(error, int | float))
        if not (whole and number and isinstance(figure, str)):
            return None
        return cls(figure, step, value, error, measured)

    def __str__(self) -> str:
        error = "" if self.std_error is None else f" ± {self.std_error:.2g}"
        return f"step {self.step:,}, {self.figure} {self.value:.5g}{error}, the best of {self.measured}"


@dataclass(frozen=True, slots=True)
class KeepBest:
    """What to keep.

    figure: a name in the log ("held_out_loss"), or the beginning of one up to its bracket ("kid" of "kid[judge]").
    higher: whether more of it is better. every: steps between two measurements of it.
    """

    figure: str
    higher: bool
    every: int

    def measured(self, figures: Mapping[str, Any]) -> str | None:
        """The name of the figure among those of one line of the log; None where it was not measured."""
        of_it = (name for name in figures if name == self.figure or name.startswith(f"{self.figure}["))
        return next((name for name in of_it if not name.endswith(ERROR)), None)

    def after(self, best: Best | None, step: int, figures: Mapping[str, Any]) -> Best | None:
        """The best so far, once `figures` were measured after `step`. A figure that is no number counts for nothing."""
        name = self.measured(figures)
        value = None if name is None else figures[name]
        if name is None or not isinstance(value, int | float) or not math.isfinite(value):
            return best
        error = figures.get(name.removesuffix("_loss") + ERROR)
        if not isinstance(error, int | float) or not math.isfinite(error):
            error = None
        found = Best(name, step, float(value), error, 1 if best is None else best.measured + 1)
        if best is None or (value > best.value if self.higher else value < best.value):
            return found
        return Best(best.figure, best.step, best.value, best.std_error, found.measured)
