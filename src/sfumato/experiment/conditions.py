"""From what people ask of samples to the `Condition` that a network is told.

    "daisy", 3, [0, 3, 7], "all"      ->  labels k in 0 … K-1, one for each sample
    0.3, [[0.3, 1.0], …]              ->  values a in units of the data -> normalised as in training
    pictures                          ->  what the model's own degradation makes of them, beside x_t

A text names a class: first by its name, whatever the case, then by the value that the data wrote ("3" is the class
whose label is 3; where labels are names, a number counts them from 0). `all` gives sample i class i mod K, several
names with commas between them take turns likewise, and `none` leaves labels and values out, which a model can do that
was trained so (`condition.dropout` above 0). Within one batch a sample without its label is one of guidance 0.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.condition import Condition, ConditionShape
from sfumato.core import NoiseSource
from sfumato.data import Packed
from sfumato.errors import UsageError, printable
from sfumato.experiment.build import DataRecord
from sfumato.experiment.kinds import nearest
from sfumato.experiment.pictures import degraded_shape, stored_shape
from sfumato.guidance import Degradation

__all__ = ["NONE", "Asked", "Tellable", "called", "condition_of", "label_indices", "labels_like_data", "names_of"]

ALL, NONE = "all", "none"
DEGRADED = 1 << 20  # the draw of a sample's noise that decides where its holes are; samplers count draws from 0
CLASSES_DRAWN = DEGRADED + 1
SHOWN = 8  # names in a message


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What people ask of a batch of samples, as they say it; the module says what each may be. None: nothing said."""

    labels: object = None
    values: object = None
    images: object = None


@dataclass(frozen=True, slots=True)
class Tellable:
    """What a model can be told.

    name: the experiment, for messages. shape: what the network was built for. dropout: share of examples that it was
    trained on without label and values. degradation: what makes its picture. steered: whether a classifier of noisy
    data steers it, which takes labels even where the network has none.
    """

    name: str
    record: DataRecord
    shape: ConditionShape
    dropout: float = 0.0
    degradation: Degradation | None = None
    steered: bool = False

    @property
    def num_classes(self) -> int:
        """K of the labels that may be asked for; 0 where none may."""
        if self.steered:
            return len(self.record.label_values)
        return self.shape.num_classes


def called(record: DataRecord, cond: Condition | None) -> tuple[str, ...] | None:
    """What each example is told to be, by name; None where no label is told."""
    if cond is None or cond.labels is None:
        return None
    names = names_of(record)
    return tuple(names[label] for label in cond.labels.tolist())


def names_of(record: DataRecord | Packed) -> tuple[str, ...]:
    """What each class is called: its name, or the value that the data wrote. `--label` takes every one of them."""
    if record.class_names is not None:
        return record.class_names
    return tuple(str(value) for value in record.label_values)


def condition_of(known: Tellable, asked: Asked, n: int, *, seed: int = 0) -> Condition | None:
    """The condition of n samples, on the CPU; None for a model that is told nothing.

    Raises UsageError for what the model cannot be told, for what is missing, and for what is no label, value or
    picture of its data.
    """
    _refuse_the_untellable(known, asked)
    dropped = _is_none(known, asked.labels) or (
        known.shape.num_classes == 0 and isinstance(asked.values, str) and _canonical(asked.values) == NONE
    )
    image = None if known.degradation is None else _picture(known, known.degradation, asked.images, n, seed=seed)
    if dropped:
        _require_dropout(known, asked)
        return Condition(image=image, dropped=torch.ones(n, dtype=torch.bool))
    labels = label_indices(known, asked.labels, n) if known.num_classes else None
    values = _values(known, asked.values, n) if known.shape.num_values else None
    parts = (labels, values, image)
    return None if all(part is None for part in parts) else Condition(labels, values, image)


