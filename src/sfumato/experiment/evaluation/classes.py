"""Whether samples are what was asked for, and as often of each class as the data, in the eyes of a judge.

    label_agreement             the share of samples asked to be of class k, in equal shares, that are judged to be so
    label_agreement[corrected]  the share that is of it, if the judge errs on samples as it does on real pictures
    label_agreement[real]       how often the judge is right about real pictures it never saw: what a perfect model gets
    class_balance               total variation between the judged classes of samples that nothing was asked of and the
                                shares of the training part's labels
    class_balance[corrected]    that of the classes that they are, if the judge errs as it does on real pictures
    …[floor]                    what as many draws of those shares would have on average

Samples are drawn as the settings of the run have it, guidance included where something is asked for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfumato.errors import DataError
from sfumato.experiment.conditions import names_of
from sfumato.experiment.evaluation.drawing import drawn_like_data, drawn_unasked
from sfumato.experiment.evaluation.means import Means
from sfumato.experiment.evaluation.subject import Subject
from sfumato.experiment.model import Model
from sfumato.metrics import (
    Correction,
    Estimate,
    Fact,
    Judge,
    agreement,
    class_shares,
    confusion,
    confusions,
    corrected_agreement,
    corrected_total_variation,
    corrected_total_variation_floor,
    correction_of,
    total_variation,
    total_variation_floor,
    total_variation_influences,
)

__all__ = ["CLASS_METRICS", "STEERING", "Balance", "agreement_entries", "balance_entries", "require_classes"]

CLASS_METRICS = ("label_agreement", "class_balance")
UNASKED = ("autoguidance", "weaker", "dynamic_threshold")  # settings that act where nothing is asked for
STEERING = ("guidance", "guidance_interval", "classifier_guidance", *UNASKED)
ASSUMED = "if the judge errs on samples as it does on real pictures; not cut off"
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
    """What samples are asked to be: classes (n,), by examples of them (n,), whose other conditions go along."""

    labels: Tensor
    examples: Tensor


def agreement_entries(
    subject: Subject, count: int, judge: Callable[[], Judge], means: Means, note: Note
) -> Iterator[Entry]:
    """label_agreement, as judged, corrected and of real pictures, with the mistakes in the notes."""
    asked = asked_equally(subject, count)
    judged = judge().judged(drawn_like_data(subject, count, means, examples=asked.examples))
    facts = {**judged_facts(subject, judge(), steered=True), "asked": "classes in equal shares"}
    yield "label_agreement", agreement(asked.labels, judged, facts)
    names = names_of(subject.model.record)
    correction = correction_for("label_agreement", judge(), class_shares(asked.labels, len(names)), note)
    if correction is not None:
        yield "label_agreement[corrected]", corrected_agreement(asked.labels, judged, correction, facts)
        note(f"label_agreement[corrected] is the share of samples that are of the class asked for, {ASSUMED} at 1")
    yield "label_agreement[real]", judge().accuracy
    note("label_agreement[real] is how often the judge is right about real pictures that it never saw")
    for sentence in confusions(confusion(asked.labels, judged, len(names)), names):
        note(sentence)


def balance_entries(
    subject: Subject, count: int, judge: Callable[[], Judge], means: Means, note: Note
) -> Iterator[Entry]:
    """class_balance of samples of which nothing was asked."""
    packed = subject.data.packed
    assert packed.labels is not None
    judged = judge().judged(drawn_unasked(subject, count, means))
    facts = {**judged_facts(subject, judge(), steered=False), "asked": "nothing"}
    shares = class_shares(packed.labels[subject.data.parts.train], packed.num_classes)
    names = names_of(subject.model.record)
    yield from Balance(judged, shares, facts, "the training part's labels").entries(judge(), names, note)


@dataclass(frozen=True, slots=True, eq=False)
class Balance:
    """Judged classes (n,) beside the shares (K,) of a reference; facts: the provenance of the samples."""

    judged: Tensor
    shares: Tensor
    facts: dict[str, Fact]
    reference: str

    def entries(self, judge: Judge, names: tuple[str, ...], note: Note) -> Iterator[Entry]:
        """class_balance, as judged and corrected, each with its floor; the classes that are most off in the notes."""
        judged, shares, n = self.judged, self.shares, len(self.judged)
        reference: dict[str, Fact] = {"reference": self.reference}
        counts = torch.bincount(judged, minlength=len(shares))
        found = total_variation(counts, shares, self.facts)
        yield "class_balance", replace(found, influences=total_variation_influences(judged, shares))
        yield "class_balance[floor]", total_variation_floor(n, shares, reference)
        note(
            "class_balance is the total variation of judged classes and the data's; [floor] is that of as many draws "
            "of the data's shares"
        )
        correction = correction_for("class_balance", judge, shares, note)
        if correction is not None:
            yield "class_balance[corrected]", corrected_total_variation(judged, shares, correction, self.facts)
            floor = corrected_total_variation_floor(n, shares, correction, reference)
            yield "class_balance[corrected][floor]", floor
            note(f"class_balance[corrected] is the same of the classes that samples are, {ASSUMED} at shares of 0")
        for sentence in most_off(found, counts.double() / n, shares, names):
            note(sentence)


def most_off(found: Estimate, drawn: Tensor, shares: Tensor, names: tuple[str, ...]) -> Iterator[str]:
    """Sentences: the chi-square test, and the three classes of which samples have most too many or too few."""
    test = found.provenance
    yield (
        f"chi-square {test['chi_square']:.3g} with {test['degrees_of_freedom']} degrees of freedom, "
        f"p {test['p_value']:.2g}: the chance of more, were the classes those of the data"
    )
    for k in (drawn - shares).abs().argsort(descending=True)[:3].tolist():
        yield f"class {names[k]}: {float(drawn[k]):.1%} of the samples, {float(shares[k]):.1%} of the data"


def correction_for(name: str, judge: Judge, shares: Tensor, note: Note) -> Correction | None:
    """What turns a judge's errors back, for classes in these shares (K,); None, and a note why, where nothing can."""
    try:
        return correction_of(judge.confusion, shares > 0)
    except DataError as error:
        note(f"no {name}[corrected]: {error.what}")
        return None


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
