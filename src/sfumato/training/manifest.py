"""One checkpoint folder and its manifest: which files belong to it, their sizes and SHA-256, and the format's number.

    {"format": 1, "files": {"model.safetensors": {"size": 14249000, "sha256": "…"}, …}}

It is written last, so a folder without one was never completed. It is read so strictly (exact keys, known file names,
lower-case hex) that none of its own bits can flip unnoticed, and no name in it can lead out of the folder.
"""

import contextlib
import errno
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from sfumato.errors import CheckpointError, SfumatoError
from sfumato.training.storage import Storage, explained
from sfumato.training.tensors import strict_json

__all__ = [
    "FORMAT",
    "MANIFEST",
    "MEMORY",
    "CheckpointFolder",
    "Listed",
    "NewerFormatError",
    "Report",
    "belongs",
    "damaged",
    "manifest_json",
    "read_manifest",
    "silent",
]

Report = Callable[[str], None]

FORMAT = 1
MANIFEST = "MANIFEST.json"
MEMORY = "times.safetensors"  # of losses, in runs whose times follow them
_NEEDED = {"model.safetensors", "optimizer.safetensors", "state.json"}
_AVERAGE = re.compile(r"ema-[A-Za-z0-9._-]{1,64}\.safetensors")
_SHA = re.compile(r"[0-9a-f]{64}")
# Errors that condemn the files themselves; others (permissions, too many open files) say nothing about them.
_CONDEMNING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EIO, errno.ELOOP, errno.ENXIO)


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
    return name in _NEEDED or name == MEMORY or _AVERAGE.fullmatch(name) is not None


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


@final
class CheckpointFolder:
    """Reads one checkpoint, wherever it lies and whatever it is called. Never writes.

    What is wrong with the files is a `CheckpointError`; storage that does not let them be read is a `ResourceError`.
    """

    def __init__(self, path: Path, storage: Storage) -> None:
        self.path = path
        self.storage = storage

    def listed(self) -> dict[str, Listed]:
        """The manifest."""
        try:
            text = self.storage.read(self.path / MANIFEST, count=2**20)
        except OSError as error:
            raise self._unreadable(MANIFEST, error) from None
        try:
            return read_manifest(text)
        except NewerFormatError as newer:
            raise CheckpointError(
                f"{self.path}: made by format {newer.found}, this is {FORMAT}: upgrade",
                expected=f"a checkpoint of format {FORMAT} or older",
                fix="upgrade sfumato (`pip install --upgrade sfumato`); nothing was changed",
            ) from newer
        except ValueError as error:
            raise damaged(self.path, f"{MANIFEST} is damaged: {error}") from None

    def checked(self, name: str, listed: Listed) -> bytearray:
        """The bytes of one file, when they are the ones that were written."""
        try:
            size = self.storage.size(self.path / name)
            if size != listed.size:
                raise damaged(self.path, f"{name} has {size} bytes instead of {listed.size}")
            data = self.storage.read(self.path / name)
        except OSError as error:
            raise self._unreadable(name, error) from None
        if hashlib.sha256(data).hexdigest() != listed.sha256:
            raise damaged(self.path, f"{name} does not match its SHA-256 (at least one bit changed)")
        return data

    def verify(self, report: Report) -> dict[str, Listed]:
        """Check every file against the manifest, which is returned; note files that do not belong."""
        listed = self.listed()
        self.note_extra(listed, report)
        for name, one in listed.items():
            self.checked(name, one)
        return listed

    def looks_whole(self) -> bool:
        """All listed files are there in their sizes; cheap, and enough to decide what may be dropped."""
        try:
            return all(self.storage.size(self.path / name) == one.size for name, one in self.listed().items())
        except (SfumatoError, OSError):
            return False

    def note_extra(self, listed: Mapping[str, Listed], report: Report) -> None:
        """Report files that the manifest does not list."""
        with contextlib.suppress(OSError):
            extra = [name for name in self.storage.names(self.path) if name != MANIFEST and name not in listed]
            if extra:
                shown = ", ".join(ascii(name) for name in extra[:3]) + (" …" if len(extra) > 3 else "")
                report(f"{self.path.name}: ignoring {shown}, not part of the checkpoint")

    def _unreadable(self, name: str, error: OSError) -> SfumatoError:
        if error.errno not in _CONDEMNING:
            doing = f"reading the checkpoint {self.path}"
            return explained(error, doing, path=self.path, storage=self.storage)
        try:
            self.storage.names(self.path)
        except FileNotFoundError:
            return damaged(self.path, "does not exist, or is a link to nothing")
        except OSError:
            return damaged(self.path, "is not a folder")
        if error.errno == errno.ENOENT:
            return damaged(
                self.path, f"{name} is missing" + (", so it was never completed" if name == MANIFEST else "")
            )
        return damaged(self.path, f"{name} cannot be read: {error.strerror or error}")


def silent(_note: str) -> None:
    """A report that nobody asked for."""


def damaged(path: Path, why: str) -> CheckpointError:
    """The refusal of one checkpoint folder."""
    return CheckpointError(
        f"{path}: {why}",
        expected=f"a checkpoint folder whose files match {MANIFEST}",
        fix="use an older checkpoint of the run, or restore this one from a copy",
    )
