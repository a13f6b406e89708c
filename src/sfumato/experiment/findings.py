"""What an inspection says of a data set: problems that training refuses, warnings, and things worth knowing."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sfumato.core import Schedule, check_terminal_signal
from sfumato.data.inspection import ClassFacts, DataFacts
from sfumato.data.survey import Survey
from sfumato.data.wording import counted, shortened
from sfumato.errors import ConfigError, SfumatoError, printable
from sfumato.experiment.reach import Reach

__all__ = ["Finding", "Level", "findings", "of_schedule"]

Level = Literal["problem", "warning", "note"]
FEW = 1000  # examples below which networks of usual sizes learn them by heart
FEW_OF_CLASS = 50
UNEVEN = 10  # times as many examples of the largest class as of the smallest
MANY_COPIES = 0.01  # share of the examples
COARSE = 4.0  # grey levels of noise at the clean end, above which detail is left to one last step
STRONG = 0.1  # signal along the strongest direction at the noisy end that is worth a word
STANDARD = (0.25, 1.2)
NAMED = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found. A problem makes training refuse the data as they were asked for.

    what: a sentence. fix: what to do about it; empty where nothing needs to be done.
    """

    level: Level
    what: str
    fix: str = ""


def findings(
    facts: DataFacts,
    survey: Survey | None,
    fit: Reach | SfumatoError,
    schedule: Schedule,
    refusals: Sequence[SfumatoError],
    report: Sequence[str],
) -> tuple[Finding, ...]:
    """Everything worth saying, the gravest first.

    fit: the data against the schedule, or why there is none. refusals: what training would say to the settings as
    given. report: what the reader of the data noted.
    """
    found = [Finding("problem", refusal.what, refusal.fix) for refusal in refusals]
    found += _of_values(facts)
    found += of_schedule(fit, schedule)
    found += _of_copies(facts)
    found += [] if facts.classes is None else _of_classes(facts.classes)
    found += _of_numbers(facts)
    found += [] if survey is None else _of_files(survey)
    found += [Finding("note", printable(line)) for line in report if not line.startswith("left out ")]
    order: tuple[Level, ...] = ("problem", "warning", "note")
    return tuple(sorted(found, key=lambda finding: order.index(finding.level)))


def _of_values(facts: DataFacts) -> Iterator[Finding]:
    if facts.train < FEW:
        yield Finding(
            "warning",
            f"{counted(facts.train, 'training example')}: a network of a usual size learns so few by heart",
            "add examples, or hold out more and watch the held-out loss (data.held_out, training.evaluate_every)",
        )
    if facts.blank:
        some = ", ".join(facts.called(i) for i in facts.blank[:NAMED])
        what = f"{counted(len(facts.blank), 'example')} of one value throughout ({some})"
        yield Finding("warning", what, "remove them if they are empty pictures")
    if facts.grey:
        yield Finding("note", "every picture is grey, stored in three channels", "--data.channels 1")
    if not facts.held_out:
        yield Finding("note", "nothing is held out: no held-out loss, no test of memorising", "--data.held_out 0.1")


def of_schedule(fit: Reach | SfumatoError, schedule: Schedule) -> Iterator[Finding]:
    """What the ends of a schedule and the spread of the data give reason to say."""
    if isinstance(fit, SfumatoError):
        yield Finding("problem", fit.what, fit.fix)
        return
    try:
        check_terminal_signal(schedule, fit.data_std)
    except ConfigError as error:
        yield Finding("problem", error.what, error.fix)
    if fit.principal_terminal > STRONG:
        yield Finding(
            "warning" if fit.principal_terminal > 1 else "note",
            f"along the direction in which examples vary most the data still have {fit.principal_terminal:.3g} times "
            "the power of the noise at t = 1: samples start without it",
            schedule.remedy(math.log(STRONG / fit.principal_std**2)),
        )
    if fit.grey_levels is not None and fit.grey_levels > COARSE:
        yield Finding(
            "note",
            f"the schedule's last noise is {fit.grey_levels:.3g} of 255 grey levels: finer detail is left to one step",
            "a schedule with less noise at its clean end, such as --schedule.max_signal_rate 0.9999",
        )
    if not STANDARD[0] <= fit.data_std <= STANDARD[1]:
        yield Finding(
            "warning",
            f"the data's standard deviation is {fit.data_std:.3g} in the model's units, far from the 1/2 to 1 that "
            "schedules are made for",
            "--data.normalize standardize",
        )


