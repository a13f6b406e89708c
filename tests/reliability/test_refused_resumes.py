"""What a run may not go on with: other settings, other data, other networks, damaged or missing files.

Each refusal names what is wrong, and the folder keeps every byte and every time stamp that it had.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sfumato
from sfumato.errors import CheckpointError, ConfigError, DataError, ResourceError, SfumatoError
from sfumato.training.checkpoint import CheckpointStore, Snapshot
from sfumato.training.lock import RunLock

Tree = Callable[[Path], dict[str, tuple[bytes, int]]]


@pytest.fixture
def refused(tree: Tree) -> Callable[..., Any]:
    """A context in which a refusal must come, and a folder must stay as it is; gives the refusal."""

    @contextmanager
    def context(kind: type[SfumatoError], *parts: str, untouched: Path) -> Iterator[None]:
        before = tree(untouched)
        with pytest.raises(kind) as caught:
            yield
        assert caught.type is kind
        assert len(str(caught.value).splitlines()) == 3
        for part in parts:
            assert part in str(caught.value)
        assert tree(untouched) == before

    return context


@pytest.mark.parametrize(
    ("changes", "allowed", "parts"),
    [
        ({"training.learning_rate": 0.5}, (), ["training.learning_rate (0.001 -> 0.5)", "--allow-change"]),
        (
            {"training.batch_size": 4, "training.ema_decay": 0.5, "objective.distance": "mae"},
            ["training.batch_size"],
            ["training.ema_decay (0.9 -> 0.5)", "objective.distance", "--allow-change training.ema_decay"],
        ),
        ({"schedule.betas": "cosine"}, ("schedule.betas",), ["cannot be resumed", "schedule.betas.kind"]),
        ({"parameterization": "velocity"}, ("parameterization",), ["cannot be resumed", "Noise -> Velocity"]),
        ({"network.widths": (16, 8)}, ("network",), ["cannot be resumed", "network.widths ([16, 16] -> [16, 8])"]),
        ({"data.normalize": "range"}, ("data",), ["cannot be resumed", "data.normalize (standardize -> range)"]),
        ({"seed": 1}, ("seed",), ["cannot be resumed", "seed (0 -> 1)"]),
        (
            {"schedule.steps": 20, "times.steps": 20, "time_input.steps": 20},
            ("schedule", "times", "time_input"),
            ["cannot be resumed", "schedule.steps (10 -> 20)", "time_input.steps (10 -> 20)"],
        ),
        ({"training.steps": 4}, (), ["training.steps is 4", "has 10 steps already"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_other_settings(
    changes: dict[str, Any], allowed: Sequence[str], parts: list[str], finished: Path, refused: Any
) -> None:
    """B10: all differences in one refusal; what a checkpoint means can never change."""
    with refused(ConfigError, *parts, untouched=finished):
        sfumato.resume(finished, {"training.steps": 12, **changes}, allow_change=allowed)


@pytest.mark.parametrize(
    "changes",
    [
        {"training.learning_rate": 0.5},
        {"training.ema_decay": 0.5},
        {"training.batch_size": 4},
        {"training.clip_norm": None, "training.weight_decay": 0.1},
    ],
    ids=lambda value: ",".join(value),
)
def test_allowed_changes_take_effect_and_are_written_down(changes: dict[str, Any], finished: Path) -> None:
    sfumato.resume(finished, {"training.steps": 11})
    same = sfumato.load(finished).denoiser.network.state_dict()
    again = finished.with_name("changed")
    shutil.copytree(finished, again)
    shutil.rmtree(again / "checkpoints" / "step-00000011")
    done = sfumato.resume(again, {"training.steps": 11, **changes}, allow_change=list(changes))
    for key, value in changes.items():
        assert getattr(done.experiment.training, key.removeprefix("training.")) == value
        assert getattr(sfumato.load(again).experiment.training, key.removeprefix("training.")) == value
    changed = sfumato.load(again).denoiser.network.state_dict()
    assert any(not torch.equal(changed[name], same[name]) for name in same)


def test_an_edited_configuration(finished: Path, refused: Any) -> None:
    """What a checkpoint means stands in the checkpoint; a learning rate may be edited, at one's own risk."""
    path = finished / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("end: 0.02", "end: 0.03"))
    with refused(ConfigError, "schedule.betas.end (0.02 -> 0.03)", untouched=finished):
        sfumato.resume(finished, {"training.steps": 12})
    path.write_text(text.replace("learning_rate: 0.001", "learning_rate: 0.002"))
    assert sfumato.resume(finished, {"training.steps": 12}).experiment.training.learning_rate == 0.002


