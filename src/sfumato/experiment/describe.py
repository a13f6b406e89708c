"""Every setting there is, as text for `train --help`: key, default, what it accepts, and the classes to choose from."""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sfumato.experiment.kinds import field_types, is_variant, kind_name, kinds
from sfumato.experiment.scalars import type_text

__all__ = ["Setting", "describe"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of help. `kind` is set on lines that name a class to choose; `depth` counts the classes around it."""

    key: str
    default: str
    accepts: str
    about: str
    depth: int
    kind: str | None = None


def describe(cls: type, prefix: str = "", depth: int = 0, seen: dict[Any, str] | None = None) -> Iterator[Setting]:
    """The settings of `cls`, sections and the fields of every kind included.

    The kinds of a type are listed where it is first met (`seen`: at which key); a schedule may hold a schedule.
    """
    seen = {} if seen is None else seen
    documented = _documented(cls)
    for f in dataclasses.fields(cls):
        hint = field_types(cls).get(f.name)
        if hint is None:
            continue
        key = f"{prefix}.{f.name}" if prefix else f.name
        found = kinds(hint)
        if found and not is_variant(hint):
            yield from describe(next(iter(found.values())), key, depth, seen)
            continue
        accepts = f"as for --{seen[hint]}" if found and hint in seen else type_text(hint, found)
        yield Setting(key, _default(f), accepts, documented.get(f.name, ""), depth)
        if found and hint not in seen:
            seen[hint] = key
            for name, kind in found.items():
                yield Setting(key, "", "", _first_line(kind), depth + 1, name)
                yield from describe(kind, key, depth + 2, seen)


def _default(f: dataclasses.Field[Any]) -> str:
    if f.default is dataclasses.MISSING:
        return "" if f.default_factory is dataclasses.MISSING else kind_name(type(f.default_factory()))
    value = f.default
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return kind_name(type(value))
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _first_line(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0].strip()


def _documented(cls: type) -> dict[str, str]:
    """What the class's docstring says of its fields, on lines `name: …` or `name, other: …` and those below,
    indented.
    """
    found: dict[str, str] = {}
    for block in re.findall(r"^(\w+(?:, \w+)*): (.*(?:\n +.*)*)", inspect.getdoc(cls) or "", re.MULTILINE):
        for name in block[0].split(", "):
            found[name] = " ".join(block[1].split())
    return found
