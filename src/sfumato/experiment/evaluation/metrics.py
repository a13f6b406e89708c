"""`evaluate`: what a trained model is worth, in numbers with errors.

    bits_per_dim          pictures: bits_per_dim[bound], bits_per_dim[flow], and the same in nats as nll[…]
    nll                   the same for points, in nats per dimension: nll[bound], nll[flow], beside nll[true] where the
                          law of the data is known, and the paired differences from it
    sliced_wasserstein, energy_distance, mmd
                          points: samples against real ones, each beside its two-sample floor
    mode_coverage         points of a law with modes
    label_agreement       pictures asked for by their class: how often a judge of classes sees it (`classes`)
    class_balance         pictures that nothing was asked of: how far their judged classes are from the data's
    kid, fid, precision, recall, density, coverage
                          pictures: samples against real ones by features, beside what real ones score (`pictures`)
    noise_error, image_error
                          errors of eps and of x_0 over the times of training, absolute and squared (`denoising`)
    round_trip            examples encoded to noise and decoded again: the error of Heun's method and of DDIM
    loss                  the run's objective, held out and on the training part, beside the smallest attainable loss

Every number is an `Estimate`; what a person must know to read them is in `notes`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, get_args

import torch

from sfumato.errors import DataError, NumericsError, UsageError
from sfumato.experiment.build import DataRecord, PreparedData
from sfumato.experiment.comparability import is_reference
from sfumato.experiment.config import Overrides, sampling_with
from sfumato.experiment.evaluation.classes import CLASS_METRICS, agreement_entries, balance_entries, require_classes
from sfumato.experiment.evaluation.conventions import convention_of
from sfumato.experiment.evaluation.denoising import ERROR_METRICS, error_entries
from sfumato.experiment.evaluation.drawing import drawn_like_data
from sfumato.experiment.evaluation.features import chosen_extractor, known_extractor
from sfumato.experiment.evaluation.kept import Kept
from sfumato.experiment.evaluation.likelihoods import BoundMethod, FlowMethod, require_flow, require_likelihood
from sfumato.experiment.evaluation.losses import loss_entries
from sfumato.experiment.evaluation.nats import likelihood_entries
from sfumato.experiment.evaluation.pace import Progress
from sfumato.experiment.evaluation.pictures import PICTURE_METRICS, Featured, Means, entries_of, pictures_of
from sfumato.experiment.evaluation.samples import Compared, compared_of, mode_entries, require_modes, sample_entries
from sfumato.experiment.evaluation.subject import Part, Subject, subject_of
from sfumato.experiment.evaluation.team import claim_device, gathered_team
from sfumato.experiment.judging import judge_of
from sfumato.experiment.load import load
from sfumato.experiment.model import Model, require_seed
from sfumato.metrics import EnergyDistance, Estimate, Judge, Mmd, SlicedWasserstein, mean_of
from sfumato.samplers import Ddim, Heun, inversion_times, round_trip

__all__ = ["METRICS", "Evaluation", "default_metrics", "evaluate"]

ROUND_TRIP_STEPS = 50  # each way
Entry = tuple[str, Estimate]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Numbers by name, and what one must know to read them.

    metrics: name -> estimate, in the order measured.
    notes: sentences.
    run: the name of the experiment.
    """

    metrics: Mapping[str, Estimate]
    notes: tuple[str, ...]
    run: str = ""

    def to_plain(self) -> dict[str, Any]:
        """As JSON data."""
        metrics = {name: estimate.to_plain() for name, estimate in self.metrics.items()}
        return {"run": self.run, "metrics": metrics, "notes": list(self.notes)}

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
    """Notes as they come, each once."""

    notes: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure, beside the examples.

    bound, flow: the two likelihoods.
    compared: the samples and what they are compared with, drawn once, when first asked for.
    judge: of the classes of the data, trained or read once, when first asked for. count: how many samples it judges.
    pictures: samples and real pictures by their features, drawn once, when first asked for.
    """

    bound: BoundMethod
    flow: FlowMethod
    compared: Callable[[], Compared]
    judge: Callable[[], Judge]
    count: int
    pictures: Callable[[], Featured]


Metric = Callable[[Subject, Settings, Notebook], Iterable[Entry]]


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
) -> Evaluation:
    """Measure a run (a folder, a name, a `Run`), an exported file or a `Model`; deterministic given the seed.

    metrics: names out of METRICS, or one string with commas; None: all that fit the data. n: examples and samples;
    None: all held-out examples up to 1,000. tolerance, max_steps: of the ODE solver. sampling: settings laid over the
    run's own for the samples (steps, guidance, …). extractor: of features of pictures, with a file of weights where it
    needs one; None: the usual one for the data. report hears forecasts of what is slow, before it is, progress how far
    it is. given: the data, where they are in memory already. Started by torchrun, all processes draw and extract a
    share, and all know the result.

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
    quiet = report if report is not None else lambda text: None
    subject = subject_of(model, weights=weights, part=part, n=n, seed=seed, report=quiet, given=given)
    book.add(f"{weights} weights on {subject.n:,} examples of the {part} part, seed {seed}")
    with gathered_team() as team:
        means = Means(Kept.of(model.experiment.data), team, quiet, progress)
        settings = Settings(
            BoundMethod(),
            FlowMethod(tolerance, max_steps),
            cache(lambda: compared_of(subject, settings.count)),
            cache(lambda: team.first(lambda: judge_for(subject))),
            1000 if n is None else n,
            cache(lambda: pictured(subject, settings, means, extractor, extractor_weights)),
        )
        found = measured(chosen, subject, settings, book, strict=named is not None)
    return Evaluation(found, tuple(book.notes), model.experiment.name)


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


