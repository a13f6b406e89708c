"""Checkpoints: what comes back, what is refused and in which words, what stays as it was."""

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sfumato.errors import CheckpointError, ConfigError, NumericsError
from sfumato.training.checkpoint import CheckpointStore, Snapshot
from sfumato.training.manifest import MANIFEST, Listed, manifest_json, read_manifest
from sfumato.training.tensors import check_names, encode

FILES = ["MANIFEST.json", "ema-0.999.safetensors", "model.safetensors", "optimizer.safetensors", "state.json"]


def snapshot(step: int) -> Snapshot:
    generator = torch.Generator().manual_seed(step)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    model = {"conv.weight": draw(4, 3, 3, 3), "bn.num_batches_tracked": torch.tensor(step), "half": draw(5).bfloat16()}
    ema = {"0.999": {"conv.weight": draw(4, 3, 3, 3)}}
    optimizer = {"exp_avg.conv.weight": draw(4, 3, 3, 3), "step": torch.tensor(float(step))}
    return Snapshot(
        step, 64 * step, model, ema, optimizer, {"seed": 7, "learning_rate": 0.1 + 0.2, "versions": {"a": [1]}}
    )


def assert_same(left: Snapshot, right: Snapshot) -> None:
    assert (left.step, left.images_seen, left.state) == (right.step, right.images_seen, right.state)
    parts = [(left.model, right.model), (left.optimizer, right.optimizer)]
    assert left.ema.keys() == right.ema.keys()
    for one, other in [*parts, *((left.ema[name], right.ema[name]) for name in left.ema)]:
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            assert torch.equal(one[name], other[name])


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Durability is judged elsewhere, on a simulated disk; here only the waiting for a real one would be left."""
    monkeypatch.setattr("sfumato.training.storage._flush", lambda descriptor: None)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """A run with the checkpoints 10 and 20."""
    store = CheckpointStore(tmp_path / "run")
    for step in (10, 20):
        store.save(snapshot(step))
    return store


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "truncated":
        del data[len(data) // 2 :]
    elif how == "zero-filled":
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    elif how == "empty":
        data.clear()
    else:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_every_bit_comes_back(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run")
    path = store.save(snapshot(1000))
    assert path == tmp_path / "run" / "checkpoints" / "step-00001000"
    assert sorted(entry.name for entry in path.iterdir()) == FILES
    assert_same(store.load(path), snapshot(1000))


def test_channels_last_and_shared_tensors_come_back_by_value(tmp_path: Path) -> None:
    weight = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    store = CheckpointStore(tmp_path)
    found = store.load(store.save(Snapshot(0, 0, {"a": weight, "tied": weight, "view": weight[1:]}, {}, {}, {})))
    assert torch.equal(found.model["a"], weight)
    assert torch.equal(found.model["tied"], weight)
    assert torch.equal(found.model["view"], weight[1:])
    found.model["a"].zero_()
    assert torch.equal(found.model["tied"], weight)  # nothing shares memory after loading


def test_bytes_depend_on_the_snapshot_alone(tmp_path: Path) -> None:
    """No clock, no host, no path in a checkpoint: equal runs have equal files."""
    one, other = (CheckpointStore(tmp_path / name).save(snapshot(3)) for name in ("a", "b"))
    assert contents(one) == contents(other)


def test_the_newest_two_are_kept_and_order_is_by_step(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (0, 9, 5, 100_000_000, 20):
        store.save(snapshot(step))
    assert store.steps() == [20, 100_000_000]
    assert store.newest() == store.folder / "step-100000000"
    with pytest.raises(ConfigError, match="keep is 1"):
        CheckpointStore(tmp_path, keep=1)


def test_a_damaged_checkpoint_does_not_count_as_kept(store: CheckpointStore) -> None:
    (store.folder / "step-00000020" / "model.safetensors").unlink()
    store.save(snapshot(30))
    assert store.steps() == [10, 20, 30]  # 10 and 30 are the two whole ones
    store.save(snapshot(40))
    assert store.steps() == [30, 40]


def test_saving_a_step_again(store: CheckpointStore) -> None:
    before = contents(store.folder)
    assert store.save(snapshot(20)) == store.folder / "step-00000020"
    other = snapshot(20)
    other.model["conv.weight"].add_(1)
    with pytest.raises(
        CheckpointError, match=r"step-00000020 exists already, with other tensors in model\.safetensors"
    ):
        store.save(other)
    assert contents(store.folder) == before
    damage(store.folder / "step-00000020" / "state.json", "flipped")
    store.save(snapshot(20))
    assert_same(store.load(store.folder / "step-00000020"), snapshot(20))
    assert (store.folder / "step-00000020.corrupt").is_dir()


@pytest.mark.parametrize("how", ["truncated", "zero-filled", "empty", "flipped"])
@pytest.mark.parametrize("file", FILES)
def test_a_torn_newest_checkpoint_is_moved_aside(store: CheckpointStore, file: str, how: str) -> None:
    """A11, A13: named with the file, moved aside, the previous one used; nothing is deleted."""
    torn = store.folder / "step-00000020"
    damage(torn / file, how)
    damaged = contents(torn)
    notes: list[str] = []
    found = store.newest(notes.append)
    assert found == store.folder / "step-00000010"
    assert_same(store.load(found), snapshot(10))
    assert contents(store.folder / "step-00000020.corrupt") == damaged
    assert len(notes) == 1
    assert "step-00000020 is damaged" in notes[0]
    assert file in notes[0]
    assert store.newest(notes.append) == found
    assert len(notes) == 1


def test_a_reader_moves_nothing(store: CheckpointStore) -> None:
    damage(store.folder / "step-00000020" / "model.safetensors", "flipped")
    before = contents(store.folder)
    notes: list[str] = []
    assert store.find(notes.append) == store.folder / "step-00000010"
    assert "model.safetensors does not match its SHA-256" in notes[0]
    assert contents(store.folder) == before


def test_two_torn_checkpoints_of_one_step_get_two_names(store: CheckpointStore) -> None:
    for _ in range(2):
        damage(store.folder / "step-00000020" / "model.safetensors", "flipped")
        store.newest()
        store.save(snapshot(20))
    names = sorted(path.name for path in store.folder.iterdir())
    assert names == ["step-00000010", "step-00000020", "step-00000020.corrupt", "step-00000020.corrupt-2"]


def test_when_all_are_bad_each_is_listed_and_nothing_moves(store: CheckpointStore) -> None:
    """A12: no silent start from scratch, now or at the next attempt."""
    damage(store.folder / "step-00000010" / "optimizer.safetensors", "truncated")
    (store.folder / "step-00000020" / "ema-0.999.safetensors").unlink()
    before = contents(store.folder)
    for attempt in (store.newest, store.find, store.newest):
        with pytest.raises(CheckpointError) as caught:
            attempt()
        assert caught.value.exit_code == 4
        assert "step-00000010: optimizer.safetensors has " in caught.value.what
        assert "step-00000020: ema-0.999.safetensors is missing" in caught.value.what
    assert contents(store.folder) == before


def test_only_checkpoints_moved_aside_are_left(store: CheckpointStore) -> None:
    for step in (10, 20):
        path = store.folder / f"step-000000{step}"
        path.rename(path.with_name(path.name + ".corrupt"))
    with pytest.raises(CheckpointError, match=r"step-00000010\.corrupt: moved aside earlier"):
        store.newest()


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(store: CheckpointStore, file: str) -> None:
    """A14, first half."""
    path = store.folder / "step-00000020"
    (path / file).unlink()
    with pytest.raises(CheckpointError, match=file + " is missing"):
        store.load(path)


def test_an_unknown_file_is_ignored_with_a_note(store: CheckpointStore) -> None:
    """A14, second half."""
    path = store.folder / "step-00000020"
    (path / "notes.txt").write_text("mine")
    notes: list[str] = []
    assert_same(store.load(path, notes.append), snapshot(20))
    assert store.newest(notes.append) == path
    assert notes == ["step-00000020: ignoring 'notes.txt', not part of the checkpoint"] * 2


def test_a_checkpoint_may_be_copied_and_renamed(store: CheckpointStore, tmp_path: Path) -> None:
    """A15: nothing outside the folder says that it is complete."""
    copied = tmp_path / "elsewhere" / "my best"
    shutil.copytree(store.folder / "step-00000020", copied)
    shutil.copytree(store.run_folder, tmp_path / "renamed run")
    shutil.rmtree(store.run_folder)
    assert_same(store.load(copied), snapshot(20))
    moved = CheckpointStore(tmp_path / "renamed run")
    assert moved.newest() == moved.folder / "step-00000020"


def test_left_overs_of_killed_saves_are_cleaned(store: CheckpointStore) -> None:
    for name in (".tmp-step-00000030", ".old-step-00000005"):
        shutil.copytree(store.folder / "step-00000020", store.folder / name)
    (store.folder / "notes.txt").write_text("mine")
    assert store.newest() == store.folder / "step-00000020"
    store.clean()
    assert sorted(path.name for path in store.folder.iterdir()) == ["notes.txt", "step-00000010", "step-00000020"]


def test_a_run_without_checkpoints(tmp_path: Path) -> None:
    """B14: a new run has none, which its trainer may learn; who wants to read one is told."""
    store = CheckpointStore(tmp_path)
    for made in (tmp_path, store.folder):
        made.mkdir(exist_ok=True)
        store.clean()
        assert store.newest() is None
        assert store.steps() == []
        with pytest.raises(CheckpointError, match="no checkpoint in") as caught:
            store.find()
        assert caught.value.exit_code == 4


def test_a_newer_format_is_not_called_damaged(store: CheckpointStore) -> None:
    """B7: the number of both formats, the remedy, and nothing moved."""
    path = store.folder / "step-00000020" / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({"format": 4, "shards": [], "files": manifest["files"]}))
    before = contents(store.folder)
    for read in (store.newest, store.find, lambda: store.load(path.parent)):
        with pytest.raises(CheckpointError, match="made by format 4, this is 1: upgrade"):
            read()
    assert contents(store.folder) == before


def test_no_flipped_bit_of_a_manifest_passes(store: CheckpointStore) -> None:
    """A13 for the file that guards the others: each of its bits, one by one, changes or breaks what it says."""
    text = (store.folder / "step-00000020" / "MANIFEST.json").read_bytes()
    truth = read_manifest(text)
    for position in range(8 * len(text)):
        flipped = bytearray(text)
        flipped[position // 8] ^= 1 << position % 8
        try:
            listed = read_manifest(flipped)
        except ValueError:
            continue
        assert listed != truth  # another size, digest or name, which the files then do not match


@pytest.mark.parametrize("file", [name for name in FILES if name != "MANIFEST.json"])
def test_no_flipped_bit_of_a_file_passes(store: CheckpointStore, file: str) -> None:
    """A13: every 37th bit of each file; the digest's own strength covers the rest."""
    path = store.folder / "step-00000020"
    good = (path / file).read_bytes()
    for position in range(0, 8 * len(good), 37):
        flipped = bytearray(good)
        flipped[position // 8] ^= 1 << position % 8
        (path / file).unlink()  # overwriting would make some file systems wait for the disk
        (path / file).write_bytes(flipped)
        with pytest.raises(CheckpointError, match=f"{file} does not match its SHA-256"):
            store.load(path)


@pytest.mark.parametrize(
    "name", ["../../secret", "/etc/passwd", "model.safetensors/../x", "ema-/../x.safetensors", ".x"]
)
def test_a_manifest_cannot_name_files_elsewhere(store: CheckpointStore, name: str) -> None:
    path = store.folder / "step-00000020"
    manifest = json.loads((path / "MANIFEST.json").read_text())
    manifest["files"][name] = {"size": 1, "sha256": "0" * 64}
    (path / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json is damaged: unexpected file name"):
        store.load(path)


@pytest.mark.parametrize("part", ["model", "ema", "optimizer"])
def test_what_is_not_finite_is_neither_saved_nor_loaded(store: CheckpointStore, part: str) -> None:
    """B6, and its prevention: tensor name and count, the older checkpoints as they were."""
    bad = snapshot(30)
    tensors = {"model": bad.model, "ema": bad.ema["0.999"], "optimizer": bad.optimizer}[part]
    name = "exp_avg.conv.weight" if part == "optimizer" else "conv.weight"
    tensors[name][0, 0, 0] = torch.tensor([float("nan"), float("inf"), 1.0])
    before = contents(store.folder)
    with pytest.raises(NumericsError, match=rf"step 30 is not saved: NaN or infinity in '{name}' \(2 of 108 values\)"):
        store.save(bad)
    assert contents(store.folder) == before
    path = store.folder / "step-00000020"
    file = {"model": "model", "ema": "ema-0.999", "optimizer": "optimizer"}[part] + ".safetensors"
    data = b"".join(bytes(chunk) for chunk in encode(tensors))
    (path / file).write_bytes(data)
    listed = {**read_manifest((path / MANIFEST).read_bytes()), file: Listed(len(data), sha256(data).hexdigest())}
    (path / MANIFEST).write_bytes(manifest_json(listed))
    with pytest.raises(CheckpointError, match=rf"{file}: NaN or infinity in '{name}' \(2 of 108 values\)"):
        store.load(path)


@pytest.mark.parametrize(
    "kind", ["file", "nothing", "broken link", "pipe", "empty folder", "folder for a file", "pipe for a file"]
)
def test_other_things_than_checkpoints_are_named(store: CheckpointStore, tmp_path: Path, kind: str) -> None:
    """B15: refused at once, in words that say what stands there."""
    path, whole = tmp_path / "thing", store.folder / "step-00000020"
    words = {
        "empty folder": "MANIFEST.json is missing",
        "nothing": "does not exist",
        "broken link": "a link to nothing",
    }
    if kind == "file":
        path.write_bytes(b"hello")
    elif kind == "broken link":
        path.symlink_to(tmp_path / "gone")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "empty folder":
        path.mkdir()
    elif kind != "nothing":
        path = whole
        (path / "model.safetensors").unlink()
        (path / "model.safetensors").mkdir() if kind.startswith("folder") else os.mkfifo(path / "model.safetensors")
    expected = words.get(kind, "model.safetensors cannot be read" if path == whole else "is not a folder")
    with pytest.raises(CheckpointError, match=expected) as caught:
        store.load(path)
    assert str(path) in caught.value.what


def test_names_and_shapes_must_fit() -> None:
    """B4, B5: the first five differences with both shapes, whatever their kind."""
    expected = {f"layer{index}.weight": torch.zeros(index, 3) for index in range(8)} | {"scale": torch.zeros(())}
    check_names(expected, {name: tensor + 1 for name, tensor in expected.items()}, "the checkpoint")
    found = {name: torch.zeros(tensor.shape[:1]) for name, tensor in expected.items() if name != "layer1.weight"}
    found["extra"] = torch.zeros(2, 2)
    with pytest.raises(CheckpointError) as caught:
        check_names(expected, found, "the checkpoint")
    what = caught.value.what
    assert what.startswith("the checkpoint does not fit the network: 'layer0.weight': expected 0×3, found 0; ")
    assert "'layer1.weight': expected 1×3, found nothing" in what
    assert what.endswith("and 4 more")
    with pytest.raises(CheckpointError, match="'extra': expected nothing, found 2×2"):
        check_names(expected, {**expected, "extra": torch.zeros(2, 2)}, "the checkpoint")
    with pytest.raises(CheckpointError, match="'scale': expected a scalar, found 1"):
        check_names(expected, {**expected, "scale": torch.zeros(1)}, "the checkpoint")
