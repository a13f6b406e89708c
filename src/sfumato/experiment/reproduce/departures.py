"""In what an arm differs from the source's own settings: what its numbers cannot be compared over.

The settings of the arm are held against those of the source's recipe at full scale, key by key; what changes no number
(folders, intervals, device, threads, precision) is passed over, and so is what only the data decide.
"""

from collections.abc import Iterator

from sfumato.experiment.config import Experiment
from sfumato.experiment.schema import flatten, to_plain

__all__ = ["begun_otherwise", "departures", "other_data"]

UNTELLING = (
    *("name", "description", "seed", "evaluation", "allow_terminal_signal", "sampling.micro_batch"),
    *("data.source", "data.path", "data.cache", "data.download", "data.bad_files", "data.limit", "condition.classes"),
    *("training.device", "training.precision", "training.compile", "training.threads", "training.log_every"),
    *("training.checkpoint_every", "training.keep_checkpoints", "training.keep_best", "training.evaluate_every"),
    *("training.preview_every", "training.preview_count", "training.copies_every", "training.on_disk_full"),
    *("training.power_ema", "training.power_ema_every", "training.power_ema_disk", "training.accumulate"),
    "training.initial_weights",
)


def departures(experiment: Experiment, own: Experiment) -> tuple[str, ...]:
    """The settings in which an experiment differs from the source's `own`, in words."""
    return tuple(f"{key} {_told(mine)}, not {_told(theirs)}" for key, mine, theirs in _differing(experiment, own))


def begun_otherwise(begun: Experiment, wanted: Experiment) -> tuple[str, ...]:
    """The settings in which a run that is there differs from the one that is wanted, in words."""
    found = list(_differing(begun, wanted))
    if begun.seed != wanted.seed:
        found.append(("seed", begun.seed, wanted.seed))
    if begun.data.limit != wanted.data.limit:
        found.append(("data.limit", begun.data.limit, wanted.data.limit))
    return tuple(f"{key} {_told(mine)}, not {_told(theirs)}" for key, mine, theirs in found)


def _differing(one: Experiment, other: Experiment) -> Iterator[tuple[str, object, object]]:
    """Key, value and other value of the settings that tell, where the other is decided."""
    mine, theirs = flatten(to_plain(one)), flatten(to_plain(other))
    for key in dict.fromkeys([*theirs, *mine]):
        passed = any(key == quiet or key.startswith(quiet + ".") for quiet in UNTELLING)
        a, b = mine.get(key), theirs.get(key)
        if not passed and a != b and b is not None and b != "auto":
            yield key, a, b


def other_data(count: int, examples: int | None) -> str | None:
    """In what the examples are others than the source's, as far as their number tells."""
    if examples is None or count == examples:
        return None
    return f"{count:,} examples, not {examples:,}"


def _told(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
