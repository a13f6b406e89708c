"""The page: what it is about, its sections, and the one HTML file that holds them all.

Nothing is fetched: the style sheet, the icon, pictures and the one script (for the slider) lie in the file, and its
Content-Security-Policy forbids the browser to ask anybody for anything, whatever a name in a run may contain. The
script is allowed by its digest alone. Without scripts the film lies there as a strip.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from sfumato.experiment.report.drawing import Picture, Wish
from sfumato.experiment.report.entries import Entry
from sfumato.experiment.report.markup import Child, Html, join, tag
from sfumato.experiment.sweep import Sweep

__all__ = ["GENERATOR", "Page", "Section", "Shown", "Subject", "render", "section"]

GENERATOR = "sfumato report"
ICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'><defs><radialGradient id='g'>"
    "<stop offset='.1' stop-color='#8b5532'/><stop offset='1' stop-color='#8b5532' stop-opacity='0'/>"
    "</radialGradient></defs><circle cx='16' cy='16' r='16' fill='url(#g)'/></svg>"
)


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What a page is about.

    kind: "run", "sweep" or "file". entries: the run, or the arms. axes: what the arms differ in, key and values.
    about: more facts of a sweep. again: the command that makes such a sweep, where an arm is begun. target: where the
    page lies unless said. sweep: the sweep itself.
    """

    title: str
    kind: str
    entries: tuple[Entry, ...]
    target: Path
    axes: Mapping[str, Sequence[str]]
    about: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    again: str = ""
    sweep: Sweep | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A run and what it drew; `why` there is nothing, where there is nothing."""

    entry: Entry
    picture: Picture | None
    why: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """All that the sections are made from."""

    subject: Subject
    shown: tuple[Shown, ...]
    wish: Wish
    command: str

    @property
    def alone(self) -> bool:
        """Whether the page is about one run."""
        return self.subject.kind != "sweep"

    def pictured(self) -> list[tuple[Entry, Picture]]:
        """The runs that drew something."""
        return [(s.entry, s.picture) for s in self.shown if s.picture is not None and s.picture.values is not None]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page, with its place in the list of contents."""

    id: str
    title: str
    body: Html


def render(page: Page, header: Html, sections: Sequence[Section], version: str) -> str:
    """The text of the file."""
    style, script = _resource("page.css"), _resource("slider.js")
    contents = tag("ol", [tag("li", tag("a", s.title, href=f"#{s.id}")) for s in sections])
    main = [tag("section", tag("h2", s.title), s.body, id=s.id) for s in sections]
    made = "sfumato" if version == "unknown" else f"sfumato {version}"
    footer = tag("footer", f"Made by {made}: one file, which asks the network for nothing.")
    body = tag(
        "body",
        tag("a", "Skip to the content", href="#content", cls="skip"),
        header,
        tag(
            "div",
            tag("nav", contents, aria_label="Contents"),
            tag("main", main, footer, id="content", tabindex="-1"),
            cls="page",
        ),
        tag("script", Html(script)),
    )
    html = tag("html", _head(page.subject.title, style, script, version), body, lang="en")
    return f"<!doctype html>\n{html}\n"


def _head(title: str, style: str, script: str, version: str) -> Html:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="generator", content=f"{GENERATOR} {version}"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{title} · sfumato"),
        tag("link", rel="icon", href=f"data:image/svg+xml;base64,{base64.b64encode(ICON.encode()).decode('ascii')}"),
        tag("style", Html(style)),
    )


def _resource(name: str) -> str:
    return files("sfumato.experiment.report").joinpath(name).read_text("utf-8").strip()


def section(id_: str, title: str, *children: Child) -> Section:
    """A section of some pieces."""
    return Section(id_, title, join(*children))
