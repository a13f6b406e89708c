"""Runs that keep power-function averages: exact resumption, widths made after training, damage, and the front doors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sfumato
from sfumato.cli import main as cli
from sfumato.errors import CheckpointError, ConfigError, UsageError
from sfumato.experiment.averages import StoredAverages, averaged
from sfumato.experiment.load import export
from sfumato.experiment.widths import ema_width, width_curve, with_average
from sfumato.training.average_store import AverageStore
from sfumato.training.checkpoint import CheckpointStore
from sfumato.training.ema import bare_state
from sfumato.training.power_ema import Profile, exponent_of, fit

STEPS, EVERY = 24, 3
KEPT = {
    "training.steps": STEPS,
    "training.power_ema": (0.05, 0.1),
    "training.power_ema_every": EVERY,
    "training.checkpoint_every": 8,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of points that tracked a third width beside the usual two."""
    widths = {"training.power_ema": (0.05, 0.07, 0.1)}
    return sfumato.train("swiss-roll", {**SMALL, **KEPT, **widths}, runs=tmp_path_factory.mktemp("runs")).folder


SMALL: dict[str, Any] = {
    "training.batch_size": 8,
    "training.learning_rate": 1e-2,
    "training.warmup_steps": 0,
    "training.decay": "constant",
    "training.ema_decay": 0.8,
    "training.device": "cpu",
    "training.precision": "float32",
    "training.compile": "off",
    "training.threads": 1,
    "training.preview_every": 0,
    "training.evaluate_every": 0,
    "data.count": 60,
    "data.held_out": 0.3,
    "network.widths": (16, 16),
    "schedule.steps": 10,
    "times.steps": 10,
    "time_input.steps": 10,
    "sampling.steps": 2,
}


