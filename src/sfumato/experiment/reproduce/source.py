"""A source: what somebody published, what of it is trained here, and what its numbers can be held to.

    source   faults (named, each with its mend), anchors (numbers that need no training), parts
    part     one table of the source: a recipe at two scales, the choices that make its arms, what is measured of each
             arm, and how our numbers are judged beside those that the source printed

`small` is made for two cores and half an hour, `full` are the source's own sizes, for a GPU. Sources are plain values;
nothing here imports torch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sfumato.errors import UsageError
from sfumato.experiment.kinds import canonical, nearest
from sfumato.experiment.reproduce.findings import ArmNumbers, Findings

if TYPE_CHECKING:
    from sfumato.experiment.config import Experiment

__all__ = ["SCALES", "Anchor", "Base", "Choice", "Claim", "Fault", "Judgement", "Measure", "Part", "Scale", "Source"]

Scale = Literal["small", "full"]
SCALES: tuple[Scale, ...] = ("small", "full")
Pairs = tuple[tuple[str, str], ...]  # dotted keys and texts, as on a command line


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that a source does wrong (`there`) and what is done in its place (`here`)."""

    there: str
    here: str


@dataclass(frozen=True, slots=True)
class Anchor:
    """A number of a source that can be checked without training.

    there: as the source has it, printed or counted in its code. here: ours, from the experiment at full scale.
    mended: whether it is a fault, so that ours must be another.
    part: of whose experiment; the source's `anchored`, or its first, where it is empty.
    """

    what: str
    there: float
    here: "Callable[[Experiment], float]"
    mended: bool = False
    part: str = ""


@dataclass(frozen=True, slots=True)
class Base:
    """A recipe with settings laid over it."""

    recipe: str
    settings: Pairs = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """An axis of a source's table: the setting that it is here, its name there, and the label of each text.

    key: dotted; `a+b` are two settings that change together, with texts `v+w`, as axes of a sweep have it.
    """

    key: str
    name: str
    labels: Mapping[str, str]

    def pairs(self, text: str) -> Pairs:
        """The settings that a text stands for."""
        from sfumato.experiment.sweep.axes import Axis

        return Axis(self.key, (text,)).pairs(text)

    def label(self, text: str) -> str:
        """The source's word for a value of the setting. Raises UsageError for one that is none of the arms."""
        for known, label in self.labels.items():
            if canonical(known) == canonical(text):
                return label
        raise UsageError(
            f"{self.key} is {text}, which is no arm of this source",
            expected=f"{self.key}: one of {', '.join(self.labels)}",
            fix="choose another --name: that folder holds something else",
        )


@dataclass(frozen=True, slots=True)
class Measure:
    """What is measured of each arm, and on how many examples and samples at each scale; 0: not at that scale.

    weights: `live` where the source averaged none. sampling: settings laid over the arm's own.
    where: settings that an arm must have, by text, to be measured so.
    """

    metrics: tuple[str, ...]
    small: int
    full: int
    weights: Literal["ema", "live"] = "ema"
    sampling: Pairs = ()
    where: Pairs = ()

    def count(self, scale: Scale) -> int:
        """Examples, and samples, at a scale."""
        return self.small if scale == "small" else self.full


class Judgement(ABC):
    """How the numbers of a part are set beside those of its source."""

    __slots__ = ()

    @abstractmethod
    def findings(self, arms: Sequence[ArmNumbers]) -> Findings:
        """What can be said of all arms of a part."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a source concludes: that the arm `best` has the least of a quantity; `words` begin a sentence on that."""

    quantity: str
    best: tuple[str, ...]
    words: str


@dataclass(frozen=True, slots=True)
class Part:
    """One table of a source.

    small, full: what is trained at each scale. choices: the axes of the grid; none for a single arm.
    examples: how many the source trained and measured on, where it says; None where it does not.
    told: metrics on which the effects of the choices are told. claim: what the source concludes from the table.
    """

    name: str
    small: Base
    full: Base
    measures: tuple[Measure, ...]
    judgement: Judgement
    choices: tuple[Choice, ...] = ()
    examples: int | None = None
    told: tuple[str, ...] = ()
    claim: Claim | None = None

    def base(self, scale: Scale) -> Base:
        """What is trained at a scale."""
        return self.small if scale == "small" else self.full

    def labels(self, settings: Mapping[str, str]) -> tuple[str, ...]:
        """The source's words for an arm of these settings; the part's name where it has one arm."""
        return tuple(choice.label(settings[choice.key]) for choice in self.choices) or (self.name,)


@dataclass(frozen=True, slots=True)
class Source:
    """A published experiment.

    name: as the product calls it. where: what was published, and by whom. about: one line.
    usual: the parts that are reproduced when none are named. anchored: the part
    whose experiment the anchors are of; the first where it is empty. remarks: how its numbers are to be read.
    """

    name: str
    where: str
    about: str
    parts: tuple[Part, ...]
    faults: tuple[Fault, ...]
    anchors: tuple[Anchor, ...] = ()
    usual: tuple[str, ...] = ()
    anchored: str = ""
    remarks: tuple[str, ...] = ()

    def chosen(self, only: Sequence[str]) -> tuple[Part, ...]:
        """The parts named, or the usual ones. Raises UsageError for a part that there is not."""
        names = [part.name for part in self.parts]
        for name in only:
            if name not in names:
                near = nearest(name, names)
                raise UsageError(
                    f"{self.name} has no part {name!r}",
                    expected="some of " + ", ".join(names),
                    fix=f"did you mean --only {near}?" if near else "leave --only out",
                )
        wanted = only or self.usual or names
        return tuple(part for part in self.parts if part.name in wanted)
