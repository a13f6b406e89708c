"""What the type hints of dataclasses say about settings: fields, the classes that a field may hold, dotted keys.

A field whose type is an abstract class, or a union of dataclasses, is a *variant*: its kinds are the concrete
dataclasses below it, named without regard to case or dashes and without a final `Config`.
"""

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

__all__ = [
    "canonical",
    "field_types",
    "is_variant",
    "keys_of",
    "kind_name",
    "kinds",
    "members",
    "nearest",
    "paths",
    "section_paths",
    "spellings",
]


@cache
def field_types(cls: type) -> dict[str, Any]:
    """Name and type of the fields that may be set."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def kind_name(cls: type) -> str:
    """The name of a class in settings: `ResidualUNetConfig` is written `ResidualUNet`."""
    return cls.__name__.removesuffix("Config") or cls.__name__


def canonical(kind: str) -> str:
    """The form in which two names of one class are equal: lower case, no dashes, no `Config` at the end."""
    name = kind.strip().lower().replace("-", "").replace("_", "").replace(" ", "")
    return name.removesuffix("config") or name


def spellings(hint: Any, found: Mapping[str, type]) -> dict[str, type]:
    """The canonical forms that name each kind: `cosinebetas`, and `cosine` where the field holds `Betas`."""
    forms: dict[str, type] = {}
    for name, cls in found.items():
        for base in [""] + [member.__name__ for member in members(hint) if isinstance(member, type)]:
            short = name.removesuffix(base) if base else name
            forms.setdefault(canonical(short or name), cls)
    return {**forms, **{canonical(name): cls for name, cls in found.items()}}


def members(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union; a single type is its only alternative. `Sampler[S]` counts as `Sampler`."""
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return tuple(_class_of(member) for member in (typing.get_args(hint) if union else (hint,)))


def _class_of(hint: Any) -> Any:
    """The class of a generic class with arguments; other hints, `tuple[int, ...]` among them, as they are."""
    origin = typing.get_origin(hint)
    return origin if isinstance(origin, type) and issubclass(origin, typing.Generic) else hint


def kinds(hint: Any) -> dict[str, type]:
    """The dataclasses that a field of this type may hold, by name."""
    found: dict[str, type] = {}
    for member in members(hint):
        if isinstance(member, type) and member not in (bool, int, float, str, type(None)):
            found.update((kind_name(cls), cls) for cls in _concrete(member))
    return dict(sorted(found.items()))


def _concrete(cls: type) -> Iterator[type]:
    """`cls` if it is a dataclass that can be made, and all such classes derived from it.

    `dataclass(slots=True)` makes a second class and leaves the first among the subclasses: the later one of a name
    counts.
    """
    if dataclasses.is_dataclass(cls) and not inspect.isabstract(cls):
        yield cls
    for sub in _latest(cls.__subclasses__()):
        yield from _concrete(sub)


def _latest(classes: Sequence[type]) -> list[type]:
    """The classes without those that a later one of the same name replaced."""
    return list({(c.__module__, c.__qualname__): c for c in classes}.values())


def is_variant(hint: Any) -> bool:
    """Whether a field of this type has a choice of classes, and is therefore written with its kind."""
    classes = [
        m for m in members(hint) if isinstance(m, type) and (dataclasses.is_dataclass(m) or inspect.isabstract(m))
    ]
    return len(classes) > 1 or any(inspect.isabstract(m) for m in classes)


def paths(cls: type, prefix: str = "", seen: tuple[type, ...] = ()) -> Iterator[str]:
    """Every dotted key of `cls`, those of all kinds of its variants included."""
    for name, hint in field_types(cls).items():
        path = f"{prefix}.{name}" if prefix else name
        yield path
        for kind in kinds(hint).values():
            if kind not in seen:  # Shifted holds a schedule that may be Shifted
                yield from paths(kind, path, (*seen, kind))


@cache
def keys_of(root: type) -> dict[str, str]:
    """Every dotted key, as messages write it and as a flag does: `sampling.steps` is `--steps` below `sampling`."""
    known = {path: path for path in paths(root)}
    return {**{f"{kind_name(root).lower()}.{path}": path for path in known}, **known}


def section_paths(cls: type, prefix: str = "") -> Iterator[str]:
    """The dotted keys that exist whatever classes are chosen."""
    for name, hint in field_types(cls).items():
        path = f"{prefix}.{name}" if prefix else name
        yield path
        if kinds(hint) and not is_variant(hint):
            yield from section_paths(next(iter(kinds(hint).values())), path)


def nearest(name: str, names: Sequence[str]) -> str | None:
    """The name that `name` was probably meant to be."""
    by_form = {canonical(n): n for n in names}
    found = difflib.get_close_matches(canonical(name), by_form, n=1, cutoff=0.6)
    return by_form[found[0]] if found else None
