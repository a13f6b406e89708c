"""F4, F5: two processes train the run that one would, one of them writes, and a dead or different one stops them all.

Each process takes seconds to import PyTorch, so the default suite has a run, a death, a resume and a disagreement.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sfumato
from sfumato.experiment.session import Session
from sfumato.training.checkpoint import CheckpointStore
from sfumato.training.record import MetricsLog

TOGETHER = str(Path(__file__).with_name("together.py"))


@dataclass(frozen=True)
class Ended:
    """Exit codes and messages of processes 0 and 1, and how long the first took to follow the second."""

    codes: tuple[int, int]
    texts: tuple[str, str]
    seconds_apart: float


def start(*words: str | Path, die_at: int | None = None, places: tuple[Path, ...] = (Path(), Path())) -> Ended:
    """Two processes, working in `places`, as torchrun starts them, without the seconds that torchrun itself takes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    shared |= {} if die_at is None else {"DIE_AT": str(die_at)}
    both = [
        subprocess.Popen(
            [sys.executable, TOGETHER, *map(str, words)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=places[rank],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        second = both[1].communicate(timeout=100)[1]
        ended = time.monotonic()
        first = both[0].communicate(timeout=60)[1]
        return Ended((both[0].returncode, both[1].returncode), (first, second), time.monotonic() - ended)
    finally:
        for process in both:
            process.kill()


@pytest.fixture(scope="module")
def settings(points: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "settings.json"
    path.write_text(json.dumps(points))
    return path


@pytest.fixture(scope="module")
def pair(settings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that two processes trained to its end."""
    runs = tmp_path_factory.mktemp("pair")
    ended = start("train", runs, settings)
    assert ended.codes == (0, 0), ended.texts
    for rank, text in enumerate(ended.texts):  # the second cannot know the number of the folder by itself
        assert text.startswith(f"[{rank}] folder {runs / 'swiss-roll-1'} held-out 1.")
    assert [path.name for path in runs.iterdir()] == ["swiss-roll-1"]
    return runs / "swiss-roll-1"


def test_what_two_processes_draw_is_what_one_draws(
    pair: Path, settings: Path, one_finished: Path, points: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    """Bitwise: the global batch is drawn whole, and each process takes its slice."""
    alone: dict[str, torch.Tensor] = {}
    real = Session.trainer

    def trainer(self: Session, **rest: Any) -> Any:
        [(batch, draw)] = self.step._parts(3)
        alone.update(t=draw.t, eps=draw.eps, inv_density=draw.inv_density, x0=batch.x0)
        return real(self, **rest)

    monkeypatch.setattr(Session, "trainer", trainer)
    sfumato.train("swiss-roll", points, runs=tmp_path)
    both = [torch.load(settings.with_name(f"drawn-{rank}-of-2.pt"), weights_only=True) for rank in (0, 1)]
    assert set(both[0]) == set(alone)
    for name, drawn in alone.items():
        assert torch.cat([part[name] for part in both]).equal(drawn), name
        assert not both[0][name].equal(both[1][name]) or name == "inv_density"


def test_two_processes_train_what_one_trains(pair: Path, one_finished: Path) -> None:
    """Gradients are averages over the global batch; only the order of summation differs."""
    together, alone = (CheckpointStore(folder).load(CheckpointStore(folder).find()) for folder in (pair, one_finished))
    for name, tensor in alone.model.items():
        torch.testing.assert_close(together.model[name], tensor, rtol=0, atol=1e-5)
        torch.testing.assert_close(together.ema["0.9"][name], alone.ema["0.9"][name], rtol=0, atol=1e-5)
    assert (together.state["processes"], alone.state["processes"]) == (2, 1)
    logs = [MetricsLog.read(folder / "metrics.jsonl", pytest.fail) for folder in (pair, one_finished)]
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]] == [3, 5, 6, 9, 10]
    for mine, other in zip(*logs, strict=True):
        for name in {"loss", "grad_norm", "held_out_loss"} & set(other):
            assert mine[name] == pytest.approx(other[name], abs=1e-5), (name, other["step"])
        assert mine.get("learning_rate") == other.get("learning_rate")


def test_a_dead_process_stops_the_others_and_the_run_goes_on(
    pair: Path, settings: Path, points: dict[str, Any], tmp_path: Path, same_remains: Callable[[Path, Path], None]
) -> None:
    """F4: no process waits for one that will not come; resumed by two again, the run ends to the last bit as theirs."""
    ended = start("train", tmp_path, settings, die_at=6)
    assert ended.codes == (6, -signal.SIGKILL), ended.texts
    assert ended.seconds_apart < 60
    assert "process 0 of 2 lost the others" in ended.texts[0]
    assert "sfumato resume" in ended.texts[0]
    folder = tmp_path / "swiss-roll-1"
    assert CheckpointStore(folder).steps() == [0, 4]
    resumed = start("resume", folder, settings)
    assert resumed.codes == (0, 0), resumed.texts
    same_remains(folder, pair)


def test_processes_that_disagree_do_not_start(settings: Path, points: dict[str, Any], tmp_path: Path) -> None:
    """F5: another learning rate in one of them; all refuse, and no folder is left."""
    odd = tmp_path / "odd.json"
    odd.write_text(json.dumps({**points, "training.learning_rate": 0.5}))
    ended = start("train", tmp_path / "runs", settings, odd)
    assert ended.codes == (2, 2), ended.texts
    for text in ended.texts:
        assert "process 1 of 2 has another configuration than process 0" in text
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.slow
def test_processes_with_other_data_do_not_start(points: dict[str, Any], tmp_path: Path) -> None:
    """F5: the same settings, and under the same relative path a file that one number tells from the other."""
    values = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    places = (tmp_path / "0", tmp_path / "1")
    for rank, place in enumerate(places):
        place.mkdir()
        np.save(place / "x.npy", values + np.float32(rank) * np.eye(60, 2, dtype=np.float32) / 100)
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({**points, "data.path": "x.npy"}))
    ended = start("train", tmp_path / "runs", settings, places=places)
    assert ended.codes == (2, 2), ended.texts
    assert all("process 1 of 2 has another data than process 0" in text for text in ended.texts)


@pytest.mark.slow
def test_torchrun_and_the_command_line(points: dict[str, Any], one_finished: Path, tmp_path: Path) -> None:
    """As people start it: one JSON document in all, one run; and torchrun takes the others down with a dead one."""
    words = [f"--{key}={list(v) if isinstance(v, tuple) else v}" for key, v in points.items()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, "-m", "sfumato", "train", "swiss-roll", "--json", "--runs", str(tmp_path), *words]
    found = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["run"] == str(tmp_path / "swiss-roll-1")
    assert [path.name for path in tmp_path.iterdir()] == ["swiss-roll-1"]
    torch.testing.assert_close(
        sfumato.load(tmp_path / "swiss-roll-1").sample(5).values, sfumato.load(one_finished).sample(5).values,
        rtol=0, atol=1e-3,
    )  # fmt: skip
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(points))
    dying = [*torchrun, TOGETHER, "train", str(tmp_path), str(settings)]
    began = time.monotonic()
    died = subprocess.run(dying, env={**os.environ, "DIE_AT": "6"}, capture_output=True, timeout=100, check=False)
    assert died.returncode != 0
    assert time.monotonic() - began < 90
    assert sfumato.resume(tmp_path / "swiss-roll-2").steps == 10
