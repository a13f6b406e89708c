"""The packed form: what goes in comes out, mapped and not read, and nothing but that is believed."""

import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.data import DataConfig, Packed, load_data, pack, split
from sfumato.data.packed_file import encode, read_packed
from sfumato.errors import ConfigError, DataError


def pictures(count: int = 12, *, channels: int = 3) -> Packed:
    """Labelled pictures with numbers, names and a test part; class "c" occurs in the test part alone."""
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.integers(0, 256, (count, 6, 4, channels), dtype=np.uint8))
    labels = torch.tensor([0, 1] * (count // 2 - 1) + [2, 2])
    return pack(
        values,
        labels=labels,
        label_values=(3, 5, 9),
        class_names=("a", "b", "c"),
        report=("the first frame was taken of 1 file with several",),
        test_count=2,
        conditions=torch.from_numpy(rng.normal(size=(count, 2)).astype(np.float32)),
        condition_names=("age", "angle"),
        absent_classes=("none of these",),
        names=[f"ünï/{i}\n.png" if i else "\udcff.png" for i in range(count)],
    )


def points() -> Packed:
    return pack(torch.from_numpy(np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)))


def written(packed: Packed, path: Path) -> Path:
    path.write_bytes(b"".join(encode(packed)))
    return path


def load(path: Path, **settings: Any) -> Packed:
    return load_data(DataConfig(path=str(path), **settings), seed=0)


@pytest.mark.parametrize("made", [pictures, points])
def test_what_goes_in_comes_out(made: Callable[[], Packed], tmp_path: Path) -> None:
    packed = made()
    again = read_packed(written(packed, tmp_path / "x.safetensors"))
    for name in Packed.__slots__:
        before, after = getattr(packed, name), getattr(again, name)
        if isinstance(before, torch.Tensor):
            assert torch.equal(before, after), name
            assert before.dtype == after.dtype, name
        else:
            assert before == after, name


def test_any_reader_of_safetensors_can_open_it(tmp_path: Path) -> None:
    """The file is what the format says it is: read here by the rules of the format alone."""
    packed = pictures()
    raw = written(packed, tmp_path / "x.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    assert length % 8 == 0  # so that numbers of eight bytes are aligned
    begin, end = header["values"]["data_offsets"]
    values = np.frombuffer(raw[8 + length + begin : 8 + length + end], np.uint8).reshape(header["values"]["shape"])
    assert np.array_equal(values, packed.values.numpy())
    assert header["__metadata__"]["format"] == "sfumato-packed-1"
    extents = sorted(entry["data_offsets"] for name, entry in header.items() if name != "__metadata__")
    assert [e for _, e in extents][:-1] == [b for b, _ in extents][1:]  # no hole, no overlap
    assert extents[-1][1] == len(raw) - 8 - length


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_it_is_mapped_and_the_mapping_is_private(tmp_path: Path) -> None:
    path = written(pictures(), tmp_path / "x.safetensors")
    before = path.read_bytes()
    packed = load(path)
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    spans = [[int(end, 16) for end in line[0].split("-")] for line in maps]
    address = packed.values.data_ptr()
    assert any(low <= address < high for low, high in spans)  # the values lie in the file, not in a copy of it
    packed.values.zero_()
    assert path.read_bytes() == before


def test_a_file_that_is_replaced_stays_as_it_was_for_its_readers(tmp_path: Path) -> None:
    path = written(pictures(), tmp_path / "x.safetensors")
    packed = load(path)
    other = written(points(), tmp_path / "new.safetensors")
    os.replace(other, path)
    assert torch.equal(packed.values, pictures().values)
    path.unlink()
    assert torch.equal(packed.values, pictures().values)


def damaged(raw: bytes, what: str) -> bytes:
    (length,) = struct.unpack("<Q", raw[:8])
    if what.startswith("a bit of the "):
        begin = json.loads(raw[8 : 8 + length])[what.split()[-1]]["data_offsets"][0]
        place = 8 + length + begin + 8
        return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
    if what == "cut short":
        return raw[: len(raw) // 2]
    header = json.loads(raw[8 : 8 + length])
    facts = json.loads(header["__metadata__"]["packed"])
    if what == "labels beyond the classes":
        facts.update(label_values=[3], class_names=["a"])
    elif what == "too large a test part":
        facts["test_count"] = 12
    elif what == "no report":
        del facts["report"]
    header["__metadata__"]["packed"] = json.dumps(facts) if what != "no JSON" else "{"
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + raw[8 + length :]


@pytest.mark.parametrize(
    "what",
    [
        *(f"a bit of the {tensor}" for tensor in ("values", "labels", "conditions", "names")),
        *("cut short", "labels beyond the classes", "too large a test part", "no report", "no JSON"),
    ],
)
def test_damage_is_noticed(what: str, tmp_path: Path) -> None:
    path = written(pictures(), tmp_path / "x.safetensors")
    path.write_bytes(damaged(path.read_bytes(), what))
    with pytest.raises(DataError, match="is damaged") as caught:
        load(path)
    assert str(path) in caught.value.what


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(3)}, tmp_path / "model.safetensors", metadata={"format": "sfumato-model-1"})
    with pytest.raises(DataError, match="sfumato-model-1, not a data set"):
        load(tmp_path / "model.safetensors")
    save_file({"w": torch.zeros(3)}, tmp_path / "plain.safetensors")
    with pytest.raises(DataError, match="some other tensors"):
        load(tmp_path / "plain.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors at all")
    with pytest.raises(DataError, match="is damaged"):
        load(tmp_path / "text.safetensors")
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "absent.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(DataError, match="not a regular file"):
        load(tmp_path / "pipe.safetensors")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"limit": 1},
        {"limit": 4},
        {"size": 4},
        {"size": (8, 6), "channels": 1, "limit": 5},
        {"pad": 8},
        {"min_size": 4},
    ],
    ids=str,
)
def test_settings_do_to_a_packed_file_what_they_do_to_its_source(settings: dict[str, Any], tmp_path: Path) -> None:
    """The same arrays as an .npz file and packed from it give the same data under every setting."""
    packed = pictures()
    count = len(packed) - packed.test_count
    raw = np.array([3, 5, 9])[packed.labels.numpy()]  # type: ignore[union-attr]
    parts = {"x_train": packed.values[:count], "x_test": packed.values[count:], "y_train": raw[:count]}
    told = {"conditions_train": packed.conditions[:count], "conditions_test": packed.conditions[count:]}  # type: ignore[index]
    np.savez(tmp_path / "x.npz", y_test=raw[count:], condition_names=["age", "angle"], **parts, **told)
    whole = written(load(tmp_path / "x.npz"), tmp_path / "x.safetensors")
    direct, twice = load(tmp_path / "x.npz", **settings), load(whole, **settings)
    assert direct.fingerprint == twice.fingerprint
    for name in ("label_values", "class_names", "test_count", "condition_names", "shape", "pad"):
        assert getattr(direct, name) == getattr(twice, name), name
    parts_of = [split(p, 0.1, seed=0).held_out.tolist() for p in (direct, twice)]
    assert parts_of[0] == parts_of[1]


