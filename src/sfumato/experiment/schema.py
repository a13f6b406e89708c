"""Frozen dataclasses from plain settings and back, by their type hints alone.

    read(Experiment, tree) -> Experiment      to_plain(experiment) -> dicts, lists, scalars      read(to_plain(x)) == x

A field whose type is an abstract class, or a union of dataclasses, is a *variant*: it is written `schedule:
CosineAngle` or `schedule: {kind: CosineAngle, max_signal_rate: 0.9}`. Its kinds are the concrete dataclasses below it;
their names are matched without regard to case or dashes, and a final `Config` may be left out. A field that is missing
keeps its default. All that is wrong is collected and refused at once, each with its place; no code named by the
settings is ever imported or called.
"""

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from sfumato.errors import ConfigError, UsageError
from sfumato.experiment.scalars import read_scalar, type_text
from sfumato.experiment.tree import Branch, Leaf, Node, Plain, named_kind, tree_of

__all__ = [
    "canonical",
    "field_types",
    "flatten",
    "is_variant",
    "kind_name",
    "kinds",
    "nearest",
    "paths",
    "read",
    "read_field",
    "refuse_all",
    "to_plain",
]

T = TypeVar("T")


def read(cls: type[T], settings: Node | Mapping[str, object], *, origin: str = "settings", base: T | None = None) -> T:
    """The `cls` that the settings describe; fields left out come from `base`, or else from the class's defaults.

    Raises one ConfigError that names everything that is wrong.
    """
    node = tree_of(settings, origin)
    try:
        return typing.cast(T, _Reader(cls).value(cls, node, (), base))
    except ExceptionGroup as group:
        refuse_all(list(_leaves(group)))
        raise AssertionError("a group without errors") from group


def read_field(cls: type, name: str, settings: Node, *, base: object = None) -> Any:
    """One field of `cls` from settings, for options such as `--sampler` that stand for a field."""
    hint = field_types(cls)[name]
    try:
        return _Reader(cls).value(hint, settings, (name,), base)
    except ExceptionGroup as group:
        refuse_all(list(_leaves(group)))
        raise AssertionError("a group without errors") from group


def refuse_all(errors: Sequence[UsageError]) -> None:
    """Raise the one error, or one ConfigError that numbers them all; do nothing for none."""
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0]

    def numbered(texts: list[str]) -> str:
        return "; ".join(f"({i}) {text}" for i, text in enumerate(texts, 1))

    raise ConfigError(
        f"{len(errors)} problems: " + numbered([e.what for e in errors]),
        expected=numbered([e.expected for e in errors]),
        fix=numbered([e.fix for e in errors]),
    ) from ExceptionGroup("settings", list(errors))