def test_other_data(points: dict[str, Any], tmp_path: Path, refused: Any, watcher: Any) -> None:
    """B11: a file with one number changed is another data set; the same bytes elsewhere are the same."""
    values = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    np.save(tmp_path / "mine.npy", values)
    path = {"data.path": str(tmp_path / "mine.npy")}
    folder = sfumato.train("swiss-roll", {**points, **path}, runs=tmp_path, name="run").folder
    np.save(tmp_path / "moved.npy", values)
    values[0, 0] += 1
    np.save(tmp_path / "mine.npy", values)
    more = {"training.steps": 12}
    with refused(DataError, "the data have changed: 60 examples", "--allow-change data", untouched=folder):
        sfumato.resume(folder, more)
    assert sfumato.resume(folder, {**more, "data.path": str(tmp_path / "moved.npy")}).steps == 12
    assert sfumato.resume(folder, {"training.steps": 14, **path}, allow_change=["data"]).steps == 14


def rewritten(folder: Path, change: Callable[[Snapshot], Snapshot]) -> None:
    """The newest checkpoint replaced by a whole one (hashes and all) with other contents."""
    store = CheckpointStore(folder)
    path = store.find()
    snapshot = store.load(path)
    shutil.rmtree(path)
    store.save(change(snapshot))


def with_model(name: str, tensor: torch.Tensor | None) -> Callable[[Snapshot], Snapshot]:
    def change(snapshot: Snapshot) -> Snapshot:
        model = {key: value for key, value in snapshot.model.items() if key != name}
        return replace(snapshot, model=model if tensor is None else {**model, name: tensor})

    return change


FOREIGN = {
    "B4 other shape": (with_model("out.bias", torch.zeros(3)), "'out.bias': expected 2, found 3"),
    "B5 missing": (with_model("out.bias", None), "'out.bias': expected 2, found nothing"),
    "B5 unexpected": (with_model("extra", torch.zeros(3)), "'extra': expected nothing, found 3"),
    "B9 no averages": (lambda s: replace(s, ema={}), "holds no averaged weights ema-0.9"),
    "no moments": (
        lambda s: replace(s, optimizer={}),
        "'step.hidden.0.linear.weight': expected a scalar, found nothing; 'exp_avg",
    ),
    "half of the moments": (
        lambda s: replace(s, optimizer={k: v for k, v in s.optimizer.items() if k != "exp_avg_sq.out.bias"}),
        "'exp_avg_sq.out.bias': expected 2, found nothing",
    ),
}


@pytest.mark.parametrize(("change", "part"), FOREIGN.values(), ids=FOREIGN)
def test_checkpoints_that_do_not_fit(
    change: Callable[[Snapshot], Snapshot], part: str, unfinished: Path, refused: Any
) -> None:
    """B4, B5, B9: never loaded in part, never with what happens to fit."""
    rewritten(unfinished, change)
    with refused(CheckpointError, part, untouched=unfinished):
        sfumato.resume(unfinished)


