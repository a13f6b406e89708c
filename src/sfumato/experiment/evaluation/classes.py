"""Whether samples are what was asked for, and as often of each class as the data, in the eyes of a judge.

    label_agreement        the share of samples asked to be of class k, in equal shares, that are judged to be of it
    label_agreement[real]  how often the judge is right about real pictures it never saw: what a perfect model would get
    class_balance          total variation between the judged classes of samples that nothing was asked of and the
                           shares of the training part's labels
    class_balance[floor]   what as many draws of those shares would have on average

Samples are drawn as the settings of the run have it, guidance included.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfumato.errors import DataError
from sfumato.experiment.conditions import names_of
from sfumato.experiment.evaluation.subject import Subject
from sfumato.experiment.model import Model
from sfumato.metrics import (
    Estimate,
    Fact,
    Judge,
    agreement,
    class_shares,
    confusion,
    confusions,
    total_variation,
    total_variation_floor,
    total_variation_influences,
)

__all__ = ["CLASS_METRICS", "STEERING", "agreement_entries", "balance_entries", "require_classes"]

CLASS_METRICS = ("label_agreement", "class_balance")
UNASKED = ("autoguidance", "weaker", "dynamic_threshold")  # settings that act where nothing is asked for
STEERING = ("guidance", "guidance_interval", "classifier_guidance", *UNASKED)
Entry = tuple[str, Estimate]
Note = Callable[[str], None]


def require_classes(name: str, model: Model) -> None:
    """Refuse to judge classes where there are none, and to ask for them where none can be. Raises DataError."""
    record = model.record
    if not record.is_image or record.num_classes < 2:
        found = "points" if not record.is_image else f"{record.num_classes} classes"
        raise DataError(
            f"{name} judges the classes of pictures, and these data have {found}",
            expected="pictures with labels of two classes or more",
            fix="--metrics loss" if record.is_image else "--metrics mode_coverage, for points of a law in pieces",
        )
    steered = model.experiment.sampling.classifier_guidance is not None
    if name == "label_agreement" and not (model.condition_shape.num_classes or steered):
        raise DataError(
            f"label_agreement asks for classes, and {model.experiment.name!r} was trained without labels",
            expected="a model trained with condition.labels: true, or classifier_guidance",
            fix="--metrics class_balance, which asks for nothing",
        )


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What samples are asked to be: class indices (n,), and examples of those classes, whose other conditions go along.

    None for nothing.
    """

    labels: Tensor | None
    examples: Tensor | None


def agreement_entries(subject: Subject, count: int, judge: Callable[[], Judge], note: Note) -> Iterator[Entry]:
    """label_agreement and label_agreement[real], with the mistakes in the notes."""
    asked = asked_equally(subject, count)
    assert asked.labels is not None
    judged = judge().judged(drawn(subject, count, asked))
    facts = {**judged_facts(subject, judge(), steered=True), "asked": "classes in equal shares"}
    yield "label_agreement", agreement(asked.labels, judged, facts)
    yield "label_agreement[real]", judge().accuracy
    note("label_agreement[real] is how often the judge is right about real pictures that it never saw")
    names = names_of(subject.model.record)
    for sentence in confusions(confusion(asked.labels, judged, len(names)), names):
        note(sentence)


def balance_entries(subject: Subject, count: int, judge: Callable[[], Judge], note: Note) -> Iterator[Entry]:
    """class_balance and class_balance[floor], with the classes that are most off in the notes."""
    names = names_of(subject.model.record)
    judged = judge().judged(drawn(subject, count, Asked(None, None)))
    counts, shares = torch.bincount(judged, minlength=len(names)), training_shares(subject)
    facts = {**judged_facts(subject, judge(), steered=False), "asked": "nothing"}
    found = total_variation(counts, shares, facts)
    yield "class_balance", replace(found, influences=total_variation_influences(judged, shares))
    yield "class_balance[floor]", total_variation_floor(count, shares, {"reference": "the training part's labels"})
    note(
        "class_balance is the total variation of judged classes and the data's; [floor] is that of as many draws of "
        "the data's shares"
    )
    test = found.provenance
    note(
        f"chi-square {test['chi_square']:.3g} with {test['degrees_of_freedom']} degrees of freedom, "
        f"p {test['p_value']:.2g}: the chance of more, were the classes those of the data"
    )
    apart = counts.double() / count - shares
    for k in apart.abs().argsort(descending=True)[:3].tolist():
        note(f"class {names[k]}: {float(counts[k]) / count:.1%} of the samples, {float(shares[k]):.1%} of the data")


def asked_equally(subject: Subject, count: int) -> Asked:
    """The classes that have training examples, in turn, and one such example for each sample."""
    packed, train = subject.data.packed, subject.data.parts.train
    assert packed.labels is not None
    labels = packed.labels[train]
    there = labels.unique()
    asked = there[torch.arange(count) % len(there)]
    examples = torch.empty(count, dtype=torch.int64)
    for k in there.tolist():
        own, places = train[labels == k], (asked == k).nonzero()[:, 0]
        examples[places] = own[torch.arange(len(places)) % len(own)]
    return Asked(asked, examples)


def training_shares(subject: Subject) -> Tensor:
    """The share of each class in the training part, (K,)."""
    packed = subject.data.packed
    assert packed.labels is not None
    return class_shares(packed.labels[subject.data.parts.train], packed.num_classes)


def drawn(subject: Subject, count: int, asked: Asked) -> Tensor:
    """Samples as the run draws them, told what is asked: uint8 (n, H, W, C)."""
    model, packed = subject.model, subject.data.packed
    told = model.condition_shape
    examples = asked.examples
    if asked.labels is None or examples is None:
        labels: object = "none" if told.num_classes else None
        values: object = "none" if told.num_values and not told.num_classes else None
        images = packed.values[subject.data.parts.train[:1]].repeat(count, 1, 1, 1) if told.image_channels else None
    else:
        labels = asked.labels.tolist()
        values = packed.conditions[examples].numpy() if told.num_values and packed.conditions is not None else None
        images = packed.values[examples] if told.image_channels else None
    sampling = model.experiment.sampling
    if asked.labels is None:  # nothing to be guided to
        sampling = replace(sampling, guidance=None, guidance_interval=None, classifier_guidance=None)
    config = replace(sampling, weights="live" if subject.weights == "live" else "ema", ema_width=None)
    samples = model.sample(
        count,
        seed=subject.seed,
        config=config,
        labels=labels,
        values=values,
        images=None if images is None else images.numpy(),
    )
    assert samples.images is not None  # pictures, not points
    return torch.from_numpy(samples.images)


def judged_facts(subject: Subject, judge: Judge, *, steered: bool) -> dict[str, Fact]:
    """Who judged, and how the samples were drawn; `steered`: towards what was asked for."""
    sampling, record = subject.model.experiment.sampling, judge.record
    names = STEERING if steered else UNASKED
    steering = {name: str(getattr(sampling, name)) for name in names if getattr(sampling, name) is not None}
    return subject.facts(
        sampler=repr(sampling.sampler),
        steps=sampling.steps,
        grid=repr(sampling.grid),
        clip=str(sampling.clip),
        sampling_seed=subject.seed,
        **steering,
        judge=judge.digest[:12],
        judge_accuracy=record.accuracy,
        judge_accuracy_std_error=record.std_error,
        judge_held_out=record.held_out,
    )
