"""What `train` makes and refuses: one folder for a run, all settings in it, and nothing left of what is refused."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sfumato
from sfumato.errors import CheckpointError, ConfigError, DataError, PlatformError
from sfumato.experiment.config import load_experiment
from sfumato.experiment.reporting import Lines
from sfumato.experiment.run import require_run_name
from sfumato.training.checkpoint import CheckpointStore
from sfumato.training.ema import bare_state
from sfumato.training.record import MetricsLog
from sfumato.training.trainer import Progress


class Notes:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, progress: object) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_run_says_how_it_went(digits: dict[str, Any], tmp_path: Path) -> None:
    run = sfumato.train("digits", digits, runs=tmp_path)
    assert run.folder == tmp_path / "digits-1"
    assert sorted(path.name for path in run.folder.iterdir() if "tfevents" not in path.name) == [
        "checkpoints", "config.yaml", "environment.json", "metrics.jsonl", "samples",
    ][:4]  # fmt: skip
    assert run.steps == 6
    assert run.seconds > 0
    assert run.images_per_second == pytest.approx(6 * 8 / run.seconds)
    model = sfumato.load(run)
    assert run.parameters == sum(p.numel() for p in model.denoiser.network.parameters())
    logged = [line for line in MetricsLog.read(run.folder / "metrics.jsonl") if "held_out_loss" in line]
    assert [line["step"] for line in logged] == [3, 6]
    assert run.held_out_loss == logged[-1]["held_out_loss"]


def test_the_settings_are_complete_and_resolved(digits: dict[str, Any], tmp_path: Path) -> None:
    """No `auto` is left to be decided otherwise on another machine, and the file is the run's own recipe."""
    run = sfumato.train("digits", {**digits, "training.precision": "auto"}, runs=tmp_path)
    text = (run.folder / "config.yaml").read_text()
    assert ": auto\n" not in text
    assert load_experiment(run.folder / "config.yaml") == run.experiment
    assert run.experiment.training.threads == torch.get_num_threads()
    state = CheckpointStore(run.folder).load(CheckpointStore(run.folder).find()).state
    assert state["threads"] == torch.get_num_threads()
    assert state["processes"] == 1
    again = sfumato.train(run.folder / "config.yaml", runs=tmp_path / "again")
    same = [sfumato.load(each).digest for each in (run, again)]
    assert same[0] == same[1]


def test_the_same_command_twice_is_the_same_run(points: dict[str, Any], points_run: Path, tmp_path: Path) -> None:
    run = sfumato.train("swiss-roll", points, runs=tmp_path, name="run")
    names = [path.relative_to(run.folder) for path in sorted(run.folder.glob("checkpoints/*/*"))]
    assert len(names) == 10
    assert [n for n in names if (run.folder / n).read_bytes() != (points_run / n).read_bytes()] == []
    other = sfumato.train("swiss-roll", {**points, "seed": 1}, runs=tmp_path, name="other")
    assert sfumato.load(other).digest != sfumato.load(run).digest


def test_names_are_never_used_again(points: dict[str, Any], tmp_path: Path) -> None:
    runs = [sfumato.train("swiss-roll", points, runs=tmp_path).folder.name for _ in range(2)]
    assert runs == ["swiss-roll-1", "swiss-roll-2"]
    (tmp_path / "swiss-roll-3").write_text("a file of that name")
    assert sfumato.train("swiss-roll", points, runs=tmp_path).folder.name == "swiss-roll-4"
    assert sfumato.train("swiss-roll", points, runs=tmp_path, name="mine").folder == tmp_path / "mine"
    with pytest.raises(ConfigError, match="mine exists already") as caught:
        sfumato.train("swiss-roll", points, runs=tmp_path, name="mine")
    assert "sfumato resume" in caught.value.fix


