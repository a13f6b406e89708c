"""Tensors as safetensors bytes: a strict reader, a streaming writer, and the digest that notices a flipped bit.

    file = length of the header (8 bytes, little endian) | header (JSON) | data
    header = {"__metadata__": {str: str}, name: {"dtype": "F32", "shape": [3, 4], "data_offsets": [begin, end]}, …}

The format runs no code, but it does not check itself: a flipped bit in the data gives other weights, silently. So the
bytes are judged here, by the same code that then uses them: the entries tile the data exactly (no overlap, no hole),
each shape times its item size is its extent, no name appears twice, every weight is finite, all this before a tensor is
allocated. Single files carry the SHA-256 of their tensors and metadata in the metadata; checkpoints have theirs in a
manifest. The digest proves integrity, not authorship.
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.errors import CheckpointError
from sfumato.training.foreign import describe_foreign
from sfumato.training.storage import LocalStorage, Storage, explained, make_folders, replace_file

__all__ = [
    "TensorFile",
    "check_finite",
    "check_names",
    "decode",
    "encode",
    "encoded_size",
    "nonfinite",
    "read_safetensors",
    "read_weights",
    "single_file_size",
    "strict_json",
    "write_single_file",
]

# 4 MiB of header describe some 40,000 tensors, ten times the largest diffusion model; a hostile header of that size
# still takes under 100 MB and about 0.5 s to refuse.
MAX_HEADER = 4 * 2**20
MAX_BRACKETS = 200_000  # three per tensor
DIGEST = "sha256"

_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorFile:
    """What one safetensors file holds: tensors by name (CPU, their own memory) and text about them."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class _BrokenError(ValueError):
    """Why bytes are not a safetensors file; becomes a CheckpointError where the file's name is known."""


# -------------------------------------------------------------------------------------------------------------- writing


def encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, tensor by tensor; equal tensors and metadata give equal bytes."""
    yield _header(tensors, metadata or {})
    for name in _written_order(tensors):
        yield _raw(tensors[name])


def encoded_size(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> int:
    """How many bytes `encode` will give."""
    return len(_header(tensors, metadata or {})) + sum(t.numel() * t.element_size() for t in tensors.values())


def _written_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Widest items first, so that each tensor lies on a multiple of its item size; otherwise as given."""
    return sorted(tensors, key=lambda name: -tensors[name].element_size())


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in _written_order(tensors):
        tensor = tensors[name]
        assert name != "__metadata__"
        assert tensor.dtype in _NAMES, (name, tensor.dtype)
        begin, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    assert len(text) <= MAX_HEADER, "more tensors than our own reader accepts"
    return struct.pack("<Q", len(text)) + text


