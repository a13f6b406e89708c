"""`compare --measure`: runs measured now, all in the same way, and compared."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from sfumato.errors import DataError, UsageError
from sfumato.experiment.compare import Side, compare_sides
from sfumato.experiment.config import Overrides
from sfumato.experiment.difference import Comparison
from sfumato.experiment.evaluation import Evaluation, evaluate
from sfumato.experiment.evaluation.files import write_evaluation
from sfumato.experiment.evaluation.subject import Part
from sfumato.experiment.evaluation.team import claim_device
from sfumato.experiment.evaluations import StoredEvaluation, evaluation_of
from sfumato.experiment.load import load
from sfumato.experiment.model import Model
from sfumato.experiment.run import is_main_process
from sfumato.experiment.widths import with_average
from sfumato.metrics import EXTRACTORS

__all__ = ["measure", "stored_beside", "weights_named"]

Report = Callable[[str], None]


def measure(
    *runs: object,
    metrics: Sequence[str] | str | None = None,
    folder: str | Path = "runs",
    weights: str = "ema",
    n: int | None = None,
    seed: int = 0,
    part: str = "held-out",
    device: str = "auto",
    extractor: str | None = None,
    extractor_weights: str | Path | None = None,
    sampling: Overrides | None = None,
    across: Collection[str] = (),
    report: Report | None = None,
) -> Comparison:
    """Measure runs, checkpoints or exported files as `evaluate` does, keep the evaluations, and compare.

    Every run is measured with the same arguments; `sampling` are settings laid over those of each. Raises UsageError,
    DataError as `evaluate` and `compare` do; what can be seen before measuring is refused before.
    """
    quiet = report if report is not None else lambda text: None
    places = [str(getattr(run, "folder", run)) for run in runs]
    for place in places:
        if Path(place).suffix == ".json":
            raise UsageError(
                f"{place} is an evaluation, which cannot be measured again",
                expected="runs, checkpoints or exported files with --measure",
                fix="leave out --measure, or name the runs",
            )
    named = [name.strip() for name in metrics.split(",")] if isinstance(metrics, str) else metrics
    families = None if named is None else list(dict.fromkeys(name.partition("[")[0] for name in named))
    meant = extractor if extractor is not None else extractor_named(named or ())
    claim_device()
    models = [weights_named(load(p, runs=folder, device=device, report=quiet), weights, quiet) for p in places]
    require_same_data(models, places)
    sides, region = [], cast(Part, part)  # which `evaluate` checks
    for place, model in zip(places, models, strict=True):
        quiet(f"measuring {place}")
        found = evaluate(
            model,
            families,
            n=n,
            seed=seed,
            weights=weights,
            part=region,
            sampling=sampling,
            extractor=meant,
            extractor_weights=extractor_weights,
            report=report,
        )
        stored = stored_beside(model, found, f"{weights}-{part}-seed{seed}")
        sides.append(Side(place, (stored,), run=place))
    return compare_sides(sides, metrics=named, across=across)


def extractor_named(metrics: Sequence[str]) -> str | None:
    """The extractor that the names of metrics ask for, as kid[judge] does; None for none, or for several."""
    tags = {tag for name in metrics for tag in name.replace("]", "").split("[")[1:]}
    found = tags.intersection(EXTRACTORS)
    return found.pop() if len(found) == 1 else None


def weights_named(model: Model, weights: str, report: Report) -> Model:
    """The model with the average of a width, where `weights` is one; as it is for ema and live."""
    if weights in ("ema", "live"):
        return model
    try:
        width = float(weights)
    except ValueError:
        raise UsageError(
            f"weights are {weights!r}", expected="ema, live or the width of an average, such as 0.08", fix="take ema"
        ) from None
    made = with_average(model, width, report)
    return replace(made, weights={weights: made.denoiser, **made.weights})


def stored_beside(model: Model, found: Evaluation, name: str) -> StoredEvaluation:
    """An evaluation as it is stored: beside the run, where the model is of one."""
    plain = found.stored()
    keeps = model.folder if is_main_process() else None
    file = None if keeps is None else write_evaluation(keeps, name, plain)
    return evaluation_of(plain, file)


def require_same_data(models: Sequence[Model], places: Sequence[str]) -> None:
    """Refuse, before anything is measured, runs of different data or parts of them. Raises DataError."""
    first = models[0]
    for model, place in zip(models[1:], places[1:], strict=True):
        same = model.record.fingerprint == first.record.fingerprint
        counts = (first.record.held_out_count, model.record.held_out_count)
        if not same or counts[0] != counts[1]:
            apart = f"{counts[0]:,} and {counts[1]:,} examples are held out" if same else "they learned from other data"
            raise DataError(
                f"{places[0]} and {place} cannot be compared: {apart}",
                expected="the same examples to train on and to measure on",
                fix="compare runs of the same data, data.held_out and seed, or the samples of both with one "
                "reference (sfumato evaluate --samples)",
            )
