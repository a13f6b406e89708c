"""Numbers, words and lists from text: strict about meaning, indifferent to spelling.

A whole number is written with digits (`012` is refused: some readers take it for ten) or as a float without fraction
(`1e4`); a number is any finite decimal (`1e-4`, `.5`, quoted or not); true and false may be written yes/no, on/off.
What the type of the field decides cannot be misread on the way: the text arrives here as it was written.
"""

import math
import numbers
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeGuard

from sfumato.errors import ConfigError
from sfumato.experiment.tree import Bare, Leaf, Node, Plain, Row

__all__ = ["read_scalar", "type_text"]

_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})")
_DECIMAL = re.compile(r"[-+]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][-+]?[0-9]{1,4})?")
_MAX_WHOLE = 2**63 - 1
_ORDER: tuple[object, ...] = (type(None), bool, int, float)  # the order in which a union is tried; text comes last


_PLURALS: dict[object, str] = {int: "whole numbers", float: "numbers", str: "texts"}
_COUNTS = {2: "two", 3: "three", 4: "four"}


def type_text(hint: Any, kinds: Mapping[str, type] | None = None) -> str:
    """What a field of this type accepts, in words."""
    if kinds:
        none = " or null" if type(None) in typing.get_args(hint) else ""
        return ("one of " if len(kinds) > 1 else "a section ") + ", ".join(kinds) + none
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Union or isinstance(hint, types.UnionType):
        texts = [type_text(member) for member in sorted(args, key=lambda m: m is type(None))]
        return ", ".join(texts[:-1]) + " or " + texts[-1]
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in args)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return f"a list of {_PLURALS[args[0]]}"
        return f"{_COUNTS[len(args)]} {_PLURALS[args[0]]}"
    names: dict[object, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        type(None): "null",
    }
    return names.get(hint, "a value")


def read_scalar(hint: Any, node: Node, place: str, *, example: str | None = None) -> object:
    """The value of a node for a field of scalar, list or union type; raises ConfigError beginning with `place`.

    `example` is a value that the field could have.
    """
    try:
        return _read(hint, node)
    except _Refused as error:
        fix = error.fix
        if example is not None and error.takes_any:
            fix = f"{place} {example}" if place.startswith("--") else f"{fix} such as {example}"
        raise ConfigError(f"{place}: {error.what}", expected=type_text(hint), fix=fix) from None


