"""`evaluate`: what a trained model is worth, in numbers with errors (`metrics` lists them)."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_args

from sfumato.errors import DataError, NumericsError, UsageError
from sfumato.experiment.build import PreparedData
from sfumato.experiment.config import Overrides, sampling_with
from sfumato.experiment.evaluation.classes import CLASS_METRICS, require_classes
from sfumato.experiment.evaluation.document import Evaluation, Notebook
from sfumato.experiment.evaluation.drawing import drawn_like_data
from sfumato.experiment.evaluation.features import chosen_extractor, known_extractor
from sfumato.experiment.evaluation.kept import Kept
from sfumato.experiment.evaluation.likelihoods import BoundMethod, FlowMethod
from sfumato.experiment.evaluation.means import Means
from sfumato.experiment.evaluation.memorisation import require_unpictured
from sfumato.experiment.evaluation.metrics import METRICS, Settings, default_metrics, require_fitting, require_known
from sfumato.experiment.evaluation.pace import Progress
from sfumato.experiment.evaluation.pictures import PICTURE_METRICS, Featured, pictures_of
from sfumato.experiment.evaluation.samples import compared_of
from sfumato.experiment.evaluation.subject import Part, Subject, subject_of
from sfumato.experiment.evaluation.team import ALONE, claim_device, gathered_team
from sfumato.experiment.judging import judge_of
from sfumato.experiment.load import load
from sfumato.experiment.model import Model, require_seed
from sfumato.metrics import Estimate, Extractor, Judge

__all__ = ["evaluate"]


def evaluate(
    run: object,
    metrics: Sequence[str] | str | None = None,
    *,
    n: int | None = None,
    seed: int = 0,
    weights: str = "ema",
    part: Part = "held-out",
    device: str = "auto",
    runs: str = "runs",
    tolerance: float | None = None,
    max_steps: int = 1000,
    sampling: Overrides | None = None,
    extractor: str | None = None,
    extractor_weights: str | Path | None = None,
    report: Callable[[str], None] | None = None,
    progress: Progress | None = None,
    given: PreparedData | None = None,
    alone: bool = False,
) -> Evaluation:
    """Measure a run (a folder, a name, a `Run`), an exported file or a `Model`; deterministic given the seed.

    metrics: names out of METRICS, or one string with commas; None: all that fit the data. n: examples and samples;
    None: all held-out examples up to 1,000. tolerance, max_steps: of the ODE solver. sampling: settings laid over the
    run's own for the samples (steps, guidance, …). extractor: of features of pictures, with a file of weights where it
    needs one; None: the usual one for the data. report hears forecasts of what is slow, before it is, progress how far
    it is. given: the data, where they are in memory already. Started by torchrun, all processes draw and extract a
    share, and all know the result; alone: this process measures by itself, whatever the others do.

    Raises UsageError for names and numbers that cannot be meant, DataError for metrics that mean nothing for the data,
    NumericsError where the ODE solver does not arrive: then no number is given.
    """
    claim_device()
    model = run if isinstance(run, Model) else load(run, runs=runs, device=device)
    if sampling is not None:
        e = model.experiment
        model = replace(model, experiment=replace(e, sampling=sampling_with(e.sampling, sampling)))
    book = Notebook()
    require_seed(seed)
    if part not in get_args(Part):
        raise UsageError(
            f"part is {part!r}", expected=" or ".join(get_args(Part)), fix="leave it out (--part): held-out is measured"
        )
    if extractor is not None:
        known_extractor(extractor)
    named = [name.strip() for name in metrics.split(",")] if isinstance(metrics, str) else metrics
    chosen = default_metrics(model, book) if named is None else tuple(named)
    for name in chosen:
        require_known(name)
        require_fitting(name, model.record)
        if name in CLASS_METRICS:
            require_classes(name, model)
        if name == "memorisation":
            require_unpictured(model)
    quiet = report if report is not None else lambda text: None
    subject = subject_of(model, weights=weights, part=part, n=n, seed=seed, report=quiet, given=given)
    book.add(f"{weights} weights on {subject.n:,} examples of the {part} part, seed {seed}")
    with nullcontext(ALONE) if alone else gathered_team() as team:
        means = Means(Kept.of(model.experiment.data), team, quiet, progress)
        settings = Settings(
            BoundMethod(),
            FlowMethod(tolerance, max_steps),
            cache(lambda: compared_of(subject, settings.count)),
            cache(lambda: team.first(lambda: judge_for(subject))),
            1000 if n is None else n,
            cache(lambda: extractor_for(subject, settings, extractor, extractor_weights)),
            cache(lambda: pictured(subject, settings)),
            means,
        )
        require_extractor(extractor, chosen, settings)
        found = measured(chosen, subject, settings, book, strict=named is not None)
    return Evaluation(found, tuple(book.notes), model.experiment.name, book.closest)


def require_extractor(name: str | None, metrics: Iterable[str], settings: Settings) -> None:
    """Make the extractor that was named, where it will be needed: what it lacks is said before anything slow."""
    if name is not None and any(metric in (*PICTURE_METRICS, "memorisation") for metric in metrics):
        settings.extractor()


def measured(
    chosen: Iterable[str], subject: Subject, settings: Settings, book: Notebook, *, strict: bool
) -> dict[str, Estimate]:
    """The numbers of each metric. Who asks for a number gets it or an error; who asks for all gets the others."""
    found: dict[str, Estimate] = {}
    for name in chosen:
        try:
            for key, estimate in METRICS[name](subject, settings, book):
                found[key] = estimate
        except (NumericsError, DataError) as error:
            if strict:
                raise
            book.add(f"left out: {error.what}")
    return found


def judge_for(subject: Subject) -> Judge:
    """The judge of the classes of a subject's data."""
    config = subject.model.experiment.data
    return judge_of(subject.data.packed, config, device=subject.x0.device, report=subject.report)


def extractor_for(subject: Subject, settings: Settings, name: str | None, weights: str | Path | None) -> Extractor:
    """The extractor of that name, or the usual one for a subject's data."""
    return chosen_extractor(name, subject.data.packed, settings.judge, weights, subject.x0.device)


def pictured(subject: Subject, settings: Settings) -> Featured:
    """Samples of a subject and the pictures that they are compared with, by their features."""
    extractor, samples = settings.extractor(), drawn_like_data(subject, settings.count, settings.means)
    return Featured(pictures_of(subject, samples), extractor, settings.means)
