"""What the doctor says: one remark a finding, with the check that it comes from and the setting that mends it.

broken     training refuses it, or learns nothing that anybody could want: exit code 1
warning    training runs, and the result is worse than it need be, or means less than it seems to
note       worth knowing
fine       looked at, and good
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

__all__ = ["ORDER", "Level", "Remark", "worst_first"]

Level = Literal["broken", "warning", "note", "fine"]
ORDER: tuple[Level, ...] = ("broken", "warning", "note", "fine")


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing that was found.

    check: the check that found it. what: a sentence with its numbers. fix: the remedy, as flags wherever a setting is
    one; empty where nothing needs to be done.
    """

    check: str
    level: Level
    what: str
    fix: str = ""

    def document(self) -> dict[str, str]:
        """As JSON data."""
        return asdict(self)


def worst_first(remarks: Iterable[Remark]) -> tuple[Remark, ...]:
    """The gravest first, otherwise in the order in which they were made."""
    return tuple(sorted(remarks, key=lambda remark: ORDER.index(remark.level)))
