"""The manifest of a checkpoint: which files belong to it, their sizes and SHA-256 digests, and the format's number.

    {"format": 1, "files": {"model.safetensors": {"size": 14249000, "sha256": "…"}, …}}

It is written last, so a folder without one was never completed. It is read so strictly (exact keys, known file names,
lower-case hex) that none of its own bits can flip unnoticed, and no name in it can lead out of the folder.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sfumato.training.tensors import strict_json

__all__ = ["FORMAT", "MANIFEST", "Listed", "NewerFormatError", "belongs", "manifest_json", "read_manifest"]

FORMAT = 1
MANIFEST = "MANIFEST.json"
_NEEDED = {"model.safetensors", "optimizer.safetensors", "state.json"}
_AVERAGE = re.compile(r"ema-[A-Za-z0-9._-]{1,64}\.safetensors")
_SHA = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Listed:
    """What one file of a checkpoint must be: its size in bytes and the SHA-256 of its contents in hex."""

    size: int
    sha256: str


class NewerFormatError(ValueError):
    """The manifest was made by format `found`, which this version cannot know."""

    def __init__(self, found: int) -> None:
        super().__init__(found)
        self.found = found


def belongs(name: str) -> bool:
    """Whether a file of this name can be part of a checkpoint."""
    return name in _NEEDED or _AVERAGE.fullmatch(name) is not None


def manifest_json(listed: Mapping[str, Listed]) -> bytes:
    """The bytes of MANIFEST.json."""
    files = {name: {"size": one.size, "sha256": one.sha256} for name, one in sorted(listed.items())}
    return json.dumps({"format": FORMAT, "files": files}, indent=1).encode() + b"\n"


def read_manifest(text: bytes | bytearray) -> dict[str, Listed]:
    """What a manifest lists. Raises `NewerFormatError`, and ValueError for all that `manifest_json` does not write."""
    parsed = strict_json(text)
    found = parsed.get("format") if isinstance(parsed, dict) else None
    if type(found) is int and found > FORMAT:
        raise NewerFormatError(found)
    if type(found) is not int or found != FORMAT or set(parsed) != {"format", "files"}:
        raise ValueError(f"it is not a manifest of format {FORMAT}")
    if not isinstance(parsed["files"], dict):
        raise ValueError("its files are not listed by name")
    listed = {name: _listed(name, one) for name, one in parsed["files"].items()}
    missing = _NEEDED - set(listed)
    if missing:
        raise ValueError(f"it does not list {', '.join(sorted(missing))}")
    return listed


def _listed(name: str, one: object) -> Listed:
    if not belongs(name):
        raise ValueError(f"unexpected file name {ascii(name)[:80]}")
    if not isinstance(one, dict) or set(one) != {"size", "sha256"}:
        raise ValueError(f"{name} is not described by exactly size and sha256")
    size, sha256 = one["size"], one["sha256"]
    if type(size) is not int or not isinstance(sha256, str) or not _SHA.fullmatch(sha256):
        raise ValueError(f"unexpected size or digest of {name}")
    return Listed(size, sha256)
