"""Decoded image folders on disk, so that the second run starts at once.

One safetensors file for each key, written under a temporary name and moved into place. A file is believed only when the
SHA-256 of its tensors equals the one in its header; anything else is decoded again and overwritten. A cache that cannot
be written (no home folder, a read-only or full disk) is done without. Its files may be deleted at any time.
"""

import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sfumato.data.packed import Packed
from sfumato.data.packed_file import encode, read_packed
from sfumato.errors import DataError

__all__ = ["Cache", "default_folder"]


def default_folder() -> Path | None:
    """`$XDG_CACHE_HOME/sfumato`, or `~/.cache/sfumato`; None on a machine without a home folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    if base and os.path.isabs(base):
        return Path(base) / "sfumato"
    try:
        return Path.home() / ".cache" / "sfumato"
    except RuntimeError:
        return None


class Cache:
    """Packed data sets in `folder`, beside what was fetched; with None, or not `remembers`, it remembers nothing."""

    def __init__(self, folder: Path | None, *, remembers: bool = True) -> None:
        self.folder = folder
        self.remembers = remembers

    def read(self, key: str) -> Packed | None:
        """What was written under `key`, or None when that is nothing or damaged."""
        path = self._path(key)
        if path is None or not os.path.isfile(path):
            return None
        with suppress(DataError):  # a damaged cache is no reason to stop: it can always be rebuilt
            return read_packed(path)
        return None

    def write(self, key: str, packed: Packed) -> None:
        """Keep `packed` under `key`, atomically; a failure to write is not an error."""
        path = self._path(key)
        if path is None:
            return
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, encode(packed))

    def _path(self, key: str) -> Path | None:
        return self.folder / "packed" / f"{key}.safetensors" if self.folder is not None and self.remembers else None


def _replace(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.writelines(pieces)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
