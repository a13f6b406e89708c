"""What sections are made of: tables that scroll by themselves, lists of facts, notes, commands, and what folds away."""

from collections.abc import Collection, Iterable, Sequence

from sfumato.experiment.report.markup import Child, Html, join, tag

__all__ = ["aside", "command", "facts", "folded", "labels", "measure", "notes", "table"]


def table(
    head: Sequence[Child],
    rows: Iterable[Sequence[Child]],
    *,
    said: str,
    left: Collection[int] = (0,),
    lesser: Collection[int] = (),
    cls: str = "",
) -> Html:
    """A table that scrolls sideways within itself; `said` is what it is called.

    left: columns of words, which stand to the left; the others hold numbers. lesser: rows that stand back.
    """
    top = tag("tr", [tag("th", c, scope="col", cls=_side(i, left)) for i, c in enumerate(head)])
    body = [
        tag("tr", [_cell(i, cell, left) for i, cell in enumerate(row)], cls="lesser" if index in lesser else None)
        for index, row in enumerate(rows)
    ]
    inner = tag("table", tag("thead", top), tag("tbody", body))
    return tag("div", inner, cls=f"scroll {cls}".strip(), tabindex="0", role="region", aria_label=said)


def _cell(index: int, cell: Child, left: Collection[int]) -> Html:
    if index == 0:
        return tag("th", cell, scope="row", cls=_side(index, left))
    return tag("td", cell, cls=_side(index, left))


def _side(index: int, left: Collection[int]) -> str | None:
    return "name" if index in left else None


def facts(pairs: Iterable[tuple[str, Child]], *, cls: str = "facts") -> Html:
    """Names and what they are; pairs of nothing are left out."""
    shown = [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs if value not in (None, "")]
    return tag("dl", shown, cls=cls)


def notes(texts: Iterable[str]) -> Html | None:
    """Sentences, each once; nothing for none."""
    each = list(dict.fromkeys(texts))
    return tag("ul", [tag("li", one) for one in each], cls="notes") if each else None


def labels(words: Sequence[str]) -> Html | None:
    """The labels of a run; nothing for none."""
    return tag("ul", [tag("li", word) for word in words], cls="labels", aria_label="labels") if words else None


def aside(*children: Child) -> Html:
    """A sentence that explains what stands beside it."""
    return tag("p", *children, cls="aside")


def measure(said: str) -> Html:
    """`0.292 ± 0.012` with its error set smaller."""
    value, sign, error = said.partition(" ± ")
    return join(value, " ", tag("span", f"± {error}", cls="error")) if sign else join(value)


def folded(summary: Child, *children: Child, open_: bool = False, on_paper: bool = True) -> Html:
    """What is shown when it is asked for, and on paper."""
    return tag("details", tag("summary", summary), *children, open=open_, cls=None if on_paper else "off-paper")


def command(what: str, line: str) -> Html:
    """A command line to copy, and what it does; it breaks between words alone."""
    words = [join(" " if i else "", tag("span", word)) for i, word in enumerate(line.split(" "))]
    return tag("div", tag("p", what, cls="aside"), tag("pre", tag("code", words), tabindex="0"), cls="command")
