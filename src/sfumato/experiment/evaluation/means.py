"""With what an evaluation works, whatever it measures."""

from collections.abc import Callable
from dataclasses import dataclass

from sfumato.data import DataConfig
from sfumato.experiment.evaluation.kept import Kept
from sfumato.experiment.evaluation.pace import Progress
from sfumato.experiment.evaluation.team import ALONE, Team

__all__ = ["Means"]


@dataclass(frozen=True, slots=True)
class Means:
    """With what an evaluation works: its cache, its processes, and who hears of its progress."""

    kept: Kept
    team: Team
    report: Callable[[str], None]
    progress: Progress | None = None

    @classmethod
    def alone(cls, config: DataConfig, report: Callable[[str], None]) -> "Means":
        """Those of one process, for the data of `config`."""
        return cls(Kept.of(config), ALONE, report)
