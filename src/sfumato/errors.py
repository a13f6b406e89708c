"""The one family of errors that sfumato shows to people.

Every refusal says three things: what happened (naming the file, field and value), what would have been accepted, and
how to mend it. The command line prints exactly those three lines and exits with `exit_code`; library users catch
`SfumatoError`, or `ValueError`, `OSError` and so on where the kind fits one of Python's own.

This module imports nothing, so that every layer may use it.
"""

from collections.abc import Mapping
from typing import ClassVar

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FaultsError",
    "Interrupted",
    "NumericsError",
    "PartialError",
    "PlatformError",
    "ResourceError",
    "SfumatoError",
    "UsageError",
    "printable",
]


def printable(value: object) -> str:
    """Text on one line, as messages quote names and values: what a terminal would not show is written as an escape."""
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class SfumatoError(Exception):
    """A refusal in three sentences: `what` happened, what was `expected`, how to `fix` it.

    `code` is printed as `error[code]`; `exit_code` is the process's exit status. `document` is what was done or found
    before the refusal, as JSON data; empty where that is nothing.
    """

    code: ClassVar[str] = "BUG"
    exit_code: ClassVar[int] = 70

    def __init__(self, what: str, *, expected: str, fix: str, document: Mapping[str, object] | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.expected = expected
        self.fix = fix
        self.document: Mapping[str, object] = {} if document is None else document

    def __str__(self) -> str:
        return f"error[{self.code}]: {self.what}\nexpected: {self.expected}\nfix: {self.fix}"

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _rebuild, (type(self), self.what, self.expected, self.fix, self.document)


def _rebuild(
    kind: type[SfumatoError], what: str, expected: str, fix: str, document: Mapping[str, object]
) -> SfumatoError:
    """Unpickle an error that crossed a process border (keyword-only arguments defeat the default)."""
    return kind(what, expected=expected, fix=fix, document=document)


class PartialError(SfumatoError):
    """Some of what was asked for was done, and some failed."""

    code = "PARTIAL"
    exit_code = 1


class FaultsError(SfumatoError):
    """All was done that was asked for, and what was looked at is at fault."""

    code = "FAULTS"
    exit_code = 1


class UsageError(SfumatoError, ValueError):
    """A command line or a call that cannot be meant."""

    code = "USAGE"
    exit_code = 2


class ConfigError(UsageError):
    """A setting that is unknown, of the wrong type, out of range, or at odds with another."""

    code = "CONFIG"


class DataError(SfumatoError, ValueError):
    """Data that is missing, unreadable or not what the settings ask for."""

    code = "DATA"
    exit_code = 3


class CheckpointError(SfumatoError, ValueError):
    """A run folder, checkpoint or exported file that cannot be trusted or does not fit."""

    code = "CHECKPOINT"
    exit_code = 4


class NumericsError(SfumatoError, ArithmeticError):
    """A value that stopped being finite, or a solver that did not converge."""

    code = "NUMERICS"
    exit_code = 5


class ResourceError(SfumatoError, OSError):
    """Disk, memory, a lock or a port that is not to be had."""

    code = "RESOURCE"
    exit_code = 6

    def __str__(self) -> str:  # OSError's own would win otherwise
        return SfumatoError.__str__(self)


class PlatformError(SfumatoError, RuntimeError):
    """A device or an optional dependency that this machine lacks."""

    code = "ENVIRONMENT"
    exit_code = 7


class Interrupted(SfumatoError):
    """A run stopped by a signal at a step boundary, saved and resumable."""

    code = "INTERRUPTED"
    exit_code = 75
