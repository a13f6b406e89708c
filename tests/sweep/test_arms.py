"""What became of an arm: decided in one place, for the sweep and for the list of runs alike."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from sfumato.errors import CheckpointError
from sfumato.experiment.arms import ArmState, Failure, arm_state, failure_of, forget_failure, note_failure
from sfumato.experiment.labelling import label, note
from sfumato.experiment.records import list_runs
from sfumato.experiment.sweep import Sweep, load_sweep
from sfumato.experiment.sweep.running import in_order
from sfumato.experiment.sweep.stored import store_plan
from sfumato.experiment.tracking.track import track
from sfumato.training.lock import RunLock

WHY = Failure("RESOURCE", "the disk is full", "a disk", "another disk", "2026-01-01T00:00:00+00:00")


def copy_of(found: Sweep, folder: Path) -> Sweep:
    shutil.copytree(found.folder, folder / found.folder.name)
    return load_sweep(folder / found.folder.name)


@pytest.mark.parametrize(
    ("run", "lacking", "failure", "state"),
    [
        (None, (), None, "waiting"),
        (None, (), WHY, "failed"),
        ("running", (), WHY, "running"),
        ("interrupted", (), None, "half-done"),
        ("interrupted", (), WHY, "failed"),
        ("broken", (), None, "half-done"),
        ("finished", (), None, "done"),
        ("finished", (), WHY, "done"),  # it was gone on with by hand
        ("finished", ("kid",), None, "half-done"),
        ("finished", ("kid",), WHY, "failed"),
    ],
)
def test_states(run: str | None, lacking: tuple[str, ...], failure: Failure | None, state: ArmState) -> None:
    assert arm_state(run, lacking=lacking, failure=failure) == state


def test_the_list_of_runs_says_what_the_sweep_says(whole: Sweep, tmp_path: Path) -> None:
    """Row H2: arms failed before they began, half way, and when they were measured; one that was mended by hand."""
    from dataclasses import replace

    from sfumato.experiment.sweep import Measures

    found = copy_of(whole, tmp_path)
    for arm in found.arms:
        note_failure(found.folder, arm.name, WHY)
    shutil.rmtree(found.arms[0].folder)
    shutil.rmtree(found.arms[1].folder / "checkpoints" / "step-00000006")
    compare(found, {0: "failed", 1: "failed", 2: "done", 3: "done"})
    store_plan(replace(found.plan, measures=Measures(("energy_distance",))), found.folder)
    found = load_sweep(found.folder)
    compare(found, dict.fromkeys(range(4), "failed"))
    for arm in found.arms:
        forget_failure(found.folder, arm.name)
    compare(found, {0: "waiting", 1: "half-done", 2: "half-done", 3: "half-done"})
    with RunLock(found.arms[1].folder):
        note_failure(found.folder, found.arms[1].name, WHY)
        compare(found, {1: "running"})


def compare(found: Sweep, states: Mapping[int, str]) -> None:
    records = {record.name: record for record in list_runs(found.folder.parent)}
    for index, state in states.items():
        arm = found.arms[index]
        record = records.get(f"{found.folder.name}/{arm.name}")
        assert found.state(arm) == state
        assert (record is not None and record.state == "failed") == (state == "failed")
        if state == "failed":
            assert record is not None
            assert record.note == WHY.what
            assert found.error(arm) == f"RESOURCE: {WHY.what}"


def test_a_reason_that_is_damaged_is_still_a_failure(tmp_path: Path) -> None:
    assert failure_of(tmp_path, "a") is None
    note_failure(tmp_path, "a", WHY)
    assert failure_of(tmp_path, "a") == WHY
    for text in ("", "[]", "{", json.dumps({"what": 3}), "[" * 10_000):
        (tmp_path / "failures" / "a.json").write_text(text)
        found = failure_of(tmp_path, "a")
        assert found is not None
        assert "does not say why" in found.what


def test_words_are_said_of_arms_and_not_of_a_sweep(whole: Sweep, tmp_path: Path) -> None:
    """SWEEP/ARM by name; SWEEP is refused with the arms it has, an arm that is not there with the nearest."""
    found = copy_of(whole, tmp_path)
    name = f"whole/{found.arms[0].name}"
    label(name, ["baseline"], runs=tmp_path)
    note(name, "as in the paper", runs=tmp_path)
    said = {record.name: record for record in list_runs(tmp_path)}[name]
    assert said.labels == ("baseline",)
    assert [one.text for one in said.notes] == ["as in the paper"]
    assert load_sweep(found.folder).state(found.arms[0]) == "done"
    for tell in (
        lambda run: label(run, ["x"], runs=tmp_path),
        lambda run: note(run, "x", runs=tmp_path),
        lambda run: track(run, (), runs=tmp_path, report=lambda text: None),
    ):
        with pytest.raises(CheckpointError, match="whole is a sweep, not a run") as refusal:
            tell("whole")
        assert found.arms[0].name in refusal.value.expected
        with pytest.raises(CheckpointError, match="whole has no arm mse-nois-s0 that was begun") as refusal:
            tell("whole/mse-nois-s0")
        assert refusal.value.fix.endswith("whole/mse-noise-s0")


def test_arms_that_a_process_still_trains_come_last(whole: Sweep, tmp_path: Path) -> None:
    """The workers of a scheduler that was killed save for a moment; the same command meets them when they are gone."""
    found = copy_of(whole, tmp_path)
    for arm in found.arms[:3]:
        shutil.rmtree(arm.folder / "checkpoints" / "step-00000006")
    with RunLock(found.arms[0].folder):
        assert in_order(found, retry=False) == (found.arms[1], found.arms[2], found.arms[0])
    assert in_order(found, retry=False) == found.arms[:3]