def to_plain(value: object, hint: Any = None) -> Any:
    """Dicts, lists and scalars that `read` turns into an equal value; a variant without fields is written as its bare
    name.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = field_types(type(value))
        plain = {f.name: to_plain(getattr(value, f.name), hints[f.name]) for f in dataclasses.fields(value) if f.init}
        if hint is not None and is_variant(hint):
            name = kind_name(type(value))
            return {"kind": name, **plain} if plain else name
        return plain
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def flatten(plain: object, prefix: str = "") -> dict[str, object]:
    """Dotted keys and values of nested plain data; lists are values."""
    if not isinstance(plain, Mapping):
        return {prefix: plain}
    flat: dict[str, object] = {}
    for key, item in plain.items():
        flat.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat


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


def nearest(name: str, names: Sequence[str]) -> str | None:
    """The name that `name` was probably meant to be."""
    by_form = {canonical(n): n for n in names}
    found = difflib.get_close_matches(canonical(name), by_form, n=1, cutoff=0.6)
    return by_form[found[0]] if found else None


def place(node: Node, path: tuple[str, ...]) -> str:
    """Where a value stands, for the start of a message: `mine.yaml:12: training.steps`, or the flag itself."""
    key = ".".join(path)
    if node.origin.startswith("--") or not key:
        return node.origin
    return f"{node.origin}: {key}"


class _Reader:
    """Reads the settings of one root class; the root is kept to suggest keys from anywhere in it."""

    def __init__(self, root: type) -> None:
        self.root = root

    def value(self, hint: Any, node: Node, path: tuple[str, ...], base: object) -> object:
        """The value of a node for a field of type `hint`; raises a group of ConfigErrors."""
        found = kinds(hint)
        if found and not self._is_none(hint, node):
            return self._object(hint, found, node, path, base)
        try:
            return read_scalar(hint, node, place(node, path))
        except ConfigError as error:
            raise ExceptionGroup("settings", [error]) from None

    @staticmethod
    def _is_none(hint: Any, node: Node) -> bool:
        """Whether the node says None where None is allowed."""
        if type(None) not in members(hint) or not isinstance(node, Leaf):
            return False
        return node.value is None or (isinstance(node.value, Plain) and node.value.is_null)

    def _object(self, hint: Any, found: dict[str, type], node: Node, path: tuple[str, ...], base: object) -> object:
        """The dataclass that a node describes: its kind first, then its fields."""
        cls = self._kind(hint, found, node, path, base)
        items = self._items(hint, found, node, cls, base)
        known = field_types(cls)
        same = base if type(base) is cls else None
        errors: list[UsageError] = []
        values: dict[str, object] = {}
        for name, item in items.items():
            if name not in known:
                errors.append(self._unknown(cls, found, name, item, (*path, name)))
                continue
            try:
                values[name] = self.value(known[name], item, (*path, name), self._default(cls, same, name))
            except ExceptionGroup as group:
                errors += _leaves(group)
        for f in dataclasses.fields(cls):
            if not f.init or f.name in items:
                continue
            if same is not None:
                values[f.name] = getattr(same, f.name)
            elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                errors.append(self._missing(cls, f.name, known[f.name], node, path))
        if errors:
            raise ExceptionGroup("settings", errors)
        return self._made(cls, values, items, node)

    @staticmethod
    def _default(cls: type, base: object, name: str) -> object:
        """The value that a field has when nothing is said, as the base of what is said about its parts."""
        if base is not None:
            return getattr(base, name)
        f = next(f for f in dataclasses.fields(cls) if f.name == name)
        if f.default is not dataclasses.MISSING:
            return f.default
        return None if f.default_factory is dataclasses.MISSING else f.default_factory()

    def _items(self, hint: Any, found: dict[str, type], node: Node, cls: type, base: object) -> dict[str, Node]:
        """The fields given for `cls`, those included that were given before its name was given again."""
        if not isinstance(node, Branch):
            return {}
        items: dict[str, Node] = {}
        if node.before is not None:
            name = named_kind(node.before)
            former = type(base) if name is None else spellings(hint, found).get(canonical(name))
            items = self._items(hint, found, node.before, cls, base) if former is cls else {}
        return {**items, **{name: item for name, item in node.items.items() if name != "kind"}}

    @staticmethod
    def _made(cls: type, values: dict[str, object], items: Mapping[str, Node], node: Node) -> object:
        """The object; each of its own refusals gets the line of the first field that it names."""
        try:
            return cls(**values)
        except UsageError as error:
            group = error.__cause__
            parts = list(_leaves(group)) if isinstance(group, ExceptionGroup) else [error]
            raise ExceptionGroup("settings", [_located(part, items, node) for part in parts]) from error

    def _kind(self, hint: Any, found: dict[str, type], node: Node, path: tuple[str, ...], base: object) -> type:
        name = named_kind(node)
        if name is None and isinstance(node, Branch):
            if not is_variant(hint):
                return next(iter(found.values()))
            if node.implied and base is not None:
                return type(base)
        at, listed = place(node, path), ", ".join(found)
        if name is None or (not is_variant(hint) and isinstance(node, Leaf)):
            given = "has no kind" if isinstance(node, Branch) else "is not a section"
            raise _one(
                at, given, f"{path[-1] if path else 'settings'}: " + type_text(hint, found), self._example(path, found)
            )
        by_form = spellings(hint, found)
        if canonical(name) in by_form:
            return by_form[canonical(name)]
        close = nearest(name, list(found))
        fix = f"did you mean {close}?" if close else self._example(path, found)
        raise _one(at, f"there is no {name!r}", f"one of {listed}", fix)

    @staticmethod
    def _example(path: tuple[str, ...], found: dict[str, type]) -> str:
        key = path[-1] if path else "settings"
        first = next(iter(found.values()))
        if len(found) > 1:
            return f"write {key}: {kind_name(first)} or {key}: {{kind: {kind_name(first)}, …}}"
        return f"set its fields, such as {'.'.join((*path, next(iter(field_types(first)), '…')))}"

    def _unknown(self, cls: type, found: dict[str, type], name: str, node: Node, path: tuple[str, ...]) -> ConfigError:
        known = list(field_types(cls))
        section = f"{'.'.join(path[:-1])} ({kind_name(cls)})" if path[:-1] else kind_name(cls)
        return ConfigError(
            f"{place(node, path)}: unknown key {name!r}",
            expected=f"a field of {section}: {', '.join(known) or 'it has none'}",
            fix=self._guess(known, found, name, path, "--" if node.origin.startswith("--") else ""),
        )

    def _guess(self, known: list[str], found: dict[str, type], name: str, path: tuple[str, ...], dash: str) -> str:
        """What an unknown key was probably meant to be: a field here, one of another class, or one elsewhere."""
        close = nearest(name, known)
        if close is not None:
            return f"did you mean {dash}{'.'.join((*path[:-1], close))}?"
        owner = next((kind for kind, cls in found.items() if name in field_types(cls)), None)
        if owner is not None:
            return f"choose {dash}{'.'.join(path[:-1])} {owner}, which has {name}"
        key = ".".join(path)
        dotted = [other for other in paths(self.root) if other != key]
        elsewhere = [other for other in dotted if other.rpartition(".")[2] == name]
        guess = min(elsewhere, key=len) if elsewhere else nearest(key, [other for other in dotted if "." in other])
        return f"did you mean {dash}{guess}?" if guess else f"delete {key}"

    @staticmethod
    def _missing(cls: type, name: str, hint: Any, node: Node, path: tuple[str, ...]) -> ConfigError:
        key = ".".join((*path, name))
        return ConfigError(
            f"{node.origin or 'settings'}: {key} is missing ({kind_name(cls)} needs it)",
            expected=f"{key}: {type_text(hint, kinds(hint))}",
            fix=f"add {key}",
        )


def _located(error: UsageError, items: Mapping[str, Node], node: Node) -> UsageError:
    """The error with the place of the first setting that its words name, or of the whole object."""
    for word in error.what.split():
        keys = word.strip(":,;()'").split(".")
        for start in range(len(keys)):
            found = items.get(keys[start])
            for key in keys[start + 1 :]:
                found = found.items.get(key, found) if isinstance(found, Branch) else found
            if found is not None:
                return type(error)(f"{found.origin}: {error.what}", expected=error.expected, fix=error.fix)
    where = f"{node.origin}: " if node.origin else ""
    return type(error)(where + error.what, expected=error.expected, fix=error.fix)


def _one(at: str, what: str, expected: str, fix: str) -> ExceptionGroup:
    return ExceptionGroup("settings", [ConfigError(f"{at}: {what}", expected=expected, fix=fix)])


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[Any]:
    """The errors of a group, nested groups opened, in order."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