def label_indices(known: Tellable, labels: object, n: int) -> Tensor:
    """The class of each of n samples, int64 (n,), from a name, an index, "all", or a sequence of n of the first two.

    Raises UsageError for a class that there is not, naming the nearest, and for another number of labels.
    """
    names = names_of(known.record)
    if isinstance(labels, np.ndarray | Tensor) and labels.ndim == 0:
        labels = labels.item()
    if labels is None:
        raise UsageError(
            f"no label was given to {known.name!r}, which was trained with {len(names)} classes",
            expected=f"a class ({_listed(names)}), or all of them in turn",
            fix=f"labels='all' (--label all){_or_none(known)}",
        )
    if isinstance(labels, str):
        chosen = _named(known, labels)
        return torch.tensor(chosen, dtype=torch.int64)[torch.arange(n) % len(chosen)]
    if isinstance(labels, Sequence | np.ndarray | Tensor) and np.ndim(labels) > 0:
        each: list[Any] = labels.tolist() if isinstance(labels, np.ndarray | Tensor) else list(labels)
        if len(each) != n:
            raise UsageError(
                f"{len(each)} labels were given for {n} samples",
                expected="one label for all samples, or one for each",
                fix=f"give {n} of them, or 'all' for the classes in turn (--label all)",
            )
        return torch.tensor([_index(known, one) for one in each], dtype=torch.int64)
    return torch.full((n,), _index(known, labels), dtype=torch.int64)


def labels_like_data(record: DataRecord, n: int, *, seed: int) -> NDArray[np.int64]:
    """The classes of n samples, drawn with the frequencies of the training part, (n,); sample i depends on seed + i.

    By inversion of the distribution function at Φ of a normal number. Records of older versions, which hold no counts,
    give every class alike. Raises UsageError for data without labels.
    """
    counts = record.class_counts or (1,) * len(record.label_values)
    if not counts:
        raise UsageError(
            "labels like those of the data were asked for, and the data have none",
            expected="data with labels",
            fix="leave the labels out",
        )
    edges = torch.tensor(counts, dtype=torch.float64).cumsum(0)
    found = torch.searchsorted(edges / edges[-1], _uniforms(n, 1, seed, draw=CLASSES_DRAWN)[:, 0], right=True)
    labels: NDArray[np.int64] = found.clamp(max=len(counts) - 1).numpy()
    return labels


def _uniforms(n: int, count: int, seed: int, *, draw: int) -> Tensor:
    """Numbers in [0, 1), float64 (n, count), those of sample i from its own seed: Φ of normal ones."""
    normal = NoiseSource.of(seed=seed, count=n).normal(torch.empty(n, count, dtype=torch.float64), draw=draw)
    return torch.special.ndtr(normal).clamp(max=1 - 2**-53)


def _refuse_the_untellable(known: Tellable, asked: Asked) -> None:
    """Refuse labels, values and pictures of a model that has no input for them."""
    taken = {"a label": known.num_classes, "a value": known.shape.num_values, "a picture": known.degradation}
    given = {"a label": asked.labels, "a value": asked.values, "a picture": asked.images}
    options = {"a label": "labels (--label)", "a value": "values (--value)", "a picture": "images (--pictures)"}
    for what, value in given.items():
        alone = what == "a label" and known.shape.num_values and isinstance(value, str) and _canonical(value) == NONE
        if value is None or taken[what] or alone:
            continue
        trained = {"a label": "labels", "a value": "values", "a picture": "pictures to go by"}[what]
        told = [name for name, part in taken.items() if part]
        raise UsageError(
            f"{what} was given to {known.name!r}, which was trained without {trained}",
            expected=f"{' and '.join(told)}, which it was trained with" if told else "nothing: it is unconditional",
            fix=f"leave out the {options[what]}",
        )


def _is_none(known: Tellable, labels: object) -> bool:
    """Whether a text asks for no label at all; a class of that name wins."""
    return isinstance(labels, str) and _canonical(labels) == NONE and _class_called(known.record, labels) is None


def _require_dropout(known: Tellable, asked: Asked) -> None:
    """Refuse to leave out what the model was always told, and to leave out one of two."""
    if not known.shape.droppable:
        return
    if known.dropout <= 0:
        raise UsageError(
            f"no label was asked for of {known.name!r}, which was never trained without (condition.dropout is 0)",
            expected="a label or value for every sample",
            fix="labels='all' (--label all)" if known.shape.num_classes else "give values (--value)",
        )
    told = asked.values is not None and not (isinstance(asked.values, str) and _canonical(asked.values) == NONE)
    if asked.labels is not None and told:
        raise UsageError(
            "values were given, and no label at all (none)",
            expected="label and values together, or neither: they are left out as one",
            fix="leave the values out too (--value), or name a class (--label all)",
        )


def _or_none(known: Tellable, values: bool = False) -> str:
    said = ", or values='none' (--value none)" if values else ", or labels='none' (--label none)"
    return said if known.dropout > 0 else ""


