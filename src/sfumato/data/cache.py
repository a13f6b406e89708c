"""Decoded image folders on disk, so that the second run starts at once.

One safetensors file for each key, written under a temporary name and moved into place. A file is believed only when the
SHA-256 of its tensors equals the one in its header; anything else is decoded again and overwritten. A cache that cannot
be written (no home folder, a read-only or full disk) is done without. Its files may be deleted at any time.
"""

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from sfumato.data.packed import Packed, fingerprint_of

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
    """Packed data sets in `folder`; with None it remembers nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def read(self, key: str) -> Packed | None:
        """What was written under `key`, or None when that is nothing or damaged."""
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        from safetensors import safe_open

        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["sfumato"])
                names = set(file.keys())
                values = file.get_tensor("values")
                labels = file.get_tensor("labels") if "labels" in names else None
                conditions = file.get_tensor("conditions") if "conditions" in names else None
            packed = Packed(
                values=values,
                labels=labels,
                label_values=tuple(header["label_values"]),
                class_names=None if header["class_names"] is None else tuple(header["class_names"]),
                fingerprint=str(header["fingerprint"]),
                report=tuple(header["report"]),
                test_count=int(header["test_count"]),
                conditions=conditions,
                condition_names=None if header["condition_names"] is None else tuple(header["condition_names"]),
                absent_classes=tuple(header["absent_classes"]),
            )
        except Exception:  # a damaged cache is no reason to stop: it can always be rebuilt
            return None
        return packed if fingerprint_of(values, labels, conditions) == packed.fingerprint else None

    def write(self, key: str, packed: Packed) -> None:
        """Keep `packed` under `key`, atomically; a failure to write is not an error."""
        path = self._path(key)
        if path is None:
            return
        from safetensors.torch import save

        header = {
            "label_values": packed.label_values,
            "class_names": packed.class_names,
            "fingerprint": packed.fingerprint,
            "report": packed.report,
            "test_count": packed.test_count,
            "condition_names": packed.condition_names,
            "absent_classes": packed.absent_classes,
        }
        parts = {"values": packed.values, "labels": packed.labels, "conditions": packed.conditions}
        tensors = {name: part for name, part in parts.items() if part is not None}
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, save(tensors, metadata={"sfumato": json.dumps(header)}))

    def _path(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / "packed" / f"{key}.safetensors"


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
