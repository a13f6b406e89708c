"""Samples and features on disk, so that an evaluation that was stopped goes on, and another metric costs nothing anew.

Files of the cache folder (`data.cache`), one for each part, named by a digest of all that the part depends on. A file
is believed only where the SHA-256 of its tensor is the one in its header; they may be deleted at any time, and a cache
that cannot be written is done without.
"""

import hashlib
import json
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from sfumato.data import DataConfig, fingerprint_of
from sfumato.data.cache import default_folder
from sfumato.errors import SfumatoError
from sfumato.training.storage import LocalStorage, make_folders, replace_file

__all__ = ["Kept", "code_of", "key_of", "source_of"]

FORMAT = "sfumato-kept-1"


def key_of(*parts: object) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def code_of(*packages: str) -> str:
    """SHA-256 of the sources of some packages of sfumato: what another version would compute is not taken for this."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    for path in sorted(path for package in packages for path in (root / package).rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def source_of(kind: type) -> str | None:
    """SHA-256 of the file that a class was written in; None where there is none to look at."""
    path: str = getattr(sys.modules.get(kind.__module__), "__file__", None) or ""
    with suppress(OSError):
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return None


@dataclass(frozen=True, slots=True)
class Kept:
    """Tensors below `folder`; with None nothing is remembered."""

    folder: Path | None

    @classmethod
    def of(cls, config: DataConfig) -> "Kept":
        """The cache folder that the settings of some data name."""
        if config.cache == "off":
            return cls(None)
        base = default_folder() if config.cache is None else Path(config.cache).expanduser()
        return cls(None if base is None else base / "evaluations")

    def read(self, kind: str, key: str) -> Tensor | None:
        """What was kept under a key; None where that is nothing or damaged."""
        path = self._path(kind, key)
        if path is None or not path.is_file():
            return None
        from safetensors import safe_open

        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                tensor: Tensor = file.get_tensor("part")
        except Exception:  # a damaged part is made again
            return None
        whole = about.get("format") == FORMAT and about.get("sha256") == fingerprint_of(tensor, None)
        return tensor if whole else None

    def write(self, kind: str, key: str, tensor: Tensor) -> None:
        """Keep a tensor; a failure to write is no error."""
        path = self._path(kind, key)
        if path is None:
            return
        from safetensors.torch import save

        part = tensor.detach().to("cpu", memory_format=torch.contiguous_format)
        content = save({"part": part}, metadata={"format": FORMAT, "sha256": fingerprint_of(part, None)})
        storage = LocalStorage()
        with suppress(OSError, SfumatoError):
            make_folders(path.parent, storage)
            replace_file(path, [content], storage, durable=False)

    def _path(self, kind: str, key: str) -> Path | None:
        return None if self.folder is None else self.folder / kind / f"{key[:40]}.safetensors"
