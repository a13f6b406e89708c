"""Frozen dataclasses from plain settings and back, by their type hints alone.

    read(Experiment, tree) -> Experiment      to_plain(experiment) -> dicts, lists, scalars      read(to_plain(x)) == x

A field whose type is an abstract class, or a union of dataclasses, is a *variant*: it is written `schedule:
CosineAngle` or `schedule: {kind: CosineAngle, max_signal_rate: 0.9}`. Its kinds are the concrete dataclasses below it;
their names are matched without regard to case or dashes, and a final `Config` may be left out. A field that is missing
keeps its default. A variant whose field says `metadata=KIND_OPTIONAL` may be a section without a kind, which is then
one of its default's class. All that is wrong is collected and refused at once, each with its place; no code named by
the settings is ever imported or called.
"""

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sfumato.errors import ConfigError, UsageError
from sfumato.experiment.kinds import (
    canonical,
    field_types,
    is_variant,
    keys_of,
    kind_name,
    kinds,
    members,
    nearest,
    paths,
    section_paths,
    spellings,
)
from sfumato.experiment.scalars import read_scalar, type_text
from sfumato.experiment.tree import Bare, Branch, Leaf, Node, Plain, named_kind, tree_of
from sfumato.experiment.wording import in_flags, in_settings

__all__ = ["KIND_OPTIONAL", "flatten", "place", "read", "read_field", "refuse_all", "to_plain"]

T = TypeVar("T")

KIND_OPTIONAL = {"kind_optional": True}  # for a field that became a variant when settings of it were stored already


def read(cls: type[T], settings: Node | Mapping[str, object], *, origin: str = "settings", base: T | None = None) -> T:
    """The `cls` that the settings describe; fields left out come from `base`, or else from the class's defaults.

    Raises one ConfigError that names everything that is wrong.
    """
    return typing.cast(T, _read(cls, cls, tree_of(settings, origin), (), base))


def read_field(cls: type, name: str, settings: Node, *, base: object = None) -> Any:
    """One field of `cls` from settings, for options such as `--sampler` that stand for a field."""
    return _read(cls, field_types(cls)[name], settings, (name,), base)


