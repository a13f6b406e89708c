"""`evaluate`: what a trained model is worth, in numbers with errors.

    bits_per_dim          pictures: bits_per_dim[bound], bits_per_dim[flow], and the same in nats as nll[…]
    nll                   the same for points, in nats per dimension: nll[bound], nll[flow], beside nll[true] where the
                          law of the data is known, and the paired differences from it
    sliced_wasserstein, energy_distance, mmd
                          points: samples against real ones, each beside its two-sample floor
    mode_coverage         points of a law with modes
    label_agreement       pictures asked for by their class: how often a judge of classes sees it (`classes`)
    class_balance         pictures that nothing was asked of: how far their judged classes are from the data's
    round_trip            examples encoded to noise and decoded again: the error of Heun's method and of DDIM
    loss                  the run's objective, held out and on the training part, beside the smallest attainable loss
    loss_by_log_snr       the noise error on both parts in bins of log-SNR: where a model knows by heart (`levels`)
    memorisation          the share of samples that are copies of training examples (`memorisation`)

Every number is an `Estimate`; what a person must know to read them is in `notes`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from typing import Any, get_args

import torch

from sfumato.core.denoiser import MAX_TERMINAL_SIGNAL
from sfumato.errors import DataError, NumericsError, UsageError
from sfumato.experiment.build import DataRecord
from sfumato.experiment.config import Overrides, sampling_with
from sfumato.experiment.evaluation.classes import CLASS_METRICS, agreement_entries, balance_entries, require_classes
from sfumato.experiment.evaluation.conventions import Measure, clean_end_note, convention_of
from sfumato.experiment.evaluation.levels import level_entries
from sfumato.experiment.evaluation.likelihoods import (
    BoundMethod,
    FlowMethod,
    Likelihood,
    Method,
    require_flow,
    require_likelihood,
    true_nll,
)
from sfumato.experiment.evaluation.losses import loss_entries
from sfumato.experiment.evaluation.memorisation import ClosestPairs, memorisation_entries, require_unpictured
from sfumato.experiment.evaluation.samples import Compared, compared_of, mode_entries, require_modes, sample_entries
from sfumato.experiment.evaluation.subject import Part, Subject, subject_of
from sfumato.experiment.judging import judge_of
from sfumato.experiment.load import load
from sfumato.experiment.model import Model, require_seed
from sfumato.metrics import EnergyDistance, Estimate, Fact, Judge, Mmd, SlicedWasserstein, mean_of, paired_difference
from sfumato.objectives import DenoisingLoss, Huber, Mae
from sfumato.samplers import Ddim, Heun, inversion_times, round_trip

__all__ = ["METRICS", "Evaluation", "default_metrics", "evaluate"]

NATS_TO_BITS = 1 / math.log(2)
ROUND_TRIP_STEPS = 50  # each way
Entry = tuple[str, Estimate]
TWO_MODELS = "the ancestral chain (bound) and the probability-flow ODE (flow) are two models: they need not agree"


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


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure, beside the examples.

    bound, flow: the two likelihoods.
    compared: the samples and what they are compared with, drawn once, when first asked for.
    judge: of the classes of the data, trained or read once, when first asked for. count: how many samples it judges.
    """

    bound: BoundMethod
    flow: FlowMethod
    compared: Callable[[], Compared]
    judge: Callable[[], Judge]
    count: int


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
    report: Callable[[str], None] | None = None,
) -> Evaluation:
    """Measure a run (a folder, a name, a `Run`), an exported file or a `Model`; deterministic given the seed.

    metrics: names out of METRICS, or one string with commas; None: all that fit the data. n: examples and samples;
    None: all held-out examples up to 1,000. tolerance, max_steps: of the ODE solver. sampling: settings laid over the
    run's own for the samples (steps, guidance, …). report hears forecasts of what is slow, before it is.

    Raises UsageError for names and numbers that cannot be meant, DataError for metrics that mean nothing for the data,
    NumericsError where the ODE solver does not arrive: then no number is given.
    """
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
    subject = subject_of(model, weights=weights, part=part, n=n, seed=seed, report=quiet)
    count = 1000 if n is None else n
    compared = cache(lambda: compared_of(subject, count))
    judge = cache(lambda: judge_of(subject.data.packed, model.experiment.data, device=subject.x0.device, report=quiet))
    settings = Settings(BoundMethod(), FlowMethod(tolerance, max_steps), compared, judge, count)
    book.add(f"{weights} weights on {subject.n:,} examples of the {part} part, seed {seed}")
    found: dict[str, Estimate] = {}
    for name in chosen:
        try:
            for key, estimate in METRICS[name](subject, settings, book):
                found[key] = estimate
        except NumericsError as error:
            if named is not None:  # who asks for a number gets it or an error; who asks for all gets the others
                raise
            book.add(f"left out: {error.what}")
    return Evaluation(found, tuple(book.notes), model.experiment.name, book.closest)


