"""Parquet files and the hub: pictures with what belongs to them, numbers alone, and nothing fetched unasked."""

import io
import json
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data import DataConfig, Packed, load_data
from sfumato.errors import ConfigError, DataError, PlatformError, ResourceError, SfumatoError


def load(path: Path | str, **settings: object) -> Packed:
    return load_data(DataConfig(path=str(path), **settings), seed=0)  # type: ignore[arg-type]


def refusal(path: Path | str, **settings: object) -> SfumatoError:
    with pytest.raises(SfumatoError) as caught:
        load(path, **settings)
    assert len(str(caught.value).splitlines()) == 3
    return caught.value


def picture(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), level).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def save() -> Callable[..., Path]:
    """Write columns to a parquet file, with the schema's notes that `datasets` leaves: {column: feature}."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def write(path: Path, columns: Mapping[str, Any], features: Mapping[str, Any] | None = None) -> Path:
        table = pyarrow.table(dict(columns))
        if features is not None:
            notes = {"info": {"features": dict(features)}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(notes)})
        parquet.write_table(table, path, row_group_size=2)
        return path

    return write


def levels(packed: Packed) -> list[int]:
    return packed.values[:, 0, 0, 0].tolist()


def test_pictures_come_with_classes_and_values(tmp_path: Path, save: Callable[..., Path]) -> None:
    """As `datasets` stores them: a struct of bytes and path, classes by number with their names in the schema."""
    columns = {
        "image": [{"bytes": picture(n), "path": f"{n}.png"} for n in range(5)],
        "label": [0, 2, 0, 2, 2],
        "angle": [n / 2 for n in range(5)],
        "box": [[n, 2 * n] for n in range(5)],
        "caption": ["x"] * 5,
    }
    names = {"names": ["ant", "bee", "cat"], "_type": "ClassLabel"}
    path = save(tmp_path / "train.parquet", columns, {"image": {"_type": "Image"}, "label": names})
    for packed in (load(path), load(path)):  # decoded, and from the cache
        assert levels(packed) == [0, 1, 2, 3, 4]
        assert packed.shape == (1, 4, 4)
        assert (packed.label_values, packed.class_names) == ((0, 2), ("ant", "cat"))
        assert packed.absent_classes == ("bee",)
        assert packed.labels is not None
        assert packed.labels.tolist() == [0, 1, 0, 1, 1]
        assert packed.condition_names == ("angle", "box[0]", "box[1]")
        assert packed.conditions is not None
        assert packed.conditions[3].tolist() == [1.5, 3, 6]
        assert packed.report == ("ignored 1 column of words: caption",)
    few = load(path, limit=2, columns=("angle",), label="caption", size=2)
    assert (levels(few), few.class_names, few.condition_names) == ([0, 2], ("x",), ("angle",))


def test_plain_bytes_are_pictures_and_bad_ones_are_named(tmp_path: Path, save: Callable[..., Path]) -> None:
    contents = [picture(0), b"text", None, picture(3)]
    path = save(tmp_path / "x.parquet", {"img": contents, "class": ["a", "b", "c", "a"]})
    error = refusal(path)
    assert "2 of 4 pictures cannot be used: row 1: not a JPEG" in error.what
    assert "row 2: no picture in this row" in error.what
    packed = load(path, bad_files="skip")
    assert (levels(packed), packed.class_names) == ([0, 3], ("a",))
    outside = [{"bytes": None, "path": "/etc/passwd"}, {"bytes": picture(1), "path": None}]
    path = save(tmp_path / "y.parquet", {"image": outside})
    assert "row 0: holds only the name of a file (/etc/passwd), not its bytes" in refusal(path).what


@pytest.mark.parametrize(
    ("labels", "said", "expected"),
    [
        ([0, -1, 1], "x.parquet: row 1: label is -1", "0..1, as the file names its classes"),
        ([0, 1, 2], "x.parquet: row 2: label is 2", "0..1, as the file names its classes"),
        ([0, 1, None], "x.parquet: row 2: label is nan", "0..1"),
    ],
)
def test_labels_beyond_the_names_are_refused(
    tmp_path: Path, save: Callable[..., Path], labels: list[int | None], said: str, expected: str
) -> None:
    """D17."""
    columns = {"image": [picture(n) for n in range(3)], "label": labels}
    path = save(tmp_path / "x.parquet", columns, {"label": {"names": ["a", "b"], "_type": "ClassLabel"}})
    error = refusal(path)
    assert said in error.what
    assert expected in error.expected


def test_numbers_alone_are_points_or_sequences(tmp_path: Path, save: Callable[..., Path]) -> None:
    path = save(tmp_path / "points.parquet", {"x": [1, 2, 3], "y": [0.5, 0.25, 0.125], "label": ["a", "b", "a"]})
    packed = load(path)
    assert packed.values.tolist() == [[1, 0.5], [2, 0.25], [3, 0.125]]
    assert packed.class_names == ("a", "b")
    waves = np.arange(30, dtype=np.float32).reshape(3, 2, 5)
    path = save(tmp_path / "waves.parquet", {"wave": waves.tolist(), "id": ["a", "b", "c"]})
    assert torch.equal(load(path).values, torch.from_numpy(waves))
    path = save(tmp_path / "nan.parquet", {"x": [1.0, None, 2.0]})
    assert "nan.parquet: row 1: x is nan" in refusal(path).what
    path = save(tmp_path / "ragged.parquet", {"x": [[1, 2], [1, 2], [1]]})
    assert "ragged.parquet: row 2: x is [1]" in refusal(path).what
    path = save(tmp_path / "words.parquet", {"x": ["a", "b"]})
    assert "no column holds numbers" in refusal(path).what


def test_parts_belong_together(tmp_path: Path, save: Callable[..., Path]) -> None:
    for part in range(3):
        columns = {"image": [picture(10 * part + n) for n in range(2)], "label": [part, part]}
        save(tmp_path / f"train-{part:05d}-of-00003.parquet", columns)
    packed = load(tmp_path / "train-00001-of-00003.parquet")
    assert levels(packed) == [0, 1, 10, 11, 20, 21]
    assert packed.labels is not None
    assert packed.labels.tolist() == [0, 0, 1, 1, 2, 2]
    save(tmp_path / "train-00002-of-00003.parquet", {"image": [b"x"], "label": [1]})
    assert "train-00002-of-00003.parquet row 0: not a JPEG" in refusal(tmp_path / "train-00000-of-00003.parquet").what
    save(tmp_path / "train-00002-of-00003.parquet", {"other": [1]})
    assert "other columns than in train-00000" in refusal(tmp_path / "train-00000-of-00003.parquet").what
    (tmp_path / "train-00002-of-00003.parquet").unlink()
    assert "1 of its 3 parts are missing" in refusal(tmp_path / "train-00000-of-00003.parquet").what


def test_files_that_cannot_be_used_are_named(tmp_path: Path, save: Callable[..., Path]) -> None:
    two = {"first": [picture(0)], "second": [picture(1)]}
    assert "the columns first, second may all hold the pictures" in refusal(save(tmp_path / "two.parquet", two)).what
    assert levels(load(save(tmp_path / "named.parquet", {**two, "image": [picture(2)]}))) == [2]
    assert "no column 'breed' (data.label)" in refusal(tmp_path / "named.parquet", label="breed").what
    whole = (tmp_path / "two.parquet").read_bytes()
    rng = np.random.default_rng(0)
    for i in range(40):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), 3):
            damaged[position] = rng.integers(256)
        (tmp_path / "damaged.parquet").write_bytes(damaged if i % 2 else damaged[: rng.integers(len(damaged))])
        assert "damaged.parquet" in refusal(tmp_path / "damaged.parquet").what
    empty = save(tmp_path / "empty.parquet", {"image": [picture(0)][:0], "label": [1][:0]})
    assert refusal(empty).exit_code == 3


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    error = refusal(tmp_path / "x.parquet")
    assert isinstance(error, PlatformError)
    assert error.fix == "pip install 'sfumato[data]'"


# ---- the hub


class FakeSplit:
    """What `datasets.load_dataset` returns, as far as it is used."""

    features: ClassVar[dict[str, object]] = {}

    def __init__(self, write: Callable[[Path], object]) -> None:
        self.write = write

    def to_parquet(self, path: str) -> None:
        self.write(Path(path))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for the library `datasets` that counts what is asked of it; `.answer` is called with the target."""
    module = ModuleType("datasets")
    module.asked = []  # type: ignore[attr-defined]

    def load_dataset(name: str, config: str | None, *, split: str, cache_dir: str) -> FakeSplit:
        module.asked.append((name, config, split))  # type: ignore[attr-defined]
        assert Path(cache_dir).parent.is_dir()
        return FakeSplit(module.answer)  # type: ignore[attr-defined]

    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_the_hub_is_asked_once_and_only_with_leave(hub: Any, private_cache: Path, save: Callable[..., Path]) -> None:
    hub.answer = lambda path: save(path, {"image": [picture(n) for n in range(3)], "label": [0, 1, 1]})
    error = refusal("hf:someone/pictures")
    assert isinstance(error, DataError)
    assert "hf:someone/pictures:train is not on this machine" in error.what
    assert str(private_cache / "sfumato" / "hub" / "someone--pictures--train.parquet") in error.what
    assert error.fix == "--data.download"
    assert hub.asked == []
    assert levels(load("hf:someone/pictures", download=True)) == [0, 1, 2]
    assert hub.asked == [("someone/pictures", None, "train")]
    for settings in ({}, {"size": 2}, {"download": True, "limit": 2}):  # from the file, whatever the settings
        assert levels(load("hf:someone/pictures", **settings))[0] == 0
    assert len(hub.asked) == 1
    load("hf:someone/pictures/small:test", download=True)
    assert hub.asked[1:] == [("someone/pictures", "small", "test")]
    assert len(load("hf:someone/pictures:train", download=True, cache="off")) == 3
    assert hub.asked[2:] == [("someone/pictures", None, "train")]
    found = sorted(path.name for path in (private_cache / "sfumato" / "hub").iterdir())
    assert found == ["someone--pictures--small--test.parquet", "someone--pictures--train.parquet"]


