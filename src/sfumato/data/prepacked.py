"""A packed file as a source of data: taken as it is, or cropped, resized and thinned out as the settings ask.

What is taken as it is stays mapped: nothing is copied, whatever its size.
"""

from dataclasses import replace
from pathlib import Path

import torch

from sfumato.data.arrays import ArrayFile, pack_arrays
from sfumato.data.packed import Packed, check_pad, evenly, fingerprint_of
from sfumato.data.packed_file import read_packed
from sfumato.data.settings import DataConfig
from sfumato.errors import ConfigError, printable

__all__ = ["load_packed_file"]


def load_packed_file(path: Path, config: DataConfig) -> Packed:
    """The packed data set of a file, prepared as `config` asks.

    Raises `DataError` for a file that is damaged or another kind of file, `ConfigError` for settings that do not fit:
    what black and white are was decided when the data were packed.
    """
    stored = read_packed(path)
    if config.value_range is not None:
        low, high = config.value_range
        raise ConfigError(
            f"data.value_range is [{low:g}, {high:g}], and {printable(str(path))} is packed: its range is decided",
            expected="data.value_range when the data are packed, not afterwards",
            fix="drop data.value_range, or pack again: sfumato data pack PATH --data.value_range '[a, b]' --out FILE",
        )
    thinned = _thinned(stored, config.limit)
    if not _asks_for_more(thinned, config):
        check_pad(thinned.values, config.pad_hw)
        return replace(thinned, pad=config.pad_hw)
    key = "images" if thinned.is_image else "values"
    prepared = pack_arrays(ArrayFile(str(path), key, thinned.values.numpy()), replace(config, limit=None))
    return replace(
        thinned,
        values=prepared.values,
        fingerprint=fingerprint_of(prepared.values, thinned.labels, thinned.conditions),
        report=(*thinned.report, *prepared.report),
        pad=prepared.pad,
    )


def _asks_for_more(packed: Packed, config: DataConfig) -> bool:
    """Whether the settings ask for other pixels than the file holds, or for what only pictures have."""
    if not packed.is_image:
        return config.flip or any(x is not None for x in (config.size, config.channels, config.min_size))
    _, height, width, channels = packed.values.shape
    return (
        config.size_hw not in (None, (height, width))
        or config.channels not in (None, channels)
        or config.min_size is not None
    )


def _thinned(packed: Packed, limit: int | None) -> Packed:
    """At most `limit` examples, and at most as many of the test part, evenly spaced, with the classes that occur."""
    own = len(packed) - packed.test_count
    if limit is None or own <= limit:
        return packed
    places = [*evenly(own, limit), *(own + i for i in evenly(packed.test_count, limit))]
    chosen = torch.tensor(places)
    values = packed.values[chosen]
    conditions = None if packed.conditions is None else packed.conditions[chosen]
    labels, kept = None, []
    if packed.labels is not None:
        found, labels = torch.unique(packed.labels[chosen], return_inverse=True)
        kept = found.tolist()
    names = packed.class_names
    gone = () if names is None else tuple(name for i, name in enumerate(names) if i not in kept)
    return replace(
        packed,
        values=values,
        labels=labels,
        label_values=tuple(packed.label_values[i] for i in kept),
        class_names=None if names is None else tuple(names[i] for i in kept),
        fingerprint=fingerprint_of(values, labels, conditions),
        test_count=len(places) - limit,
        conditions=conditions,
        absent_classes=(*packed.absent_classes, *gone),
        names=tuple(packed.names[i] for i in places) if packed.names else (),
    )