def files(folder: Path) -> dict[str, bytes]:
    """Everything that a run keeps of its weights and averages, by name."""
    found = [*folder.glob("averages/*"), *folder.glob("checkpoints/*/*.safetensors")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_a_resumed_run_equals_one_that_never_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any moment: after a stored moment, in the middle of storing one, long after the last checkpoint."""
    whole = sfumato.train("swiss-roll", {**SMALL, **KEPT}, runs=tmp_path, name="whole")
    expected = files(whole.folder)
    names = {Path(name).name for name in expected}
    assert {"ema-power-0.05.safetensors", "ema-power-0.1.safetensors", "ema-0.8.safetensors"} <= names
    assert {f"step-{step:08d}-{w}.safetensors" for step in range(3, 25, 3) for w in (0.05, 0.1)} <= names
    from sfumato.training import average_store

    real = average_store.write_single_file
    for kill_at in (1, 5, 6, 11, 16):  # the how-manieth file is never written

        class Killed(BaseException):
            pass

        left = [kill_at]

        def dying(*args: Any, left: list[int] = left, killed: Any = Killed, **kwargs: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise killed
            real(*args, **kwargs)

        monkeypatch.setattr(average_store, "write_single_file", dying)
        with pytest.raises(Killed):
            sfumato.train("swiss-roll", {**SMALL, **KEPT}, runs=tmp_path, name=f"killed-{kill_at}")
        monkeypatch.setattr(average_store, "write_single_file", real)
        resumed = sfumato.resume(tmp_path / f"killed-{kill_at}")
        assert files(resumed.folder) == expected, kill_at


def test_a_run_with_dropout_and_labels_resumes_bit_by_bit(tmp_path: Path) -> None:
    """A network that drops values, told classes that are dropped too, with an average beside it."""
    chosen = {**KEPT, "training.steps": 8, "training.checkpoint_every": 4, "training.power_ema": (0.1,)}
    chosen |= {"training.batch_size": 8, "training.decay": "constant", "training.precision": "float32"}
    chosen |= {"training.preview_every": 0, "training.evaluate_every": 0, "training.compile": "off", "data.limit": 60}
    chosen |= {"network": "DdpmUNet", "network.widths": (8,), "network.attention": (), "network.mid_attention": False}
    chosen |= {"network.num_groups": 4, "network.dropout": 0.5, "condition.labels": True, "condition.dropout": 0.2}
    whole = sfumato.train("digits", chosen, runs=tmp_path / "whole")
    half = sfumato.train("digits", {**chosen, "training.steps": 4}, runs=tmp_path / "half")
    rest = sfumato.resume(half.folder, {"training.steps": 8})
    one, other = (CheckpointStore(run.folder).load(CheckpointStore(run.folder).find()) for run in (whole, rest))
    assert {"power-0.1"} < set(one.ema) == set(other.ema)
    pairs = [(one.model, other.model), *((one.ema[name], other.ema[name]) for name in one.ema)]
    for mine, theirs in (*pairs, (one.optimizer, other.optimizer)):
        assert [name for name in mine if not mine[name].equal(theirs[name])] == []
    stored, again = (
        {path.name: path.read_bytes() for path in (run.folder / "averages").iterdir() if "00008" in path.name}
        for run in (whole, rest)
    )
    assert stored == again != {}


def test_an_extended_run_keeps_what_one_planned_longer_keeps(tmp_path: Path) -> None:
    """Its first end, step 10, is no multiple of the interval; with room for 4 moments it is dropped again."""
    small = {**SMALL, **KEPT, "training.power_ema_disk": 4.5 * 2 * 6.2e3 / 1e9}
    whole = sfumato.train("swiss-roll", small, runs=tmp_path, name="whole").folder
    first = sfumato.train("swiss-roll", {**small, "training.steps": 10}, runs=tmp_path, name="first").folder
    assert {stored.step for stored in AverageStore(first).files()} == {3, 6, 9, 10}
    sfumato.resume(first, {"training.steps": STEPS})
    assert {stored.step for stored in AverageStore(whole).files()} == {6, 12, 18, 24}
    assert {n: b for n, b in files(first).items() if "averages" in n} == {
        n: b for n, b in files(whole).items() if "averages" in n
    }


def test_a_width_that_was_tracked_is_what_is_put_together(run: Path, tmp_path: Path) -> None:
    """0.07 of 0.05 and 0.1, eight moments each: within the residual of what was tracked beside them."""
    tracked = averaged(run, 0.07)
    (tmp_path / "averages").mkdir()
    for path in (run / "averages").iterdir():
        if "-0.07." not in path.name:
            (tmp_path / "averages" / path.name).write_bytes(path.read_bytes())
    stored = StoredAverages(tmp_path)
    assert stored.widths == (0.05, 0.1)
    found = stored.average(0.07)
    assert found.step == STEPS
    assert found.parts == 16
    assert 0.005 < found.residual < 0.02
    start = averaged(run, 0.05)
    for name, tensor in tracked.items():
        spread = float((start[name] - tensor).abs().max())  # how much the width matters at all
        assert found.tensors[name].dtype == tensor.dtype == torch.float32
        assert float((found.tensors[name] - tensor).abs().max()) < 0.2 * spread + 1e-6


def test_what_is_put_together_is_the_sum_of_the_fit(run: Path) -> None:
    """Σ x_i theta_i over all files, in float64 and in another order, with weights of both signs."""
    stored = StoredAverages(run)
    weights, files = stored.fitted(0.12).weights, stored.files()
    assert min(weights) < -0.01
    moments = [stored.store.read(file).tensors for file in files]
    for name, tensor in stored.average(0.12).tensors.items():
        whole = torch.stack([moment[name].double() for moment in moments])
        expected = (torch.tensor(weights, dtype=torch.float64) @ whole.flatten(1)).reshape(tensor.shape)
        torch.testing.assert_close(tensor, expected.float(), rtol=1e-6, atol=1e-7)  # a rounding to float32


def test_a_stored_width_comes_back(run: Path) -> None:
    """What was tracked is its own best fit; the other weights are rounding errors of float64."""
    store = AverageStore(run)
    newest = next(stored for stored in store.files() if (stored.step, stored.width) == (STEPS, 0.1))
    kept, found = store.read(newest).tensors, averaged(run, 0.1)
    for name, tensor in kept.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)


def test_damaged_files_are_left_out_with_a_note(run: Path, copied: Callable[[Path], Path]) -> None:
    folder = copied(run)
    notes: list[str] = []
    whole = averaged(folder, 0.07)
    for name in ("step-00000024-0.05.safetensors", "step-00000012-0.1.safetensors", "step-00000024-0.1.safetensors"):
        path = folder / "averages" / name
        path.write_bytes(path.read_bytes()[:-1] + b"\x00\x01")
    found = averaged(folder, 0.07, report=notes.append)
    assert len(notes) == 3
    assert all("left out" in note for note in notes)
    for name, tensor in whole.items():
        torch.testing.assert_close(found[name], tensor, rtol=0.05, atol=0.01)
    for path in (folder / "averages").iterdir():
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="holds no stored averages but 24 damaged ones"):
        averaged(folder, 0.07)


def test_samples_of_a_damaged_average_say_so(run: Path, copied: Callable[[Path], Path]) -> None:
    """A file cut short is heard of wherever the model was loaded from; nothing is said of whole ones."""
    folder, notes = copied(run), list[str]()
    model = sfumato.load(folder, report=notes.append)
    config = model.settings(ema_width=0.07, steps=2)
    model.sample(2, config=config)
    assert not notes
    path = folder / "averages" / "step-00000024-0.05.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    model.sample(2, config=config)
    assert len(notes) == 1
    assert "left out" in notes[0]
    assert path.name in notes[0]
    with pytest.warns(UserWarning, match="left out"):
        sfumato.load(folder).sample(2, config=config)


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    import shutil

    return lambda folder: Path(shutil.copytree(folder, tmp_path / "copy"))


def test_widths_that_cannot_be_had_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"width 0\.001: its profile is missed by \d+ %") as no:
        averaged(run, 0.001)
    assert no.value.fix == "choose 0.02"
    averaged(run, 0.02)
    for width in (0.0, -1.0, 0.2887, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="was asked for"):
            averaged(run, width)
    with pytest.raises(CheckpointError, match="holds no stored averages") as no_files:
        averaged(tmp_path, 0.1)
    assert "--training.power_ema 0.05,0.1" in no_files.value.fix


def test_averages_may_begin_late_and_cannot_change(tmp_path: Path) -> None:
    """A checkpoint without them: they begin there, and time counts from there."""
    notes: list[str] = []
    before = {**SMALL, "training.steps": 6, "training.checkpoint_every": 3}
    folder = sfumato.train("swiss-roll", before, runs=tmp_path).folder
    later = {"training.steps": STEPS, "training.power_ema": "0.05,0.1", "training.power_ema_every": EVERY}
    allowed = ("training.power_ema", "training.power_ema_every")
    sfumato.resume(folder, later, allow_change=allowed, reporter=Telling(notes))
    assert "the averages of training.power_ema begin at step 6: none were kept" in notes
    stored = StoredAverages(folder)
    newest = stored.files()[-1]
    assert stored.store.read(newest).updates == newest.step - 6 == STEPS - 6
    assert stored.average(0.1).residual < 1e-7
    profiles = [Profile(exponent_of(one.width), one.step - 6) for one in stored.files()]
    assert stored.fitted(0.07) == fit(profiles, Profile(exponent_of(0.07), STEPS - 6))
    more = {"training.steps": STEPS + 3}
    with pytest.raises(CheckpointError, match=r"counts the averages 0\.05, 0\.1, and the settings ask for 0\.08"):
        sfumato.resume(folder, {**more, "training.power_ema": "0.08"}, allow_change=allowed)
    sfumato.resume(folder, {**more, "training.power_ema": "[]"}, allow_change=allowed)
    again = {"training.steps": STEPS + 6, "training.power_ema": "0.05,0.1"}
    with pytest.raises(CheckpointError, match="holds averages, and the checkpoint of step 27 knows of none"):
        sfumato.resume(folder, again, allow_change=allowed)


class Telling:
    """A reporter that writes notes down."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def progress(self, progress: object) -> None:
        """Nobody looks."""

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_checkpoint_that_lost_an_average_is_refused(run: Path, copied: Callable[[Path], Path]) -> None:
    folder = copied(run)
    store = CheckpointStore(folder)
    for step in store.steps():
        snapshot = store.load(store._path(step))
        del snapshot.ema["power-0.05"]
        store.storage.remove(store._path(step))
        store.save(snapshot)
    with pytest.raises(CheckpointError, match=r"lacks ema-power-0\.05\.safetensors"):
        sfumato.resume(folder, {"training.steps": STEPS + 3})


@pytest.mark.parametrize("widths", ["0.05,0.05", "0.005", "0.3", "0.05,nan"])
def test_widths_out_of_range(widths: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="power_ema"):
        sfumato.train("swiss-roll", {**SMALL, "training.power_ema": widths}, runs=tmp_path)


def test_too_small_a_cap_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="power_ema_disk"):
        sfumato.train("swiss-roll", {**SMALL, **KEPT, "training.power_ema_disk": 1e-5}, runs=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("decay", "steps"), [(0.8, 24), (0.999, 600), (0.999, 20_000), (0.0, 50)])
