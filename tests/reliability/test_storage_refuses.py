"""Storage that is full, read-only or in the way: named, before step 1 where it can be, and nothing good is lost."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sfumato
from sfumato.errors import ConfigError, ResourceError
from sfumato.experiment.records import list_runs
from sfumato.training import trainer
from sfumato.training.checkpoint import CheckpointStore
from sfumato.training.ema import bare_state
from sfumato.training.storage import LocalStorage

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`breaking("write", "step-00000004")`: from now on that operation fails wherever the path has that text in it."""

    def arm(operation: str, text: str, error: OSError = FULL) -> None:
        real = getattr(LocalStorage, operation)

        def broken(self: LocalStorage, path: Path, *rest: Any) -> Any:
            if text in str(path):
                raise error
            return real(self, path, *rest)

        monkeypatch.setattr(LocalStorage, operation, broken)

    return arm


def test_the_disk_fills_up_during_a_save(
    breaking: Any, points: dict[str, Any], tmp_path: Path, one_finished: Path, same_remains: Any, monkeypatch: Any
) -> None:
    """A7: bytes needed and free, path, what is kept; the older checkpoints are whole, and the run can go on."""
    breaking("write", ".tmp-step-00000008")
    with pytest.raises(ResourceError) as caught:
        sfumato.train("swiss-roll", points, runs=tmp_path, name="run")
    for part in ("no space left", "bytes) are needed", "are free at", "2 older checkpoints are untouched"):
        assert part in caught.value.what
    assert caught.value.exit_code == 6
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000000", "step-00000004"]
    monkeypatch.undo()
    sfumato.resume(tmp_path / "run")
    same_remains(tmp_path / "run", one_finished)


