"""The strict reader of tensor files: what it takes is right to the bit; what it refuses, fast and in words."""

import io
import json
import os
import pickle
import random
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sfumato.errors import CheckpointError, ResourceError, SfumatoError
from sfumato.training.tensors import (
    TensorFile,
    check_finite,
    decode,
    encode,
    encoded_size,
    read_safetensors,
    read_weights,
    write_single_file,
)

TENSORS = {
    "double": torch.tensor([0.1, -2.5], dtype=torch.float64),
    "weight": torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7,
    "half": torch.tensor([1.5, -0.25, 3.0]).half(),
    "brain": torch.tensor([[1.5], [float(2**100)]]).bfloat16(),
    "count": torch.tensor(2**60),
    "int": torch.tensor([-5], dtype=torch.int32),
    "short": torch.tensor([-300], dtype=torch.int16),
    "byte": torch.tensor([0, 255], dtype=torch.uint8),
    "flag": torch.tensor([True, False, True]),
    "none": torch.zeros(0, 5),
    'grün \u2028 "x"': torch.tensor(1.0),
}


def encoded(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytearray:
    return bytearray(b"".join(bytes(chunk) for chunk in encode(tensors, metadata)))


def assert_equal(found: dict[str, Tensor], truth: dict[str, Tensor]) -> None:
    assert found.keys() == truth.keys()
    for name, tensor in truth.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor)


