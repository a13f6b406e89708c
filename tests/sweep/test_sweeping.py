"""Sweeps in this process: what they leave, and that the same command goes on."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sfumato
from sfumato.errors import CheckpointError, Interrupted, ResourceError, UsageError
from sfumato.experiment import run as runs
from sfumato.experiment.evaluation.files import write_evaluation
from sfumato.experiment.places import find_run
from sfumato.experiment.records import list_runs
from sfumato.experiment.run_table import matching
from sfumato.experiment.sweep import Random, Standing, Sweep, load_sweep, seconds_of, sweep, table_of, worker
from sfumato.training.lock import RunLock
from sfumato.training.record import MetricsLog
from sfumato.training.trainer import Progress

Remains = Callable[[Sweep], dict[str, Any]]
AXES = {"objective.distance": ["mse", "mae"], "parameterization": ["noise", "velocity"]}


class Watcher:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.standings: list[Standing] = []

    def progress(self, standing: Standing) -> None:
        self.standings.append(standing)

    def note(self, text: str) -> None:
        self.notes.append(text)


def trained(points: dict[str, Any], folder: Path, axes: Any = AXES, **more: Any) -> Sweep:
    wanted = {"launcher": "inline", "forecast": False, "name": "whole", **more}
    return sweep("swiss-roll", axes, overrides=points, runs=folder, **wanted)


def copy_of(found: Sweep, folder: Path) -> Sweep:
    shutil.copytree(found.folder, folder / found.folder.name)
    return load_sweep(folder / found.folder.name)


def test_every_arm_is_an_ordinary_run(whole: Sweep, points: dict[str, Any], tmp_path: Path) -> None:
    """The same weights, bit for bit, as training its settings alone; its config.yaml trains it again."""
    assert [whole.state(arm) for arm in whole.arms] == ["done"] * 4
    assert sorted(p.name for p in whole.folder.iterdir()) == ["arms", "sweep.yaml"]  # nothing else is state
    arm = whole.arm("mae-velocity-s0")
    alone = sfumato.train(arm.folder / "config.yaml", runs=tmp_path, name="alone")
    by_hand = {**points, "objective.distance": "mae", "parameterization": "velocity"}
    by_hand |= {"training.initial_weights": "by_name", "training.threads": 1}
    plain = sfumato.train("swiss-roll", by_hand, runs=tmp_path, name="plain")
    assert sfumato.load(arm.folder).digest == sfumato.load(alone).digest == sfumato.load(plain).digest


def test_the_table_says_what_the_runs_say(whole: Sweep) -> None:
    found = table_of(whole)
    assert [row.arm.name for row in found.rows] == [
        "mse-noise-s0", "mse-velocity-s0", "mae-noise-s0", "mae-velocity-s0",
    ]  # fmt: skip
    for row in found.rows:
        logged = [line for line in MetricsLog.read(row.arm.folder / "metrics.jsonl") if "held_out_loss" in line][-1]
        figure = row.figures["held_out_loss"]
        assert (figure.value, figure.std_error) == (logged["held_out_loss"], logged["held_out_std_error"])
        assert (row.step, row.steps) == (6, 6)
    assert found.means == ()
    # a loss of another distance is another quantity: said, never ranked
    assert [note for note in found.notes if "never rank them" in note]


def test_the_same_command_again_trains_nothing(whole: Sweep, points: dict[str, Any], tmp_path: Path) -> None:
    """Row H3: finished arms are not run again; every file stays as it is."""
    copy = copy_of(whole, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in copy.folder.rglob("*") if path.is_file()}
    again = trained(points, tmp_path)
    after = {path: path.stat().st_mtime_ns for path in copy.folder.rglob("*") if path.is_file()}
    assert again.folder == copy.folder
    assert after == before
    assert sweep(copy.folder, launcher="inline", forecast=False).folder == copy.folder  # and by its own name


def test_a_half_done_arm_is_resumed_and_a_waiting_one_begun(
    whole: Sweep, points: dict[str, Any], tmp_path: Path, remains: Remains
) -> None:
    """Row H3, bit for bit: one arm cut back to its third step, one killed before its settings, one not begun."""
    cut = copy_of(whole, tmp_path)
    shutil.rmtree(cut.arms[0].folder / "checkpoints" / "step-00000006")
    shutil.rmtree(cut.arms[1].folder)
    cut.arms[1].folder.mkdir()
    (cut.arms[1].folder / "environment.json").write_text("{}")
    shutil.rmtree(cut.arms[2].folder)
    assert [cut.state(arm) for arm in cut.arms] == ["half-done", "waiting", "waiting", "done"]
    again = trained(points, tmp_path)
    assert remains(again) == remains(whole)


def test_a_signal_leaves_it_resumable(
    whole: Sweep, points: dict[str, Any], tmp_path: Path, remains: Remains, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM in the second arm: it is saved at that step, no other is begun, exit code 75, and it goes on."""
    count = 0

    def told(self: object, progress: Progress) -> None:
        nonlocal count
        count += 1
        if count == 8:  # the second step of the second arm
            os.kill(os.getpid(), signal.SIGTERM)

    from sfumato.experiment.sweep import launching

    with monkeypatch.context() as patch:
        patch.setattr(launching._Telling, "progress", told)
        with pytest.raises(Interrupted, match="1 of 4 arms done, 1 begun and saved") as stop:
            trained(points, tmp_path)
    assert stop.value.exit_code == 75
    assert stop.value.fix == f"sfumato sweep {tmp_path / 'whole'}"
    left = load_sweep(tmp_path / "whole")
    assert [left.state(arm) for arm in left.arms] == ["done", "half-done", "waiting", "waiting"]
    assert left.record(left.arms[1]).step == 2  # type: ignore[union-attr]
    assert remains(sweep(left.folder, launcher="inline", forecast=False)) == remains(whole)


