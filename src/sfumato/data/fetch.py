"""Published files over HTTP: resumed where they broke off, believed only when their SHA-256 is the published one.

A file is received as NAME.part and renamed when it is whole, so that what lies under the final name is the published
file to the last bit. A connection that breaks off is taken up again from the byte it had reached (RFC 9110, section 14:
`Range: bytes=N-`, answered by 206); a server that cannot do that is read from the start. One process fetches, others
wait for it. Nothing here is called unless `data.download` is set.
"""

import errno
import hashlib
import os
import re
import shutil
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from io import FileIO
from pathlib import Path
from socket import gaierror
from typing import TextIO
from urllib.error import HTTPError, URLError
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from sfumato.errors import DataError, ResourceError, SfumatoError, printable

__all__ = ["Patience", "Published", "fetch", "megabytes"]

CHUNK = 1 << 18  # bytes that are read, written and shown at once
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # answers that may be another one a moment later


@dataclass(frozen=True, slots=True)
class Published:
    """A file as its authors published it: `size` bytes with that SHA-256 (hex).

    addresses: the folders that it can be had from, each ending in a slash, tried in order.
    """

    name: str
    size: int
    sha256: str
    addresses: tuple[str, ...]

    @property
    def urls(self) -> tuple[str, ...]:
        """The full addresses, in order."""
        return tuple(address + self.name for address in self.addresses)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try one address.

    timeout: seconds without a byte before a connection counts as broken. attempts: how many in a row may bring nothing.
    pause: seconds before trying again, doubled each time.
    """

    timeout: float = 30.0
    attempts: int = 5
    pause: float = 1.0


PATIENCE = Patience()


def megabytes(count: int) -> str:
    """`344.9 MB`, a million bytes each; below a tenth of one `14.9 kB`, a thousand each."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def fetch(file: Published, folder: Path, *, patience: Patience = PATIENCE, told: TextIO | None = None) -> Path:
    """Where `file` lies in `folder`, after fetching it unless it is there. Progress goes to `told`; None: to stderr.

    Raises DataError when no address gives it and ResourceError when it cannot be stored. What was received stays as
    NAME.part, and the next call goes on from there.
    """
    target, path = folder / file.name, folder / (file.name + ".part")
    if target.exists():
        return target
    progress = _Progress(file, sys.stderr if told is None else told)
    with _received_alone(path, progress) as part:
        if target.exists():  # another process was quicker; the part is a new, empty one
            _discard_empty(path)
            return target
        _require_space(folder, file.size - _length(part))
        reception = _Reception(file, folder, part, patience, progress)
        failures: list[str] = []
        for url in file.urls:
            try:
                reception.complete(url)
            except _Failed as failed:
                failures.append(f"{url}: {failed}")
                continue
            with _storing(folder):
                os.fsync(part.fileno())
                os.replace(path, target)
            return target
        _discard_empty(path)
    raise DataError(
        f"{file.name} cannot be fetched ({printable('; '.join(failures))})",
        expected=f"the published file, {file.size:,} bytes with SHA-256 {file.sha256}",
        fix=f"try again (what was received is kept), or put the file into {printable(str(folder))} yourself",
    )


class _Failed(Exception):
    """Why an address is given up."""


class _Broken(Exception):
    """Why an attempt ended that is worth another one."""


@dataclass(frozen=True, slots=True, eq=False)
class _Reception:
    """A file on its way into `part`, which lies in `folder`."""

    file: Published
    folder: Path
    part: FileIO
    patience: Patience
    progress: "_Progress"

    def complete(self, url: str) -> None:
        """Make the part the published file; what was received earlier and is wrong is received again, once.

        Raises _Failed.
        """
        from_the_start = _length(self.part) == 0
        while True:
            self._fill(url)
            self.part.seek(0)
            found = hashlib.file_digest(self.part, "sha256").hexdigest()
            if found == self.file.sha256:
                return
            _empty(self.part)
            if from_the_start:
                raise _Failed(f"it is another file than the published one (SHA-256 {found})")
            from_the_start = True

    def _fill(self, url: str) -> None:
        """Receive until the part has the published length, however often the connection breaks off."""
        barren = 0  # attempts in a row that brought nothing new
        while (have := _length(self.part)) != self.file.size:
            if have > self.file.size:
                _empty(self.part)
                continue
            try:
                self._receive(url, have)
            except _Broken as broken:
                barren = 0 if _length(self.part) > have else barren + 1
                if barren >= self.patience.attempts:
                    raise _Failed(str(broken)) from None
                time.sleep(self.patience.pause * 2**barren)

    def _receive(self, url: str, have: int) -> None:
        """One connection: everything from byte `have` on, or from the start where the server gives nothing else."""
        headers = {"User-Agent": "sfumato", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        try:
            with _opener().open(Request(url, headers=headers), timeout=self.patience.timeout) as reply:
                self._store(reply, _first_byte(reply.status, reply.headers, have, self.file.size))
        except SfumatoError:
            raise
        except HTTPError as error:
            error.close()
            again = error.code in PASSING
            if error.code == 416 and have:  # it has fewer bytes than we asked for: what we have is of another file
                _empty(self.part)
                again = True
            raise (_Broken if again else _Failed)(f"HTTP {error.code} {error.reason}".strip()) from None
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            said = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            raise (_Failed if _is_final(reason) else _Broken)(said) from None

    def _store(self, reply: HTTPResponse, start: int) -> None:
        """The body of a reply into the part, from byte `start` on."""
        with _storing(self.folder):
            self.part.seek(start)
            self.part.truncate()
        done = start
        while block := reply.read1(CHUNK):
            done += len(block)
            if done > self.file.size:
                _empty(self.part)
                raise _Failed(f"it sends more than the {self.file.size:,} bytes of the published file")
            with _storing(self.folder):
                left = memoryview(block)
                while left:
                    left = left[self.part.write(left) :]
            self.progress(done)
        if done < self.file.size:
            raise _Broken(f"the connection ended after {done:,} of {self.file.size:,} bytes")


def _opener() -> OpenerDirector:
    """HTTP and HTTPS alone: a redirection to a file or to FTP leads nowhere."""
    opener = OpenerDirector()
    handlers = (ProxyHandler, HTTPHandler, HTTPSHandler, HTTPRedirectHandler, HTTPDefaultErrorHandler)
    for handler in (*handlers, HTTPErrorProcessor, UnknownHandler):
        opener.add_handler(handler())
    return opener


def _is_final(reason: object) -> bool:
    """Whether another attempt would end the same: no such host, nobody there, no network, a false certificate."""
    if not isinstance(reason, OSError):
        return not isinstance(reason, HTTPException)
    unreachable = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL)
    hopeless = isinstance(reason, gaierror | ConnectionRefusedError | ssl.SSLCertVerificationError)
    return hopeless or reason.errno in unreachable


