"""Evaluations on disk: what `sfumato evaluate` wrote beside a run, or one such file anywhere. Read without torch.

    {"run": NAME, "metrics": {NAME: {"value", "std_error", "n", "provenance"}}, "notes": […], "influences": {NAME: […]}}

`influences` are what each example or block adds to the error of a number (`sfumato.metrics.estimate`): by them two
evaluations are compared in pairs, whenever and wherever they were made. Files of older versions have none.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.errors import DataError, SfumatoError

__all__ = ["Fact", "Number", "StoredEvaluation", "evaluation_of", "read_evaluation", "stored_evaluations"]

Fact = str | int | float | bool | None
MOST_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Number:
    """One measured number: an `Estimate` as it is stored."""

    value: float
    std_error: float
    n: int
    provenance: Mapping[str, Fact]
    influences: tuple[float, ...] | None = None

    @property
    def is_averaged(self) -> bool:
        """Whether it is of the averaged weights."""
        return self.provenance.get("weights", "ema") == "ema"


@dataclass(frozen=True, slots=True)
class StoredEvaluation:
    """The numbers of one evaluation by name; `file` is None for one that was just made and not written."""

    run: str
    metrics: Mapping[str, Number]
    file: Path | None = None


def stored_evaluations(folder: Path, note: Callable[[str], None]) -> list[StoredEvaluation]:
    """The evaluations beside a run, by name of the file; what is damaged is noted and passed over."""
    found = []
    for path in sorted((folder / "evaluations").glob("*.json")):
        try:
            found.append(read_evaluation(path))
        except SfumatoError as error:
            note(f"{error.what}; passed over")
    return found


def read_evaluation(path: Path) -> StoredEvaluation:
    """One file. Raises DataError for one that cannot be read, or that no evaluation wrote."""
    try:
        readable = path.is_file() and path.stat().st_size <= MOST_BYTES  # a pipe would wait for ever
        plain = json.loads(path.read_bytes()) if readable else None
    except OSError as error:
        raise _refusal(path, error.strerror or str(error)) from None
    except (ValueError, RecursionError):
        raise _refusal(path, "it is not JSON") from None
    return evaluation_of(plain, path)


def evaluation_of(plain: object, file: Path | None = None) -> StoredEvaluation:
    """An evaluation from JSON data. Raises DataError for what is none, naming the number."""
    if not isinstance(plain, dict) or not isinstance(plain.get("metrics"), dict):
        raise _refusal(file, "it has no metrics")
    influences = plain.get("influences", {})
    if not isinstance(influences, dict):
        raise _refusal(file, "its influences are not listed by name")
    metrics = {str(name): _number(name, one, influences.get(name), file) for name, one in plain["metrics"].items()}
    return StoredEvaluation(str(plain.get("run", "")), metrics, file)


def _number(name: str, plain: object, influences: object, file: Path | None) -> Number:
    """One number of the file."""
    if not isinstance(plain, dict):
        raise _refusal(file, f"{name} is no estimate")
    parts: list[Any] = [plain.get(key) for key in ("value", "std_error", "n", "provenance")]
    value, error, n, facts = parts
    if not (_finite(value) and _finite(error) and error >= 0 and type(n) is int and isinstance(facts, dict)):
        raise _refusal(file, f"{name} has no finite value with an error, a count and a provenance")
    if not all(fact is None or isinstance(fact, str | int | float) for fact in facts.values()):
        raise _refusal(file, f"the provenance of {name} holds more than text and numbers")
    if influences is not None and not (isinstance(influences, list) and all(map(_finite, influences))):
        raise _refusal(file, f"the influences of {name} are not finite numbers")
    return Number(float(value), float(error), n, facts, None if influences is None else tuple(map(float, influences)))


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refusal(file: Path | None, why: str) -> DataError:
    return DataError(
        f"{file or 'an evaluation'} cannot be used: {why}",
        expected="a file as `sfumato evaluate` writes it",
        fix="evaluate the run again, or leave the file out",
    )
