"""What people wrote of the run, or of the arms: `sfumato note` and `sfumato label`."""

from sfumato.experiment.report.elements import aside, labels, table
from sfumato.experiment.report.entries import Entry
from sfumato.experiment.report.markup import Child, Html, tag
from sfumato.experiment.report.naming import arm_name
from sfumato.experiment.report.page import Page, Section, section

__all__ = ["remarks"]


def remarks(page: Page) -> Section | None:
    """The notes with their times; of a sweep a row for each arm that has labels or notes."""
    entries = [shown.entry for shown in page.shown]
    if page.alone:
        (only,) = entries
        return (
            section("notes", "Notes", aside("What was written of the run."), _notes(only)) if only.said.notes else None
        )
    rows: list[list[Child]] = [
        [arm_name(entry, entries), labels(entry.said.labels), _notes(entry)]
        for entry in entries
        if entry.said.notes or entry.said.labels
    ]
    if not rows:
        return None
    inner = table(["arm", "labels", "notes"], rows, said="labels and notes", left=(0, 1, 2), cls="texts")
    return section("notes", "Labels and notes", aside("What was written of the arms."), inner)


def _notes(entry: Entry) -> Html | None:
    """Each note below the time of its writing, its lines kept apart."""
    if not entry.said.notes:
        return None
    said = [
        tag("li", tag("time", note.when[:16].replace("T", " ")), tag("span", note.text, cls="said"))
        for note in entry.said.notes
    ]
    return tag("ol", said, cls="remarks")
