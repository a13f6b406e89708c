"""A reproduction as tables and sentences, for a terminal or as Markdown. Read without torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from sfumato.experiment.reproduce.axes import bin_of, change_of, is_told, others_in, size_of
from sfumato.experiment.reproduce.findings import AnchorFound, Finding, Levels, Order, Value
from sfumato.experiment.reproduce.outcome import PartOutcome, Reproduction
from sfumato.experiment.reproduce.source import Scale, Source
from sfumato.experiment.rounding import p_value, rounded

if TYPE_CHECKING:
    from sfumato.experiment.effects import Effect, Effects

__all__ = ["Page", "Sheet", "described", "markdown", "pages"]

NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of the text: a title, a table where there is one, a picture by its file, and sentences below them."""

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    lines: tuple[str, ...] = ()
    picture: str | None = None


@dataclass(frozen=True, slots=True)
class Sheet:
    """A picture of generated samples, a row for each arm: of which parts, its file beside the text, and how drawn."""

    parts: tuple[str, ...]
    file: str
    lines: tuple[str, ...]


def pages(found: Reproduction, sheets: Sequence[Sheet] = ()) -> Iterator[Page]:
    """All that there is to say of a reproduction, in order."""
    yield from described(found.source, found.scale)
    yield _anchors(found.anchors)
    for part in found.parts:
        yield from _part(part, found)
    for sheet in sheets:
        yield Page(f"{', '.join(sheet.parts)}: samples of every arm", lines=sheet.lines, picture=sheet.file)
    for part in found.parts:
        if part.conclusions:
            yield Page(f"{part.name}: what can be concluded", lines=(*part.conclusions, *_caution(part, found)))
    yield Page("again", lines=(found.command,))


def described(source: Source, scale: Scale) -> Iterator[Page]:
    """What a source is, and what of it is mended, before anything was found."""
    yield Page(f"{source.name}: {source.about}", lines=(f"{source.where}; {scale} scale", *source.remarks))
    yield Page("what was mended", lines=tuple(f"{fault.there}. Here: {fault.here}" for fault in source.faults))


def _anchors(anchors: tuple[AnchorFound, ...]) -> Page:
    rows = tuple((a.what, _exact(a.there), _exact(a.here), a.verdict) for a in anchors)
    return Page("what needs no training", ("quantity", "there", "here", ""), rows)


def _exact(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:.5g}"


def _part(part: PartOutcome, found: Reproduction) -> Iterator[Page]:
    """The tables of a part and its verdicts."""
    findings = part.findings.findings
    quantities = list(dict.fromkeys(f.quantity for f in findings))
    arms = list(dict.fromkeys(f.arm for f in findings))
    seeds = "one seed" if found.seeds == 1 else f"mean of {found.seeds} seeds"
    title = f"{part.name}: {len(arms)} arms, {seeds}" if len(arms) > 1 else f"{part.name}, {seeds}"
    if findings:
        by_place = {(f.arm, f.quantity): f for f in findings}
        columns = [*part.axes, *(name for q in quantities for name in _columns(q, findings))]
        rows = tuple(
            (*arm, *(cell for q in quantities for cell in _cells(by_place.get((arm, q)), q, findings))) for arm in arms
        )
        yield Page(title, tuple(columns), rows, tuple(_verdicts(findings, part)))
    for order in part.findings.orders:
        title = f"{part.name}: the order of the arms by {order.quantity}: {order.verdict}"
        yield Page(title, lines=tuple(_order_lines(order)))
    yield from _effects(part)
    yield from (_levels(levels, part) for levels in part.findings.levels)
    yield from _effects_by_level(part)
    lines = [f"{f.arm} (seed {f.seed}) failed: {f.why}" for f in part.failed]
    lines += (
        [f"the arms: {part.folder}"] if part.folder is not None else [f"{a.labels[0]}: {a.folder}" for a in part.arms]
    )
    lines += [*part.findings.notes, *part.effects.notes]
    yield Page(f"{part.name}: the runs", lines=tuple(lines))


def _columns(quantity: str, findings: tuple[Finding, ...]) -> list[str]:
    """There, should have been and here, as far as any arm has them."""
    own = [f for f in findings if f.quantity == quantity]
    there = [f"{quantity} there"] if any(f.there for f in own) else []
    should = ["should be"] if any(f.should for f in own) else []
    return [*there, *should, "here" if there or should else quantity]


def _cells(finding: Finding | None, quantity: str, findings: tuple[Finding, ...]) -> list[str]:
    own = [f for f in findings if f.quantity == quantity]
    there, should, here = (None, None, None) if finding is None else (finding.there, finding.should, finding.here)
    cells = [_told(there)] if any(f.there for f in own) else []
    cells += [_told(should)] if any(f.should for f in own) else []
    return [*cells, _told(here)]


def _told(value: Value | None) -> str:
    return NOTHING if value is None else value.text()


