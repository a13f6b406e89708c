"""Event files after kills, on full disks, under clocks that jump (A9, A17, H1, H4), by TensorBoard's own reader."""

import errno
import io
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato.experiment.records import list_runs
from sfumato.experiment.tracking import EventFiles, Histogram, event_files, tensorboard
from sfumato.experiment.tracking.event_files import framed, records
from sfumato.experiment.tracking.track import track
from sfumato.training.record import MetricsLog
from sfumato.training.storage import LocalStorage

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

SCALES = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0, "compressedHistograms": 1}  # 0: keep all


def read(folder: Path) -> Any:
    """What TensorBoard sees of a run."""
    found = accumulator.EventAccumulator(str(folder), SCALES)
    found.Reload()
    return found


def raw(folder: Path) -> list[tuple[int, str]]:
    """Step and name of everything in the files of a run, in their order; no reader has mended it."""
    from tensorboard.compat.proto.event_pb2 import Event

    events = [Event.FromString(data) for path in event_files(folder) for data in records(path.read_bytes())]
    return [(event.step, value.tag) for event in events for value in event.summary.value]


def event_of(data: bytes) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event

    return Event.FromString(data)


def only(folder: Path) -> Path:
    """The only event file of a run."""
    (path,) = event_files(folder)
    return path