def _reals(count: int) -> str:
    return "1 real number" if count == 1 else f"{count} real numbers"


def _example(count: int) -> str:
    return ",".join(f"{0.3 + part:g}" for part in range(count))


def _canonical(text: str) -> str:
    return text.strip().casefold()


def _class_called(record: DataRecord, text: str) -> int | None:
    """The class that a text names: by name, exactly and then in any case, and then by the data's own value."""
    names, wanted = record.class_names or (), text.strip()
    if wanted in names:
        return names.index(wanted)
    folded = [_canonical(name) for name in names]
    if wanted.casefold() in folded:
        return folded.index(wanted.casefold())
    written = [_canonical(str(value)) for value in record.label_values]
    if wanted.casefold() in written:
        return written.index(wanted.casefold())
    counted = all(isinstance(value, str) for value in record.label_values)
    if counted and wanted.isdecimal() and int(wanted) < len(record.label_values):
        return int(wanted)
    return None


def _named(known: Tellable, text: str) -> list[int]:
    """The classes that a text asks for, which take turns."""
    found = _class_called(known.record, text)
    if found is not None:
        return [found]
    if _canonical(text) == ALL:
        return list(range(known.num_classes))
    return [_index(known, part) for part in text.split(",")]


def _index(known: Tellable, label: object) -> int:
    """The class of one label: an index 0 … K-1, or a text. Raises UsageError naming the nearest."""
    record, last = known.record, known.num_classes - 1
    if isinstance(label, str):
        found = _class_called(record, label)
        if found is not None:
            return found
    elif isinstance(label, int | np.integer) and not isinstance(label, bool) and 0 <= label <= last:
        return int(label)
    elif label is None:
        raise UsageError(
            "one of the labels is None",
            expected="a class for every sample of a batch",
            fix="give it any label and guidance 0, which draws it without",
        )
    said = printable(label) if isinstance(label, str) and label.strip() else repr(label)
    raise UsageError(
        f"there is no class {said} in {known.name!r}",
        expected=_texts_of(record)
        if isinstance(label, str)
        else f"an index in 0..{last}, or a class: {_listed(names_of(record))}",
        fix=_nearest_class(known, label),
    )


def _texts_of(record: DataRecord) -> str:
    """The texts that name a class: the names, and the numbers that stand for them."""
    written, last = record.label_values, len(record.label_values) - 1
    named = f"one of {last + 1} classes: {_listed(names_of(record))}"
    if all(isinstance(value, str) for value in written) or written == tuple(range(last + 1)):
        return f"{named}; or its number in 0..{last}"
    if record.class_names is None:
        return named
    return f"{named}; or its number in the data: {_listed([str(value) for value in written])}"


def _nearest_class(known: Tellable, label: object) -> str:
    names = names_of(known.record)
    if isinstance(label, int | np.integer | float) and not isinstance(label, bool) and math.isfinite(label):
        near: str | None = names[min(max(round(label), 0), len(names) - 1)]
    else:
        near = nearest(str(label), names) if str(label).strip() else None
    return f"did you mean {printable(near)}?" if near else f"labels='all' (--label all){_or_none(known)}"


def _listed(names: Sequence[str]) -> str:
    more = f", … {printable(names[-1])}" if len(names) > SHOWN else ""
    return ", ".join(printable(name) for name in names[: SHOWN - 1 if more else SHOWN]) + more