@pytest.mark.parametrize("file", ["model", "ema-0.9", "optimizer"])
def test_nan_in_a_checkpoint(file: str, unfinished: Path, refused: Any) -> None:
    """B6: written by other hands, since ours refuse to save it; the manifest agrees with it."""
    import hashlib

    folder = unfinished / "checkpoints" / "step-00000008"
    path = folder / f"{file}.safetensors"
    data = bytearray(path.read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()
    path.write_bytes(data)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["files"][path.name]["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    with refused(CheckpointError, path.name, "NaN or infinity in", "1 of", untouched=unfinished):
        sfumato.resume(unfinished)


def test_an_exported_file_is_sampled_but_not_resumed(finished: Path, tmp_path: Path, refused: Any) -> None:
    """B9: averages alone are enough to sample from, and not to train on."""
    out = sfumato.export(finished, tmp_path / "model.safetensors")
    with refused(CheckpointError, "no optimizer", "training.init_from", untouched=tmp_path):
        sfumato.resume(out, {"training.steps": 20})
    assert sfumato.load(out).sample(3, steps=2).values is not None


@pytest.mark.parametrize("flags", [{}, {"training.steps": 10}, {"training.keep_checkpoints": 5}])
def test_a_finished_run_is_not_touched(flags: dict[str, Any], finished: Path, tree: Tree, watcher: Any) -> None:
    """B13: nothing to do is said, and nothing is done."""
    before, reporter = tree(finished), watcher()
    done = sfumato.resume(finished, flags, reporter=reporter)
    assert tree(finished) == before
    assert sorted(path.name for path in finished.iterdir() if "tfevents" not in path.name) == [
        "checkpoints", "config.yaml", "environment.json", "metrics.jsonl", "samples",
    ]  # fmt: skip
    assert any("already at 10/10 steps" in note for note in reporter.notes)
    assert (done.steps, done.seconds, done.parameters) == (10, 0.0, 674)


def test_no_run_at_all(finished: Path, refused: Any) -> None:
    """B14: an empty folder, a folder with something else in it, a name a letter off."""
    empty = finished.parent / "empty"
    empty.mkdir()
    with refused(CheckpointError, "there is no run", "sfumato runs", untouched=finished.parent):
        sfumato.resume(empty)
    with refused(CheckpointError, "did you mean run?", untouched=finished.parent):
        sfumato.resume("rum", runs=finished.parent)
    shutil.rmtree(finished / "checkpoints")
    with refused(CheckpointError, "no checkpoint in", untouched=finished):  # but a log: it has been somewhere
        sfumato.resume(finished)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_is_set_aside_and_the_steps_are_taken_again(
    one_finished: Path, finished: Path, watcher: Any, same_remains: Any
) -> None:
    """A11, A13: also when it is the last one of a finished run, which then is not finished."""
    flip_a_bit(finished / "checkpoints" / "step-00000010" / "model.safetensors")
    with pytest.warns(UserWarning, match="step-00000010 is damaged .*model.safetensors does not match its SHA-256"):
        assert sfumato.load(finished).steps_trained == 8
    reporter = watcher()
    sfumato.resume(finished, reporter=reporter)
    assert any("step-00000010 is damaged" in note and "moved aside" in note for note in reporter.notes)
    assert (finished / "checkpoints" / "step-00000010.corrupt").is_dir()
    shutil.rmtree(finished / "checkpoints" / "step-00000010.corrupt")
    same_remains(finished, one_finished)


def test_no_sound_checkpoint(finished: Path, refused: Any) -> None:
    """A12: every one with its reason, and no silent start from step 0."""
    flip_a_bit(finished / "checkpoints" / "step-00000010" / "model.safetensors")
    (finished / "checkpoints" / "step-00000008" / "state.json").unlink()
    parts = ["step-00000010: model.safetensors does not match", "step-00000008: state.json is missing"]
    with refused(CheckpointError, *parts, untouched=finished):
        sfumato.resume(finished)


def test_a_copied_run_goes_on(unfinished: Path, one_finished: Path, same_remains: Any) -> None:
    """A15: nothing outside the folder is needed, and its name may change."""
    moved = shutil.copytree(unfinished, unfinished.parent / "elsewhere" / "renamed")
    shutil.rmtree(unfinished)
    sfumato.resume(moved)
    same_remains(moved, one_finished)


def test_a_second_process(unfinished: Path, refused: Any) -> None:
    """A16: refused at once, naming who holds the run."""
    import os

    with (
        RunLock(unfinished),
        refused(ResourceError, "is in use by process", str(os.getpid()), untouched=unfinished),
    ):
        sfumato.resume(unfinished)
    assert sfumato.resume(unfinished).steps == 10


def test_other_threads(unfinished: Path, watcher: Any) -> None:
    """B12: one warning, and the run goes on; the count it was started with is taken when none is given."""
    torch.set_num_threads(2)
    try:
        reporter = watcher()
        sfumato.resume(unfinished, {"training.steps": 9}, reporter=reporter)
        assert not any("bit-identical" in note for note in reporter.notes)
        assert torch.get_num_threads() == 2  # put back
        sfumato.resume(unfinished, {"training.steps": 10, "training.threads": 2}, reporter=reporter)
        warnings = [note for note in reporter.notes if "bit-identical" in note]
        assert warnings == ["continues, but not bit-identical: threads 1 -> 2"]
    finally:
        torch.set_num_threads(1)


def test_another_version_and_machine(unfinished: Path, watcher: Any) -> None:
    def older(snapshot: Snapshot) -> Snapshot:
        versions = {**snapshot.state["versions"], "torch": "2.9.0"}
        return replace(snapshot, state={**snapshot.state, "versions": versions, "processes": 2})

    rewritten(unfinished, older)
    reporter = watcher()
    sfumato.resume(unfinished, reporter=reporter)
    (warning,) = [note for note in reporter.notes if "bit-identical" in note]
    assert f"processes 2 -> 1, torch 2.9.0 -> {torch.__version__}" in warning
