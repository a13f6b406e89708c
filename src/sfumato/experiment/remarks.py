"""What people say of a run: labels and notes, in `notes.jsonl` in its folder. Read without torch.

    {"when": "2026-11-23T10:00:00+00:00", "note": "collapsed after step 900"}
    {"when": …, "remove_note": 1}
    {"when": …, "add": ["baseline"], "remove": ["draft"]}

A line is appended in one write and never changed, so two people who write at once lose nothing, and a run that is being
trained can be written on. A note keeps its number, the n-th note ever written, when others are removed, so two who
remove at once remove what they saw. What holds is what the lines say, in their order; the times are there for people.
Torn and foreign lines are noted and passed over.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sfumato.errors import UsageError, printable
from sfumato.training.storage import LocalStorage, explained

__all__ = ["REMARKS", "Note", "Remarks", "remarks_of", "require_label", "write_labels", "write_note", "write_removal"]

REMARKS = "notes.jsonl"
MOST_BYTES = 1 << 24
LONGEST_NOTE = 10_000  # letters
_LABEL = re.compile(r"\w[\w.:-]{0,63}")

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Note:
    """A note, when it was written (UTC, ISO 8601), and its number, which no other note of the run ever has."""

    number: int
    when: str
    text: str


@dataclass(frozen=True, slots=True)
class Remarks:
    """What is said of a run: labels in the order of the alphabet, notes in that in which they were written."""

    labels: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()


def remarks_of(folder: Path, report: Report) -> Remarks:
    """The labels and notes of a run. Never raises: what cannot be read is noted."""
    path = folder / REMARKS
    try:
        if not path.is_file():
            return Remarks()
        lines = bytes(LocalStorage().read(path, count=MOST_BYTES)).split(b"\n")
        if path.stat().st_size > MOST_BYTES:
            report(f"{path} is too large: what stands after its first {MOST_BYTES:,} bytes is not read")
    except OSError as error:
        report(f"{path} cannot be read: {error.strerror or error}")
        return Remarks()
    labels: set[str] = set()
    notes: list[Note | None] = []  # None where one was removed
    for number, line in enumerate(lines, start=1):
        if line and not _heed(line, labels, notes):
            report(f"{path}: line {number} is torn or no remark; skipped")
    return Remarks(tuple(sorted(labels)), tuple(note for note in notes if note is not None))


def _heed(line: bytes, labels: set[str], notes: list[Note | None]) -> bool:
    """Do what a line says. False for one that says nothing."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return False
    if not isinstance(said, dict):
        return False
    text, gone = said.get("note"), said.get("remove_note")
    if isinstance(text, str):
        notes.append(Note(len(notes) + 1, str(said.get("when", "")), text))
        return True
    if type(gone) is int:
        if 1 <= gone <= len(notes):
            notes[gone - 1] = None
        return True
    added, removed = _labels(said.get("add")), _labels(said.get("remove"))
    labels |= added
    labels -= removed
    return bool(added or removed)


def _labels(said: object) -> set[str]:
    return {text for text in said if isinstance(text, str)} if isinstance(said, list) else set()


def require_label(label: str) -> None:
    """Refuse what is no label. Raises UsageError."""
    if _LABEL.fullmatch(label) is None:
        plain = re.sub(r"[^\w.:-]+", "-", label).strip("-.:")[:64]
        raise UsageError(
            f"{printable(label)!r} is no label",
            expected="up to 64 letters, digits, dots, dashes, colons and underscores, a letter or digit first",
            fix=f"+{plain or 'baseline'}",
        )


def write_labels(folder: Path, add: Sequence[str], remove: Sequence[str]) -> None:
    """Add and remove labels of a run. Raises UsageError for what is no label, ResourceError for storage."""
    for label in (*add, *remove):
        require_label(label)
    _append(folder, {"add": list(add), "remove": list(remove)})


def write_note(folder: Path, text: str) -> None:
    """Write a note on a run. Raises UsageError for an empty or endless one, ResourceError for storage."""
    if not text.strip() or len(text) > LONGEST_NOTE:
        raise UsageError(
            "the note is empty" if not text.strip() else f"the note has {len(text):,} letters",
            expected=f"a text of 1 to {LONGEST_NOTE:,} letters",
            fix='sfumato note RUN "what you saw"',
        )
    _append(folder, {"note": text})


def write_removal(folder: Path, number: int) -> None:
    """Remove note `number`. Raises UsageError where there is none, ResourceError for storage."""
    there = [note.number for note in remarks_of(folder, lambda text: None).notes]
    if number not in there:
        raise UsageError(
            f"{folder} has no note {number}",
            expected=f"one of {', '.join(map(str, there))}" if there else "a run with notes",
            fix=f"sfumato note {folder}",
        )
    _append(folder, {"remove_note": number})


def _append(folder: Path, said: dict[str, Any]) -> None:
    """Add a line of its own, whatever a power cut may have left of the last one; durably."""
    path, storage = folder / REMARKS, LocalStorage()
    line = json.dumps({"when": datetime.now(UTC).isoformat(timespec="seconds"), **said}).encode() + b"\n"
    try:
        there = storage.size(path) if path.exists() else 0
        whole = there == 0 or storage.read(path, start=there - 1) == b"\n"
        storage.append(path, line if whole else b"\n" + line)
        storage.fsync(path)
        storage.fsync_dir(folder)
    except OSError as error:
        raise explained(error, f"writing {path}", path=folder, storage=storage) from None
