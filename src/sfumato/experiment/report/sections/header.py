"""The head of the page: what was trained, how far it came, the first numbers, and one sample out of the noise."""

from collections.abc import Iterator

from sfumato.experiment.comparability import LOSS, LOSS_ERROR
from sfumato.experiment.report.elements import facts, labels, measure, notes
from sfumato.experiment.report.markup import Child, Html, tag
from sfumato.experiment.report.naming import arm_name, state_mark
from sfumato.experiment.report.numbers import floor_of, headline, number_of
from sfumato.experiment.report.page import Page, Shown
from sfumato.experiment.report.tiles import frame_of, kind_of, picture, scatter
from sfumato.experiment.report.wording import title, with_error
from sfumato.experiment.sweep.axes import axis_names

__all__ = ["header"]

SMOKE = 9  # moments of the strip across the page
CHOICES = {
    "data.path": "data",
    "data.source": "data",
    "network": "network",
    "schedule": "schedule",
    "parameterization": "target",
    "objective.distance": "distance",
    "objective.weighting": "weighting",
    "times": "times",
    "sampling.sampler": "sampler",
}


def header(page: Page) -> Html:
    """The head of the page."""
    subject, first = page.subject, page.shown[0]
    description = first.entry.setting("description")
    lead = tag("p", title(description), cls="lead") if description and page.alone else _arms_lead(page)
    kind = {"run": "run", "sweep": "sweep", "file": "exported model"}[subject.kind]
    missing = [f"{arm_name(s.entry)}: {s.why}" if not page.alone else s.why for s in page.shown if s.why]
    seen = [*subject.notes, *missing, *(note for s in page.shown for note in _notes(s))]
    return tag(
        "header",
        tag("p", f"sfumato · {kind}", cls="eyebrow"),
        tag("h1", subject.title),
        lead,
        labels(first.entry.said.labels) if page.alone else None,
        _smoke(page),
        facts(_cards_of_run(first) if page.alone else _cards_of_sweep(page), cls="cards"),
        _choices(page),
        tag("div", notes(seen), cls="after-cards") if seen else None,
        cls="top",
    )


def _notes(shown: Shown) -> Iterator[str]:
    yield from shown.entry.notes
    if shown.picture is not None:
        yield from shown.picture.notes


def _arms_lead(page: Page) -> Html | None:
    axes = page.subject.axes
    if page.alone or not axes:
        return None
    names = axis_names(list(axes))
    words = [f"{names[key].replace('_', ' ')} ({', '.join(values[:6])})" for key, values in axes.items()]
    return tag("p", f"What differs between the arms: {', '.join(words)}.", cls="lead")


def _cards_of_run(shown: Shown) -> Iterator[tuple[str, Child]]:
    """The first numbers of one run."""
    entry, picture_ = shown.entry, shown.picture
    record = entry.record
    if record is not None and record.step is not None:
        step = record.step if entry.step is None else entry.step
        of = "" if record.steps is None else f" of {record.steps:,}"
        of += f", trained on to {record.step:,}" if record.step > step else ""
        yield "training steps", [f"{step:,}", tag("small", state_mark(entry), of)]
    elif picture_ is not None:
        yield "training steps", f"{picture_.steps_trained:,}"
    loss, error = entry.last(LOSS), entry.last(LOSS_ERROR)
    if loss is not None:
        yield (
            "held-out loss",
            [measure(with_error(loss, error)), tag("small", "its own objective, averaged weights")],
        )
    for metric in headline(entry):
        found = number_of(entry, metric)
        if found is not None:
            floor = floor_of([entry], metric, found)
            beside = f"n = {found.n:,}" + (
                "" if floor is None else f", floor {with_error(floor.value, floor.std_error)}"
            )
            name = metric.replace("_", " ").replace("[", " · ").replace("]", "")
            yield name, [measure(with_error(found.value, found.std_error)), tag("small", beside)]
    if picture_ is not None:
        data = picture_.record
        shape = " × ".join(map(str, data.shape)) if len(data.shape) > 1 else f"{data.shape[0]:,} values each"
        yield "examples", [f"{data.count:,}", tag("small", f"{shape}, {data.held_out_count:,} held out")]
    parameters = None if record is None else record.parameters
    parameters = picture_.parameters if parameters is None and picture_ is not None else parameters
    if parameters is not None:
        seen = entry.last("images_seen")
        so_far = None if seen is None else tag("small", f"{int(seen):,} examples seen")
        yield "parameters", [f"{parameters:,}", so_far]


def _cards_of_sweep(page: Page) -> Iterator[tuple[str, Child]]:
    """How many arms there are, and what became of them."""
    states = [s.entry.state for s in page.shown]
    done = sum(state in ("done", "finished") for state in states)
    yield "arms", [f"{len(states):,}", tag("small", f"{done:,} done")]
    for state in dict.fromkeys(states):
        if state not in ("done", "finished"):
            yield state, f"{states.count(state):,}"
    yield "axes", f"{len(page.subject.axes):,}"
    seeds = {s.entry.seed for s in page.shown}
    yield "seeds", f"{len(seeds):,}"
    evaluated = sum(bool(s.entry.current) for s in page.shown)
    yield "measured", [f"{evaluated:,}", tag("small", "arms with an evaluation")]
    for name, said in page.subject.about:
        word, _, rest = said.partition(", ")
        yield name, [word, tag("small", rest) if rest else None]


def _choices(page: Page) -> Html | None:
    """What was chosen of the parts that make a model, where all runs agree."""
    entries = [shown.entry for shown in page.shown if shown.entry.settings]
    chosen: dict[str, str] = {}
    for key, name in CHOICES.items() if entries else ():
        values = {str(entry.setting(key)) for entry in entries}
        if len(values) == 1 and entries[0].setting(key) is not None:
            chosen.setdefault(name, title(entries[0].setting(key)))
    said = [tag("span", tag("b", name), " ", value) for name, value in chosen.items()]
    return tag("p", said, cls="choices") if said else None


def _smoke(page: Page) -> Html | None:
    """One sample on its way out of the noise, across the page."""
    drawn = next((p for _, p in page.pictured() if p.film is not None), None)
    if drawn is None or drawn.film is None:
        return None
    states = drawn.film.states
    count = min(SMOKE, len(states))
    chosen = [states[round(k * (len(states) - 1) / max(count - 1, 1))] for k in range(count)]
    kind = kind_of(chosen[0])
    if kind == "curves":
        return None
    if kind == "pictures":
        tiles = [picture(each[0], said="") for each in chosen]
    else:
        frame = frame_of([states[0], states[-1]])
        tiles = [scatter(each, frame, said=None) for each in chosen]
    said = f"The sample of seed {page.wish.seed} at {count} moments, from noise to data"
    return tag("div", tiles, cls="smoke", style=f"--n:{count}", role="img", aria_label=said)