class _Refused(Exception):
    """Why a value was not understood, and what to write; `takes_any` when any value of the type would do."""

    def __init__(self, what: str, fix: str, *, takes_any: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix
        self.takes_any = takes_any


def _read(hint: Any, node: Node) -> object:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Union or isinstance(hint, types.UnionType):
        return _union(args, node)
    if origin is tuple:
        return _tuple(args, node)
    if not isinstance(node, Leaf):
        raise _Refused(
            "is a " + ("list" if isinstance(node, Row) else "section") + ", not a single value", "write one value"
        )
    if origin is Literal:
        return _choice(args, node.value)
    readers: dict[object, Any] = {type(None): _none, bool: _bool, int: _int, float: _float, str: _str}
    if hint not in readers:
        return node.value.value() if isinstance(node.value, Plain) else node.value
    return readers[hint](node.value)


def _shown(value: object) -> str:
    text = repr(value.text if isinstance(value, Plain) else value)
    return text if len(text) <= 60 else text[:57] + "…"


def _text(value: object) -> str | None:
    """Text as written, quoted or not."""
    return value.text.strip() if isinstance(value, Plain) else value.strip() if isinstance(value, str) else None


def _none(value: object) -> object:
    if value is None or (isinstance(value, Plain) and value.is_null):
        return None
    raise _Refused(f"{_shown(value)} is not null", "write null")


def _bool(value: object) -> object:
    text = _text(value)
    if isinstance(value, bool | Bare):
        return value if isinstance(value, bool) else True
    if text is not None and text.lower() in _BOOLS:
        return _BOOLS[text.lower()]
    raise _Refused(f"{_shown(value)} is neither true nor false", "write true or false")


def _is_number(value: object) -> TypeGuard[int | float]:
    """Whether a Python value is a number; NumPy's scalars are, booleans are not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _int(value: object) -> object:
    text = _text(value)
    number = value
    if text is not None:
        if re.fullmatch(r"[-+]?0[0-9]+", text):
            raise _Refused(f"{_shown(value)} has a leading zero", f"write {text.lstrip('+-0') or '0'}")
        if _WHOLE.fullmatch(text):
            number = int(text)
        elif _DECIMAL.fullmatch(text):
            number = float(text)
    if not _is_number(number):
        raise _Refused(f"{_shown(value)} is not a whole number", "write a whole number", takes_any=True)
    if not math.isfinite(number) or number != int(number):
        raise _Refused(f"{_shown(value)} is not a whole number", "leave out the fraction")
    if abs(int(number)) > _MAX_WHOLE:
        raise _Refused(f"{_shown(value)} is beyond ±{_MAX_WHOLE}", "write a smaller number")
    return int(number)


def _float(value: object) -> object:
    text = _text(value)
    number: object = value
    if text is not None:
        if text.lower().lstrip("+-.") in ("nan", "inf", "infinity"):
            raise _Refused(f"{_shown(value)} is not finite", "write a finite number")
        if not _DECIMAL.fullmatch(text):
            raise _Refused(f"{_shown(value)} is not a number", "write a number", takes_any=True)
        number = float(text)
    if not _is_number(number):
        raise _Refused(f"{_shown(value)} is not a number", "write a number", takes_any=True)
    if not math.isfinite(number):
        raise _Refused(f"{_shown(value)} is not finite", "write a finite number")
    return float(number)


def _str(value: object) -> object:
    if isinstance(value, str):
        return value
    if not isinstance(value, Plain):
        raise _Refused(f"{_shown(value)} is not text", f'write "{value}"')
    if value.text in ("~", "null"):
        raise _Refused(
            f"{_shown(value)} means nothing at all", f'write "{value.text}" for the word itself, or leave the key out'
        )
    return value.text


def _choice(options: tuple[Any, ...], value: object) -> object:
    text = _text(value)
    for option in options:
        if type(value) is type(option) and value == option:
            return option
        if text is not None and str(option).lower() == text.lower():
            return option
    raise _Refused(f"{_shown(value)} is not a choice", "write " + " or ".join(str(o) for o in options))


def _union(hints: tuple[Any, ...], node: Node) -> object:
    """The first alternative that understands the node: null, true/false, numbers, lists and choices, then text."""

    def rank(hint: Any) -> int:
        return _ORDER.index(hint) if hint in _ORDER else len(_ORDER) + (hint is str)

    refusals: dict[Any, _Refused] = {}
    for hint in sorted(hints, key=rank):
        try:
            return _read(hint, node)
        except _Refused as error:
            refusals[hint] = error
    refusals.pop(type(None), None)
    lists = [error for hint, error in refusals.items() if typing.get_origin(hint) is tuple]
    raise lists[0] if lists and isinstance(node, Row) else next(iter(refusals.values()))


def _tuple(args: tuple[Any, ...], node: Node) -> object:
    """A list: `[32, 64]` in a file, `32,64` or `[32, 64]` on a command line."""
    if isinstance(node, Leaf):
        text = _text(node.value)
        if text is None:
            raise _Refused(f"{_shown(node.value)} is not a list", "write a list: [1, 2]")
        parts = [part.strip() for part in text.strip("[]()").split(",")]
        node = Row(tuple(Leaf(Plain(part), node.origin) for part in parts if part), node.origin)
    if not isinstance(node, Row):
        raise _Refused("is a section, not a list", "write a list: [1, 2]")
    open_ended = len(args) == 2 and args[1] is Ellipsis
    hints = (args[0],) * len(node.items) if open_ended else args
    if len(hints) != len(node.items):
        raise _Refused(f"has {len(node.items)} entries, not {len(hints)}", f"write {len(hints)} entries")
    values = []
    for number, (hint, item) in enumerate(zip(hints, node.items, strict=True), 1):
        try:
            values.append(_read(hint, item))
        except _Refused as error:
            raise _Refused(f"entry {number}: {error.what}", error.fix) from None
    return tuple(values)
