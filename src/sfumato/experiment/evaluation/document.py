"""What an evaluation gives: numbers by name, and what one must know to read them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sfumato.experiment.comparability import is_reference
from sfumato.experiment.evaluation.memorisation import ClosestPairs
from sfumato.metrics import Estimate

__all__ = ["Evaluation", "Notebook"]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Numbers by name, and what one must know to read them.

    metrics: name -> estimate, in the order measured.
    notes: sentences.
    run: the name of the experiment.
    closest: by space, the samples that are most like training examples, where memorisation was measured of pictures.
    """

    metrics: Mapping[str, Estimate]
    notes: tuple[str, ...]
    run: str = ""
    closest: Mapping[str, ClosestPairs] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """As JSON data."""
        metrics = {name: estimate.to_plain() for name, estimate in self.metrics.items()}
        plain: dict[str, Any] = {"run": self.run, "metrics": metrics, "notes": list(self.notes)}
        closest = {space: pairs.to_plain() for space, pairs in self.closest.items()}
        return {**plain, "closest": closest} if closest else plain

    def stored(self) -> dict[str, Any]:
        """As JSON data with the influences of each estimate, by which two files can be compared in pairs."""
        influences = {
            name: [float(f"{u:.9g}") for u in estimate.influences.tolist()]
            for name, estimate in self.metrics.items()
            if estimate.influences is not None and not is_reference(name)
        }
        return {**self.to_plain(), "influences": influences}


@dataclass(slots=True)
class Notebook:
    """Notes as they come, each once, and the closest pairs of each space."""

    notes: list[str] = field(default_factory=list)
    closest: dict[str, ClosestPairs] = field(default_factory=dict)

    def add(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def keep(self, pairs: ClosestPairs) -> None:
        self.closest[pairs.space] = pairs
