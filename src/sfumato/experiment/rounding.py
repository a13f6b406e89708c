"""Numbers with errors as people read them: an error has two digits, and its number ends where the error does.

0.29212 with 0.0123 is 0.292 ± 0.012        123,456 with 1,234 is 123,500 ± 1,200        5e-8 with 2e-9 is
5.00e-08 ± 2.0e-09        0.5 of which no error is known (none, 0, or not finite) is 0.5, with up to five digits
"""

import math

__all__ = ["p_value", "rounded", "value_and_error", "with_error"]

DIGITS = 5  # of a number without an error
FINEST, LARGEST = -6, 1e6  # the last decimal, and the numbers, that are written without a power of ten
LEAST_P = 1e-12  # below it only the order of magnitude of the model of errors is told


def with_error(value: float, error: float | None, *, signed: bool = False) -> str:
    """`0.292 ± 0.012`; the number alone where no error is known. signed: + before what is above 0."""
    text, known = rounded(value, error, signed=signed), _known(value, error)
    return text if known is None else f"{text} ± {_told(value, known)}"


def value_and_error(value: float, error: float | None) -> tuple[str, str]:
    """The same for two columns of a table: `0.292` and `± 0.012`, or nothing."""
    text, sign, room = with_error(value, error).partition("±")
    return text.rstrip(), sign + room


def rounded(value: float, error: float | None, *, signed: bool = False) -> str:
    """A number to the last digit of its error, or to five digits where no error is known."""
    known = _known(value, error)
    if known is None:
        return _alone(value, signed=signed)
    last = _last(known)
    kept = round(value, -last) + 0.0  # of -0.0: 0.0
    sign = "+" if signed and kept else ""
    if _is_plain(value, known):
        return f"{kept:{sign},.{max(0, -last)}f}"
    return f"{kept:{sign}.{min(16, max(0, _exponent(kept) - last))}e}" if kept else "0"


def p_value(p: float) -> str:
    """A probability of chance, to two digits."""
    return f"< {LEAST_P:.0e}" if p < LEAST_P else f"{p:.2g}"


def _told(value: float, error: float) -> str:
    """The two digits of an error, in the form of its number."""
    last = _last(error)
    return f"{round(error, -last):,.{max(0, -last)}f}" if _is_plain(value, error) else f"{error:.1e}"


def _known(value: float, error: float | None) -> float | None:
    """The error where it says how far a number is known."""
    if error is None or not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return None
    return error


def _is_plain(value: float, error: float) -> bool:
    return _last(error) >= FINEST and max(abs(value), error) < LARGEST


def _last(error: float) -> int:
    """The power of ten of the second digit of an error; of 0.0996, which is 0.10, -2."""
    return int(f"{error:.1e}".partition("e")[2]) - 1


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


def _alone(value: float, *, signed: bool) -> str:
    """A number without an error."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else "-∞"
    sign = "+" if signed and value else ""
    whole = 10 ** (DIGITS - 1) <= abs(value) < LARGEST
    return f"{value:{sign},.0f}" if whole else f"{value:{sign},.{DIGITS}g}"
