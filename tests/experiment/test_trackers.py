"""Trackers: told each line and each preview once, never worth a run, and never heard by it."""

import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, ClassVar

import accelerate.tracking
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import sfumato
from sfumato.cli import main as cli
from sfumato.errors import ConfigError, PlatformError, ResourceError
from sfumato.experiment.config import load_experiment
from sfumato.experiment.tracking import Histogram, Trackers, by_accelerate, choosing, require_trackers
from sfumato.experiment.tracking import apart as apart_module
from sfumato.experiment.tracking.by_accelerate import IDENTITIES, MANNERS, ByAccelerate, identities
from sfumato.experiment.tracking.choosing import settings_of
from sfumato.experiment.tracking.replaying import Clock, replay, times_of
from sfumato.experiment.tracking.track import track
from sfumato.training.lock import RunLock
from sfumato.training.record import MetricsLog


@dataclass
class Listener:
    """A tracker that keeps what it is told, and fails when `fails_at` is reached."""

    fails_at: int | None = None
    told: list[tuple[Any, ...]] = field(default_factory=list)
    closed: int = 0

    def _hear(self, step: int, *what: Any) -> None:
        if self.fails_at is not None and step >= self.fails_at:
            raise RuntimeError("the line is dead\nand has two lines")
        self.told.append((step, *what))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._hear(step, "scalars", dict(values))

    def images(self, step: int, name: str, pictures: NDArray[np.uint8]) -> None:
        self._hear(step, "images", name, pictures.shape)

    def histogram(self, step: int, name: str, values: Histogram) -> None:
        self._hear(step, "histogram", name, values.amounts.sum())

    def text(self, step: int, name: str, text: str) -> None:
        self._hear(step, "text", name, text)

    def close(self) -> None:
        self.closed += 1


class Foreign(accelerate.tracking.GeneralTracker):
    """A tracker as people write one for Accelerate: it keeps its calls where the test can see them."""

    name = "foreign"
    requires_logging_directory = False
    calls: ClassVar[list[tuple[str, Any]]] = []
    fails_at: ClassVar[int | None] = None

    def __init__(self, project: str, **options: Any) -> None:
        super().__init__()
        self.calls.append(("made", (project, options)))

    @property
    def tracker(self) -> Any:
        return self

    def start(self) -> None:
        self.calls.append(("start", None))

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.calls.append(("settings", values))

    def log(self, values: dict[str, Any], step: int | None = None, **options: Any) -> None:
        assert step is not None
        if self.fails_at is not None and step >= self.fails_at:
            raise ConnectionError("no route to host")
        self.calls.append(("log", (step, values)))

    def log_images(self, values: dict[str, Any], step: int | None = None, **options: Any) -> None:
        self.calls.append(("images", (step, {name: [p.shape for p in found] for name, found in values.items()})))

    def finish(self) -> None:
        self.calls.append(("finish", None))


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> type[Foreign]:
    """Makes the name `foreign` one that Accelerate knows."""
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "foreign", Foreign)
    monkeypatch.setattr(Foreign, "calls", [])
    monkeypatch.setattr(Foreign, "fails_at", None)
    return Foreign


def notes() -> tuple[list[str], Callable[[str], None]]:
    found: list[str] = []
    return found, found.append


# ------------------------------------------------------------------------------------------------- one who fails alone


def test_a_tracker_that_fails_is_one_note_and_the_others_go_on() -> None:
    good, bad = Listener(), Listener(fails_at=2)
    said, report = notes()
    trackers = Trackers({"bad": bad, "good": good}, report)
    for step in (1, 2, 3):
        trackers.line({"step": step, "loss": 1.0})
    trackers.close()
    assert [step for step, *_ in good.told] == [1, 2, 3]
    assert [step for step, *_ in bad.told] == [1]
    why = "RuntimeError: the line is dead and has two lines"
    assert said == [f"bad is told no more of this run: {why}. metrics.jsonl has everything"]
    assert (good.closed, bad.closed) == (1, 1)
    assert not trackers