def _values(known: Tellable, given: object, n: int) -> Tensor:
    """The values of n samples as the network is told them, float32 (n, V)."""
    count, names = known.shape.num_values, known.record.condition_names
    called = f" ({', '.join(map(printable, names))})" if names else ""
    if given is None:
        raise UsageError(
            f"no values were given to {known.name!r}, which was trained with {count} of them{called}",
            expected=f"{_reals(count)}, in units of the data",
            fix=f"give values=… (--value {_example(count)}){_or_none(known, known.num_classes == 0)}",
        )
    if isinstance(given, str) and _canonical(given) == NONE:
        raise UsageError(
            "a label was given, and no values at all (none)",
            expected="label and values together, or neither: they are left out as one",
            fix="leave the label out too (--label none), or give values (--value 0.3)",
        )
    raw = _numbers(given)
    if raw.ndim < 2:
        raw = raw.reshape(-1, 1) if count == 1 else raw.reshape(1, -1)
    turns = len(raw) == 1 or (isinstance(given, str) and count == 1)
    if raw.ndim != 2 or raw.shape[1] != count or not (turns or len(raw) == n):
        raise UsageError(
            f"values of shape {raw.shape} were given for {n} samples",
            expected=f"{_reals(count)}{called} for all samples, or as many for each",
            fix=f"give an array of shape ({n}, {count}), or ({count},) (--value {_example(count)})",
        )
    if not np.isfinite(raw).all():
        row = int(np.flatnonzero(~np.isfinite(raw).all(axis=1))[0])
        raise UsageError(
            f"the values of sample {row} are {raw[row].tolist()}",
            expected="finite numbers",
            fix="give numbers within the range of the data",
        )
    told = known.record.conditions_to_model(torch.from_numpy(raw))
    if not bool(told.isfinite().all()):
        raise UsageError(
            f"values of up to {np.abs(raw).max():g} were given to {known.name!r}",
            expected="numbers that single precision holds",
            fix="give numbers within the range of the data",
        )
    return told[torch.arange(n) % len(told)]


def _numbers(given: object) -> NDArray[np.float64]:
    """Real numbers as an array. Raises UsageError for what is none."""
    with suppress(TypeError, ValueError):
        parts = [float(part) for part in given.split(",")] if isinstance(given, str) else given
        found = np.asarray(parts.cpu() if isinstance(parts, Tensor) else parts)
        if found.dtype.kind in "iuf":
            return found.astype(np.float64)
    raise UsageError(
        f"values are {printable(str(given)[:60])}",
        expected="real numbers with commas between them",
        fix="such as values=0.3 (--value 0.3)",
    )


def _picture(known: Tellable, degradation: Degradation, given: object, n: int, *, seed: int) -> Tensor:
    """What the network sees of the pictures given: degraded here, or already so; float32 (n, C', H, W)."""
    high, wide, _ = stored_shape(known.record)
    if given is None:
        raise UsageError(
            f"no picture was given to {known.name!r}, which was trained to go by one",
            expected=f"pictures of {high} x {wide}, or such as {type(degradation).__name__} makes of them",
            fix="give images=… (--pictures FOLDER)",
        )
    raw = np.asarray(given)
    if raw.dtype != np.uint8 or raw.ndim not in (3, 4):
        raise UsageError(
            f"pictures of shape {raw.shape} and type {raw.dtype}",
            expected="uint8, (n, H, W, C) or (H, W, C)",
            fix="give pictures as they are stored, with values from 0 to 255",
        )
    raw = raw[None] if raw.ndim == 3 else raw
    if len(raw) not in (1, n):
        raise UsageError(
            f"{len(raw)} pictures were given for {n} samples",
            expected="one picture for all samples, or one for each",
            fix=f"give {n} of them, or ask for {len(raw)} samples (-n {len(raw)})",
        )
    each = torch.from_numpy(np.ascontiguousarray(raw))[torch.arange(n) % len(raw)]
    uniforms = _uniforms(n, degradation.num_uniforms, seed, draw=DEGRADED) if degradation.num_uniforms else None
    return _seen(known.record, degradation, each, uniforms)


def _seen(record: DataRecord, degradation: Degradation, raw: Tensor, uniforms: Tensor | None) -> Tensor:
    """The network's picture from whole ones, uint8 (n, H, W, C), or from ones that are degraded already."""
    normalization, shape, whole = record.normalization, record.shape, stored_shape(record)
    if tuple(raw.shape[1:]) == whole:
        return degradation.picture(normalization.to_model(raw), uniforms)
    small = degraded_shape(record, degradation)
    alike = len(set(zip(normalization.mean, normalization.scale, strict=True))) == 1
    if tuple(raw.shape[1:]) != small or not (small[2] == whole[2] or alike):
        wanted = " or ".join(f"{h} x {w} with {c} channels" for h, w, c in dict.fromkeys((whole, small)))
        given = "{} x {} with {} channels".format(*raw.shape[1:])
        raise UsageError(f"pictures of {given}", expected=wanted, fix="resize them first")
    columns = (normalization.mean, normalization.scale)
    mean, scale = (torch.tensor(column[: small[2]])[:, None, None] for column in columns)
    operator = degradation.operator(shape, uniforms)
    return operator.shown((raw.permute(0, 3, 1, 2).to(torch.float32) - mean) / scale)