def test_one_arm_that_fails_stops_no_other(points: dict[str, Any], tmp_path: Path) -> None:
    """Row H2: the others go on, the state and the table show the reason, and what is mended is tried again."""
    source = str(tmp_path / "model.safetensors")
    axes = {"training.init_from": [source, None], "objective.distance": ["mse", "mae"]}
    watcher = Watcher()
    found = trained(points, tmp_path, axes, reporter=watcher)
    states = [found.state(arm) for arm in found.arms]
    assert states == ["failed", "failed", "done", "done"]
    assert "model.safetensors" in (found.error(found.arms[0]) or "")
    assert table_of(found).rows[0].error == found.error(found.arms[0])
    assert table_of(found).rows[0].figures == {}
    assert any(note.startswith(f"{found.arms[0].name} failed") for note in watcher.notes)
    assert watcher.standings[-1].failed == 2
    sfumato.export(found.arms[2].folder, source)
    again = trained(points, tmp_path, axes)
    assert [again.state(arm) for arm in again.arms] == ["done"] * 4
    assert not list((again.folder / "failures").iterdir())


def test_a_failure_that_would_repeat_is_tried_again_only_when_asked(
    points: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers that diverge do so again; --retry is for who changed something that the settings do not say."""
    from sfumato.errors import NumericsError

    tried: list[str] = []

    def diverging(*args: Any, name: str, **rest: Any) -> None:
        tried.append(name)
        raise NumericsError("step 3: loss nan", expected="finite losses", fix="lower training.learning_rate")

    monkeypatch.setattr(worker, "train", diverging)
    axes = {"objective.distance": ["mse", "mae"]}
    found = trained(points, tmp_path, axes)
    assert [found.error(arm) for arm in found.arms] == ["NUMERICS: step 3: loss nan"] * 2
    trained(points, tmp_path, axes)
    assert len(tried) == 2
    trained(points, tmp_path, axes, retry=True)
    assert len(tried) == 4


def test_more_seeds_are_added_and_their_scatter_is_the_error(points: dict[str, Any], tmp_path: Path) -> None:
    axes = {"objective.distance": ["mse", "mae"]}
    one = trained(points, tmp_path, axes, name=None)
    digests = {arm.name: sfumato.load(arm.folder).digest for arm in one.arms}
    three = trained(points, tmp_path, axes, name=None, seeds=3)
    assert three.folder == one.folder
    assert len(three.arms) == 6
    assert {name: sfumato.load(three.arm(name).folder).digest for name in digests} == digests
    mean = table_of(three).means[0]
    values = [row.figures["held_out_loss"].value for row in table_of(three).rows[:3]]
    average = sum(values) / 3
    error = (sum((v - average) ** 2 for v in values) / 2 / 3) ** 0.5
    assert mean.seeds == 3
    assert mean.figures["held_out_loss"].value == pytest.approx(average)
    assert mean.figures["held_out_loss"].std_error == pytest.approx(error)


def test_what_is_measured_of_every_arm(points: dict[str, Any], tmp_path: Path) -> None:
    """Metrics asked for later are measured of finished arms, once, and stand in the table with their errors."""
    axes = {"objective.distance": ["mse", "mae"]}
    trained(points, tmp_path, axes)
    found = trained(points, tmp_path, axes, metrics="energy_distance", n=6)
    assert found.plan.measures.metrics == ("energy_distance",)
    assert [found.state(arm) for arm in found.arms] == ["done"] * 2
    files = [path for arm in found.arms for path in (arm.folder / "evaluations").iterdir()]
    assert len(files) == 2
    stored = json.loads(files[0].read_bytes())["metrics"]["energy_distance"]
    shown = table_of(found).rows[0].figures["energy_distance"]
    assert (shown.value, shown.std_error) == (stored["value"], stored["std_error"])
    shutil.rmtree(found.arms[0].folder / "evaluations")
    assert found.state(found.arms[0]) == "half-done"
    again = trained(points, tmp_path, axes)
    assert again.state(again.arms[0]) == "done"


def test_the_budget_starts_no_arm_after_its_end(points: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match=r"the budget of .* is spent: 0 of 4 arms done") as stop:
        trained(points, tmp_path, budget=1e-3)
    assert stop.value.exit_code == 75
    assert not list((tmp_path / "whole" / "arms").iterdir())


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90min", 5400), ("1h30m", 5400), ("45 s", 45), ("1.5d", 129600)]
)
def test_times_with_units(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["2", "h", "2hours", "", "-1h", "2h3"])
def test_a_number_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--budget is"):
        seconds_of(text)


def test_some_arms_alone(points: dict[str, Any], tmp_path: Path) -> None:
    found = trained(points, tmp_path, only=["mae-*"])
    assert [found.state(arm) for arm in found.arms] == ["waiting", "waiting", "done", "done"]
    with pytest.raises(CheckpointError, match="has no arm 'mae-nois-s0'") as refusal:
        trained(points, tmp_path, only=["mae-nois-s0"])
    assert refusal.value.fix == "did you mean mae-noise-s0?"


def test_arms_are_runs_by_name(whole: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SWEEP/ARM wherever a run is named; `runs` lists arms, which know their sweep."""
    base = whole.folder.parent
    arm = whole.arms[1]
    for name in ("whole/mse-velocity-s0", "whole/arms/mse-velocity-s0"):
        assert find_run(name, base).resolve() == arm.folder.resolve()
        assert sfumato.load(name, runs=base).digest == sfumato.load(arm.folder).digest
    assert find_run(base / "whole" / "mse-velocity-s0") == arm.folder
    monkeypatch.chdir(whole.folder)
    assert find_run("mse-velocity-s0").resolve() == arm.folder.resolve()
    assert sfumato.load("mse-velocity-s0/checkpoints/step-00000003").steps_trained == 3
    records = list_runs(base)
    assert [record.name for record in records] == sorted(f"whole/{arm.name}" for arm in whole.arms)
    assert {record.sweep for record in records} == {"whole"}
    assert len(matching(records, ["sweep=whole", "objective.distance=mae"])) == 2


def test_a_random_search_trains_what_it_drew(points: dict[str, Any], tmp_path: Path) -> None:
    axes = {"training.learning_rate": "1e-4..1e-2:log"}
    found = trained(points, tmp_path, axes, search=Random(2, seed=5))
    for arm in found.arms:
        rate = sfumato.load_experiment(arm.folder / "config.yaml").training.learning_rate
        assert repr(rate) == repr(float(arm.settings["training.learning_rate"]))
        assert arm.name.startswith("learning_rate-")
    more = trained(points, tmp_path, axes, search=Random(3, seed=5))
    assert [arm.name for arm in more.arms][:2] == [arm.name for arm in found.arms]


def test_one_process_carries_out_a_sweep(whole: Sweep, points: dict[str, Any], tmp_path: Path) -> None:
    copy = copy_of(whole, tmp_path)
    with RunLock(copy.folder), pytest.raises(ResourceError, match="is in use by process"):
        trained(points, tmp_path)


def test_an_arm_that_another_process_trains_is_left_to_it(
    whole: Sweep, points: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found running before the start, or met on the way: neither is a failure, and the sweep is not whole yet."""
    copy = copy_of(whole, tmp_path)
    arm = copy.arms[0]
    shutil.rmtree(arm.folder / "checkpoints" / "step-00000006")
    with RunLock(arm.folder):
        assert copy.state(arm) == "running"
        assert worker.run_arm(copy, arm, Watcher()) == worker.BUSY  # type: ignore[arg-type]
        assert copy.failure(arm) is None
    assert copy.state(arm) == "half-done"


def test_a_sweep_is_not_started_by_torchrun(
    points: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError, match="torchrun"):
        trained(points, tmp_path)


def test_where_there_is_no_sweep_the_nearest_is_named(whole: Sweep) -> None:
    with pytest.raises(CheckpointError, match="there is no sweep 'whol'") as refusal:
        load_sweep("whol", runs=whole.folder.parent)
    assert refusal.value.fix == "did you mean whole?"


def test_threads_of_the_arms_are_those_of_the_plan(whole: Sweep) -> None:
    """Recorded in every run, and put back in this process."""
    counts = {runs.read_run_config(arm.folder).training.threads for arm in whole.arms}
    assert counts == {whole.plan.base.training.threads} == {1}


def test_a_run_that_was_extended_by_hand_is_done_and_that_is_said(
    whole: Sweep, points: dict[str, Any], tmp_path: Path
) -> None:
    """Its numbers are of more steps than the others': the table tells, and nothing is trained or measured for ever."""
    copy = copy_of(whole, tmp_path)
    sfumato.resume(copy.arms[0].folder, {"training.steps": 9})
    again = trained(points, tmp_path, metrics="energy_distance", n=6)
    assert [again.state(arm) for arm in again.arms] == ["done"] * 4
    found = table_of(again)
    assert any(f"{copy.arms[0].name} was trained with other settings" in note for note in found.notes)
    assert any("training.steps (6 -> 9)" in note for note in found.notes)
    assert not any(f"{copy.arms[1].name} was" in note for note in found.notes)
    assert "energy_distance" in found.rows[0].figures


def test_a_run_of_other_settings_in_the_place_of_an_arm_is_a_failure(
    whole: Sweep, points: dict[str, Any], tmp_path: Path
) -> None:
    """Never gone on with as if it were the arm; the others are."""
    copy = copy_of(whole, tmp_path)
    shutil.rmtree(copy.arms[0].folder)
    shutil.copytree(copy.arms[1].folder, copy.arms[0].folder)
    shutil.rmtree(copy.arms[0].folder / "checkpoints" / "step-00000006")
    shutil.rmtree(copy.arms[2].folder)
    again = trained(points, tmp_path)
    assert [again.state(arm) for arm in again.arms] == ["failed", "done", "done", "done"]
    assert "holds a run of other settings: parameterization" in (again.error(again.arms[0]) or "")


def test_measured_on_other_numbers_of_examples_is_said(points: dict[str, Any], tmp_path: Path) -> None:
    axes = {"objective.distance": ["mse", "mae"]}
    found = trained(points, tmp_path, axes, metrics="energy_distance", n=6)
    assert not any("same number of examples" in note for note in table_of(found).notes)
    write_evaluation(
        found.arms[0].folder, "more", sfumato.evaluate(found.arms[0].folder, "energy_distance", n=8).stored()
    )
    assert any("n is 6, 8" in note for note in table_of(found).notes)


def test_a_clock_that_goes_backwards_changes_nothing(
    whole: Sweep, points: dict[str, Any], tmp_path: Path, remains: Remains, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row A17: names and order follow from settings and steps, not from the time; two of one second are two."""
    import time

    now = time.time()
    clock = iter(range(10_000_000))
    monkeypatch.setattr(time, "time", lambda: now - next(clock))
    assert remains(trained(points, tmp_path)) == remains(whole)
    monkeypatch.setattr(time, "time", lambda: now)
    few = {"objective.distance": ["mse"]}
    names = [trained(points, tmp_path, {**few, "training.log_every": [k]}, name=None).folder.name for k in (1, 2, 3)]
    assert names == ["swiss-roll-sweep-1", "swiss-roll-sweep-2", "swiss-roll-sweep-3"] or len({*names}) == 1
    logged = [line["step"] for line in MetricsLog.read(tmp_path / "whole" / "arms" / "mse-noise-s0" / "metrics.jsonl")]
    assert logged == sorted(logged)


def test_a_search_whose_disk_is_full_saves_what_runs(points: dict[str, Any], tmp_path: Path) -> None:
    """An error between arms asks the jobs to stop and waits for them; none is killed."""
    from sfumato.experiment.sweep.launching import Job, Launcher
    from sfumato.experiment.sweep.running import Running
    from sfumato.experiment.sweep.stored import Sweep as Stored
    from sfumato.training.signals import StopRequest

    stored = trained(points, tmp_path, only=["mse-noise-s0"])

    class Asked(Job):
        def __init__(self, arm: Any) -> None:
            self.arm, self.heard = arm, list[str]()

        def poll(self) -> int | None:
            return worker.STOPPED if "stop" in self.heard else None

        def stop(self) -> None:
            self.heard.append("stop")

        def kill(self) -> None:
            self.heard.append("kill")

    class Starting(Launcher):
        def __init__(self) -> None:
            self.jobs: list[Asked] = []

        def start(self, sweep: Stored, arm: Any, slot: int, told: Any) -> Job:
            self.jobs.append(Asked(arm))
            return self.jobs[-1]

    def ask(sweep: Stored, running: Any) -> None:
        raise ResourceError("no space left while writing sweep.yaml", expected="space", fix="free some")

    launcher = Starting()
    with pytest.raises(ResourceError, match="no space left"):
        Running(
            stored, stored.arms[1:2], launcher, workers=2, reporter=Watcher(), stop=StopRequest(), ask=ask
        ).run()  # fmt: skip
    assert [job.heard for job in launcher.jobs] == [["stop"]]