def test_a_preview_is_shown_as_it_was_saved(tmp_path: Path) -> None:
    listener = Listener()
    said, report = notes()
    trackers = Trackers({"a": listener}, report)
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(tmp_path / "colour.png")
    Image.fromarray(np.zeros((10, 20), np.uint8)).save(tmp_path / "grey.png")
    np.savez(tmp_path / "points.npz", values=np.arange(10.0).reshape(5, 2))
    np.savez(tmp_path / "long.npz", values=np.ones((5, 3, 4)))
    for step, name in enumerate(("colour.png", "grey.png", "points.npz", "long.npz")):
        trackers.preview(step, tmp_path / name)
    assert listener.told[:4] == [
        (0, "images", "samples", (1, 10, 20, 3)),
        (1, "images", "samples", (1, 10, 20, 1)),
        (2, "histogram", "samples/1", 5),
        (2, "histogram", "samples/2", 5),
    ]
    assert len(listener.told) == 4 + 8  # of twelve coordinates the first eight
    assert said == []
    (tmp_path / "torn.png").write_bytes((tmp_path / "grey.png").read_bytes()[:40])
    (tmp_path / "torn.npz").write_bytes((tmp_path / "points.npz").read_bytes()[:40])
    for name in ("torn.png", "torn.npz", "absent.png"):
        trackers.preview(9, tmp_path / name)
    assert len(said) == 3
    assert len(listener.told) == 12


def test_nothing_that_is_told_raises(tmp_path: Path) -> None:
    """Numbers beyond float64, values closer together or further apart than bars can be, lines without a step."""
    listener = Listener()
    said, report = notes()
    trackers = Trackers({"a": listener}, report)
    near = [1.0, np.nextafter(1.0, 2.0)] * 3
    trackers.line({"step": 1, "loss": 10**400, "nan": math.nan, "knots": [10**400, *near], "far": [1e308, -1e308] * 3})
    trackers.line({"loss": 1.0})
    np.savez(tmp_path / "near.npz", values=np.array([near, [1e308, -1e308] * 3, range(6)]).T)
    trackers.preview(2, tmp_path / "near.npz")
    assert listener.told == [(2, "histogram", "samples/3", 6)]
    assert [note.partition(":")[0] for note in said] == ["a line is told to no tracker"]


# ------------------------------------------------------------------------------------------------ one that hangs alone


def apart(
    listener: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, seconds: float = 60.0
) -> tuple[Trackers, list[str]]:
    """A tracker on a thread of its own that is waited for no longer than some seconds."""
    monkeypatch.setattr(apart_module, "SILENT_SECONDS", 0.02)
    monkeypatch.setattr(apart_module, "CLOSE_SECONDS", seconds)
    monkeypatch.setattr(apart_module, "MOST_WAITING", 5)
    said, report = notes()
    return Trackers({"far": apart_module.Apart("far", listener, report)}, report), said


@dataclass
class Foul(Listener):
    """Hangs, or raises what ends a process, where it is told to: at `start`, at a step, at `close`."""

    where: str = ""
    how: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        if self.where == "start":
            self.how()

    def _hear(self, step: int, *what: Any) -> None:
        if self.where == str(step):
            self.how()
        self.told.append((step, *what))

    def close(self) -> None:
        if self.where == "close":
            self.how()


def leave() -> None:
    raise SystemExit(3)


def hanging(released: threading.Event) -> Callable[[], None]:
    def hang() -> None:
        released.wait(60)

    return hang


