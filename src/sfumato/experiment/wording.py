"""Remedies in the form in which people wrote their settings: `--key value` after flags, `key: value` elsewhere.

A refusal is written once, wherever it is raised, as `set schedule.steps: 200, times.steps: 200`; `as_flags` makes
`--schedule.steps 200 --times.steps 200` of it. Only names of settings that there are (`keys`, from the name in a
message to that of the flag) are touched. In a call of Python the same is `steps=200`.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

from sfumato.errors import SfumatoError

__all__ = ["as_arguments", "as_flags", "as_settings", "in_arguments", "in_flags", "in_settings"]

E = TypeVar("E", bound=SfumatoError)

_VALUE = r"\[[^\]]*\]|[\w+/-](?:[\w.+/-]*[\w/])?"
_SETTING = re.compile(rf"(?:\bset )?(?<![\w.-])([a-z_]+(?:\.[a-z_]+)*): ({_VALUE})")
_FLAG = re.compile(r"(?<!\S)(\(?)--([a-z_]+(?:\.[a-z_]+)*) ([^\s,;()]*[^\s,;().?])")
_BETWEEN_FLAGS = re.compile(r"(--[\w.]+ \S+?)(?:, and |, | and | with )(?=--)")
_LOOKS_LIKE_A_VALUE = re.compile(r"[A-Z0-9\[]|(?:true|false|null)$")


def as_flags(text: str, keys: Mapping[str, str], *, prose: bool = False) -> str:
    """`key: value` as `--key value`; in `prose` only where the value cannot be a word of a sentence."""

    def flag(found: re.Match[str]) -> str:
        key, value = found[1], found[2]
        if key not in keys or (prose and not _LOOKS_LIKE_A_VALUE.match(value)):
            return found[0]
        return f"--{keys[key]} {_one_word(value)}"

    return _BETWEEN_FLAGS.sub(r"\1 ", _SETTING.sub(flag, text))


def _one_word(value: str) -> str:
    """A value as it stands after a flag: a list without its brackets, but for one that is empty."""
    return value.strip("[]").replace(" ", "") or "[]"


def as_settings(text: str, keys: Mapping[str, str]) -> str:
    """`--key value` as `key: value`."""
    return _FLAG.sub(lambda m: f"{m[1]}{m[2]}: {m[3]}" if m[2] in keys else m[0], text)


def as_arguments(text: str) -> str:
    """`sampling.key: value` as `key=value (--key value)`: what a call takes and what a command does."""

    def argument(found: re.Match[str]) -> str:
        key, value = found[1].removeprefix("sampling."), found[2]
        if "." in key or key == found[1]:
            return found[0]
        literal = {"null": "None", "true": "True", "false": "False"}.get(value, value)
        quoted = literal if literal != value or re.fullmatch(r"[-+0-9.e]+|\[.*", value) else repr(value)
        return f"{key}={quoted} (--{key} {_one_word(value)})"

    return _SETTING.sub(argument, text)


def in_arguments(error: E) -> E:
    """The error of settings that came as arguments of a call, with its remedies as such, and as flags."""
    what = error.what.replace("overrides: ", "").replace("sampling.", "")
    return type(error)(what, expected=error.expected, fix=as_arguments(error.fix), document=error.document)


def in_flags(error: E, keys: Mapping[str, str]) -> E:
    """The error with its remedies as flags."""
    expected, fix = as_flags(error.expected, keys, prose=True), as_flags(error.fix, keys)
    return type(error)(error.what, expected=expected, fix=fix, document=error.document)


def in_settings(error: E, keys: Mapping[str, str]) -> E:
    """The error with its remedies as settings of a file."""
    expected, fix = as_settings(error.expected, keys), as_settings(error.fix, keys)
    return type(error)(error.what, expected=expected, fix=fix, document=error.document)