def default_metrics(model: Model, book: Notebook) -> tuple[str, ...]:
    """All that means something for a model's data; what is left out is noted."""
    record = model.record
    names = (
        ("bits_per_dim", "loss")
        if record.is_image
        else tuple(n for n in METRICS if n not in ("bits_per_dim", *WHEN_NAMED))
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
    if name in SAMPLE_METRICS and record.is_image:
        raise DataError(
            f"{name} compares points, and these data are pictures",
            expected="points",
            fix="--metrics bits_per_dim,loss",
        )


def likelihood_entries(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    """nll[true] where it is known, nll[bound] and nll[flow] (and bits/dim for pictures), each with its difference."""
    require_likelihood(subject.denoiser)
    measure = convention_of(subject.model.record.normalization, subject.log_scale)
    likelihood_notes(subject, measure, book)
    truth = true_nll(subject)
    if truth is not None:
        yield "nll[true]", mean_of(truth / subject.dim, subject.facts(unit="nats/dim", law="exact"))
        book.add("nll[true] is the negative log-density of the same examples under the law that they were drawn from")
    methods: dict[str, Method] = {"bound": settings.bound, "flow": settings.flow}
    if subject.denoiser.schedule.t_min >= 1:
        del methods["flow"]
        book.add("a chain of one step has a bound, and no probability flow")
    for name, method in methods.items():
        likelihood = method(subject, measure)
        yield from of_likelihood(name, likelihood, subject, measure)
        if truth is not None:
            facts = subject.facts(unit="nats/dim")
            yield f"nll[{name}-true]", paired_difference(likelihood.nll / subject.dim, truth / subject.dim, facts)


def of_likelihood(name: str, found: Likelihood, subject: Subject, measure: Measure) -> Iterator[Entry]:
    """The numbers of one likelihood, in each unit that means something."""
    more: dict[str, Fact] = {**found.facts, "calls_per_example": round(found.calls, 1)}
    in_bits: dict[str, Fact] = {}
    if found.probe_std_error is not None:
        probes = found.probe_std_error / subject.dim
        more |= {"probe_std_error": probes, "std_error": "over examples, the scatter of the probes included"}
        in_bits = {"probe_std_error": probes * NATS_TO_BITS}
    nats = mean_of(found.nll / subject.dim, subject.facts(**more))
    if measure.levels is not None:
        yield f"bits_per_dim[{name}]", nats.scaled(NATS_TO_BITS, unit="bits/dim", **in_bits)
    total = nats.value * subject.dim
    yield f"nll[{name}]", nats.scaled(1.0, unit="nats/dim", nats_per_example=total, dim=subject.dim)


def likelihood_notes(subject: Subject, measure: Measure, book: Notebook) -> None:
    """How the numbers are to be read."""
    book.add(TWO_MODELS)
    if subject.cond is not None:
        book.add("log p(x | what the network is told of x): labels, values and pictures are given, not paid for")
    if measure.levels is None:
        book.add("nll is in nats per dimension of the density of continuous data, in the units of the data")
    else:
        how = "the discretised Gaussian decoder, no dequantisation" if measure.on_levels else measure.levels.describe()
        book.add(f"bound: {how}; flow: {measure.levels.describe()}")
        if subject.model.experiment.sampling.clip:
            book.add("both with x0 kept within the range of the pictures, as samples are drawn (sampling.clip)")
    objective = subject.model.experiment.objective
    if isinstance(objective, DenoisingLoss) and isinstance(objective.distance, Mae | Huber):
        book.add(
            f"trained with {type(objective.distance).__name__}, whose optimum is not the conditional mean: the bound "
            "is valid but loose, and the training loss is no bound"
        )
    schedule = subject.denoiser.schedule
    signal = schedule.terminal_signal(subject.denoiser.data_std)
    if signal > MAX_TERMINAL_SIGNAL:
        book.add(
            f"the schedule ends with {signal:.2g} times the noise's power of data left: likelihoods start from the "
            "prior all the same, as sampling does, and pay for the difference"
        )
    blur = clean_end_note(float(schedule.rates(schedule.t_min).noise_level), measure)
    if blur is not None:
        book.add(blur)


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


def _losses(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return loss_entries(subject, book.add)


def _modes(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return mode_entries(subject, settings.compared, book.add)


def _agreement(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return agreement_entries(subject, settings.count, settings.judge, book.add)


def _balance(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return balance_entries(subject, settings.count, settings.judge, book.add)


def _by_level(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return level_entries(subject, book.add)


def _memorisation(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return memorisation_entries(subject, settings.count, settings.judge, book.add, book.keep)


def _sliced(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return sample_entries("sliced_wasserstein", SlicedWasserstein(), subject, settings.compared, book.add)


def _energy(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return sample_entries("energy_distance", EnergyDistance(), subject, settings.compared, book.add)


def _mmd(subject: Subject, settings: Settings, book: Notebook) -> Iterator[Entry]:
    return sample_entries("mmd", Mmd(), subject, settings.compared, book.add)


METRICS: dict[str, Metric] = {
    "bits_per_dim": likelihood_entries,
    "nll": likelihood_entries,
    "sliced_wasserstein": _sliced,
    "energy_distance": _energy,
    "mmd": _mmd,
    "mode_coverage": _modes,
    "label_agreement": _agreement,
    "class_balance": _balance,
    "round_trip": round_trip_entries,
    "loss": _losses,
    "loss_by_log_snr": _by_level,
    "memorisation": _memorisation,
}
SAMPLE_METRICS = ("sliced_wasserstein", "energy_distance", "mmd", "mode_coverage")
WHEN_NAMED = (*CLASS_METRICS, "loss_by_log_snr", "memorisation")