def test_a_failed_fetch_leaves_nothing_behind(hub: Any, private_cache: Path) -> None:
    def broken(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    hub.answer = broken
    error = refusal("hf:someone/pictures", download=True)
    assert isinstance(error, ResourceError)
    assert "No space left on device" in error.what
    assert list((private_cache / "sfumato" / "hub").iterdir()) == []

    def absent(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'someone/pictures' on the Hub\n(more lines)")

    hub.load_dataset = absent
    error = refusal("hf:someone/pictures", download=True)
    assert isinstance(error, DataError)
    assert "cannot be fetched (Couldn't reach 'someone/pictures' on the Hub)" in error.what


@pytest.mark.parametrize(
    "name", ["hf:", "hf:name", "hf:a/b/c/d", "hf:../b", "hf:a/..", "hf:a/b:", "hf:a/b:../x", "hf:a b/c"]
)
def test_names_that_are_none_are_refused(hub: Any, name: str) -> None:
    error = refusal(name, download=True)
    assert isinstance(error, ConfigError)
    assert "hf:owner/name" in error.expected
    assert hub.asked == []


def test_without_datasets_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    error = refusal("hf:someone/pictures", download=True)
    assert isinstance(error, PlatformError)
    assert error.fix == "pip install 'sfumato[data]'"


def test_no_path_of_the_data_opens_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F8: without data.download no socket is made at all, not even to this machine."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "__init__", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    (tmp_path / "x.csv").write_text("x\n1\n2\n")
    assert len(load(tmp_path / "x.csv")) == 2
    refusal("hf:someone/pictures")
    assert len(load_data(DataConfig(source="digits"), seed=0)) > 0


def test_the_library_datasets_itself_keeps_its_promises(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it makes of a folder of pictures, and of a table with classes, is read back whole and once fetched."""
    datasets = pytest.importorskip("datasets")
    for n, name in enumerate(["ant/0.png", "ant/1.png", "cat/2.png"]):
        (tmp_path / "hub" / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hub" / "train" / name).write_bytes(picture(n))
    really = datasets.load_dataset
    folder = str(tmp_path / "hub")
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, split, cache_dir: really(folder, split=split, cache_dir=cache_dir)
    )
    fetched = load("hf:someone/pictures", download=True)
    shutil.rmtree(folder)
    packed = load("hf:someone/pictures", size=4)
    assert levels(fetched) == levels(packed) == [0, 1, 2]
    assert packed.class_names == ("ant", "cat")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    rows = {"image": [{"bytes": picture(0)}, Image.new("L", (4, 4), 1)], "label": [0, 2]}
    target = private_cache / "sfumato" / "hub" / "someone--else--test.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(target))
    packed = load("hf:someone/else:test")
    assert levels(packed) == [0, 1]
    assert (packed.class_names, packed.absent_classes) == (("a", "c"), ("b",))


@pytest.mark.parametrize("name", ["hf:a--b/c", "hf:a/b--c", "hf:a/b:c--d"])
def test_names_that_would_share_a_file_are_refused(hub: Any, name: str) -> None:
    """Of `a/b`, configuration `c` and of `a--b/c` the file would be the same; the hub allows no such names."""
    assert isinstance(refusal(name), ConfigError)
    assert hub.asked == []


def test_a_set_of_the_hub_is_packed_from_the_cache(
    hub: Any, private_cache: Path, save: Callable[..., Path], tmp_path: Path
) -> None:
    """Without a folder for decoded pictures, but with the one that fetched files lie in."""
    hub.answer = lambda path: save(path, {"image": [picture(n) for n in range(3)], "label": [0, 1, 1]})
    config = DataConfig(path="hf:someone/pictures", download=True)
    first = load_data(config, seed=0, remember=False)
    assert load_data(DataConfig(path="hf:someone/pictures"), seed=0, remember=False).fingerprint == first.fingerprint
    assert len(hub.asked) == 1
    assert not (private_cache / "sfumato" / "packed").exists()


def test_the_hub_replaces_a_named_set_when_fetched(hub: Any, private_cache: Path, save: Callable[..., Path]) -> None:
    hub.answer = lambda path: save(path, {"image": [picture(n) for n in range(3)]})
    assert len(load("hf:someone/pictures", source="mnist", download=True)) == 3