def put(path: Path, data: bytes | bytearray) -> None:
    """A new file; overwriting would make some file systems wait for the disk thousands of times."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def test_tensors_come_back() -> None:
    metadata = {"config": '{"a": "ß"}', "b": ""}
    data = encoded(TENSORS, metadata)
    assert len(data) == encoded_size(TENSORS, metadata)
    found = decode(data, "here")
    assert_equal(found.tensors, TENSORS)
    assert found.metadata == metadata
    data[-40:] = bytes(40)
    assert_equal(found.tensors, TENSORS)  # they do not live in the file's buffer


def test_we_read_what_the_safetensors_library_writes_and_it_reads_ours(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "theirs", metadata={"format": "pt"})
    theirs = read_safetensors(tmp_path / "theirs")
    assert_equal(theirs.tensors, TENSORS)
    assert theirs.metadata == {"format": "pt"}
    write_single_file(tmp_path / "ours", TENSORS, {"config": "{}"})
    assert_equal(load_file(tmp_path / "ours"), TENSORS)


def test_a_single_file_is_whole_and_describes_itself(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "model.safetensors"
    write_single_file(path, TENSORS, {"config": "x"})
    found = read_weights(path)
    assert_equal(found.tensors, TENSORS)
    assert found.metadata["config"] == "x"
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(ResourceError, match="a file stands where a folder should be"):
        write_single_file(tmp_path / "file" / "model", TENSORS, {})


def test_no_flipped_bit_of_a_single_file_passes(tmp_path: Path) -> None:
    """Header, metadata and data alike: the digest in the metadata covers them."""
    path = tmp_path / "model"
    write_single_file(path, {"w": torch.randn(4), "n": torch.tensor(3)}, {"config": "{'steps': 10}"})
    good = path.read_bytes()
    for position in range(8 * len(good)):
        flipped = bytearray(good)
        flipped[position // 8] ^= 1 << position % 8
        put(path, flipped)
        with pytest.raises(CheckpointError, match=r"SHA-256|header|tensor|data|digest|HTML|NaN"):
            read_weights(path)


def test_a_file_without_a_digest_is_not_one_of_ours(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "foreign")
    with pytest.raises(CheckpointError, match="carries no SHA-256 digest"):
        read_weights(tmp_path / "foreign")


def test_what_is_not_finite_is_named_and_counted(tmp_path: Path) -> None:
    """B6: each tensor by name with its number of bad values; a sum that merely overflows is no fault."""
    bad = {"fine": torch.full((4,), 3e38), "a": torch.tensor([1.0, float("nan")]), "b": torch.full((2,), float("inf"))}
    with pytest.raises(
        CheckpointError, match=r"here: NaN or infinity in 'a' \(1 of 2 values\), 'b' \(2 of 2 values\)\n"
    ) as e:
        check_finite(bad, "here")
    assert "fine" not in e.value.what
    with pytest.raises(CheckpointError, match=r"'a' \(1 of 2 values\)"):
        write_single_file(tmp_path / "model", bad, {})
    assert list(tmp_path.iterdir()) == []


def file_of(header: str | bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int, end: int, shape: object = None, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def many(count: int) -> bytes:
    entries = (f'"t{n}":{{"dtype":"F32","shape":[1],"data_offsets":[{4 * n},{4 * n + 4}]}}' for n in range(count))
    return file_of("{" + ",".join(entries) + "}", bytes(4 * count))


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "huge length": (lambda: file_of("{}", length=2**63), "claims a header of 9223372036854775808 bytes"),
    "length over the limit": (lambda: file_of(b"{" + b" " * 5_000_000 + b"}"), "at most 4194304 are accepted"),
    "length beyond the end": (lambda: file_of("{}", length=3), "claims a header of 3 bytes"),
    "overlap": (lambda: file_of(json.dumps({"a": entry(0, 8), "b": entry(4, 12)}), bytes(12)), "overlaps"),
    "hole": (lambda: file_of(json.dumps({"a": entry(0, 4), "b": entry(8, 12)}), bytes(12)), "leaves a hole"),
    "hole at the end": (
        lambda: file_of(json.dumps({"a": entry(0, 4)}), bytes(8)),
        "describes 4 bytes of data but holds 8",
    ),
    "beyond the data": (
        lambda: file_of(json.dumps({"a": entry(0, 8)}), bytes(4)),
        "describes 8 bytes of data but holds 4",
    ),
    "backwards": (lambda: file_of(json.dumps({"a": entry(8, 4, [1])}), bytes(8)), "claims -4 bytes"),
    "duplicate key": (lambda: file_of('{"a":{},"a":{}}'), "the key 'a' appears twice"),
    "200,000 entries": (lambda: many(200_000), "claims a header of"),
    "as many as fit": (lambda: many(50_000)[:-1], "describes"),
    "product overflow": (
        lambda: file_of(json.dumps({"a": entry(0, 4, [2**32, 2**32, 1])}), bytes(4)),
        "impossible shape",
    ),
    "product wraps to 4": (
        lambda: file_of(json.dumps({"a": entry(0, 4, [2**62 + 1, 4])}), bytes(4)),
        "impossible shape",
    ),
    "zero times huge": (lambda: file_of(json.dumps({"a": entry(0, 0, [0, 2**62, 2**62])})), "impossible shape"),
    "negative size": (lambda: file_of(json.dumps({"a": entry(0, 4, [-1, -1])}), bytes(4)), "not lists of natural"),
    "true as a size": (lambda: file_of(json.dumps({"a": entry(0, 4, [True])}), bytes(4)), "not lists of natural"),
    "float sizes": (lambda: file_of('{"a":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}', bytes(4)), "natural"),
    "100,000 axes": (lambda: file_of(json.dumps({"a": entry(0, 4, [1] * 100_000)}), bytes(4)), "natural"),
    "unknown dtype": (lambda: file_of(json.dumps({"a": entry(0, 4, [1], "F33")}), bytes(4)), "unknown dtype 'F33'"),
    "dtype a list": (lambda: file_of(json.dumps({"a": entry(0, 4, [1], ["F32"])}), bytes(4)), "unknown dtype"),
    "bool of 2": (lambda: file_of(json.dumps({"a": entry(0, 1, [1], "BOOL")}), b"\x02"), "bytes other than 0 and 1"),
    "deep nesting": (lambda: file_of(b'{"a":' + b"[" * 190_000), "nested too deeply|not valid JSON"),
    "deeper nesting": (lambda: file_of(b'{"a":' + b"[" * 2_000_000), "more lists and objects"),
    "a million marks": (lambda: b"(" * 2**20, "claims a header"),
    "half a million pickles": (lambda: b"N." * 2**19, "claims a header"),
    "wide nesting": (lambda: file_of(b'{"a":[' + b"[]," * 1_300_000 + b"[]]}"), "more lists and objects"),
    "not JSON": (lambda: file_of("{'a': 1}"), "not valid JSON"),
    "not UTF-8": (lambda: file_of(b'{"\xff": 1}'), "not valid JSON"),
    "NaN in JSON": (lambda: file_of('{"a": NaN}'), "NaN is not JSON"),
    "huge number": (lambda: file_of('{"a": ' + "9" * 100_000 + "}"), "not valid JSON"),
    "an array": (lambda: file_of(b"[1, 2]"), "does not start with a JSON header"),
    "metadata not text": (lambda: file_of('{"__metadata__": {"a": 1}}'), "metadata that are not text"),
    "surrogates": (lambda: file_of('{"\\ud800\\u001b[31m": 1}'), r"\\ud800\\x1b"),
    "empty": (lambda: b"", "is empty"),
    "short": (lambda: b"abc", "only 3 bytes"),
    "HTML": (lambda: b"\n <!DOCTYPE html><html><body>Sign in</body></html>", "is an HTML page"),
    "LFS pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_fast_and_small(tmp_path: Path, kind: str) -> None:
    """B3, B15: within 1 s and 200 MB, naming the file and the lie."""
    make, words = HOSTILE[kind]
    path = tmp_path / "model.safetensors"
    path.write_bytes(make())
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError, match=words) as caught:
        read_safetensors(path)
    assert str(path) in caught.value.what
    assert len(caught.value.what) < 600
    assert len(str(caught.value).splitlines()) == 3
    assert str(caught.value).encode()  # no lone surrogates, whatever the file says
    assert time.process_time() - start < 1.0
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # kB on Linux
    assert grown < 200_000


def test_a_file_of_gigabytes_is_not_read_to_be_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.write(file_of("{}", length=2**62))
        file.truncate(2**35)  # sparse: 32 GiB that take no room
    with pytest.raises(CheckpointError, match="claims a header"):
        read_safetensors(path)


@pytest.mark.parametrize("kind", ["folder", "broken link", "pipe", "nothing"])
def test_other_things_than_files_are_named(tmp_path: Path, kind: str) -> None:
    """B15: a pipe must not hang, a link says where it leads."""
    path = tmp_path / "model.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "broken link":
        path.symlink_to(tmp_path / "gone")
    elif kind == "pipe":
        os.mkfifo(path)
    words = {
        "folder": "is a folder",
        "broken link": f"symbolic link to {tmp_path / 'gone'}, which does not exist",
        "pipe": "not a regular file",
        "nothing": "does not exist",
    }
    with pytest.raises(CheckpointError, match=words[kind]) as caught:
        read_safetensors(path)
    assert caught.value.exit_code == 4


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize(
    "how", ["protocol 0", "protocol 2", "protocol 4", "protocol 5", "torch", "old torch", "deflated"]
)
def test_a_pickle_is_named_and_never_run(tmp_path: Path, how: str) -> None:
    """B1: the offending global is in the message; the canary stays absent."""
    canary, path = tmp_path / "canary", tmp_path / "model.safetensors"
    content = {"weight": torch.ones(3), "payload": Payload(canary)}
    if how == "torch":
        torch.save(content, path)
    elif how == "old torch":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    elif how == "deflated":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(content["payload"]))
    else:
        path.write_bytes(pickle.dumps(content["payload"], protocol=int(how[-1])))
    with pytest.raises(CheckpointError, match=r"would import and could run (posix|nt)\.system") as caught:
        read_safetensors(path)
    assert "never reads a pickle" in caught.value.fix
    assert not canary.exists()
    assert pickle.loads(pickle.dumps(Payload(canary))) == 0  # the payload is a live one: unpickling it does run it
    assert canary.exists()


def test_an_honest_pickle_is_refused_too(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="is a pickle") as caught:
        read_safetensors(tmp_path / "model.pt")
    assert "could run" not in caught.value.what.replace("can run", "")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", b"numbers")
    (tmp_path / "data.npz").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="is a zip archive"):
        read_safetensors(tmp_path / "data.npz")


def mutated(good: bytes, dice: random.Random) -> bytes:
    """One to three of: flipped bits, a cut, a repeated, moved or overwritten piece, a hostile number."""
    data = bytearray(good)
    for _ in range(dice.randint(1, 3)):
        position, length = dice.randrange(len(data)), dice.randint(1, 40)
        match dice.randrange(6):
            case 0:
                data[position] ^= 1 << dice.randrange(8)
            case 1:
                del data[max(1, position) :]
            case 2:
                data[position:position] = data[position : position + length]
            case 3:
                del data[position : position + length]
            case 4:
                data[position : position + length] = dice.randbytes(length)
            case 5:
                number = dice.choice([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
                data[: 8 if dice.random() < 0.5 else 0] = struct.pack("<Q", number)
        if not data:
            break
    return bytes(data)


def test_mutated_files_are_refused_or_equal(tmp_path: Path) -> None:
    """1,000 mutations, seeded: CheckpointError or the very same tensors and metadata; no other kind of error."""
    path = tmp_path / "model"
    write_single_file(path, TENSORS, {"config": '{"widths": [32, 64]}', "name": "digits"})
    good, truth = path.read_bytes(), read_weights(path)
    dice = random.Random(20240607)
    outcomes = {"refused": 0, "equal": 0}
    for number in range(1000):
        put(path, mutated(good, dice))
        start = time.process_time()
        outcome, found = judged(path)
        assert outcome in outcomes, f"mutation {number}: {outcome}"
        if found is not None:
            assert_equal(found.tensors, truth.tensors)
            assert found.metadata == truth.metadata
        outcomes[outcome] += 1
        assert time.process_time() - start < 1.0
    assert outcomes["refused"] > 900


def judged(path: Path) -> tuple[str, TensorFile | None]:
    try:
        return "equal", read_weights(path)
    except SfumatoError as error:
        return ("refused" if isinstance(error, CheckpointError) else repr(error)), None