def test_the_width_of_the_plain_ema(decay: float, steps: int) -> None:
    """Against the profile that an EMA of one-hot weights has, and (1 - decay)^-1 / steps for a long run."""
    profile = np.zeros(steps + 1)
    profile[0] = 1.0
    for n in range(steps):
        d = min(decay, (1 + n) / (10 + n))
        profile *= d
        profile[n + 1] += 1 - d
    middle = np.concatenate([[0.0], np.arange(steps) + 0.5])
    inner = np.concatenate([[0.0], np.full(steps, 1 / 12)])
    mean = profile @ middle
    truth = np.sqrt(profile @ ((middle - mean) ** 2 + inner)) / steps
    assert ema_width(decay, steps) == pytest.approx(truth, rel=1e-9)
    if steps == 20_000:
        assert ema_width(decay, steps) == pytest.approx(1000 / steps, rel=0.01)


def test_the_curve_scores_what_training_scored(run: Path) -> None:
    """The plain EMA's point is the last held-out loss of the log; a stored width has the loss of its own file."""
    model = sfumato.load(run)
    curve = width_curve(model, widths=[0.06, 0.1])
    assert [scored.width for scored in curve.averages] == [0.05, 0.06, 0.07, 0.1]
    assert curve.stored == (0.05, 0.07, 0.1)
    assert curve.missing == ()
    assert curve.ema.difference == curve.ema.difference_error == 0.0
    assert curve.live is not None
    assert curve.ema.loss != curve.live.loss
    assert curve.best.loss == min(scored.loss for scored in curve.averages)
    again = width_curve(with_average(model, 0.06), widths=[0.06])
    assert again.ema.loss == pytest.approx(curve.averages[1].loss, rel=1e-6)
    differences = [scored.loss - curve.ema.loss for scored in curve.averages]
    assert [scored.difference for scored in curve.averages] == pytest.approx(differences, abs=1e-9)
    assert all(scored.difference_error < scored.std_error for scored in curve.averages)  # paired