@pytest.mark.parametrize("where", ["start", "2", "close"])
@pytest.mark.parametrize("how", ["hangs", "leaves"])
def test_a_tracker_that_hangs_or_leaves_stalls_and_ends_nothing(
    how: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One note, and no step waits; what was told before has arrived."""
    released = threading.Event()
    act = leave if how == "leaves" else hanging(released)
    made: list[Foul] = []

    def start() -> Foul:
        made.append(Foul(where=where, how=act))
        return made[0]

    trackers, said = apart(start, monkeypatch, 0.5 if how == "hangs" else 60.0)
    began = time.perf_counter()
    for step in (1, 2, 3):
        trackers.line({"step": step, "loss": 1.0})
    trackers.close()
    assert time.perf_counter() - began < 30  # of the 60 s that it hangs
    told = [note for note in said if "is told no more of this run" in note]
    assert len(told) == 1
    assert ("SystemExit: 3" in told[0]) == (how == "leaves")
    if where != "start":
        assert [step for step, *_ in made[0].told] == ([1] if where == "2" else [1, 2, 3])
    released.set()


def test_a_tracker_that_does_not_answer_is_given_up_while_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    trackers, said = apart(lambda: Foul(where="1", how=hanging(released)), monkeypatch)
    for step in range(1, 10):
        trackers.line({"step": step, "loss": 1.0})
    assert not trackers
    assert said == [
        "far is told no more of this run: it does not answer, and 5 messages wait. metrics.jsonl has everything"
    ]
    trackers.close()  # at once
    released.set()


def test_a_tracker_apart_hears_all_in_order_and_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener()

    def slowly() -> Listener:
        time.sleep(0.2)
        return listener

    trackers, said = apart(slowly, monkeypatch)
    for step in (1, 2):
        trackers.line({"step": step, "loss": 1.0, "knots": [1.0, 2.0, 3.0, 4.0, 5.0]})
    trackers.close()
    assert [(step, kind) for step, kind, *_ in listener.told] == [
        (step, kind) for step in (1, 2) for kind in ("scalars", "histogram")
    ]
    assert (listener.closed, trackers.failed) == (1, {})
    assert said == ["waiting for far to send the rest, at most 60 s"]


def test_what_the_last_thing_told_raised_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener(fails_at=2)
    trackers, said = apart(lambda: listener, monkeypatch)
    for step in (1, 2):
        trackers.line({"step": step, "loss": 1.0})
    trackers.close()
    assert ["the line is dead" in note for note in said] == [True]
    assert listener.closed == 1


# --------------------------------------------------------------------------------------------------- which are chosen


def test_unknown_and_absent_trackers_are_refused_before_anything(
    points: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F7: the extra, or the package, that brings it; nothing is made."""
    monkeypatch.setattr(choosing, "find_spec", lambda name: None)
    monkeypatch.setattr(accelerate.tracking, "get_available_trackers", list)
    for name, kind, fix in (
        ("wandd", ConfigError, "training.trackers: [wandb]"),
        ("wandb", PlatformError, "pip install wandb"),
        ("wandb:a-project", PlatformError, "pip install wandb"),
        ("tensorboard", PlatformError, "pip install 'sfumato[track]'"),
        ("Tensor Board", ConfigError, '["auto"]'),
        ("tensorboard,tensorboard:x", ConfigError, ""),
    ):
        with pytest.raises(kind) as caught:
            sfumato.train("swiss-roll", {**points, "training.trackers": name.split(",")}, runs=tmp_path / "runs")
        assert "training.trackers" in caught.value.what
        assert fix.replace('"', "'") in caught.value.fix.replace('"', "'")
    assert not (tmp_path / "runs").exists()
    require_trackers(("auto",))  # wherever it is installed, and here it is not
    require_trackers(())
    assert [one.name for one in choosing.wanted(("auto", "wandb:mine", "wandb"))] == ["wandb"]
    monkeypatch.setattr(choosing, "find_spec", lambda name: ModuleSpec(name, None))  # a folder of that name
    assert [one.name for one in choosing.wanted(("auto",))] == []
    monkeypatch.setattr(choosing, "find_spec", lambda name: ModuleSpec(name, None, origin="tensorboard/__init__.py"))
    assert [one.name for one in choosing.wanted(("auto", "tensorboard"))] == ["tensorboard"]


# -------------------------------------------------------------------------------------------------- what a run tells


def lines_of(folder: Path) -> dict[int, dict[str, Any]]:
    return {line["step"]: line for line in MetricsLog.read(folder / "metrics.jsonl")}


@pytest.mark.parametrize("fails_at", [None, 3])
def test_a_run_is_the_same_with_a_tracker_and_without(
    fails_at: int | None, points: dict[str, Any], points_run: Path, tmp_path: Path, foreign: type[Foreign]
) -> None:
    """To the bit, also where the tracker fails on the way; it is told what the record says, with its names."""
    foreign.fails_at = fails_at
    settings = {**points, "training.trackers": ["foreign:my-project"], "training.log_every": 2}
    run = sfumato.train("swiss-roll", settings, runs=tmp_path, name="run").folder
    assert sfumato.load(run).digest == sfumato.load(points_run).digest
    calls = foreign.calls
    assert calls[0] == ("made", ("my-project", {}))
    assert [kind for kind, _ in calls[:3]] == ["made", "start", "settings"]
    assert calls[2][1] == settings_of(sfumato.load(run).experiment)  # the settings: nothing of machine or environment
    assert calls[-1] == ("finish", None)
    told = dict(value for kind, value in calls if kind == "log")
    logged = lines_of(run)
    assert sorted(logged) == [2, 3, 4, 6]
    assert sorted(told) == ([2, 3, 4, 6] if fails_at is None else [2])
    assert told[2]["loss"] == logged[2]["loss"]
    if fails_at is None:
        assert told[6]["held_out_by_level/2"] == logged[6]["held_out_by_level"]["loss"][1]


def test_a_resumed_run_is_the_run_that_the_tracker_knows(
    points: dict[str, Any], tmp_path: Path, foreign: type[Foreign], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name it gave the run comes back to it, and nothing else that stands in the file; settings are told once."""
    manner = by_accelerate.Manner(
        lambda name, folder: {"label": name}, {"go_on": True}, {"id": lambda run: "abc"}, one_picture=False
    )
    monkeypatch.setitem(by_accelerate.MANNERS, "foreign", manner)
    settings = {**points, "training.trackers": ["foreign"], "training.log_every": 1}
    run = sfumato.train("swiss-roll", settings, runs=tmp_path, name="run").folder
    assert json.loads((run / IDENTITIES).read_text()) == {"foreign": {"id": "abc"}}
    assert foreign.calls[0] == ("made", ("swiss-roll", {"label": "run"}))
    (run / IDENTITIES).write_text(json.dumps({"foreign": {"id": "abc", "host": "evil.example"}}))
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    foreign.calls.clear()
    sfumato.resume(run)
    assert foreign.calls[0] == ("made", ("swiss-roll", {"label": "run", "go_on": True, "id": "abc"}))
    assert "settings" not in [kind for kind, _ in foreign.calls]
    assert [value[0] for kind, value in foreign.calls if kind == "log"] == [4, 5, 6]


def test_trackers_that_start_at_once_all_keep_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reads the file, adds itself and writes it: 8 of them, each held up between the two."""
    real = by_accelerate.identities

    def slowly(folder: Path) -> dict[str, dict[str, str]]:
        found = real(folder)
        time.sleep(0.02)
        return found

    monkeypatch.setattr(by_accelerate, "identities", slowly)
    names = [f"tracker-{number}" for number in range(8)]
    threads = [
        threading.Thread(target=by_accelerate.keep_identity, args=(tmp_path, name, {"id": name})) for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert real(tmp_path) == {name: {"id": name} for name in names}


def test_names_that_a_tracker_refuses_are_written_otherwise() -> None:
    """MLflow takes letters, digits, dots, dashes, slashes, underscores and spaces."""
    heard: list[dict[str, float]] = []

    class Speaks:
        requires_logging_directory, tracker = False, None

        def log(self, values: dict[str, float], step: int | None = None) -> None:
            heard.append(values)

    for name in ("mlflow", "wandb"):
        ByAccelerate(Speaks(), MANNERS[name]).scalars(1, {"kid[judge]": 1.0, "held_out_by_level/1": 2.0})  # type: ignore[arg-type]
    assert [list(values) for values in heard] == [
        ["kid.judge", "held_out_by_level/1"],
        ["kid[judge]", "held_out_by_level/1"],
    ]


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"wandb": 3}', b'{"wandb": {"id": 3}}', b"[" * 100_000, b"\xff"])
def test_damaged_identities_are_as_good_as_none(content: bytes, tmp_path: Path) -> None:
    """H4: the run is started anew at the tracker; nothing else depends on the file."""
    (tmp_path / IDENTITIES).write_bytes(content)
    assert identities(tmp_path) == {}


# --------------------------------------------------------------------------------------------------------- told again


def test_a_run_is_told_again_as_it_was_told(digits: dict[str, Any], tmp_path: Path, foreign: type[Foreign]) -> None:
    settings = {**digits, "training.trackers": ["foreign"], "training.log_every": 2, "training.preview_every": 3}
    run = sfumato.train("digits", {**settings, "training.preview_count": 4}, runs=tmp_path, name="run").folder
    first = list(foreign.calls)
    assert [value[0] for kind, value in first if kind == "images"] == [3, 6]
    (run / IDENTITIES).unlink()
    foreign.calls.clear()
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 9, "lo')
    said, report = notes()
    found = track(run, ["foreign"], report=report)
    assert foreign.calls == first
    assert (found.lines, found.previews, found.trackers) == (len(lines_of(run)), 2, ("foreign",))
    assert len(said) == 1
    assert "torn" in said[0]


def test_what_a_tracker_refuses_is_an_error_when_it_was_asked_for(
    points_run: Path, tmp_path: Path, foreign: type[Foreign]
) -> None:
    run = shutil.copytree(points_run, tmp_path / "run")
    foreign.fails_at = 0
    with pytest.raises(ResourceError, match="foreign failed: ConnectionError: no route to host"):
        track(run, ["foreign"])
    with RunLock(run), pytest.raises(ResourceError, match="is in use"):
        track(run, ["foreign"])


def test_times_follow_from_the_speeds() -> None:
    """100 images at 50/s, then 300 at 100/s: two seconds and three more; a line without a speed keeps the time."""
    lines = [
        {"step": 1, "images_seen": 100, "images_per_second": 50.0},
        {"step": 2, "held_out_loss": 1.0},
        {"step": 4, "images_seen": 400, "images_per_second": 100.0},
    ]
    assert times_of(lines, 1000.0) == {1: 1002.0, 2: 1002.0, 4: 1005.0}


def test_telling_again_keeps_to_the_steps(tmp_path: Path) -> None:
    """Up to a step, previews before the line of their step, the clock where the step was taken."""
    log = MetricsLog(tmp_path, report=pytest.fail)
    for step in (2, 4, 6):
        log.append({"step": step, "loss": float(step), "images_seen": 10 * step, "images_per_second": 10.0})
    (tmp_path / "samples").mkdir()
    for step in (4, 5, 8):
        np.savez(tmp_path / "samples" / f"step-{step:08d}.npz", values=np.ones((3, 1)))
    (tmp_path / "samples" / "step-foreign.png").write_bytes(b"x")
    listener, clock = Listener(), Clock(50.0)
    stamps: list[tuple[int, float]] = []
    hear = listener._hear

    def stamped(step: int, *what: Any) -> None:
        stamps.append((step, clock()))
        hear(step, *what)

    listener._hear = stamped  # type: ignore[method-assign]
    found = replay(tmp_path, Trackers({"a": listener}, pytest.fail), upto=5, report=pytest.fail, clock=clock)
    assert [(step, kind) for step, kind, *_ in listener.told] == [
        (2, "scalars"),
        (4, "histogram"),
        (4, "scalars"),
        (5, "histogram"),
    ]
    assert stamps == [(2, 52.0), (4, 54.0), (4, 54.0), (5, 54.0)]
    assert (found.lines, found.previews) == (2, 2)


def test_a_tracker_that_is_told_afterwards_is_refused_in_the_words_of_its_option(points_run: Path) -> None:
    with pytest.raises(ConfigError, match="--tracker names 'wandd'") as caught:
        track(points_run, ["wandd"])
    assert caught.value.fix == "--tracker wandb"


def test_the_remedy_without_any_tracker_is_a_flag_that_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty list has its brackets on the command line; others stand without."""
    monkeypatch.setattr(accelerate.tracking, "get_available_trackers", list)
    assert cli.main(["train", "digits", "--training.trackers", "aim", "--runs", str(tmp_path)]) == 7
    assert capsys.readouterr().err.splitlines()[-1] == "fix: pip install aim, or --training.trackers []"
    assert load_experiment("digits", {"training.trackers": "[]"}).training.trackers == ()