def test_names_follow_the_examples(tmp_path: Path) -> None:
    packed = load(written(pictures(), tmp_path / "x.safetensors"), limit=5)
    whole = pictures()
    for i, name in enumerate(packed.names):
        assert torch.equal(packed.values[i], whole.values[whole.names.index(name)])
    assert packed.absent_classes == ("none of these", "b")  # every other one is an "a"


def test_classes_that_a_limit_loses_are_absent(tmp_path: Path) -> None:
    packed = pack(
        torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1),
        labels=torch.tensor([0, 1, 0, 1, 0, 2]),
        label_values=("a", "b", "c"),
        class_names=("a", "b", "c"),
    )
    few = load(written(packed, tmp_path / "x.safetensors"), limit=3)
    assert few.values.flatten().tolist() == [0, 2, 4]
    assert few.labels is not None
    assert (few.labels.tolist(), few.class_names, few.absent_classes) == ([0, 0, 0], ("a",), ("b", "c"))


def test_settings_that_come_too_late_are_refused(tmp_path: Path) -> None:
    """A range of values scales what the file holds a second time; points have no size."""
    path = written(pictures(), tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match=r"data\.value_range is \[0, 4095\].*is packed"):
        load(path, value_range=(0, 4095))
    with pytest.raises(ConfigError, match="smaller than the"):
        load(path, pad=3)
    with pytest.raises(ConfigError, match=r"data\.size is set"):
        load(written(points(), tmp_path / "points.safetensors"), size=8)


def test_facts_that_are_nested_without_end_are_damage(tmp_path: Path) -> None:
    """Also in the cache, which must then be made anew and not stop anybody."""
    from safetensors.numpy import save_file

    facts = {"format": "sfumato-packed-1", "packed": "[" * 100_000}
    save_file({"values": np.zeros((1, 1), np.float32)}, tmp_path / "x.safetensors", metadata=facts)
    with pytest.raises(DataError, match=r"is damaged \(RecursionError"):
        load_data(DataConfig(path=str(tmp_path / "x.safetensors")), seed=0)