def _read(root: type, hint: Any, node: Node, path: tuple[str, ...], base: object) -> object:
    """The value of a node; raises one error for all that is wrong, its remedies in the form of the settings."""
    try:
        return _Reader(root).value(hint, node, path, base)
    except ExceptionGroup as group:
        keys = keys_of(root)
        refuse_all([in_flags(e, keys) if e.what.startswith("--") else in_settings(e, keys) for e in _leaves(group)])
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
        if isinstance(node, Leaf) and isinstance(node.value, Bare) and bool not in members(hint):
            fix = f"{node.origin} {_example(hint, base) or next(iter(found), 'VALUE')}"
            error = ConfigError(f"{node.origin} needs a value", expected=type_text(hint, found), fix=fix)
            raise ExceptionGroup("settings", [error])
        if found and not self._is_none(hint, node):
            return self._object(hint, found, node, path, base)
        try:
            return read_scalar(hint, node, place(node, path), example=_example(hint, base))
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
                item = self._with_usual_kind(cls, name, item)
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
    def _with_usual_kind(cls: type, name: str, item: Node) -> Node:
        """The section of a field that may leave its kind out, as one that a dotted key made."""
        optional = _field(cls, name).metadata.get("kind_optional", False)
        return dataclasses.replace(item, implied=True) if optional and isinstance(item, Branch) else item

    @staticmethod
    def _default(cls: type, base: object, name: str) -> object:
        """The value that a field has when nothing is said, as the base of what is said about its parts."""
        if base is not None:
            return getattr(base, name)
        f = _field(cls, name)
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
            expected = f"{path[-1] if path else 'settings'}: " + type_text(hint, found)
            raise _one(at, given, expected, self._example(path, found, node))
        by_form = spellings(hint, found)
        if canonical(name) in by_form:
            return by_form[canonical(name)]
        close = nearest(name, list(found))
        fix = f"did you mean {close}?" if close else self._example(path, found, node)
        raise _one(at, f"there is no {name!r}", f"one of {listed}", fix)

    @staticmethod
    def _example(path: tuple[str, ...], found: dict[str, type], node: Node) -> str:
        key = path[-1] if path else "settings"
        first = next(iter(found.values()))
        dashed = f"--{'.'.join(path)}"
        if node.origin.startswith("--"):
            field = next(iter(field_types(first)), "FIELD")
            return f"{dashed} {kind_name(first)}" if len(found) > 1 else f"set its fields, such as {dashed}.{field} …"
        if len(found) > 1:
            return f"write {key}: {kind_name(first)} or {key}: {{kind: {kind_name(first)}, …}}"
        return f"set its fields, such as {'.'.join((*path, next(iter(field_types(first)), '…')))}"

    def _unknown(self, cls: type, found: dict[str, type], name: str, node: Node, path: tuple[str, ...]) -> ConfigError:
        known = list(field_types(cls))
        section = f"{'.'.join(path[:-1])} ({kind_name(cls)})" if path[:-1] else kind_name(cls)
        return ConfigError(
            f"{place(node, path)}: unknown key {name!r}",
            expected=f"a field of {section}: {', '.join(known) or 'it has none'}",
            fix=self._guess(known, found, name, path, node),
        )

    def _guess(self, known: list[str], found: dict[str, type], name: str, path: tuple[str, ...], node: Node) -> str:
        """What an unknown key was probably meant to be: a field here, one of another class, or one elsewhere."""
        dash = "--" if node.origin.startswith("--") else ""
        close, below = nearest(name, known), _first_below(node)
        key = ".".join((*path, *below))
        dotted = [other for other in paths(self.root) if "." in other and other != key]
        same_name = [other for other in dotted if other.rpartition(".")[2] == key.rpartition(".")[2]]
        guesses = [other for other in section_paths(self.root) if other in same_name]
        if close is not None and not (guesses and "." not in key):
            meant = ".".join((*path[:-1], close))
            if below:
                meant = nearest(".".join((meant, *below)), list(paths(self.root))) or meant
            return f"did you mean {dash}{meant}?"
        owner = next((kind for kind, cls in found.items() if name in field_types(cls)), None)
        section = ".".join(path[:-1])
        if owner is not None and dash and isinstance(node, Leaf) and isinstance(node.value, Plain):
            return f"choose {owner}, which has {name}: --{section} {owner} --{section}.{name} {node.value.text}"
        if owner is not None:
            return f"choose {dash}{section} {owner}, which has {name}"
        guesses = guesses or sorted(same_name, key=len)[:1] or [g for g in [nearest(key, dotted)] if g is not None]
        return f"did you mean {' or '.join(f'{dash}{g}' for g in guesses)}?" if guesses else f"delete {key}"

    @staticmethod
    def _missing(cls: type, name: str, hint: Any, node: Node, path: tuple[str, ...]) -> ConfigError:
        key = ".".join((*path, name))
        accepted = type_text(hint, kinds(hint))
        return ConfigError(
            f"{node.origin or 'settings'}: {key} is missing ({kind_name(cls)} needs it)",
            expected=f"{key}: {accepted}",
            fix=f"add --{key}, followed by {accepted}" if node.origin.startswith("--") else f"add {key}",
        )


def _field(cls: type, name: str) -> dataclasses.Field[Any]:
    return next(f for f in dataclasses.fields(cls) if f.name == name)


def _located(error: UsageError, items: Mapping[str, Node], node: Node) -> UsageError:
    """The error with the place of a setting that its words name (of a flag or an override first), or of the object."""
    places: list[str] = []
    for word in error.what.split():
        keys = word.strip(":,;()'").split(".")
        for start in range(len(keys)):
            found = items.get(keys[start])
            for key in keys[start + 1 :]:
                found = found.items.get(key, found) if isinstance(found, Branch) else found
            if found is not None:
                places.append(found.origin)
                break
    places = sorted(places, key=lambda origin: (not origin.startswith("--"), origin != "overrides"))  # a stable sort
    origin = places[0] if places else node.origin
    where = f"{origin}: " if origin else ""
    return type(error)(where + error.what, expected=error.expected, fix=error.fix, document=error.document)


def _first_below(node: Node) -> tuple[str, ...]:
    """The rest of a dotted key, where only its beginning was looked up: `steps` of `--trainig.steps`."""
    if not (isinstance(node, Branch) and node.implied and node.items):
        return ()
    name, item = next(iter(node.items.items()))
    return (name, *_first_below(item))


def _example(hint: Any, base: object) -> str | None:
    """A value that a field could have: its default, or any of its type; None when there is nothing to show."""
    if dataclasses.is_dataclass(base) and not isinstance(base, type):
        return kind_name(type(base))
    if isinstance(base, tuple):
        return ",".join(str(item) for item in base)
    if base is not None:
        return str(base).lower() if isinstance(base, bool) else str(base)
    usual = {int: "1", float: "0.1"}
    return next((usual[member] for member in members(hint) if member in usual), None)


def _one(at: str, what: str, expected: str, fix: str) -> ExceptionGroup:
    return ExceptionGroup("settings", [ConfigError(f"{at}: {what}", expected=expected, fix=fix)])


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[Any]:
    """The errors of a group, nested groups opened, in order."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
