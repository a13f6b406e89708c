"""The numbers of an arm: measured once, kept beside its run as `sfumato evaluate` keeps them, and read there again.

ARM/evaluations/reproduce-KEY-DIGEST.json      KEY a digest of what was asked for, and of the step of the weights
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sfumato.errors import DataError, NumericsError, SfumatoError
from sfumato.experiment.build import PreparedData
from sfumato.experiment.evaluation import evaluate
from sfumato.experiment.evaluation.files import write_evaluation
from sfumato.experiment.evaluation.pace import Progress
from sfumato.experiment.evaluations import StoredEvaluation, evaluation_of, read_evaluation
from sfumato.experiment.load import load
from sfumato.experiment.model import Model
from sfumato.experiment.places import place_of
from sfumato.experiment.records import silent
from sfumato.experiment.reproduce.source import Measure, Part, Scale
from sfumato.experiment.reproduce.training import TrainedArm

__all__ = ["Asked", "measured"]

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """How arms are measured. extractor: of features, the usual one where it is None, with a file of weights."""

    scale: Scale
    extractor: str | None = None
    extractor_weights: str | None = None
    device: str = "auto"
    note: Note = silent
    progress: Progress | None = None


def measured(
    arm: TrainedArm, part: Part, asked: Asked, data: Callable[[], PreparedData]
) -> tuple[StoredEvaluation, ...]:
    """All that is measured of an arm at a scale; what cannot be is noted. data: those of the arm's seed."""
    wanted = [
        measure for measure in part.measures if measure.count(asked.scale) > 0 and {*measure.where} <= {*arm.settings}
    ]
    model = cache(lambda: load(arm.folder, device=asked.device, report=asked.note))
    found = []
    for measure in wanted:
        try:
            found.append(_one(arm, measure, asked, model, data))
        except (DataError, NumericsError) as error:
            asked.note(f"{' '.join(arm.labels)}: {', '.join(measure.metrics)} left out: {error.what}")
    return tuple(found)


def _one(
    arm: TrainedArm, measure: Measure, asked: Asked, model: Callable[[], Model], data: Callable[[], PreparedData]
) -> StoredEvaluation:
    """One evaluation, from the disk where it is there."""
    name = f"reproduce-{_key(arm.folder, measure, asked)}"
    for path in sorted((arm.folder / "evaluations").glob(f"{name}-*.json")):
        try:
            return read_evaluation(path)
        except SfumatoError as error:
            asked.note(f"{error.what}; measured again")
    asked.note(f"measuring {', '.join(measure.metrics)} of {arm.folder.name}")
    found = evaluate(
        model(),
        measure.metrics,
        n=measure.count(asked.scale),
        weights=measure.weights,
        sampling=measure.sampling or None,
        extractor=asked.extractor,
        extractor_weights=asked.extractor_weights,
        report=asked.note,
        progress=asked.progress,
        given=data(),
    )
    stored = found.stored()
    return evaluation_of(stored, write_evaluation(arm.folder, name, stored))


def _key(folder: Path, measure: Measure, asked: Asked) -> str:
    """What tells one evaluation from another: what was asked, and of which weights."""
    step = place_of(folder, folder.parent).step
    what = (measure.metrics, measure.count(asked.scale), measure.weights, measure.sampling, step)
    text = json.dumps([*what, asked.extractor, asked.extractor_weights])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
