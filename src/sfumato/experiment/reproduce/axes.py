"""What each choice of a source's grid does, and what can be concluded from that: effects in the source's own words.

Effects and their errors are those of `experiment.effects`, over the sweep that the arms are of: paired over the other
choices and the seeds, corrected for their number. Two families are told, each corrected on its own: main effects and
interactions on the metrics of the part (`told`), and main effects on the noise error in each bin of log-SNR, the only
error in which schedules can be compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.errors import SfumatoError
from sfumato.experiment.reproduce.findings import BY_LEVEL, HELD_OUT, ArmNumbers, Findings, Order, name_of
from sfumato.experiment.reproduce.source import Claim, Part
from sfumato.experiment.rounding import p_value, with_error

if TYPE_CHECKING:
    from sfumato.experiment.effects import Effect, Effects

__all__ = ["AxisEffects", "axis_effects", "bin_of", "change_of", "conclusions", "is_told", "others_in", "size_of"]

DECIDED = ("better", "worse", "higher", "lower")


@dataclass(frozen=True, slots=True)
class AxisEffects:
    """Effects of a part's choices.

    metrics: on its metrics; by_level: on the noise error in each bin; None where nothing can be told, with a note why.
    """

    metrics: "Effects | None" = None
    by_level: "Effects | None" = None
    notes: tuple[str, ...] = ()


def axis_effects(part: Part, folder: Path, arms: Sequence[ArmNumbers]) -> AxisEffects:
    """The effects of the choices of a part, whose sweep is in a folder, on what was measured of its arms."""
    from sfumato.experiment.effects import effects

    names = list(dict.fromkeys(name for arm in arms for one in arm.evaluations for name in one.metrics))
    told = [name_of(metric, names) for metric in part.told]
    bins = [name for name in names if name.startswith(BY_LEVEL) and name.endswith(HELD_OUT)]
    bins.sort(key=lambda name: float(bin_of(name).partition("..")[0]))
    notes: list[str] = []

    def of(metrics: Sequence[str], *, interactions: bool) -> "Effects | None":
        if not metrics:
            return None
        try:
            return effects(folder, metrics, interactions=interactions)
        except SfumatoError as error:
            notes.append(f"no effects on {metrics[0]}: {error.what}")
            return None

    main = of([name for name in told if name is not None], interactions=True)
    by_level = of(bins, interactions=False)
    return AxisEffects(main, by_level, tuple(notes))


def bin_of(name: str) -> str:
    """The bin of a noise error by log-SNR, `-8..-6`."""
    return name.removeprefix(BY_LEVEL).removesuffix(HELD_OUT)


def change_of(effect: "Effect", part: Part) -> str:
    """The change in the source's words: `loss: mse -> mae`."""
    choices = {choice.key: choice for choice in part.choices}
    words = []
    for axis, (base, other) in zip(effect.axes, effect.levels, strict=True):
        choice = choices[axis]
        words.append(f"{choice.name}: {choice.label(base)} -> {choice.label(other)}")
    return " x ".join(words)


def is_told(effect: "Effect") -> bool:
    """Whether an effect is told from 0."""
    return effect.verdict.partition(",")[0] in DECIDED


def size_of(effect: "Effect") -> str:
    """Value and error, with a sign."""
    return with_error(effect.value, effect.std_error, signed=True)


# ------------------------------------------------------------------------------------------------------- conclusions


def conclusions(part: Part, found: Findings, told: AxisEffects) -> Iterator[str]:
    """Sentences: what the numbers of a part allow to be said, and what they do not."""
    if part.claim is not None:
        order = next((order for order in found.orders if order.quantity == part.claim.quantity), None)
        if order is not None:
            yield _of_claim(part.claim, order)
    if told.metrics is not None:
        for metric in told.metrics.metrics:
            yield f"{metric}: {'; '.join(_of_metric(metric, told.metrics, part))}"
    if told.by_level is not None:
        yield from _of_levels(told.by_level, part)


def _of_claim(claim: Claim, order: Order) -> str:
    """Whether the source's conclusion holds here, as far as arms can be told apart."""
    best, here = " ".join(claim.best), " ".join(order.best_here)
    if order.best_here == claim.best:
        if not order.tied:
            return f"{claim.words} holds here: {best} is told from all others"
        why = f"{best} is best here too, but not told from {others_in(order)}"
        return f"{claim.words} can be neither confirmed nor refused: {why}"
    if claim.best in order.tied:
        return f"{claim.words} can be neither confirmed nor refused: {here} is best here, and {best} not told from it"
    return f"{claim.words} does not hold here: {here} is better than {best}"


def others_in(order: Order) -> str:
    """The arms that cannot be told from the best."""
    return "any other" if len(order.tied) + 1 == order.arms else " or ".join(" ".join(arm) for arm in order.tied)


def _of_metric(metric: str, found: "Effects", part: Part) -> Iterator[str]:
    """Main effects and interactions that are told, then how many are not."""
    own = found.of(metric)
    for effect in own:
        if is_told(effect):
            way = effect.verdict.partition(",")[0]
            alone = " of these two models, which may be their seed's doing" if effect.repeats == "none" else ""
            yield f"{change_of(effect, part)} {way}{alone}, {size_of(effect)} (p {p_value(effect.corrected)})"
    for kind, axes in (("main effects", 1), ("interactions", 2)):
        there = [effect for effect in own if len(effect.axes) == axes]
        silent = [effect for effect in there if not is_told(effect)]
        if silent:
            yield f"{len(silent)} of {len(there)} {kind} cannot be told from 0"


def _of_levels(found: "Effects", part: Part) -> Iterator[str]:
    """For each change the bins in which it makes the noise error lower, higher, or nothing that can be told."""
    changes = dict.fromkeys(change_of(effect, part) for effect in found.effects)
    for change in changes:
        own = [effect for effect in found.effects if change_of(effect, part) == change]
        ways = [
            f"{word} at log-SNR {', '.join(bins)}"
            for word, bins in (
                ("lower", [bin_of(e.metric) for e in own if is_told(e) and e.value < 0]),
                ("higher", [bin_of(e.metric) for e in own if is_told(e) and e.value > 0]),
                ("not told from 0", [bin_of(e.metric) for e in own if not is_told(e)]),
            )
            if bins
        ]
        yield f"noise error, {change}: {'; '.join(ways)}"