@pytest.mark.parametrize("name", ["../up", "a/b", "", "..", "."])
def test_a_name_is_not_a_path(name: str, points: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a name, not a path"):
        sfumato.train("swiss-roll", points, runs=tmp_path / "runs", name=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "better"),
    [
        (".hidden", "hidden"),
        ("foo.safetensors", "foo"),
        ("_x", "x"),
        ("a b\n", "a-b"),
        ("\udcff", "swiss-roll"),
        ("x" * 101, "x" * 100),
    ],
)
def test_names_that_would_be_lost(name: str, better: str, points: dict[str, Any], tmp_path: Path) -> None:
    """`runs` passes over what begins with a dot, and `load` takes x.safetensors for a file; the remedy is accepted."""
    with pytest.raises(ConfigError) as caught:
        sfumato.train("swiss-roll", points, runs=tmp_path / "runs", name=name)
    assert caught.value.fix == f"--name {better}"
    assert list(tmp_path.iterdir()) == []
    require_run_name(better, "swiss-roll")


@pytest.mark.parametrize("key", ["data.path", "training.init_from", "description"])
def test_text_that_no_settings_file_can_hold(key: str, points: dict[str, Any], tmp_path: Path) -> None:
    """A folder whose name is not UTF-8 can be read, but the run's config.yaml could not be, ever again."""
    with pytest.raises(ConfigError, match="which is not UTF-8") as caught:
        sfumato.train("swiss-roll", {**points, key: "fran\udce7ais"}, runs=tmp_path)
    assert f"{key} is 'fran\\udce7ais'" in caught.value.what
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"training.device": "cuda:9"}, PlatformError),
        ({"data.path": "nowhere"}, DataError),
        ({"training.init_from": "nowhere"}, CheckpointError),
        ({"network": "ResidualUNet"}, ConfigError),
        ({"schedule.betas.rescale": False}, ConfigError),
        ({"training.learning_rate": 1e30}, ConfigError),
        ({"training.steps": 0}, ConfigError),
        ({"training.accumulate": 3}, ConfigError),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_refused_leaves_nothing(
    change: dict[str, Any], error: type[Exception], points: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(error):
        sfumato.train("swiss-roll", {**points, **change}, runs=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("count", "said"), [(1, "sees each of them 8 times"), (5, "1.6 times"), (8, None)])
def test_batches_larger_than_the_data(count: int, said: str | None, digits: dict[str, Any], tmp_path: Path) -> None:
    """D2, D3: it trains, and says that every step sees the examples again."""
    reporter = Notes()
    settings = {**digits, "data.limit": count, "data.held_out": 0.0}
    run = sfumato.train("digits", settings, runs=tmp_path, reporter=reporter)
    assert run.held_out_loss is None
    repeated = [note for note in reporter.notes if "every step sees" in note]
    assert [said in note for note in repeated] == ([True] if said else [])
    sampled = sfumato.load(run).sample(2)
    assert sampled.images is not None
    assert sampled.images.shape == (2, 8, 8, 1)


def test_one_picture_is_learned(digits: dict[str, Any], tmp_path: Path) -> None:
    """D2: a single example of 64 values is a data set, too, and what comes back is that picture."""
    picture = np.zeros((1, 8, 8), np.uint8)
    picture[0, 2:6, 2:6] = 255
    np.savez(tmp_path / "one.npz", images=picture)
    settings = {
        **digits,
        "data.path": str(tmp_path / "one.npz"),
        "data.limit": None,
        "data.held_out": 0.0,
        "training.steps": 150,
        "training.learning_rate": 1e-2,
        "training.ema_decay": 0.9,
    }
    model = sfumato.load(sfumato.train("digits", settings, runs=tmp_path))
    drawn = model.sample(4, steps=20).images
    assert drawn is not None
    assert np.abs(drawn[..., 0].astype(int) - picture.astype(int)).mean() < 25  # of 255; 14 measured, 124 untrained


def test_a_chain_of_one_step(points: dict[str, Any], tmp_path: Path) -> None:
    """E1: T = 1 with cosine betas, its one beta clipped at 0.999; there is no posterior variance to take a log of."""
    one = {key: 1 for key in ("schedule.steps", "times.steps", "time_input.steps", "sampling.steps")}
    run = sfumato.train("swiss-roll", {**points, **one, "schedule.betas": "cosine"}, runs=tmp_path)
    lines = MetricsLog.read(run.folder / "metrics.jsonl")
    assert lines[-1]["held_out_by_level"]["log_snr"] == pytest.approx([np.log(0.001 / 0.999)], rel=1e-9)
    for sampler in ("ancestral", "ddim"):
        values = sfumato.load(run).sample(5, sampler=sampler).values
        assert values is not None
        assert np.isfinite(values).all()


def test_starting_from_another_run(points: dict[str, Any], points_run: Path, tmp_path: Path) -> None:
    """init_from: the averaged weights of a run or an exported file become weights and averages of step 0."""
    model = sfumato.load(points_run)
    wanted = bare_state(model.denoiser.network)
    out = sfumato.export(points_run, tmp_path / "model.safetensors")
    for number, source in enumerate((points_run, out)):
        settings = {**points, "seed": 3, "training.init_from": str(source), "training.keep_checkpoints": 9}
        folder = sfumato.train("swiss-roll", settings, runs=tmp_path / str(number)).folder
        store = CheckpointStore(folder)
        first = store.load(store.folder / "step-00000000")
        assert [n for n in wanted if not first.model[n].equal(wanted[n])] == []
        assert [n for n in wanted if not first.ema["0.5"][n].equal(wanted[n])] == []
        assert first.optimizer == {}
        assert first.state["ema_updates"] == {"0.5": 0}


def test_starting_from_what_does_not_fit(points: dict[str, Any], digits_run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"training\.init_from .* does not fit the network"):
        sfumato.train("swiss-roll", {**points, "training.init_from": str(digits_run)}, runs=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_before_its_first_checkpoint_still_starts_from_there(
    points: dict[str, Any], points_run: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Killed between its settings and step 0, a run that starts from another one resumes from that one's weights."""
    settings = {**points, "training.init_from": str(points_run), "seed": 3}
    whole = sfumato.train("swiss-roll", settings, runs=tmp_path, name="whole").folder
    folder = tmp_path / "killed"
    folder.mkdir()
    (folder / "config.yaml").write_bytes((whole / "config.yaml").read_bytes())
    sfumato.resume(folder)
    assert sfumato.load(folder).digest == sfumato.load(whole).digest


def test_environment(points_run: Path) -> None:
    found = json.loads((points_run / "environment.json").read_text())
    assert found["command"][0] == "sfumato"
    assert "torch" in found["versions"]


def test_hooks_do_not_touch_the_run(points: dict[str, Any], points_run: Path, tmp_path: Path) -> None:
    """Held-out losses and previews, at every step or never: the weights keep their bits."""
    often = {f"training.{name}_every": 1 for name in ("evaluate", "preview", "log")}
    run = sfumato.train("swiss-roll", {**points, **often, "training.preview_count": 2}, runs=tmp_path)
    assert sfumato.load(run).digest == sfumato.load(points_run).digest
    assert len(list((run.folder / "samples").iterdir())) == 6


def test_train_in_a_thread(points: dict[str, Any], points_run: Path, tmp_path: Path) -> None:
    """Where there are no signals: in a notebook's worker, a server, a test."""
    import threading

    done: list[Any] = []
    work: Callable[[], None] = lambda: done.append(sfumato.train("swiss-roll", points, runs=tmp_path))  # noqa: E731
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert sfumato.load(done[0]).digest == sfumato.load(points_run).digest


def test_a_run_opens_with_what_it_is(digits: dict[str, Any], tmp_path: Path) -> None:
    reporter = Notes()
    run = sfumato.train("digits", {**digits, "training.threads": 1}, runs=tmp_path, reporter=reporter)
    assert reporter.notes[-5:] == [
        f"run        {run.folder}",
        "data       54 examples of 1 x 8 x 8 to train on, 6 held out",
        f"network    ResidualUNet, {run.parameters:,} parameters",
        "computing  cpu, float32, 1 thread",
        "training   6 steps, each of 8 examples",
    ]
    sfumato.resume(run.folder, {"training.steps": 7}, reporter=reporter)
    assert reporter.notes[-1] == "training   from step 6 to 7, each of 8 examples"


def test_the_first_line_of_progress_comes_soon_and_the_next_ones_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("sfumato.experiment.reporting.time.monotonic", lambda: clock[0])
    stream = io.StringIO()
    lines = Lines(stream)
    said = []
    for second in range(1, 31):
        clock[0] = 100.0 + second / 2
        lines.progress(Progress(second, 1000, None, 1.0, 1.0))
        said.append(len(stream.getvalue().splitlines()))
    assert said.index(1) + 1 == 2  # after one second
    assert said.index(2) + 1 == 22  # and ten seconds later
    assert said[-1] == 2
