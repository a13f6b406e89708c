"""Numbers and names as the page writes them, with real minus signs and powers of ten."""

import itertools
import math
import re
from collections.abc import Sequence

from sfumato.experiment import rounding as plain

__all__ = ["MINUS", "number", "numbers", "sized", "title", "typeset", "with_error"]

MINUS = "−"
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
POWER = re.compile(r"(?<=\d)e([+-]\d+)")


def number(value: float, digits: int = 3) -> str:
    """A number with up to `digits` significant digits; very large and very small ones as m × 10ⁿ."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else f"{MINUS}∞"
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return typeset(f"{mantissa}e{exponent}")
    if abs(value) >= 10 ** (digits - 1) or value == int(value):
        return f"{value:,.0f}".replace("-", MINUS)
    return f"{value:.{digits}g}".replace("-", MINUS)


def numbers(values: Sequence[float]) -> list[str]:
    """Round numbers along an axis, each with as many digits as all of them need to be told exactly."""
    step = min((abs(b - a) for a, b in itertools.pairwise(values)), default=0.0)
    for digits in range(3, 12):
        if all(abs(_shown(value, digits) - value) <= 1e-6 * step for value in values):
            break
    return [number(value, digits) for value in values]


def _shown(value: float, digits: int) -> float:
    """The number that a reader takes from `number`."""
    whole = 10 ** (digits - 1) <= abs(value) < 1e6
    return float(f"{value:.0f}" if whole else f"{value:.{digits}g}")


def with_error(value: float, error: float | None, *, signed: bool = False) -> str:
    """`0.292 ± 0.012`, the number alone where no error is known, as `rounding.with_error` but typeset."""
    return typeset(plain.with_error(value, error, signed=signed))


def typeset(text: str) -> str:
    """Text with a real minus sign in its numbers, and m × 10ⁿ for `m` with an `e`."""
    powers = POWER.sub(lambda found: f" × 10{str(int(found[1])).translate(RAISED)}", text)
    return powers.replace("-", MINUS)


def sized(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.0f} kB"


def title(value: object) -> str:
    """A setting as people read it: yes, no, none, lists with commas."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(title(item) for item in value) or "none"
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    return number(value, 6) if isinstance(value, float) else str(value)
