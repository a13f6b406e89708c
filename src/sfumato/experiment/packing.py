"""Packing: whatever sfumato reads becomes one file that training maps into memory and reads nothing else beside.

The file holds the examples as `data.size`, `data.channels` and the other settings of reading made them. What training
does afterwards (normalising, padding, mirroring, splitting) stays a setting of training.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from sfumato.data import DataConfig, Packed, load_data
from sfumato.data.packed_file import SUFFIX, encode
from sfumato.errors import UsageError, printable
from sfumato.training.storage import LocalStorage, explained, make_folders, replace_file

__all__ = ["OF_TRAINING", "PackedFile", "pack_data", "require_free_file"]

OF_TRAINING = ("normalize", "flip", "pad", "held_out")  # settings that decide nothing about a packed file


@dataclass(frozen=True, slots=True, eq=False)
class PackedFile:
    """A file that was written: where, what it holds, its size in bytes, and the seconds of reading and of writing."""

    path: Path
    packed: Packed
    bytes: int
    seconds_reading: float
    seconds_writing: float


def require_free_file(out: Path, *, force: bool) -> None:
    """Refuse, before anything is read, a target of another name or one that is taken. Raises UsageError."""
    if out.suffix.lower() != SUFFIX:
        name = out.with_suffix(SUFFIX) if out.name else Path(f"data{SUFFIX}")
        raise UsageError(f"--out is {printable(out)}", expected=f"a file ending in {SUFFIX}", fix=f"--out {name}")
    if out.is_dir():
        raise UsageError(
            f"--out is {printable(out)}, which is a folder", expected="a file", fix=f"--out {out / 'data'}{SUFFIX}"
        )
    if out.exists() and not force:
        raise UsageError(
            f"{printable(out)} exists already", expected="a new file", fix="choose another --out, or add --force"
        )


def pack_data(data: DataConfig, out: Path, *, seed: int = 0, force: bool = False) -> PackedFile:
    """Read the data as training would, and write them to `out`, seen whole or not at all.

    `seed` draws generated points and nothing else. The cache of decoded folders is left alone unless `data.cache` names
    one. Raises DataError or ConfigError for data that training would refuse, ResourceError when the disk refuses.
    """
    require_free_file(out, force=force)
    began = time.perf_counter()
    packed = load_data(replace(data, pad=None), seed=seed, remember=data.cache is not None)
    read = time.perf_counter()
    storage = LocalStorage()
    try:
        make_folders(out.parent, storage)
        replace_file(out, encode(packed), storage)
        size = out.stat().st_size
    except OSError as error:
        raise explained(error, f"writing {printable(out)}", path=out, storage=storage) from None
    return PackedFile(out, packed, size, read - began, time.perf_counter() - read)
