"""HTML as values. Text is escaped, always; only what is `Html` already stands as it is.

    tag("p", "a < b", cls="note")     ->     <p class="note">a &lt; b</p>

Names of attributes are written as Python takes them: `cls` is class, `aria_label` is aria-label, a trailing underscore
falls away. What a terminal would not show (control letters, marks that turn the direction of writing) is shown as an
escape, so that no name of a file or a class can pretend to be something else.
"""

import html
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from sfumato.errors import printable

__all__ = ["Child", "Html", "join", "tag", "text"]

VOID = frozenset({"img", "input", "link", "meta", "br", "hr"})


@dataclass(frozen=True, slots=True)
class Html:
    """A piece of HTML that is well formed by itself."""

    text: str

    def __str__(self) -> str:
        return self.text


Child: TypeAlias = "Html | str | int | Iterable[Child] | None"


def text(value: str) -> Html:
    """Text that shows what it is, lines kept apart."""
    return Html(html.escape("\n".join(printable(line) for line in value.split("\n"))))


def join(*children: Child) -> Html:
    """Pieces one after the other; None is nothing."""
    return Html("".join(_pieces(children)))


def tag(name: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Html:
    """An element. An attribute that is None or False is left out, one that is True stands without a value."""
    start = "".join([name, *(_attribute(key, value) for key, value in attributes.items())])
    if name in VOID:
        return Html(f"<{start}>")
    return Html(f"<{start}>{''.join(_pieces(children))}</{name}>")


def _pieces(child: Child) -> Iterable[str]:
    if child is None:
        return
    if isinstance(child, Html):
        yield child.text
    elif isinstance(child, str | int):
        yield text(str(child)).text
    else:
        for each in child:
            yield from _pieces(each)


def _attribute(key: str, value: str | int | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = "class" if key == "cls" else key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{text(str(value))}"'