def _raw(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, dtypes, shapes, metadata (without the digest itself) and data, in the order of writing."""
    order = _written_order(tensors)
    described = [[name, _NAMES[tensors[name].dtype], list(tensors[name].shape)] for name in order]
    texts = {key: value for key, value in sorted(metadata.items()) if key != DIGEST}
    sha = hashlib.sha256(json.dumps([described, texts]).encode())
    for name in order:
        sha.update(_raw(tensors[name]))
    return sha.hexdigest()


def write_single_file(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, storage: Storage | None = None
) -> None:
    """Write one self-describing file: tensors, metadata and their digest; whole or not at all.

    Raises `ResourceError` when it cannot be written (an older file of that name is then untouched) and
    `CheckpointError` when a tensor is not finite.
    """
    storage = LocalStorage() if storage is None else storage
    check_finite(tensors, f"the weights for {path}")
    full = {**metadata, DIGEST: _digest(tensors, metadata)}
    make_folders(path.parent, storage)
    try:
        replace_file(path, encode(tensors, full), storage)
    except OSError as error:
        needed = encoded_size(tensors, full)
        raise explained(error, f"writing {path}", path=path.parent, storage=storage, needed=needed) from None


def single_file_size(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """How many bytes `write_single_file` will write."""
    return encoded_size(tensors, {**metadata, DIGEST: "0" * 64})


# -------------------------------------------------------------------------------------------------------------- reading


def read_safetensors(path: Path, *, storage: Storage | None = None) -> TensorFile:
    """Read any safetensors file, strictly. `CheckpointError` says what is wrong; a pickle is named, never run."""
    storage = LocalStorage() if storage is None else storage
    try:
        size = storage.size(path)
        head = storage.read(path, count=2**20)
        try:
            _header_length(head, size)
        except _BrokenError as broken:
            raise _refusal(path, describe_foreign(bytes(head)) or str(broken)) from None
        return decode(storage.read(path), str(path))
    except OSError as error:
        raise _unreadable(path, error) from None


def read_weights(path: Path, *, storage: Storage | None = None) -> TensorFile:
    """Read a file made by `write_single_file`: besides the form, its digest must hold and every value be finite."""
    found = read_safetensors(path, storage=storage)
    if DIGEST not in found.metadata:
        raise _refusal(path, "carries no SHA-256 digest, so it was not exported by sfumato (or was changed since)")
    if found.metadata[DIGEST] != _digest(found.tensors, found.metadata):
        raise _refusal(path, "does not match its SHA-256 digest: at least one bit changed since it was written")
    check_finite(found.tensors, str(path))
    return found


def decode(buffer: bytearray, where: str) -> TensorFile:
    """Tensors and metadata from the bytes of a whole file; `where` names it in the `CheckpointError`."""
    try:
        length = _header_length(buffer, len(buffer))
        data_start = 8 + length
        metadata, entries = _entries(bytes(buffer[8:data_start]), len(buffer) - data_start)
        tensors = {entry.name: _tensor(buffer, data_start, entry) for entry in entries}
    except _BrokenError as broken:
        raise _refusal(where, describe_foreign(bytes(buffer[: 2**20])) or str(broken)) from None
    return TensorFile(tensors, metadata)


def _header_length(head: bytes | bytearray, size: int) -> int:
    if size == 0:
        raise _BrokenError("is empty (0 bytes)")
    if size < 10:
        raise _BrokenError(f"is only {size} bytes long")
    (length,) = struct.unpack("<Q", head[:8])
    if length > size - 8:
        raise _BrokenError(f"claims a header of {length} bytes but has only {size} (cut off, or no safetensors)")
    if length > MAX_HEADER:
        raise _BrokenError(f"claims a header of {length} bytes; at most {MAX_HEADER} are accepted")
    if head[8:9] != b"{":
        raise _BrokenError("does not start with a JSON header")
    return int(length)


def strict_json(text: bytes | bytearray) -> Any:
    """JSON without its traps: UTF-8 only, no key twice, no NaN, no endless nesting. Raises ValueError."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = next(key for position, (key, _) in enumerate(pairs) if key in dict(pairs[:position]))
            raise ValueError(f"the key {_shown(twice)} appears twice")
        return found

    def no_constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(text.decode(), object_pairs_hook=once, parse_constant=no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _entries(header: bytes, data_length: int) -> tuple[dict[str, str], list[_Entry]]:
    if header.count(b"[") + header.count(b"{") > MAX_BRACKETS:
        raise _BrokenError("has a header with more lists and objects than any network has tensors")
    try:
        parsed = strict_json(header)
    except ValueError as error:
        raise _BrokenError(f"has a header that is not valid JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise _BrokenError("has a header that is not a JSON object")
    metadata = parsed.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _BrokenError("has metadata that are not text by name")
    entries = [_entry(name, value) for name, value in parsed.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    position = 0
    for entry in entries:
        if entry.begin != position:
            problem = "overlaps the one before" if entry.begin < position else "leaves a hole before it"
            raise _BrokenError(f"has a tensor {_shown(entry.name)} whose data {problem} (byte {entry.begin})")
        position = entry.end
    if position != data_length:
        raise _BrokenError(f"describes {position} bytes of data but holds {data_length}")
    return metadata, entries


def _entry(name: str, value: Any) -> _Entry:
    label = f"has a tensor {_shown(name)}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _BrokenError(f"{label} that is not described by exactly dtype, shape and data_offsets")
    dtype = _DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None:
        raise _BrokenError(f"{label} of the unknown dtype {_shown(value['dtype'])}")
    shape, offsets = _naturals(value["shape"]), _naturals(value["data_offsets"])
    if shape is None or offsets is None or len(offsets) != 2 or len(shape) > 64:
        raise _BrokenError(f"{label} whose shape or data_offsets are not lists of natural numbers")
    if math.prod(max(1, length) for length in shape) >= 2**60:  # even with a zero among them torch multiplies the rest
        raise _BrokenError(f"{label} of an impossible shape {_shown(list(shape))}")
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        extent = offsets[1] - offsets[0]
        raise _BrokenError(f"{label} of shape {_shown(list(shape))} and {value['dtype']} that claims {extent} bytes")
    return _Entry(name, dtype, shape, offsets[0], offsets[1])


def _naturals(value: Any) -> tuple[int, ...] | None:
    """A list of integers in [0, 2^63), or None (true is no integer here)."""
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 2**63 for item in value):
        return None
    return tuple(value)


def _tensor(buffer: bytearray, data_start: int, entry: _Entry) -> Tensor:
    count = math.prod(entry.shape)
    if count == 0:
        return torch.empty(entry.shape, dtype=entry.dtype)
    start = data_start + entry.begin
    if entry.dtype is torch.bool and max(buffer[start : start + count]) > 1:
        raise _BrokenError(f"has a tensor {_shown(entry.name)} of BOOL with bytes other than 0 and 1")
    # through bytes: the data need not be aligned, and a clone lets go of the file's buffer
    raw = torch.frombuffer(buffer, dtype=torch.uint8, count=count * entry.dtype.itemsize, offset=start).clone()
    return raw.view(entry.dtype).reshape(entry.shape)


# -------------------------------------------------------------------------------------------------------------- judging


def nonfinite(tensors: Mapping[str, Tensor]) -> str:
    """The tensors that hold NaN or infinity, with how many such values each, for a message; "" when there are none."""
    bad = []
    for name, tensor in tensors.items():
        # A sum is finite unless a value is not (or it overflows): one pass without a temporary, then the exact count.
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.detach().sum())):
            count = tensor.numel() - int(torch.isfinite(tensor).sum())
            bad += [f"{_shown(name)} ({count} of {tensor.numel()} values)"] if count else []
    return ", ".join(bad[:5]) + (f" and {len(bad) - 5} more tensors" if len(bad) > 5 else "")


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse NaN and infinity with a `CheckpointError` that names the tensors and counts the values."""
    if bad := nonfinite(tensors):
        raise CheckpointError(
            f"{where}: NaN or infinity in {bad}",
            expected="finite weights, averages and optimizer moments",
            fix="use a checkpoint from before the run diverged; a smaller learning rate keeps it from happening again",
        )


def check_names(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str, *, because: Sequence[str] = ()
) -> None:
    """Refuse unless both hold the same names with the same shapes; call it before anything is loaded.

    The `CheckpointError` lists the first five differences with both shapes (missing, unexpected, misshapen), and
    `because`: clauses that say which settings differ from those of training, where that is known.
    """
    names = [*expected, *(name for name in found if name not in expected)]
    different = [
        f"{_shown(name)}: expected {_shape(expected.get(name))}, found {_shape(found.get(name))}"
        for name in names
        if _shape(expected.get(name)) != _shape(found.get(name))
    ]
    if different:
        more = f"; and {len(different) - 5} more" if len(different) > 5 else ""
        why = f" ({'; '.join(because)})" if because else ""
        back = "set back what differs" if because else "use the configuration it was trained with"
        raise CheckpointError(
            f"{what} does not fit the network: {'; '.join(different[:5])}{more}{why}",
            expected=f"exactly the {len(expected)} tensors of the network that the configuration builds",
            fix=f"{back} (network, data channels, classes), or use another checkpoint",
        )


def _shape(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else "×".join(map(str, tensor.shape)) or "a scalar"


def _shown(value: object) -> str:
    """Something out of an untrusted file, safe and short enough for a terminal."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _refusal(path: Path | str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} {why}",
        expected="a complete safetensors file as sfumato writes it",
        fix="use another checkpoint, or export or copy the file again; sfumato never reads a pickle",
    )


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    """Nothing there, a folder, a pipe, a link into the void: what stands in the file's place."""
    if path.is_symlink() and not path.exists():
        why = f"is a symbolic link to {path.readlink()}, which does not exist"
    elif isinstance(error, FileNotFoundError):
        why = "does not exist"
    elif isinstance(error, IsADirectoryError):
        why = "is a folder, not a file"
    else:
        why = f"cannot be read: {error.strerror or error}"
    return _refusal(path, why)
