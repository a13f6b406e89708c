"""The packed form of a data set: one safetensors file that is mapped into memory, not read into it.

    labels I64 (N,)   conditions F32 (N, V)   values U8 (N, H, W, C) or F32 (N, *shape)   names U8 (bytes)

Its metadata hold `format` (`sfumato-packed-1`) and `packed`, JSON: what the labels were and are called, the size of the
test part, the report of the packing, and the SHA-256 that the tensors must have. Names are the bytes of the examples'
file names, separated by NUL. Tensors whose items are long come first, so that all of them are aligned.

Mapped pages are read when they are touched and given back when memory is short; several processes share them. A file
that is replaced by renaming another onto it stays as it was for those who have it open. The mapping is private: what is
written to the tensors never reaches the file.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.data.packed import Packed, fingerprint_of
from sfumato.errors import DataError, printable

__all__ = ["FORMAT", "SUFFIX", "encode", "read_packed"]

FORMAT, SUFFIX = "sfumato-packed-1", ".safetensors"
CODES = {torch.int64: "I64", torch.float32: "F32", torch.uint8: "U8"}
PIECE = 1 << 24  # bytes handed on at once


def encode(packed: Packed) -> Iterator[bytes | memoryview]:
    """The file of a packed set in pieces: header first, then each tensor without a copy of it.

    The padding is a setting of training and is not kept.
    """
    tensors = _tensors(packed)
    entries: dict[str, Any] = {"__metadata__": {"format": FORMAT, "packed": json.dumps(_facts(packed))}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    yield struct.pack("<Q", len(header)) + header
    for tensor in tensors.values():
        content = memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        yield from (content[start : start + PIECE] for start in range(0, len(content), PIECE))


def read_packed(path: Path) -> Packed:
    """The data set of a file that `encode` made, mapped into memory; its content is what its fingerprint says.

    Raises `DataError` for another kind of file and for one that is damaged.
    """
    from safetensors import safe_open

    where = printable(str(path))
    if not os.path.isfile(path):  # opening a pipe would wait for ever
        problem = "not a regular file" if os.path.exists(path) else "no such file"
        raise DataError(f"{where}: {problem}", expected="a packed data set", fix="check --data.path")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys() if metadata.get("format") == FORMAT else []
            found = {name: file.get_tensor(name) for name in names}
    except Exception as error:  # safetensors reports damage with any exception there is
        raise _damaged(where, (str(error).splitlines() or ["unreadable"])[0]) from error
    if metadata.get("format") != FORMAT:
        held = f"a file of the format {printable(metadata['format'])}" if "format" in metadata else "some other tensors"
        raise DataError(
            f"{where}: holds {held}, not a data set",
            expected=f"a file that `sfumato data pack` wrote ({FORMAT})",
            fix=f"sfumato data pack PATH --out data{SUFFIX}, and give that file as --data.path",
        )
    try:
        facts = json.loads(metadata["packed"])
        packed = _assembled(found, facts)
        wrong = _misfits(packed)
    except (IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise _damaged(where, f"{type(error).__name__}: {error}") from error
    if wrong:
        raise _damaged(where, f"its {', '.join(wrong)} do not fit the rest")
    if fingerprint_of(packed.values, packed.labels, packed.conditions) != packed.fingerprint:
        raise _damaged(where, "its content is not what its fingerprint says")
    if hashlib.sha256(_joined(packed.names)).hexdigest() != facts.get("names"):
        raise _damaged(where, "its names are not those that it was written with")
    return packed


def _damaged(where: str, why: str) -> DataError:
    return DataError(
        f"{where}: is damaged ({printable(why)})",
        expected="a file that `sfumato data pack` wrote, whole and unchanged",
        fix="copy it again, or pack the data again: sfumato data pack PATH --out FILE --force",
    )


def _tensors(packed: Packed) -> dict[str, Tensor]:
    """The tensors of the file in their order."""
    names = torch.frombuffer(bytearray(_joined(packed.names)), dtype=torch.uint8) if packed.names else None
    found = {"labels": packed.labels, "conditions": packed.conditions, "values": packed.values, "names": names}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _joined(names: tuple[str, ...]) -> bytes:
    return b"\0".join(map(os.fsencode, names))


def _facts(packed: Packed) -> dict[str, Any]:
    return {
        "label_values": packed.label_values,
        "class_names": packed.class_names,
        "condition_names": packed.condition_names,
        "absent_classes": packed.absent_classes,
        "test_count": packed.test_count,
        "fingerprint": packed.fingerprint,
        "names": hashlib.sha256(_joined(packed.names)).hexdigest(),
        "report": packed.report,
    }


def _assembled(tensors: dict[str, Tensor], facts: dict[str, Any]) -> Packed:
    """The data set of the tensors and the facts of a file. Raises KeyError, TypeError or ValueError where it cannot."""
    return Packed(
        values=tensors["values"],
        labels=tensors.get("labels"),
        label_values=tuple(facts["label_values"]),
        class_names=_texts(facts["class_names"]),
        fingerprint=str(facts["fingerprint"]),
        report=tuple(map(str, facts["report"])),
        test_count=int(facts["test_count"]),
        conditions=tensors.get("conditions"),
        condition_names=_texts(facts["condition_names"]),
        absent_classes=tuple(map(str, facts["absent_classes"])),
        names=_names(tensors.get("names")),
    )


def _misfits(packed: Packed) -> list[str]:
    """What of a file's content does not fit the rest, in words; empty for a sound one."""
    values, conditions = packed.values, packed.conditions
    count = len(values) if values.ndim else 0
    picture = values.dtype == torch.uint8 and values.ndim == 4
    numbers = conditions is None or (conditions.dtype == torch.float32 and conditions.ndim == 2)
    fits = {
        "values": (picture or (values.dtype == torch.float32 and values.ndim >= 2)) and 0 not in values.shape,
        "labels": packed.labels is None or _labels_fit(packed.labels, count, packed.num_classes),
        "class names": packed.class_names is None or len(packed.class_names) == packed.num_classes,
        "conditions": numbers and (conditions is None or len(conditions) == count),
        "condition names": packed.condition_names is None or len(packed.condition_names) == packed.num_conditions,
        "test part": 0 <= packed.test_count < count,
        "names": len(packed.names) in (0, count),
    }
    return [name for name, good in fits.items() if not good]


def _labels_fit(labels: Tensor, count: int, num_classes: int) -> bool:
    if labels.dtype != torch.int64 or labels.shape != (count,) or not count:
        return False
    return int(labels.min()) >= 0 and int(labels.max()) < num_classes


def _texts(texts: list[str] | None) -> tuple[str, ...] | None:
    return None if texts is None else tuple(map(str, texts))


def _names(joined: Tensor | None) -> tuple[str, ...]:
    return () if joined is None else tuple(os.fsdecode(n) for n in joined.numpy().tobytes().split(b"\0"))
