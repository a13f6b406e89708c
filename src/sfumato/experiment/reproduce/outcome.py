"""What came of a reproduction: of each part its arms, its findings and what failed. Read without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.experiment.reproduce.axes import AxisEffects
from sfumato.experiment.reproduce.findings import AnchorFound, ArmNumbers, Finding, Findings, Order, as_plain
from sfumato.experiment.reproduce.source import Part, Scale, Source

__all__ = ["Failed", "PartOutcome", "Reproduction"]


@dataclass(frozen=True, slots=True)
class Failed:
    """An arm that could not be trained, and why."""

    folder: Path
    arm: str
    seed: int
    why: str


@dataclass(frozen=True, slots=True)
class PartOutcome:
    """One part of a source.

    part: what it is of. axes: the names of what tells its arms apart. folder: of its sweep; None where its arms are
    runs of their own. effects: of those choices. conclusions: what can be said after all, as sentences.
    """

    part: Part
    axes: tuple[str, ...]
    folder: Path | None
    arms: tuple[ArmNumbers, ...]
    failed: tuple[Failed, ...]
    findings: Findings
    effects: AxisEffects = AxisEffects()
    conclusions: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the part."""
        return self.part.name


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A source beside ours. command: what makes it, and goes on with it."""

    source: Source
    scale: Scale
    seeds: int
    command: str
    anchors: tuple[AnchorFound, ...]
    parts: tuple[PartOutcome, ...]

    @property
    def failed(self) -> tuple[Failed, ...]:
        """The arms that could not be trained."""
        return tuple(one for part in self.parts for one in part.failed)

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "source": self.source.name,
            "where": self.source.where,
            "scale": self.scale,
            "seeds": self.seeds,
            "command": self.command,
            "remarks": list(self.source.remarks),
            "faults": [{"there": fault.there, "here": fault.here} for fault in self.source.faults],
            "anchors": [{"what": a.what, "there": a.there, "here": a.here, "verdict": a.verdict} for a in self.anchors],
            "parts": [_part(part) for part in self.parts],
        }


def _part(part: PartOutcome) -> dict[str, Any]:
    found = part.findings
    return {
        "name": part.name,
        "axes": list(part.axes),
        "sweep": None if part.folder is None else str(part.folder),
        "arms": [
            {
                "arm": list(arm.labels),
                "seed": arm.seed,
                "run": str(arm.folder),
                "departures": list(arm.departures),
                "data": arm.data,
            }
            for arm in part.arms
        ],
        "findings": [_finding(finding) for finding in found.findings],
        "orders": [_order(order) for order in found.orders],
        "levels": [
            {"title": levels.title, "bins": list(levels.bins), "rows": as_plain(levels.rows)} for levels in found.levels
        ],
        "effects": None if part.effects.metrics is None else part.effects.metrics.document(),
        "effects_by_level": None if part.effects.by_level is None else part.effects.by_level.document(),
        "notes": [*found.notes, *part.effects.notes],
        "conclusions": list(part.conclusions),
        "failed": [{"arm": f.arm, "seed": f.seed, "run": str(f.folder), "why": f.why} for f in part.failed],
    }


def _finding(finding: Finding) -> Mapping[str, Any]:
    return {
        "arm": list(finding.arm),
        "quantity": finding.quantity,
        "there": as_plain(finding.there),
        "here": as_plain(finding.here),
        "should": as_plain(finding.should),
        "verdict": finding.verdict,
        "why": finding.why,
    }


def _order(order: Order) -> Mapping[str, Any]:
    return {
        "quantity": order.quantity,
        "arms": order.arms,
        "pairs": order.pairs,
        "apart": order.apart,
        "same": order.same,
        "opposite": order.opposite,
        "best_there": list(order.best_there),
        "best_here": list(order.best_here),
        "tied": as_plain(order.tied),
        "error": order.error,
        "verdict": order.verdict,
    }