def figures(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves of a run but that of its speed: (step, value)."""
    seen = read(folder)
    names = [name for name in seen.Tags()["scalars"] if name != "images_per_second"]
    return {name: [(event.step, event.value) for event in seen.Scalars(name)] for name in names}


@pytest.fixture(scope="module")
def tracked(digits: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {**digits, "training.keep_checkpoints": 20}
    return sfumato.train("digits", settings, runs=tmp_path_factory.mktemp("tracked"), name="run").folder


def test_tensorboard_reads_what_the_record_says(tracked: Path) -> None:
    """Every number in single precision, at its step; the sheets as they lie in samples/; the loss over log-SNR."""
    seen, lines = read(tracked), MetricsLog.read(tracked / "metrics.jsonl", pytest.fail)
    for name in ("loss", "grad_norm", "learning_rate", "images_seen", "images_per_second", "held_out_loss"):
        logged = [(line["step"], np.float32(line[name])) for line in lines if name in line]
        assert [(event.step, np.float32(event.value)) for event in seen.Scalars(name)] == logged
    assert [event.step for event in seen.Images("samples")] == [7, 10]
    for event in seen.Images("samples"):
        sheet = Image.open(tracked / "samples" / f"step-{event.step:08d}.png")
        shown = Image.open(io.BytesIO(event.encoded_image_string))
        assert (event.width, event.height) == sheet.size
        assert np.array_equal(np.asarray(shown), np.asarray(sheet))
    last = seen.Histograms("held_out_by_level/over log-SNR")[-1]
    levels = next(line for line in reversed(lines) if "held_out_by_level" in line)["held_out_by_level"]
    (noisy, clean), (high, low) = sorted(levels["log_snr"]), levels["loss"][::-1]
    gap = clean - noisy
    assert last.step == 10
    assert last.histogram_value.bucket == pytest.approx([high * gap, low * gap], rel=1e-12)
    edges = [last.histogram_value.min, *last.histogram_value.bucket_limit]
    assert edges == pytest.approx([noisy - gap / 2, (noisy + clean) / 2, clean + gap / 2], rel=1e-12)
    text = seen.Tensors("config.yaml")[0].tensor_proto.string_val[0].decode()
    assert (tracked / "config.yaml").read_text().splitlines() == [
        line.removeprefix("    ") for line in text.splitlines()
    ]
    assert seen.SummaryMetadata("_hparams_/session_start_info").plugin_data.plugin_name == "hparams"


@pytest.mark.parametrize("checkpoint", [0, 4, 8])
def test_each_step_stands_there_once_after_a_kill(checkpoint: int, tracked: Path, tmp_path: Path) -> None:
    """H1, for event files: a torn tail and steps after the checkpoint go; what comes anew is what would have come."""
    run = shutil.copytree(tracked, tmp_path / "run")
    for path in (run / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > checkpoint:
            shutil.rmtree(path)
    (only,) = event_files(run)
    with only.open("ab") as file:
        file.write(framed(b"not a protocol buffer")[:-3])
    sfumato.resume(run)
    assert len(event_files(run)) == 2
    told = raw(run)
    assert len(told) == len(set(told))
    assert told == raw(tracked)  # the same events in the same order
    assert figures(run) == figures(tracked)


def test_a_tensorboard_that_looks_on_forgets_what_was_cut(tracked: Path, tmp_path: Path) -> None:
    """It read the old file to its end before the run was resumed, and reads on: no step twice, none of the old ones."""
    run = shutil.copytree(tracked, tmp_path / "run")
    looking = read(run)
    before = [event.step for event in looking.Scalars("loss")]
    for step in (8, 10):
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    sfumato.resume(run, {"training.steps": 13})
    looking.Reload()
    assert [event.step for event in looking.Scalars("loss")] == [3, 6, 9, 12, 13]
    assert before == [3, 6, 9, 10]


def test_steps_that_a_resumed_run_never_reaches_are_gone(tracked: Path, tmp_path: Path) -> None:
    """Stopped again right away, before a single event: the cut has happened already."""
    run = shutil.copytree(tracked, tmp_path / "run")
    files = EventFiles(run, report=pytest.fail)
    assert files.begin(4)
    assert {step for step, _ in raw(run)} == {0, 3}
    assert [event.step for event in read(run).Scalars("loss")] == [3]
    assert files.begin(0)  # the settings, which come before step 1
    assert {step for step, _ in raw(run)} == {0}


def test_a_run_that_goes_on_with_other_settings_shows_those(tracked: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tracked, tmp_path / "run")
    sfumato.resume(run, {"training.steps": 12})
    (shown,) = read(run).Tensors("config.yaml")
    assert "steps: 12" in shown.tensor_proto.string_val[0].decode()
    told = raw(run)
    assert len(told) == len(set(told))
    assert told[:2] == raw(tracked)[:2]


def test_bars_of_no_height_at_the_ends_leave_the_others_as_wide_as_they_are(tmp_path: Path) -> None:
    """As TensorBoard shows them, which drops what is empty at the ends: (left, right, amount)."""
    from tensorboard.data_compat import migrate_value
    from tensorboard.util.tensor_util import make_ndarray

    files = EventFiles(tmp_path, report=pytest.fail)
    files.begin(0)
    files.histogram(1, "loss", Histogram(np.array([0.0, 1.0, 3.0, 7.0]), np.array([0.0, 4.0, 0.0])))
    (event,) = [event for event in map(event_of, records(only(tmp_path).read_bytes())) if event.summary.value]
    assert make_ndarray(migrate_value(event.summary.value[0]).tensor).tolist() == [[1.0, 3.0, 4.0]]


def test_files_of_others_are_left_alone(tracked: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tracked, tmp_path / "run")
    other = run / "events.out.tfevents.1700000000.host"
    other.write_bytes(b"mine")
    EventFiles(run, report=pytest.fail).begin(0)
    assert other.read_bytes() == b"mine"


def test_a_run_that_meets_tensorboard_half_way_is_told_from_its_beginning(
    digits: dict[str, Any], tracked: Path, tmp_path: Path
) -> None:
    settings = {**digits, "training.trackers": [], "training.keep_checkpoints": 20}
    run = sfumato.train("digits", settings, runs=tmp_path, name="run").folder
    assert event_files(run) == []
    shutil.rmtree(run / "checkpoints" / "step-00000010")
    sfumato.resume(run, {"training.trackers": ["tensorboard"]})
    assert figures(run) == figures(tracked)
    assert [event.step for event in read(run).Images("samples")] == [7, 10]


def test_event_files_can_be_made_anew(tracked: Path, tmp_path: Path) -> None:
    """H4: lost or damaged beyond reading, they come back from the record and the previews; nothing else is touched."""
    run = shutil.copytree(tracked, tmp_path / "run")
    for path in event_files(run):
        path.write_bytes(os.urandom(1000))
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and "tfevents" not in path.name}
    found = track(run)
    assert (found.trackers, found.previews, len(found.files)) == (("tensorboard",), 2, 1)
    assert figures(run) == figures(tracked)
    assert raw(run) == raw(tracked)
    assert {path: path.read_bytes() for path in kept} == kept
    stamps = [event.wall_time for event in read(run).Scalars("loss")]
    assert stamps == sorted(stamps)
    assert stamps[0] >= datetime.fromisoformat(list_runs(tmp_path)[0].started or "").timestamp()


# ------------------------------------------------------------------------------------------------------------ A9, A17


def test_a_full_disk_costs_event_files_nothing_but_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A9: one note; what waits is written in order when there is room, the file is whole all the while."""
    notes: list[str] = []
    files = EventFiles(tmp_path, report=notes.append)
    files.begin(0)
    files.scalars(1, {"loss": 1.0})
    real = LocalStorage.append

    def full(self: LocalStorage, path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(LocalStorage, "append", full)
    for step in (2, 3):
        files.scalars(step, {"loss": 1.0})
    assert [note.partition(": ")[2] for note in notes] == [
        "No space left on device. Training goes on; events wait until it can be written"
    ]
    assert [event.step for event in read(tmp_path).Scalars("loss")] == [1]
    monkeypatch.setattr(LocalStorage, "append", real)
    files.scalars(4, {"loss": 1.0})
    files.close()
    assert [event.step for event in read(tmp_path).Scalars("loss")] == [1, 2, 3, 4]
    assert len(notes) == 1


def test_lines_that_were_lost_with_the_process_are_told_when_the_run_goes_on(
    tracked: Path, tmp_path: Path, watcher: Any
) -> None:
    """A9: lines waited for a full disk, and the process was killed. The checkpoint of step 8 knows of the line of 6."""
    for lines, note in ((1, "it ends at step 3, and lines to 6 are lost"), (0, "it ends at step 0"), (3, None)):
        run = shutil.copytree(tracked, tmp_path / f"run-{lines}")
        shutil.rmtree(run / "checkpoints" / "step-00000010")
        log = run / "metrics.jsonl"
        log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:lines]))
        reporter = watcher()
        sfumato.resume(run, reporter=reporter)
        told = [text for text in reporter.notes if "is incomplete" in text]
        assert [note in text for text in told if note] == ([] if note is None else [True])
        assert len(told) == (note is not None)


