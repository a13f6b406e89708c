"""Why tensors do not fit: which settings, or which facts of the data, differ from those of their training."""

from collections.abc import Iterator

from sfumato.errors import SfumatoError
from sfumato.experiment.config import Experiment
from sfumato.experiment.data_record import DataRecord
from sfumato.experiment.schema import flatten, read, to_plain
from sfumato.experiment.tree import tree_of

__all__ = ["completed", "differing", "differing_data", "misread"]

# What decides the names and shapes of a network's tensors.
DECIDING = ("network", "condition", "schedule", "objective", "data.size", "data.channels", "data.pad", "data.source")
MEANING = ("network", "schedule", "parameterization", "time_input")


def completed(plain: object) -> object:
    """Settings as plain data with the fields that came after them at their defaults; unchanged if they do not read."""
    try:
        return to_plain(read(Experiment, tree_of(plain, "experiment"), origin="experiment"))
    except SfumatoError:
        return plain


def differing(now: Experiment, then: object) -> tuple[str, ...]:
    """The settings that decide a network and are not what they were; `then` is plain data, None where it is not known.

    One clause for each: "network.widths is [8] and was [16] in training".
    """
    if then is None:
        return ()
    new, old = flatten(to_plain(now)), flatten(completed(then))
    keys = [key for key in dict.fromkeys([*new, *old]) if new.get(key) != old.get(key)]
    deciding = (key for key in keys if any(key == top or key.startswith(f"{top}.") for top in DECIDING))
    return tuple(f"{key} is {_shown(new, key)} and was {_shown(old, key)} in training" for key in deciding)


def misread(now: Experiment, then: object) -> tuple[str, ...]:
    """The settings by which the same weights would mean something else, as `differing` says them."""
    if then is None:
        return ()
    new, old = flatten(to_plain(now)), flatten(completed(then))
    keys = [key for key in new if key.split(".")[0] in MEANING and key in old and new[key] != old[key]]
    return tuple(f"{key} is {_shown(new, key)} and was {_shown(old, key)} in training" for key in keys)


def differing_data(now: DataRecord, then: DataRecord) -> Iterator[str]:
    """The facts of the data that decide a network and are not what they were."""
    facts = {
        "the shape of an example": (now.shape, then.shape),
        "the number of classes": (now.num_classes, then.num_classes),
        "the number of values": (now.num_values, then.num_values),
    }
    for what, (new, old) in facts.items():
        if new != old:
            yield f"{what} is {new} and was {old} in training"


def _shown(settings: dict[str, object], key: str) -> str:
    value = settings.get(key)
    return "null" if key in settings and value is None else "not there" if value is None else str(value)
