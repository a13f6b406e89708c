"""Opening runs and exported files: the same bits wherever they lie, and what is damaged is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sfumato
from sfumato.errors import CheckpointError, UsageError
from sfumato.experiment.load import find_run, metadata_of
from sfumato.training.checkpoint import CheckpointStore
from sfumato.training.ema import bare_state
from sfumato.training.tensors import read_weights, write_single_file


@pytest.fixture(params=["digits", "points"])
def run(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"{request.param}_run")


def drawn(model: sfumato.Model, **settings: Any) -> np.ndarray:
    samples = model.sample(5, seed=3, **settings)
    return samples.images if samples.images is not None else samples.values


def test_an_exported_file_samples_the_same_bits(run: Path, tmp_path: Path) -> None:
    """It is one file, lies anywhere, and needs neither the run nor the data."""
    out = sfumato.export(run, tmp_path / "deep" / "model.safetensors")
    assert out.is_file()
    alone = tmp_path / "renamed.safetensors"
    alone.write_bytes(out.read_bytes())
    shutil.rmtree(tmp_path / "deep")
    mine, other = sfumato.load(run), sfumato.load(alone)
    assert drawn(other).tobytes() == drawn(mine).tobytes()
    assert other.digest == mine.digest
    assert other.experiment == mine.experiment
    assert other.steps_trained == mine.steps_trained == 6
    assert other.record == mine.record or other.record.to_plain() == mine.record.to_plain()
    assert set(mine.weights) == {"ema", "live"}
    assert set(other.weights) == {"ema"}


def test_an_exported_file_can_be_exported_again(run: Path, tmp_path: Path) -> None:
    one = sfumato.export(run, tmp_path / "one.safetensors")
    two = sfumato.export(one, tmp_path / "two.safetensors")
    assert one.read_bytes() == two.read_bytes()


def test_a_copied_run_is_the_same_model(run: Path, tmp_path: Path) -> None:
    """A15: under another name and place."""
    copy = shutil.copytree(run, tmp_path / "renamed")
    assert drawn(sfumato.load(copy)).tobytes() == drawn(sfumato.load(run)).tobytes()


def test_the_ways_to_name_a_run(run: Path, monkeypatch: Any, tmp_path: Path) -> None:
    found = sfumato.load(run).digest
    assert sfumato.load(str(run)).digest == found
    assert sfumato.load("run", runs=run.parent).digest == found
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(run.parent)
    assert sfumato.load("run").digest == found
    assert sfumato.load("runs/run").digest == found
    assert find_run("run") == Path("runs/run")


def test_live_weights_are_not_the_averages(run: Path) -> None:
    model = sfumato.load(run)
    assert drawn(model, weights="live").tobytes() != drawn(model).tobytes()
    live, averaged = (bare_state(model.weights[name].network) for name in ("live", "ema"))
    assert any(not live[name].equal(averaged[name]) for name in live)
    assert not model.denoiser.training
    assert not any(p.requires_grad for p in model.denoiser.parameters())


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("rnu", ["there is no run 'rnu'", "did you mean run?"]),
        ("zzz", ["there is no run 'zzz'", "sfumato runs"]),
        ("model.safetensors", ["model.safetensors", "does not exist"]),
    ],
)
def test_no_such_run(name: str, parts: list[str], run: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        sfumato.load(name, runs=run.parent)
    for part in parts:
        assert part in str(caught.value)


def test_targets_of_an_export(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--out is .*model\.pt"):
        sfumato.export(run, tmp_path / "model.pt")
    (tmp_path / "model.safetensors").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        sfumato.export(run, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_text() == "mine"
    assert sfumato.load(sfumato.export(run, tmp_path / "model.safetensors", force=True)).steps_trained == 6


def with_metadata(run: Path, target: Path, **changes: str | None) -> Path:
    """An exported file, digest and all, whose metadata say something else."""
    model = sfumato.load(run)
    about = {**metadata_of(model), **{k: v for k, v in changes.items() if v is not None}}
    about = {key: value for key, value in about.items() if changes.get(key, "") is not None}
    write_single_file(target, bare_state(model.denoiser.network), about)
    return target


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"format": "sfumato-model-9"}, "format 'sfumato-model-9'"),
        ({"format": None}, "format None"),
        ({"experiment": None}, "KeyError: 'experiment'"),
        ({"experiment": "seed: [1"}, "cannot be understood"),
        ({"experiment": "sede: 1"}, "unknown key 'sede'"),
        ({"data": "{}"}, "record of the data is damaged"),
        ({"data": "not json"}, "cannot be understood"),
        ({"data": None}, "KeyError: 'data'"),
        ({"steps": "many"}, "cannot be understood"),
        ({"experiment": "network: {kind: ResidualUNet, widths: [8, 16]}"}, "does not fit the network"),
    ],
    ids=str,
)
def test_exported_files_that_say_something_else(
    changes: dict[str, str | None], part: str, digits_run: Path, tmp_path: Path
) -> None:
    path = with_metadata(digits_run, tmp_path / "x.safetensors", **changes)
    with pytest.raises(CheckpointError) as caught:
        sfumato.load(path)
    assert part in str(caught.value)
    assert "x.safetensors" in str(caught.value) or "does not fit" in part


def test_exported_files_of_many_wrong_kinds(digits_run: Path, tmp_path: Path) -> None:
    """A flipped bit anywhere, a torn end, nothing, a folder, a web page."""
    good = sfumato.export(digits_run, tmp_path / "good.safetensors").read_bytes()
    bad = tmp_path / "bad.safetensors"
    for position in np.linspace(8, len(good) - 1, 25).astype(int):
        data = bytearray(good)
        data[position] ^= 4
        bad.write_bytes(data)
        with pytest.raises(CheckpointError):
            sfumato.load(bad)
    for data in (good[:-1], good[: len(good) // 2], b"", b"<!doctype html><title>no</title>", b"\x80\x04N."):
        bad.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
            sfumato.load(bad)
    bad.unlink()
    bad.mkdir()
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        sfumato.load(bad)


def test_an_exported_file_tells_no_paths_but_the_settings(digits_run: Path, tmp_path: Path) -> None:
    metadata = read_weights(sfumato.export(digits_run, tmp_path / "m.safetensors")).metadata
    assert set(metadata) >= {"format", "experiment", "data", "steps"}
    assert json.loads(metadata["data"])["shape"] == [1, 8, 8]
    assert str(digits_run.parent) not in json.dumps(metadata)


@pytest.mark.parametrize(
    "key", ["experiment", "data", "ema_decay", "ema_updates", "log_window", "threads", "device", "versions"]
)
def test_a_state_that_lacks_a_key_is_refused(key: str, points_run: Path, tmp_path: Path) -> None:
    """A whole checkpoint, every byte as written, by a version that did not write this key."""
    folder = shutil.copytree(points_run, tmp_path / "run")
    store = CheckpointStore(folder)
    snapshot = store.load(store.find())
    del snapshot.state[key]
    shutil.rmtree(folder / "checkpoints")
    store.save(snapshot)
    with pytest.raises(CheckpointError, match=key):
        sfumato.resume(folder, {"training.steps": 12})
    assert store.steps() == [6]


@pytest.mark.parametrize(
    "damage", [b"", b"\x00" * 40, b"name: [", b"name: \xff\n", b"network: {widths: [7]}\nnam: x\n"]
)
def test_a_damaged_config_is_done_without(damage: bytes, points_run: Path, tmp_path: Path) -> None:
    """The checkpoint holds the settings too, every byte checked; what stood in the file is kept by resume."""
    folder = shutil.copytree(points_run, tmp_path / "run")
    (folder / "config.yaml").write_bytes(damage)
    said: list[str] = []
    model = sfumato.load(folder, report=said.append)
    assert drawn(model).tobytes() == drawn(sfumato.load(points_run)).tobytes()
    assert model.experiment == sfumato.load(points_run).experiment
    assert len(said) == 1
    assert "config.yaml" in said[0]
    assert said[0].endswith("the settings that step-00000006 was trained with are used instead")
    assert (folder / "config.yaml").read_bytes() == damage
    sfumato.resume(folder, {"training.steps": 7})
    assert (folder / "config.yaml.corrupt").read_bytes() == damage
    assert sfumato.load(folder, report=pytest.fail).experiment.training.steps == 7
    sfumato.resume(folder, {"training.steps": 8})
    assert (folder / "config.yaml.corrupt").read_bytes() == damage


def test_a_damaged_config_and_no_checkpoint(points_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(points_run, tmp_path / "run")
    (folder / "config.yaml").write_bytes(b"name: [")
    for weights in folder.glob("checkpoints/*/model.safetensors"):
        weights.unlink()
    for action in (sfumato.load, sfumato.resume):
        with pytest.raises(CheckpointError, match=r"config\.yaml.*nor those in a checkpoint.*no whole checkpoint"):
            action(folder)
    assert (folder / "config.yaml").read_bytes() == b"name: ["
    assert not (folder / "config.yaml.corrupt").exists()


def test_another_suffix_is_replaced_by_the_right_one(points_run: Path, tmp_path: Path) -> None:
    for given, better in {"m.pt": "m.safetensors", "m.v2": "m.v2.safetensors", "m": "m.safetensors"}.items():
        with pytest.raises(UsageError) as caught:
            sfumato.export(points_run, tmp_path / given)
        assert caught.value.fix == f"--out {tmp_path / better}"
