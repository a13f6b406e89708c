"""Likelihoods as numbers: nats and bits per dimension, by the bound and by the flow, and what one must know of them."""

import math
from collections.abc import Callable, Iterator

from sfumato.core.denoiser import MAX_TERMINAL_SIGNAL
from sfumato.experiment.evaluation.conventions import Measure, clean_end_note, convention_of
from sfumato.experiment.evaluation.likelihoods import (
    BoundMethod,
    FlowMethod,
    Likelihood,
    Method,
    require_likelihood,
    true_nll,
)
from sfumato.experiment.evaluation.subject import Subject
from sfumato.metrics import Estimate, Fact, mean_of, paired_difference
from sfumato.objectives import DenoisingLoss, Huber, Mae

__all__ = ["likelihood_entries"]

NATS_TO_BITS = 1 / math.log(2)
TWO_MODELS = "the ancestral chain (bound) and the probability-flow ODE (flow) are two models: they need not agree"
Entry = tuple[str, Estimate]
Note = Callable[[str], None]


def likelihood_entries(subject: Subject, bound: BoundMethod, flow: FlowMethod, note: Note) -> Iterator[Entry]:
    """nll[true] where it is known, nll[bound] and nll[flow] (and bits/dim for pictures), each with its difference."""
    require_likelihood(subject.denoiser)
    measure = convention_of(subject.model.record.normalization, subject.log_scale)
    likelihood_notes(subject, measure, note)
    truth = true_nll(subject)
    if truth is not None:
        yield "nll[true]", mean_of(truth / subject.dim, subject.facts(unit="nats/dim", law="exact"))
        note("nll[true] is the negative log-density of the same examples under the law that they were drawn from")
    methods: dict[str, Method] = {"bound": bound, "flow": flow}
    if subject.denoiser.schedule.t_min >= 1:
        del methods["flow"]
        note("a chain of one step has a bound, and no probability flow")
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


def likelihood_notes(subject: Subject, measure: Measure, note: Note) -> None:
    """How the numbers are to be read."""
    note(TWO_MODELS)
    if subject.cond is not None:
        note("log p(x | what the network is told of x): labels, values and pictures are given, not paid for")
    if measure.levels is None:
        note("nll is in nats per dimension of the density of continuous data, in the units of the data")
    else:
        how = "the discretised Gaussian decoder, no dequantisation" if measure.on_levels else measure.levels.describe()
        note(f"bound: {how}; flow: {measure.levels.describe()}")
        if subject.model.experiment.sampling.clip:
            note("both with x0 kept within the range of the pictures, as samples are drawn (sampling.clip)")
    objective = subject.model.experiment.objective
    if isinstance(objective, DenoisingLoss) and isinstance(objective.distance, Mae | Huber):
        note(
            f"trained with {type(objective.distance).__name__}, whose optimum is not the conditional mean: the bound "
            "is valid but loose, and the training loss is no bound"
        )
    schedule = subject.denoiser.schedule
    signal = schedule.terminal_signal(subject.denoiser.data_std)
    if signal > MAX_TERMINAL_SIGNAL:
        note(
            f"the schedule ends with {signal:.2g} times the noise's power of data left: likelihoods start from the "
            "prior all the same, as sampling does, and pay for the difference"
        )
    blur = clean_end_note(float(schedule.rates(schedule.t_min).noise_level), measure)
    if blur is not None:
        note(blur)