def test_the_logged_loss_is_the_point_of_the_plain_ema(tmp_path: Path) -> None:
    made = sfumato.train("swiss-roll", {**SMALL, **KEPT, "training.evaluate_every": STEPS}, runs=tmp_path)
    curve = width_curve(sfumato.load(made), widths=[])
    assert curve.ema.loss == pytest.approx(made.held_out_loss, rel=1e-6)
    assert curve.ema.std_error == pytest.approx(made.held_out_std_error, rel=1e-6)


def test_exported_and_evaluated_widths(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = export(run, tmp_path / "m.safetensors", ema_width=0.06)
    found = bare_state(sfumato.load(target).denoiser.network)
    for name, tensor in averaged(run, 0.06).items():
        assert torch.equal(found[name], tensor)
    with pytest.raises(UsageError, match="one average alone"):
        with_average(sfumato.load(target), 0.05)
    capsys.readouterr()
    words = ["--runs", str(run.parent), "--json"]
    assert cli.main(["evaluate", run.name, "--weights", "0.06", "--metrics", "loss", "-n", "20", *words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["metrics"]["loss[held-out]"]["provenance"]["weights"] == "0.06"
    assert "0.06-held-out" in document["file"]
    assert cli.main(["evaluate", run.name, "--weights", "emma", *words]) == 2
    assert "ema, live, both or the width" in json.loads(capsys.readouterr().out)["error"]["expected"]
    assert cli.main(["export", run.name, "--ema_width", "wide", "--out", str(tmp_path / "n.safetensors"), *words]) == 2


def test_the_figure_and_its_numbers(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "widths.svg"
    capsys.readouterr()
    command = ["figures", "ema", run.name, "--runs", str(run.parent), "--out", str(target), "--json", "-n", "10"]
    assert cli.main(command) == 0
    document = json.loads(capsys.readouterr().out)
    curve = document["curve"]
    assert document["bytes"] == target.stat().st_size
    assert curve["examples"] == 10
    assert {0.05, 0.07, 0.1} <= {scored["width"] for scored in curve["averages"]}
    assert curve["best"] in curve["averages"]
    assert len(curve["averages"]) + len(curve["missing"]) == 18  # 15 and the stored three
