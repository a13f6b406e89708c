"""Every setting: those of the run, or those that all arms share, by section; what was chosen comes first."""

from collections.abc import Mapping, Sequence

from sfumato.experiment.report.elements import aside, facts, folded, table
from sfumato.experiment.report.entries import Entry
from sfumato.experiment.report.markup import Html, tag
from sfumato.experiment.report.page import Page, Section, section
from sfumato.experiment.report.wording import title

__all__ = ["settings", "shared_settings"]

OPEN = ("data", "network", "schedule", "parameterization", "times", "objective")


def settings(page: Page) -> Section | None:
    """The settings by section."""
    entries = [shown.entry for shown in page.shown if shown.entry.settings]
    if not entries:
        return None
    shared = shared_settings(entries)
    usual = _usual()
    groups: dict[str, dict[str, object]] = {}
    for key, value in shared.items():
        head, dot, _ = key.partition(".")
        groups.setdefault(head if dot or head in OPEN else "run", {})[key] = value
    chosen = [(key, title(value)) for key, value in shared.items() if _is_chosen(key, value, usual)]
    body = [_group(name, found, usual) for name, found in groups.items()]
    words = "These differ from their usual values; all others fold out below."
    words = words if page.alone else f"What all {len(entries):,} arms share. {words}"
    every = folded(f"All {len(shared):,} settings", tag("div", body, cls="groups"))
    return section("settings", "Settings", aside(words), facts(chosen, cls="facts small"), every)


def shared_settings(entries: Sequence[Entry]) -> dict[str, object]:
    """The settings that all entries have alike, in their order."""
    first = entries[0].settings
    same = {key for key in first if all(key in e.settings and e.settings[key] == first[key] for e in entries)}
    return {key: value for key, value in first.items() if key in same}


def _usual() -> Mapping[str, object]:
    """The settings of an experiment of which nothing is said."""
    from sfumato.experiment.config import Experiment
    from sfumato.experiment.schema import flatten, to_plain

    return flatten(to_plain(Experiment(), Experiment))


def _group(name: str, found: Mapping[str, object], usual: Mapping[str, object]) -> Html:
    """The settings of one section; bold where they are other than usual."""
    rows = []
    for key, value in found.items():
        said = title(value)
        rows.append([key, tag("b", said) if _is_chosen(key, value, usual) else said])
    inner = table(["setting", "value"], rows, said=f"settings of {name}", left=(0, 1), cls="texts")
    return tag("div", tag("h3", name), inner, cls="group")


def _is_chosen(key: str, value: object, usual: Mapping[str, object]) -> bool:
    """Whether a setting is other than usual."""
    return key not in usual or title(usual[key]) != title(value)