def _of_copies(facts: DataFacts) -> Iterator[Finding]:
    copies, leak = facts.copies, facts.leakage
    held_out = counted(leak.held_out, "held-out example")
    if leak.exact:
        yield Finding(
            "warning",
            f"{leak.exact:,} of {held_out} also {'stands' if leak.exact == 1 else 'stand'} in the training part, value "
            "for value: held-out figures flatter",
            "remove the copies",
        )
    if leak.near:
        yield Finding(
            "warning",
            f"{leak.near:,} of {held_out} {'looks' if leak.near == 1 else 'look'} like one of the training part: "
            "held-out figures flatter if these are copies",
            "look at the closest pairs (--sheet FILE.png); keep copies in one part",
        )
    if facts.conflicts:
        what = f"{counted(facts.conflicts, 'group')} of equal examples with different labels"
        yield Finding("warning", what, "decide on one label for each")
    repeated = copies.num_exact
    if repeated:
        level: Level = "warning" if repeated > MANY_COPIES * facts.count else "note"
        group = ", ".join(facts.called(i) for i in copies.exact[0][:NAMED])
        verb = "repeats" if repeated == 1 else "repeat"
        yield Finding(level, f"{counted(repeated, 'example')} {verb} an earlier one (such as {group})")
    if len(copies.pairs):
        level = "warning" if copies.num_near > MANY_COPIES * facts.count else "note"
        first, second = (facts.called(int(i)) for i in copies.pairs[0])
        what = f"{counted(len(copies.pairs), 'pair')} of near copies (closest: {first} and {second})"
        yield Finding(level, what)
    if not copies.complete:
        what = f"near copies were looked for among {copies.compared or 0:,} pictures, and not all of them were counted"
        yield Finding("note", what)


def _of_classes(classes: ClassFacts) -> Iterator[Finding]:
    if classes.empty:
        kind = "class" if len(classes.empty) == 1 else "classes"
        what = f"no training example of {len(classes.empty):,} {kind}: {_some(classes.empty)}"
        fix = "add examples, remove the class, or condition.allow_empty_classes: true; a model of classes is refused"
        yield Finding("warning", what, fix)
    if classes.gaps:
        whole = [value for value in classes.values if isinstance(value, int)]
        what = f"labels run from {min(whole)} to {max(whole)} and leave out {_some(list(map(str, classes.gaps)))}"
        yield Finding("note", f"{what}: only classes that occur are counted")
    few = [f"{n} ({c})" for n, c in zip(classes.names, classes.train_counts, strict=True) if 0 < c < FEW_OF_CLASS]
    if few:
        what = f"fewer than {FEW_OF_CLASS} training examples of {_some(few)}"
        yield Finding("note", what, "a model told these classes repeats what it has seen of them")
    if classes.imbalance > UNEVEN:
        what = f"the largest class has {classes.imbalance:,.0f} times the examples of the smallest"
        yield Finding("note", what, "samples follow the data's shares unless a class is asked for")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(shortened(printable(name)) for name in names[:NAMED]) + more


def _of_numbers(facts: DataFacts) -> Iterator[Finding]:
    for number in facts.numbers:
        if number.std <= 1e-7 * max(abs(number.mean), 1e-30):
            what = f"{printable(number.name)} is {number.mean:g} in every training example: it says nothing"
            yield Finding("warning", what, "leave it out")


def _of_files(survey: Survey) -> Iterator[Finding]:
    if survey.transparent:
        what = f"{survey.transparent:,} of {counted(survey.good, 'picture')} may have transparent parts"
        yield Finding("note", what, "they are laid over white; another colour: --data.background")
    if survey.turned:
        yield Finding("note", f"{counted(survey.turned, 'picture')} stored turned or mirrored (EXIF) are set upright")
    if survey.deep:
        what = f"{counted(survey.deep, 'picture')} of more than 8 bits a value become 8-bit"
        yield Finding("note", what, "their range: --data.value_range")