def _verdicts(findings: tuple[Finding, ...], part: PartOutcome) -> Iterator[str]:
    """Verdicts: those that can be given one by one, the others by their reason."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for finding in findings:
        if finding.verdict in ("agrees", "differs", "cannot tell"):
            yield f"{' '.join(finding.arm)}: {finding.quantity} {finding.verdict}: {finding.why}"
        elif finding.verdict == "not compared":
            reasons.setdefault(finding.why, {}).setdefault(finding.quantity, []).append(" ".join(finding.arm))
    for why, quantities in reasons.items():
        arms = next(iter(quantities.values()))
        which = f"{len(arms)} arms" if len(arms) > 1 else arms[0]
        yield f"{' and '.join(quantities)} of {which} not compared: {why}"
    departed = list(dict.fromkeys(text for arm in part.arms for text in arm.departures))
    if departed:
        yield f"settings other than the source's: {'; '.join(departed)}"
    others = list(dict.fromkeys(arm.data for arm in part.arms if arm.data))
    if others:
        yield f"other data than the source's: {'; '.join(others)}"


def _levels(levels: Levels, part: PartOutcome) -> Page:
    rows = tuple((*arm, *map(_told, values)) for arm, values in levels.rows.items())
    return Page(f"{part.name}: {levels.title}", (*part.axes, *levels.bins), rows)


def _effects(part: PartOutcome) -> Iterator[Page]:
    """A table for each metric: what each choice does to it, and what two of them do together."""
    found = part.effects.metrics
    if found is None:
        return
    head = ("change", "effect", "95 % interval", "p", "")
    for metric in found.metrics:
        rows = tuple(_effect_row(effect, part) for effect in found.of(metric))
        last = metric == found.metrics[-1]
        yield Page(
            f"{part.name}: effects on {metric}", head, rows, (*_untold(found, metric), *(found.notes if last else ()))
        )


def _untold(found: "Effects", metric: str) -> Iterator[str]:
    """The effects on a metric that cannot be told, with the reason."""
    yield from (f"{u.metric} of {u.first} and {u.second}: {u.reason}" for u in found.untold if u.metric == metric)


def _effect_row(effect: "Effect", part: PartOutcome) -> tuple[str, ...]:
    span = " … ".join(rounded(end, effect.std_error, signed=True) for end in effect.interval)
    return change_of(effect, part.part), size_of(effect), span, p_value(effect.corrected), effect.verdict


def _effects_by_level(part: PartOutcome) -> Iterator[Page]:
    """A row for each change, a column for each bin of log-SNR."""
    found = part.effects.by_level
    if found is None:
        return
    bins = list(dict.fromkeys(bin_of(effect.metric) for effect in found.effects))
    rows: dict[str, dict[str, Effect]] = {}
    for effect in found.effects:
        rows.setdefault(change_of(effect, part.part), {})[bin_of(effect.metric)] = effect
    table = tuple(
        (change, *(_marked(own[text]) if text in own else NOTHING for text in bins)) for change, own in rows.items()
    )
    mark = f"*: told from 0 at p < 0.05, corrected for {len(found.effects)} comparisons by Holm's method"
    title = f"{part.name}: effects on the noise error by log-SNR"
    untold = [line for metric in dict.fromkeys(u.metric for u in found.untold) for line in _untold(found, metric)]
    yield Page(title, ("change", *bins), table, (mark, *dict.fromkeys(untold), *found.notes[1:]))


def _marked(effect: "Effect") -> str:
    return size_of(effect) + (" *" if is_told(effect) else "")


def _caution(part: PartOutcome, found: Reproduction) -> Iterator[str]:
    """Of what the conclusions are, and of what they are not."""
    if any(arm.departures for arm in part.arms):
        yield f"all this is of {found.scale} scale, with the settings above, and says nothing of the source's own"
    if found.seeds == 1 and part.folder is not None:
        yield "one seed was trained: give --seeds 2 or more to tell what training anew would change"


def _order_lines(order: Order) -> Iterator[str]:
    yield (
        f"{order.apart} of {order.pairs} pairs of arms are further apart there than its repeats scatter; "
        f"{order.decided} of them are told apart here (p < 0.05 for all pairs together; errors {order.error}): "
        f"{order.same} the same way, {order.opposite} the other way"
    )
    tied = f", not told from {others_in(order)}" if order.tied else ", told from all others"
    yield f"best there: {' '.join(order.best_there)}; best here: {' '.join(order.best_here)}{tied}"
    if order.error.endswith("one seed"):
        yield "another seed makes other models: these errors are those of measuring the ones that were trained"


def markdown(text: Iterator[Page], title: str) -> str:
    """Pages as Markdown."""
    lines = [f"# {title}", ""]
    for page in text:
        lines += [f"## {page.title}", ""]
        if page.rows:
            lines += [_row(page.columns), _row(["---"] * len(page.columns)), *map(_row, page.rows), ""]
        lines += [] if page.picture is None else [f"![{page.title}]({quote(page.picture)})", ""]
        lines += [f"* {line}" for line in page.lines] + ([""] if page.lines else [])
    return "\n".join(lines).rstrip() + "\n"


def _row(cells: "tuple[str, ...] | list[str]") -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