def test_a_run_may_wait_for_space(
    breaking: Any, points: dict[str, Any], tmp_path: Path, one_finished: Path, watcher: Any, monkeypatch: Any
) -> None:
    """on_disk_full: wait tries again every minute, and hears a signal while it waits."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 90:
            monkeypatch.setattr(LocalStorage, "write", real)

    real = LocalStorage.write
    breaking("write", ".tmp-step-00000008")
    monkeypatch.setattr(trainer.time, "sleep", sleep)
    reporter = watcher()
    sfumato.train("swiss-roll", {**points, "training.on_disk_full": "wait"}, runs=tmp_path, reporter=reporter)
    assert sum(slept) == 120
    assert sum("no space left" in note and "trying again every 60 s" in note for note in reporter.notes) == 2


def test_waiting_ends_when_asked_to_stop(
    breaking: Any, points: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    import signal

    breaking("write", ".tmp-step-00000008")
    monkeypatch.setattr(trainer.time, "sleep", lambda seconds: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(ResourceError, match="no space left"):
        sfumato.train("swiss-roll", {**points, "training.on_disk_full": "wait"}, runs=tmp_path, name="run")
    assert CheckpointStore(tmp_path / "run").steps() == [0, 4]


def test_too_little_space_at_the_start(points: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    """A8: three checkpoints must fit, moments and all. Refused before step 1, and the name stays free."""
    monkeypatch.setattr(LocalStorage, "free_space", lambda self, folder: 50_000)
    # 674 values of 4 bytes, four times over (weights, averages, two moments), are 10.8 kB; names and record the rest.
    with pytest.raises(ResourceError, match=r"50\.0 kB are free, one checkpoint takes 1[678]\.\d kB"):
        sfumato.train("swiss-roll", points, runs=tmp_path, name="run")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert sfumato.train("swiss-roll", points, runs=tmp_path, name="run").steps == 10


def test_a_really_full_file_system(points: dict[str, Any], tmp_path: Path) -> None:
    """A limit on the size of files is a disk as full as can be had without being root; the process is a real one."""
    script = (
        "import resource, signal, sys\n"
        "from sfumato.cli.main import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    settings = [f"--{key}={list(v) if isinstance(v, tuple) else v}" for key, v in points.items()]
    command = [sys.executable, "-c", script, "train", "swiss-roll", "--runs", str(tmp_path), "--name", "run", *settings]
    found = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert found.returncode == 6, found.stderr
    told = found.stderr.splitlines()[-3:]  # after the notes of the start
    assert [line.split(":")[0] for line in told] == ["error[RESOURCE]", "expected", "fix"]
    assert "no space left while saving the checkpoint" in told[0]
    assert list(tmp_path.iterdir()) == []


def test_the_log_and_the_previews_are_not_worth_a_run(
    breaking: Any, points: dict[str, Any], tmp_path: Path, watcher: Any
) -> None:
    """A9: one warning for the log, one for each preview; the weights are trained and saved."""
    breaking("append", "metrics.jsonl")
    breaking("write", "samples")
    reporter = watcher()
    run = sfumato.train("swiss-roll", points, runs=tmp_path, reporter=reporter)
    assert sum("metrics.jsonl is incomplete: No space left" in note for note in reporter.notes) == 1
    lost = [note.split(":")[0] for note in reporter.notes if note.startswith("no preview")]
    assert lost == ["no preview of step 7", "no preview of step 10"]
    assert CheckpointStore(run.folder).find(pytest.fail).name == "step-00000010"
    (listed,) = list_runs(tmp_path)  # and the list of runs flags what is missing
    assert (listed.state, listed.note) == (
        "finished",
        "metrics.jsonl is incomplete: it ends at step 0, and the newest checkpoint is of step 10",
    )


def test_a_file_in_the_way(points: dict[str, Any], tmp_path: Path) -> None:
    """A10: as the folder of runs, above it, and as the run itself; each before any training, none overwritten."""
    (tmp_path / "file").write_text("mine")
    for runs in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ResourceError, match="file"):
            sfumato.train("swiss-roll", points, runs=runs)
    with pytest.raises(ConfigError, match="exists already"):
        sfumato.train("swiss-roll", points, runs=tmp_path, name="file")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "mine")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(points: dict[str, Any], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ResourceError, match=r"not permitted|cannot be made"):
        sfumato.train("swiss-roll", points, runs=tmp_path)


@pytest.mark.parametrize("place", ["runs", "run"])
def test_a_read_only_file_system(place: str, points: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    """A10, as root sees it: the system refuses to make the folder of runs, or a folder in it."""

    def refuse(self: Path, *rest: Any, **options: Any) -> None:
        if self.name == place:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        real(self, *rest, **options)

    real = Path.mkdir
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ResourceError, match="Read-only file system") as caught:
        sfumato.train("swiss-roll", points, runs=tmp_path / "runs", name="run")
    assert "--runs" in caught.value.fix
    assert not (tmp_path / "runs" / "run").exists()


def test_every_checkpoint_holds_raw_weights_and_averages(
    points: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    """A19: apart, also when the averages are in use for a preview or the held-out loss at that very step."""
    from sfumato.training.trainer import Trainer

    seen: dict[int, Any] = {}
    real = Trainer._act

    def watched(self: Trainer, done: int) -> None:
        network = self.step.denoiser.network
        seen[done] = {name: tensor.clone() for name, tensor in bare_state(network).items()}
        real(self, done)

    monkeypatch.setattr(Trainer, "_act", watched)
    settings = {**points, "training.keep_checkpoints": 20}
    settings |= {f"training.{name}_every": 1 for name in ("checkpoint", "preview", "evaluate")}
    store = CheckpointStore(sfumato.train("swiss-roll", settings, runs=tmp_path).folder)
    averages = {name: t.clone() for name, t in store.load(store.folder / "step-00000000").model.items()}
    for step in range(1, 11):
        stored = store.load(store.folder / f"step-{step:08d}")
        decay = min(0.9, step / (9 + step))  # (1 + n)/(10 + n) at the n-th update, n = step - 1
        for name, live in seen[step].items():
            averages[name].lerp_(live, 1 - decay)
            assert stored.model[name].equal(live), (step, name)
            # The same float32 average, by another kernel: a rounding or two apart.
            assert stored.ema["0.9"][name].allclose(averages[name], rtol=1e-5, atol=1e-6), (step, name)
            assert not stored.ema["0.9"][name].equal(live), (step, name)


def test_a_killed_run_is_not_overwritten_by_its_namesake(unfinished: Path, points: dict[str, Any], tree: Any) -> None:
    before = tree(unfinished)
    with pytest.raises(ConfigError, match="sfumato resume"):
        sfumato.train("swiss-roll", points, runs=unfinished.parent, name=unfinished.name)
    assert tree(unfinished) == before
    shutil.rmtree(unfinished / "checkpoints")
    with pytest.raises(ConfigError, match="exists already"):
        sfumato.train("swiss-roll", points, runs=unfinished.parent, name=unfinished.name)