def pictured(
    subject: Subject, settings: Settings, means: Means, extractor: str | None, weights: str | Path | None
) -> Featured:
    """Samples of a subject and the pictures that they are compared with, by their features."""
    chosen = chosen_extractor(extractor, subject.data.packed, settings.judge, weights, subject.x0.device)
    samples = drawn_like_data(subject, settings.count, kept=means.kept, team=means.team, progress=means.progress)
    return Featured(pictures_of(subject, samples), chosen, means)


def default_metrics(model: Model, book: Notebook) -> tuple[str, ...]:
    """All that means something for a model's data; what is left out is noted."""
    record = model.record
    names = (
        ("bits_per_dim", "kid", "loss")
        if record.is_image
        else tuple(n for n in METRICS if n not in ("bits_per_dim", *CLASS_METRICS, *PICTURE_METRICS, *ERROR_METRICS))
    )
    kept = []
    for name in names:
        try:
            require_fitting(name, record)
            if name in ("bits_per_dim", "nll"):
                require_likelihood(model.denoiser)
            if name == "round_trip":
                require_flow(model.denoiser)
            if name == "mode_coverage":
                require_modes(model)
            kept.append(name)
        except DataError as error:
            book.add(f"{name} was left out: {error.what}")
    return tuple(kept)


def require_known(name: str) -> None:
    """Refuse a metric that there is not, naming the nearest. Raises UsageError."""
    if name not in METRICS:
        near = get_close_matches(name.replace("-", "_"), METRICS, n=1, cutoff=0.5)
        raise UsageError(
            f"there is no metric {name!r}",
            expected="some of " + ", ".join(METRICS),
            fix=f"did you mean {near[0]}?" if near else "--metrics loss",
        )


def require_fitting(name: str, record: DataRecord) -> None:
    """Refuse a metric that means nothing for the data. Raises DataError."""
    if name == "bits_per_dim" and not record.is_image:
        raise DataError(
            "bits/dim counts the levels of 8-bit pictures, and these data are continuous: it means nothing for them",
            expected="8-bit pictures",
            fix="measure the density in nats per dimension (--metrics nll)",
        )
    if name in ("bits_per_dim", "nll"):
        rounded = [text for text in record.report if "rounded to 8 bits" in text]
        if rounded:
            raise DataError(
                f"the pictures were not 8-bit ({rounded[0]}): bits/dim of rounded pictures is not that of the data",
                expected="8-bit pictures",
                fix="measure the loss (--metrics loss), or train on 8-bit pictures",
            )
        convention_of(record.normalization, 0.0)
    if name in PICTURE_METRICS and not record.is_image:
        raise DataError(
            f"{name} compares pictures by their features, and these data are points",
            expected="pictures",
            fix="--metrics sliced_wasserstein,energy_distance,mmd",
        )
    if name in SAMPLE_METRICS and record.is_image:
        raise DataError(
            f"{name} compares points, and these data are pictures",
            expected="points",
            fix="--metrics kid,bits_per_dim,loss",
        )


def round_trip_entries(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    """round_trip[heun] and round_trip[ddim]: root mean square difference, mean over examples, in prepared units."""
    require_flow(subject.denoiser)
    times = inversion_times(subject.denoiser.schedule, ROUND_TRIP_STEPS)
    for name, sampler in (("heun", Heun()), ("ddim", Ddim())):
        parts = [slice(first, first + 256) for first in range(0, subject.n, 256)]
        found = [
            round_trip(sampler, subject.denoiser, subject.x0[part], times, cond=subject.told(part)).rms
            for part in parts
        ]
        facts = subject.facts(sampler=repr(sampler), steps=len(times) - 1, unit="prepared data (pictures: -1 to 1)")
        yield f"round_trip[{name}]", mean_of(torch.cat(found).cpu(), facts)
    book.add("round_trip encodes examples along the probability-flow ODE and decodes them: 0 for a perfect solver")


def _likelihoods(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return likelihood_entries(subject, settings.bound, settings.flow, book.add)


def _losses(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return loss_entries(subject, book.add)


def _modes(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return mode_entries(subject, settings.compared, book.add)


def _agreement(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return agreement_entries(subject, settings.count, settings.judge, book.add)


def _balance(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return balance_entries(subject, settings.count, settings.judge, book.add)


def _sliced(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return sample_entries("sliced_wasserstein", SlicedWasserstein(), subject, settings.compared, book.add)


def _energy(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return sample_entries("energy_distance", EnergyDistance(), subject, settings.compared, book.add)


def _mmd(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return sample_entries("mmd", Mmd(), subject, settings.compared, book.add)


def _of_pictures(name: str) -> Metric:
    return lambda subject, settings, book: entries_of(name, settings.pictures(), book.add)


def _errors(name: str) -> Metric:
    return lambda subject, settings, book: error_entries(name, subject, book.add)


METRICS: dict[str, Metric] = {
    "bits_per_dim": _likelihoods,
    "nll": _likelihoods,
    "sliced_wasserstein": _sliced,
    "energy_distance": _energy,
    "mmd": _mmd,
    "mode_coverage": _modes,
    "label_agreement": _agreement,
    "class_balance": _balance,
    **{name: _of_pictures(name) for name in PICTURE_METRICS},
    **{name: _errors(name) for name in ERROR_METRICS},
    "round_trip": round_trip_entries,
    "loss": _losses,
}
SAMPLE_METRICS = ("sliced_wasserstein", "energy_distance", "mmd", "mode_coverage")
