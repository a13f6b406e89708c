"""Whether two numbers measure the same thing, read off their provenance. Without torch.

A number can be set against another where every fact about how they were measured is the same: on how many examples, of
which data, by which extractor and reference, with which seed, sampler and steps, in which unit. A fact that nobody
listed below must be the same too, so that what a new metric tells of itself is heeded without being known here. Three
kinds of facts may differ:

    which model was measured          that is what is compared (`MODEL`)
    what was found on the way         every float, and `FOUND`: neither is a setting
    how samples were drawn            only where that is what is compared, and said so (`SAMPLING`, --across)

Nothing makes up for another n, extractor or reference: KID and FID of different n or features are different scales.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sfumato.experiment.evaluations import Fact, Number

__all__ = [
    "LOSS",
    "LOSS_ERROR",
    "NO_MATTER",
    "SAME_EXAMPLES",
    "SAME_LOSS",
    "SAME_SCHEDULE",
    "SAMPLING",
    "Mismatch",
    "decides_a_loss",
    "direction",
    "is_reference",
    "loss_settings",
    "mismatches",
    "named_metrics",
]

LOSS, LOSS_ERROR = "held_out_loss", "held_out_std_error"  # of the log
# What decides of which quantity a loss of the log is a loss. Where decoded data are kept, and how they are turned in
# training, does not. That a variance is learned follows from the objective.
OF_A_LOSS = ("objective", "parameterization", "schedule", "times", "condition", "data", "evaluation.noise_levels")
NO_MATTER = ("data.cache", "data.download", "data.flip")

MODEL = frozenset(
    {"run", "digest", "steps_trained", "weights", "samples", "samples_digest", "variance", "chain", "clean_end"}
)
FOUND = frozenset({"modes_met", "calls", "copies"})
SAMPLING = (
    *("sampler", "steps", "grid", "clip", "precision", "guidance", "guidance_interval", "autoguidance", "weaker"),
    *("classifier_guidance", "dynamic_threshold"),
)
LOWER = frozenset(
    {"loss", "nll", "bits_per_dim", "sliced_wasserstein", "energy_distance", "mmd", "class_balance", "round_trip"}
    | {"kid", "fid", "memorisation", "noise_error", "image_error", "loss_by_log_snr"}
)
HIGHER = frozenset({"mode_coverage", "label_agreement", "precision", "recall", "coverage"})
NEITHER = frozenset({"training", "gap"})  # of a loss: lower by learning more, or by heart; or by learning nothing
# Numbers of the data beside those of a model, and a mean over subsets that is there for comparison with papers.
REFERENCES = frozenset({"floor", "real", "true", "attainable", "law", "subsets"})
FIRST = ("n", "extractor", "extractor_digest", "reference", "data", "split", "part", "seed")  # told before the others
SHOWN = 40  # letters of a fact in a sentence
SAME_LOSS = "the same loss: objective, target, schedule, times and normalization alike"
SAME_SCHEDULE = "the same schedule"
SAME_EXAMPLES = "the same examples to train on and to measure on: data, data.held_out and seed alike"

Direction = Literal["lower", "higher"]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A fact by which two numbers are of different things; None where it was not recorded."""

    fact: str
    first: Fact
    second: Fact

    def __str__(self) -> str:
        one, other = _apart(_told(self.fact, self.first), _told(self.fact, self.second))
        return f"{self.fact} is {one} and {other}"

    @property
    def why(self) -> str:
        """Why it matters, in the words of a remedy."""
        if self.fact == "n":
            return "the same n: scores of different n are never ranked"
        if self.fact in ("data", "split"):
            return SAME_EXAMPLES
        if self.fact == "schedule":
            return SAME_SCHEDULE
        if self.fact == "measured_as" or decides_a_loss(self.fact):
            return SAME_LOSS
        if self.fact in SAMPLING:
            return "samples drawn alike, or the difference said to be what is compared"
        return f"the same {self.fact.replace('_', ' ')}"


def mismatches(first: Number, second: Number, across: Collection[str] = ()) -> list[Mismatch]:
    """The facts by which two numbers cannot be compared, the most telling first; `across` may differ."""
    found = [] if first.n == second.n else [Mismatch("n", first.n, second.n)]
    one, other = first.provenance, second.provenance
    for fact in dict.fromkeys([*one, *other]):
        mine, theirs = one.get(fact), other.get(fact)
        may_differ = fact in MODEL or fact in FOUND or fact in across or _measured(mine, theirs)
        if mine != theirs and not may_differ:
            found.append(Mismatch(fact, mine, theirs))
    return sorted(found, key=lambda mismatch: FIRST.index(mismatch.fact) if mismatch.fact in FIRST else len(FIRST))


def decides_a_loss(key: str) -> bool:
    """Whether a setting, or any within it, decides of which quantity a loss of the log is a loss."""
    return key not in NO_MATTER and any(key == part or key.startswith(f"{part}.") for part in OF_A_LOSS)


def loss_settings(settings: Mapping[str, object]) -> dict[str, Fact]:
    """The settings of a run, as text, that decide what its losses are: two are of one quantity where all agree."""
    return {
        key: value if isinstance(value, str) else repr(value)
        for key, value in sorted(settings.items())
        if decides_a_loss(key)
    }


def _measured(mine: Fact, theirs: Fact) -> bool:
    """Whether a fact was measured, not set: floats are, by the rule of `Estimate`."""
    return isinstance(mine, float) or isinstance(theirs, float)


def direction(metric: str) -> Direction | None:
    """Which way a metric is better; None for one of which neither is."""
    family, *tags = metric.replace("]", "").split("[")
    if not NEITHER.isdisjoint(tags):
        return None
    return "lower" if family in LOWER else "higher" if family in HIGHER else None


def named_metrics(metrics: Sequence[str] | str | None) -> tuple[str, ...] | None:
    """The names of metrics: a sequence of them, or one text with commas; None for none named."""
    if metrics is None:
        return None
    return tuple(name.strip() for name in metrics.split(",")) if isinstance(metrics, str) else tuple(metrics)


def is_reference(metric: str) -> bool:
    """Whether a number is one of the data alone (a floor, a ceiling, a law), or tells nothing that another does not.

    The difference of nll[flow-true] is that of nll[flow]: the truth drops out of it. KID over subsets is KID.
    """
    tags = [part.removesuffix("]") for part in metric.split("[")[1:]]
    return any(tag.rpartition("-")[2] in REFERENCES for tag in tags)


def _told(fact: str, value: Fact) -> str:
    if value is None:
        return "not recorded"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)[:12] if fact == "data" else str(value)


def _apart(one: str, other: str) -> Iterator[str]:
    """Two texts, cut to where they differ."""
    pairs = enumerate(zip(one, other, strict=False))
    shared = next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
    for text in (one, other):
        start = max(0, shared - SHOWN // 2) if max(len(one), len(other)) > SHOWN else 0
        cut = text[start : start + SHOWN]
        yield ("…" if start else "") + cut + ("…" if start + SHOWN < len(text) else "")
