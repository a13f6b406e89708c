"""The sources by name."""

from sfumato.errors import UsageError
from sfumato.experiment.kinds import nearest
from sfumato.experiment.reproduce.arnason import ARNASON
from sfumato.experiment.reproduce.esling import ESLING
from sfumato.experiment.reproduce.falbel import FALBEL
from sfumato.experiment.reproduce.nickd16 import NICKD16
from sfumato.experiment.reproduce.source import Source
from sfumato.experiment.reproduce.yukino1010 import YUKINO1010

__all__ = ["SOURCES", "source_named"]

SOURCES: dict[str, Source] = {source.name: source for source in (FALBEL, ESLING, NICKD16, ARNASON, YUKINO1010)}


def source_named(name: str) -> Source:
    """The source of a name, without regard to case. Raises UsageError naming the nearest."""
    found = SOURCES.get(name.strip().lower())
    if found is None:
        near = nearest(name, list(SOURCES))
        raise UsageError(
            f"there is no source {name!r}",
            expected="one of " + ", ".join(SOURCES),
            fix=f"did you mean {near}?" if near else "`sfumato reproduce` lists them",
        )
    return found