@pytest.mark.parametrize("most", [0, tensorboard.MOST_WAITING])
def test_a_disk_that_stays_full_does_not_end_the_run(
    most: int, digits: dict[str, Any], tracked: Path, tmp_path: Path, watcher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A9: memory has its bounds; then, or at the end, TensorBoard is given up with a note, and the run is as it was."""
    real = LocalStorage.append

    def full(self: LocalStorage, path: Path, data: bytes) -> None:
        if "tfevents" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, path, data)

    monkeypatch.setattr(LocalStorage, "append", full)
    monkeypatch.setattr(tensorboard, "MOST_WAITING", most)
    reporter = watcher()
    settings = {**digits, "training.keep_checkpoints": 20}
    run = sfumato.train("digits", settings, runs=tmp_path, name="run", reporter=reporter).folder
    assert sum("is incomplete: No space left" in note for note in reporter.notes) == 1
    assert sum("tensorboard is told" in note for note in reporter.notes) == 1
    assert sfumato.load(run).digest == sfumato.load(tracked).digest
    monkeypatch.undo()
    track(run)
    assert figures(run) == figures(tracked)


def test_a_clock_that_jumps_moves_no_step(
    digits: dict[str, Any], tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A17: back by an hour at every event; curves are in the order of their steps, and say the same."""
    now = [1_800_000_000.0]

    def backwards() -> float:
        now[0] -= 3600
        return now[0]

    made = tensorboard.EventFiles
    monkeypatch.setattr(
        "sfumato.experiment.tracking.choosing.EventFiles",
        lambda folder, *, report: made(folder, report=report, clock=backwards),
    )
    settings = {**digits, "training.keep_checkpoints": 20}
    run = sfumato.train("digits", settings, runs=tmp_path, name="run").folder
    shutil.rmtree(run / "checkpoints" / "step-00000010")
    sfumato.resume(run)
    assert figures(run) == figures(tracked)
    steps = [event.step for event in read(run).Scalars("loss")]
    assert steps == sorted(set(steps))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the campaign forks")
@pytest.mark.slow  # the same campaign as in test_kills.py, which compares event files too, with other kills
@pytest.mark.timeout(300)
def test_killed_runs_leave_whole_event_files(tmp_path: Path) -> None:
    """Twelve SIGKILLs at random; the campaign compares event files as it does checkpoints."""
    command = [sys.executable, str(Path(__file__).with_name("kill.py")), str(tmp_path), "--kills", "12", "--seed", "1"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert '"different": []' in found.stdout, found.stdout + found.stderr
    assert found.returncode == 0
