"""What sections are made of: tables that scroll by themselves, lists of facts, notes, commands, and what folds away."""

from collections.abc import Iterable, Sequence

from sfumato.experiment.report.markup import Child, Html, tag

__all__ = ["aside", "command", "facts", "folded", "notes", "table"]


def table(head: Sequence[Child], rows: Iterable[Sequence[Child]], *, said: str, cls: str = "", names: int = 1) -> Html:
    """A table that scrolls sideways within itself; `said` is what it is called. The first `names` columns are names."""
    top = tag("tr", [tag("th", cell, scope="col", cls="name" if i < names else None) for i, cell in enumerate(head)])
    body = [
        tag("tr", [tag("th", c, scope="row") if i == 0 else _cell(c, name=i < names) for i, c in enumerate(row)])
        for row in rows
    ]
    inner = tag("table", tag("thead", top), tag("tbody", body))
    return tag("div", inner, cls=f"scroll {cls}".strip(), tabindex="0", role="region", aria_label=said)


def _cell(cell: Child, *, name: bool) -> Html:
    return tag("td", cell, cls="name" if name else None)


def facts(pairs: Iterable[tuple[str, Child]], *, cls: str = "facts") -> Html:
    """Names and what they are; pairs of nothing are left out."""
    shown = [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs if value not in (None, "")]
    return tag("dl", shown, cls=cls)


def notes(texts: Iterable[str]) -> Html | None:
    """Sentences, each once; nothing for none."""
    each = list(dict.fromkeys(texts))
    return tag("ul", [tag("li", one) for one in each], cls="notes") if each else None


def aside(*children: Child) -> Html:
    """A sentence that explains what stands beside it."""
    return tag("p", *children, cls="aside")


def folded(summary: Child, *children: Child, open_: bool = False) -> Html:
    """What is shown when it is asked for, and on paper."""
    return tag("details", tag("summary", summary), *children, open=open_)


def command(what: str, line: str) -> Html:
    """A command line to copy, and what it does."""
    return tag("div", tag("p", what, cls="aside"), tag("pre", tag("code", line), tabindex="0"), cls="command")
