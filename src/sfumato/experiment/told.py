"""What a network is told, in words, and whether the data have it: classes that occur, numbers, pictures to degrade."""

from collections.abc import Sequence

import torch

from sfumato.condition import ConditionShape
from sfumato.data import Packed, Split
from sfumato.data.wording import counted
from sfumato.errors import ConfigError, DataError, printable
from sfumato.experiment.config import Experiment

__all__ = ["in_words", "require_told"]

NAMED = 10  # classes in a message


def in_words(condition: ConditionShape) -> str:
    """What a network is told, in words; empty for nothing."""
    words = [f"one of {condition.num_classes:,} classes"] if condition.num_classes else []
    words += [counted(condition.num_values, "real number")] if condition.num_values else []
    words += [f"a picture of {counted(condition.image_channels, 'channel')}"] if condition.image_channels else []
    return ", ".join(words)


def require_told(experiment: Experiment, packed: Packed, parts: Split) -> None:
    """Raise DataError where the data lack labels or values that the settings ask for, or examples of a class.

    So it does for more classes than the settings say; ConfigError for fewer, and for a picture that cannot be made.
    """
    told = experiment.condition
    if told.labels:
        require_labels(experiment, packed)
        if not told.allow_empty_classes:
            require_examples(experiment, packed, parts)
    if told.values and packed.conditions is None:
        raise DataError(
            f"{source(experiment)}: condition.values is true, and the data have no real numbers beside the examples",
            expected="an array file with conditions, (N,) or (N, V), or a table with columns of numbers",
            fix="store them with np.savez(path, images=images, conditions=numbers), or set condition.values: false",
        )
    if told.image is not None:
        told.image.check(packed.shape)


def source(experiment: Experiment) -> str:
    """The data, for messages: their path, or the name of the set."""
    data = experiment.data
    return f"data.source {data.source}" if data.path is None else printable(data.path)


def require_labels(experiment: Experiment, packed: Packed) -> None:
    """Refuse data without labels, with more classes than the settings say (data), and with fewer (settings)."""
    told = experiment.condition
    if packed.labels is None:
        raise DataError(
            f"{source(experiment)}: condition.labels is true, and the data have no labels",
            expected="a folder for each class, a table with a column `label`, or an array file with labels (y_train)",
            fix="sort the pictures into folders, add labels to the file, or set condition.labels: false",
        )
    if told.classes is not None and told.classes < packed.num_classes:
        called = packed.class_names or tuple(map(str, packed.label_values))
        raise DataError(
            f"{source(experiment)}: the data have {packed.num_classes:,} classes, and condition.classes is "
            f"{told.classes}; beyond them {_some(called[told.classes :])}",
            expected=f"at most {told.classes}, or condition.classes: {packed.num_classes}",
            fix=f"set condition.classes: {packed.num_classes}, or take the examples of the others out",
        )
    if told.classes is not None and told.classes > packed.num_classes:
        raise ConfigError(
            f"condition.classes is {told.classes}, and the data have {packed.num_classes:,} class"
            f"{'es' if packed.num_classes != 1 else ''}",
            expected=f"condition.classes: {packed.num_classes}, or null to count them",
            fix=f"set condition.classes: {packed.num_classes}",
        )


def require_examples(experiment: Experiment, packed: Packed, parts: Split) -> None:
    """Refuse classes without a training example: what a model would draw of them means nothing."""
    assert packed.labels is not None
    counts = torch.bincount(packed.labels[parts.train], minlength=packed.num_classes).tolist()
    names = packed.class_names or tuple(map(str, packed.label_values))
    empty = [*(name for name, count in zip(names, counts, strict=True) if count == 0), *packed.absent_classes]
    if not empty:
        return
    raise DataError(
        f"{source(experiment)}: no training example of the class{'es' if len(empty) > 1 else ''} {_some(empty)}",
        expected="a training example of every class that can be asked for",
        fix="add examples, raise data.limit, lower data.held_out, remove the class, "
        "or train all the same with condition.allow_empty_classes: true",
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(printable, names[:NAMED])) + more