def _first_byte(status: int, headers: Message, have: int, size: int) -> int:
    """Where in the file the body of a reply begins. Raises _Failed for a body that cannot be the file's."""
    start, length = 0, size
    if status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
        if found is None or int(found[1]) != have:
            raise _Failed(f"it answers {headers.get('Content-Range')!r} when asked for the bytes from {have:,} on")
        start, length = have, size if found[2] == "*" else int(found[2])
    elif (announced := headers.get("Content-Length", "").strip()).isdecimal():
        length = int(announced)
    if length != size:
        raise _Failed(f"the file there has {length:,} bytes, the published one {size:,}")
    return start


@contextmanager
def _storing(folder: Path) -> Iterator[None]:
    """What the file system refuses, as ResourceError."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{printable(str(folder))}: the file cannot be stored ({error.strerror or error})",
            expected="a folder that can be written to, with space for the data",
            fix="--data.path FOLDER chooses another one (or --data.cache, where data.path is not given)",
        ) from None


@contextmanager
def _received_alone(path: Path, progress: "_Progress") -> Iterator[FileIO]:
    """The part of a file, open and locked: whoever comes second waits. Where there are no locks, all go on."""
    while True:
        with _storing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with FileIO(handle, "r+") as part:
            _lock(part, progress)
            if _lies_at(part, path):
                yield part
                return


def _lock(part: FileIO, progress: "_Progress") -> None:
    with suppress(ImportError, OSError):
        import fcntl

        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say("another process is fetching it; waiting")
            fcntl.flock(part, fcntl.LOCK_EX)


def _lies_at(part: FileIO, path: Path) -> bool:
    """Whether an open file is still the one of that name: who had it first may have renamed or removed it."""
    try:
        return os.path.samestat(os.fstat(part.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _discard_empty(path: Path) -> None:
    with suppress(OSError):
        if path.stat().st_size == 0:
            path.unlink()


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(
            f"{printable(str(folder))}: {megabytes(needed)} are to be fetched and {megabytes(free)} are free",
            expected="space for the whole file",
            fix="--data.path FOLDER chooses another disk (or --data.cache, where data.path is not given)",
        )


def _length(part: FileIO) -> int:
    return part.seek(0, os.SEEK_END)


def _empty(part: FileIO) -> None:
    part.seek(0)
    part.truncate()


class _Progress:
    """How far a file has come: a line that is overwritten on a terminal, a line for every tenth elsewhere."""

    def __init__(self, file: Published, stream: TextIO | None) -> None:
        self.file, self.stream = file, stream
        self.live = stream is not None and stream.isatty()
        self.tenth, self.shown_at = 0, 0.0

    def __call__(self, done: int) -> None:
        tenth, now = 10 * done // self.file.size, time.monotonic()
        whole = done == self.file.size
        if whole or (now - self.shown_at > 0.2 if self.live else tenth > self.tenth):
            self.tenth, self.shown_at = tenth, now
            text = f"{megabytes(done)} of {megabytes(self.file.size)}"
            self.say(text, end="" if self.live and not whole else "\n")

    def say(self, text: str, end: str = "\n") -> None:
        """A line about the file; nothing happens where nobody can read it."""
        if self.stream is None:
            return
        with suppress(OSError, ValueError):
            self.stream.write(("\r" if self.live else "") + f"{self.file.name}  {text}{end}")
            self.stream.flush()
