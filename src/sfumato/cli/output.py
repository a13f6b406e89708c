"""What people and programs see: text and tables, three-line errors, and one JSON document on demand."""

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import IO

from sfumato.errors import SfumatoError, printable

__all__ = [
    "error_document",
    "error_text",
    "is_fancy",
    "is_first_process",
    "note",
    "say",
    "table",
    "write_json",
]


def is_fancy(stream: IO[str] | None) -> bool:
    """Whether a stream is a terminal that understands colours."""
    return stream is not None and stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def is_first_process() -> bool:
    """Whether this process is the one that speaks; torchrun starts several."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str = "") -> None:
    """A line for people: stdout, or stderr when stdout belongs to a JSON document. Only one process speaks."""
    if is_first_process():
        print(text)


def note(text: str) -> None:
    """A line beside the result, to stderr: what a person should know and no program needs."""
    if is_first_process():
        print(printable(text), file=sys.stderr)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for people: drawn by rich in a terminal, plain aligned columns elsewhere."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if is_fancy(sys.stdout):
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(*columns, box=None, header_style="bold", pad_edge=False)
        for row in cells:
            drawn.add_row(*(Text(cell, overflow="fold") for cell in row))
        Console().print(drawn)
        return
    widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
    for row in [list(columns), *cells]:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def write_json(document: Mapping[str, object], stream: IO[str] | None) -> None:
    """One JSON document; NaN and infinity become null, since JSON has neither."""
    if stream is not None:
        stream.write(json.dumps(_finite(document), ensure_ascii=True, default=str) + "\n")


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def error_text(error: SfumatoError) -> str:
    """The three lines of an error."""
    return (
        f"error[{error.code}]: {printable(error.what)}\n"
        f"expected: {printable(error.expected)}\nfix: {printable(error.fix)}"
    )


def error_document(error: SfumatoError) -> dict[str, object]:
    """The JSON document of an error, with what was done or found before it."""
    told = {"code": error.code, "what": error.what, "expected": error.expected, "fix": error.fix}
    return {**error.document, "error": told}
