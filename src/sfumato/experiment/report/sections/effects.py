"""What each axis of a sweep does to its metrics, and what two of them do together: which changes are significant.

Each row is the mean of paired differences (`experiment.effects`) with its standard error; the dot and the bar beside it
are the effect and its 95 % interval, on one scale for each metric, with a dashed line at no effect. What is significant
is told in a colour, in a word and in bold; what is not stands back, whatever its size.
"""

from collections.abc import Mapping, Sequence

from sfumato.data.wording import counted
from sfumato.errors import SfumatoError
from sfumato.experiment.difference import LEVEL, Uncompared
from sfumato.experiment.effects import Effect, Effects
from sfumato.experiment.effects import effects as effects_of
from sfumato.experiment.report.axes import axis_for
from sfumato.experiment.report.elements import aside, folded, notes, table
from sfumato.experiment.report.markup import Child, Html, tag
from sfumato.experiment.report.naming import metric_name
from sfumato.experiment.report.page import Page, Section, section
from sfumato.experiment.report.sections.arms import END, WIDE, bar, better_in_words
from sfumato.experiment.report.wording import typeset, with_error
from sfumato.experiment.rounding import p_value, rounded
from sfumato.experiment.sweep.axes import axis_names

__all__ = ["effects", "is_significant"]

SIGNIFICANT = {"better": "good", "worse": "bad", "lower": "wait", "higher": "wait"}
MOST_UNTOLD = 60  # rows


def effects(page: Page) -> Section | None:
    """The effects of a sweep's axes, or why none can be told."""
    sweep = page.subject.sweep
    if sweep is None or not sweep.plan.axes:
        return None
    try:
        found = effects_of(sweep)
    except SfumatoError as error:
        return section("effects", "Effects", aside(f"No effect can be told yet: {error.what}."))
    names = {axis: name.replace("_", " ") for axis, name in axis_names(list(page.subject.axes)).items()}
    return section(
        "effects",
        "Effects",
        tag("p", _summary(found)),
        aside(
            "An effect is the mean difference between arms that are alike but for the change, with one standard error. "
            "The bar is its 95 % interval, alone; a dashed line stands at no effect."
        ),
        [_of_metric(found, metric, names) for metric in found.metrics],
        _untold(found.untold),
        folded("How to read the effects", notes(found.notes), open_=True) if found.notes else None,
    )


def is_significant(effect: Effect) -> bool:
    """Whether an effect is told to be there, after the correction for all comparisons."""
    return _kind(effect) is not None


def _kind(effect: Effect) -> str | None:
    """The colour of a verdict ("better", "better, of these models"); None of one that tells of no effect."""
    return SIGNIFICANT.get(effect.verdict.partition(",")[0])


def _summary(found: Effects) -> str:
    """How many changes are significant, and what the others do not say."""
    count, told = len(found.effects), sum(map(is_significant, found.effects))
    by = f"p below {LEVEL}" + (f" after correction for all {count} comparisons" if count > 1 else "")
    first = f"{told or 'None'} of {counted(count, 'change')} {'is' if told < 2 else 'are'} significant ({by})."
    return first if told == count else f"{first} Where none is seen, an effect within the interval may be there still."


def _of_metric(found: Effects, metric: str, names: Mapping[str, str]) -> Html:
    """The main effects on a metric, and its interactions."""
    every = found.of(metric)
    alone = [effect for effect in every if len(effect.axes) == 1]
    together = [effect for effect in every if len(effect.axes) > 1]
    told = sum(map(is_significant, together))
    summary = f"{counted(len(together), 'interaction')}, {told or 'none'} significant"
    return tag(
        "div",
        tag("h3", metric_name(metric), tag("small", better_in_words(metric), cls="aside")),
        _table(alone, every, names, f"main effects on {metric}") if alone else None,
        folded(summary, _table(together, every, names, f"interactions on {metric}"), open_=told > 0)
        if together
        else None,
        cls="effects",
    )


def _table(rows: Sequence[Effect], scale: Sequence[Effect], names: Mapping[str, str], said: str) -> Html:
    """Effects with their intervals on one scale, that of `scale`."""
    axis = axis_for([0.0, *(end for effect in scale for end in effect.interval)], END, WIDE - END, log=False)
    head = ["change", "what may be said", "effect", "95 % interval", "p", "pairs × seeds"]
    lesser = [index for index, effect in enumerate(rows) if not is_significant(effect)]
    return table(
        head,
        [
            [
                _change(effect, names),
                _verdict(effect),
                [
                    with_error(effect.value, effect.std_error, signed=True),
                    bar(effect.value, *effect.interval, axis, 0.0),
                ],
                _interval(effect),
                typeset(p_value(effect.corrected)),
                f"{effect.pairs:,} × {effect.seeds:,}",
            ]
            for effect in rows
        ],
        said=said,
        left=(0, 1),
        lesser=lesser,
    )


def _change(effect: Effect, names: Mapping[str, str]) -> Child:
    """`distance: Mse → Mae`, a line for each axis."""
    pairs = zip(effect.axes, effect.levels, strict=True)
    lines = [f"{names.get(axis, axis)}: {base} → {other}" for axis, (base, other) in pairs]
    return [tag("span", line, cls="line-of-its-own") for line in lines]


def _interval(effect: Effect) -> str:
    """The ends, to the decimals of the standard error."""
    low, high = (typeset(rounded(end, effect.std_error)) for end in effect.interval)
    return f"{low} to {high}"


def _verdict(effect: Effect) -> Child:
    """The verdict; of what is significant in bold and colour."""
    kind = _kind(effect)
    if kind is None:
        return effect.verdict
    return tag("span", f"significant: {effect.verdict}", cls=f"state {kind}")


def _untold(left: Sequence[Uncompared]) -> Html | None:
    """What cannot be set against each other, and why."""
    if not left:
        return None
    rows = [[metric_name(u.metric), f"{u.first} / {u.second}", u.reason] for u in left[:MOST_UNTOLD]]
    more = f" The first {MOST_UNTOLD:,}." if len(left) > MOST_UNTOLD else ""
    said = aside(f"Numbers of different quantities are not subtracted from one another.{more}")
    inner = table(
        ["metric", "change", "why not"], rows, said="effects that cannot be told", left=(0, 1, 2), cls="texts"
    )
    return folded(f"{counted(len(left), 'change')} that cannot be told", said, inner)
