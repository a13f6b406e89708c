"""What a file that is not safetensors probably is, told without running a byte of it.

A pickle is a program for a stack machine whose GLOBAL, INST and STACK_GLOBAL instructions import any callable by name
and whose REDUCE calls it. `pickletools.genops` lists the instructions without executing them, which is enough to say
*what* a file would have imported. Nothing here imports, unpickles or unpacks more than the first megabyte.
"""

import io
import itertools
import pickletools
import struct
import zlib

__all__ = ["describe_foreign"]

_HARMLESS = (
    "collections.OrderedDict",
    "torch._utils._rebuild",
    "torch.FloatStorage",
    "torch.storage.",
    "torch._tensor.",
)
_ZIP_ENTRY = b"PK\x03\x04"
_MOST_PICKLES = 8
_MOST_INSTRUCTIONS = 50_000  # 0.1 s; enough for the state of a network of 5,000 tensors
_STOP = b"."  # the last instruction of every pickle


def describe_foreign(head: bytes) -> str | None:
    """A clause completing "FILE …" for what the first megabyte looks like, or None when it looks like nothing known."""
    start = head[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is an HTML page, not weights: a download that failed or needed a login"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself (`git lfs pull` fetches it)"
    if head.startswith(_ZIP_ENTRY):
        pickled = _pickle_in_zip(head)
        return "is a zip archive, not weights" if pickled is None else _pickle_clause(_globals(pickled))
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return _pickle_clause(_globals(head))
    named = _globals(head)  # protocols 0 and 1 have no mark of their own
    return _pickle_clause(named) if named else None


def _pickle_clause(named: list[str]) -> str:
    offending = [name for name in named if not name.startswith(_HARMLESS)]
    if not offending:
        return "is a pickle (torch.save), which can run code when it is opened; it was not opened"
    more = f" and {len(offending) - 5} more" if len(offending) > 5 else ""
    listed = ", ".join(ascii(name)[1:-1][:80] for name in offending[:5])
    return f"is a pickle that would import and could run {listed}{more}; nothing of it was run"


def _globals(pickled: bytes) -> list[str]:
    """Dotted names that pickles in a row import (old torch.save wrote five), as far as they can be followed."""
    named: list[str] = []
    stream = io.BytesIO(pickled)
    for _ in range(_MOST_PICKLES):
        named += _globals_of_next(stream)
        if pickled[stream.tell() - 1 : stream.tell()] != _STOP:
            break
    return list(dict.fromkeys(named))


def _globals_of_next(stream: io.BytesIO) -> list[str]:
    named: list[str] = []
    texts: list[str] = []
    memo: dict[int, str] = {}
    try:
        for opcode, argument, _ in itertools.islice(pickletools.genops(stream), _MOST_INSTRUCTIONS):
            match opcode.name:
                case "GLOBAL" | "INST":
                    named.append(str(argument).replace(" ", "."))
                case "STACK_GLOBAL":
                    named.append(".".join(texts[-2:]))
                case "MEMOIZE" | "PUT" | "BINPUT" | "LONG_BINPUT":
                    memo[len(memo) if argument is None else argument] = texts[-1] if texts else "?"
                case "GET" | "BINGET" | "LONG_BINGET":
                    texts.append(memo.get(argument if isinstance(argument, int) else -1, "?"))
                case _ if isinstance(argument, str):
                    texts.append(argument)
    except Exception:  # genops raises many types on bytes that are no pickle; what was seen so far still counts
        pass
    return named


def _pickle_in_zip(head: bytes) -> bytes | None:
    """The first member called *.pkl of a zip archive (torch.save puts it first), its first megabyte."""
    start = head.find(_ZIP_ENTRY)
    while 0 <= start <= len(head) - 30:
        method, name_length, extra_length = struct.unpack("<H16xHH", head[start + 8 : start + 30])
        name = head[start + 30 : start + 30 + name_length]
        data = head[start + 30 + name_length + extra_length :]
        if name.endswith(b".pkl"):
            return _inflated(data) if method == 8 else data
        start = head.find(_ZIP_ENTRY, start + 4)
    return None


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj(-15).decompress(data, 2**20)
    except zlib.error:
        return b""
