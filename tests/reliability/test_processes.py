"""F4, F5: two processes train the run that one would, one writes, and a dead or different one stops them all."""

import json
import os
import signal
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
from sfumato.experiment.places import best_of
from sfumato.experiment.session import Session
from sfumato.training.checkpoint import CheckpointStore
from sfumato.training.record import MetricsLog

LEARNED: dict[str, Any] = {
    "schedule.kind": "LearnedLogSnr",
    "schedule.knots": 5,
    "times": "UniformTimes",
    "time_input": "LogSnrInput",
    "network": {"kind": "FourierMlp", "width": 8, "depth": 1},
    "objective.weighting": "Elbo",
    "sampling.sampler": "Ddim",
}
# A learning rate at which the held-out loss goes up and down, measured at every step.
KEEPING = {
    "training.keep_best": "loss",
    "training.evaluate_every": 1,
    "training.learning_rate": 0.5,
    "training.warmup_steps": 0,
    "training.ema_decay": 0.1,
}
TOGETHER = str(Path(__file__).with_name("together.py"))


@dataclass(frozen=True)
class Pairs:
    """How each pair of processes ended, by name, and the folder with all that they left."""

    folder: Path
    ended: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def pairs(points: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    """Every pair, from one process that imports PyTorch once."""
    folder = tmp_path_factory.mktemp("pairs")
    values = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    for number in (0, 1):  # one value of 120 differs
        (folder / str(number)).mkdir()
        values[0, 0] = number
        np.save(folder / str(number) / "x.npy", values)
    file = {**points, "data.path": "x.npy"}

    remembering = {key: value for key, value in points.items() if key != "times.steps"}
    remembering |= {"times.kind": "LossAwareTimes", "times.history": 1}

    def job(act: str, place: str, first: Any = points, second: Any = None, **rest: Any) -> dict[str, Any]:
        return {"act": act, "place": str(folder / place), "settings": (first, second or first), **rest}

    only_table = ("network.widths", "schedule.steps", "times.steps", "time_input.steps")
    learned = {key: value for key, value in points.items() if key not in only_table} | LEARNED
    jobs = {
        "learned": job("train", "learned", learned),
        "whole": job("train", "whole"),
        "remembering": job("train", "remembering", remembering),
        "best": job("train", "best", {**points, **KEEPING}),
        "one dies": job("train", "broken", die_at=6),
        "resumed": job("resume", "broken/swiss-roll-1"),
        "other settings": job("train", "settings", points, {**points, "training.learning_rate": 0.5}),
        "other data": job("train", "data", file, folders=[str(folder / "0"), str(folder / "1")]),
        "an odd batch": job("train", "odd", {**points, "training.batch_size": 9}),
    }
    (folder / "jobs.json").write_text(json.dumps(list(jobs.values())))
    command = [sys.executable, TOGETHER, str(folder / "jobs.json")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert found.returncode == 0, found.stderr
    return Pairs(folder, dict(zip(jobs, json.loads(found.stdout), strict=True)))


@pytest.fixture(scope="module")
def pair(pairs: Pairs) -> Path:
    """A run that two processes trained to its end."""
    ended = pairs.ended["whole"]
    assert ended["codes"] == [0, 0], ended["texts"]
    assert ended["steps"] == {"swiss-roll-1": [8, 10]}  # one folder, one writer
    return pairs.folder / "whole" / "swiss-roll-1"


def test_all_processes_know_the_run(pairs: Pairs, pair: Path) -> None:
    for rank, text in enumerate(pairs.ended["whole"]["texts"]):
        assert f"[{rank}] folder {pair} held-out 1." in text
        assert (len(text.splitlines()) == 1) == (rank > 0)  # rank 0 alone tells of the run, then all print theirs


def test_what_two_processes_draw_is_what_one_draws(
    pairs: Pairs, pair: Path, points: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    """Bitwise: the global batch is drawn whole, and each process takes its slice."""
    alone: dict[str, torch.Tensor] = {}
    real = Session.trainer

    def trainer(self: Session, **rest: Any) -> Any:
        [(batch, draw)] = self.step.parts(3)
        alone.update(t=draw.t, eps=draw.eps, inv_density=draw.inv_density, x0=batch.x0)
        return real(self, **rest)

    monkeypatch.setattr(Session, "trainer", trainer)
    sfumato.train("swiss-roll", points, runs=tmp_path)
    both = [torch.load(pairs.folder / f"drawn-{rank}-of-2.pt", weights_only=True) for rank in (0, 1)]
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


def test_two_processes_keep_the_best(pairs: Pairs) -> None:
    """One of them measures; both save when it is the best so far, and it stays beside the newest two."""
    assert pairs.ended["best"]["codes"] == [0, 0], pairs.ended["best"]["texts"]
    folder = pairs.folder / "best" / "swiss-roll-1"
    losses = {line["step"]: line["held_out_loss"] for line in MetricsLog.read(folder / "metrics.jsonl", pytest.fail)}
    best = best_of(folder)
    assert (best.step, best.measured) == (min(losses, key=lambda step: losses[step]), 10)
    assert best.step in CheckpointStore(folder).steps()


def test_two_processes_remember_what_one_remembers(pairs: Pairs, points: dict[str, Any], tmp_path: Path) -> None:
    """Losses are gathered in the order of the global batch: the memory is that of one process, and so are its times."""
    assert pairs.ended["remembering"]["codes"] == [0, 0], pairs.ended["remembering"]["texts"]
    settings = {key: value for key, value in points.items() if key != "times.steps"}
    settings |= {"times.kind": "LossAwareTimes", "times.history": 1}
    alone = sfumato.train("swiss-roll", settings, runs=tmp_path).folder
    one, two = (
        CheckpointStore(folder).load(CheckpointStore(folder).find()).memory
        for folder in (alone, pairs.folder / "remembering" / "swiss-roll-1")
    )
    assert two["seen"].equal(one["seen"])
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-4, atol=1e-5)  # weights differ by rounding


def test_two_processes_learn_the_schedule_that_one_learns(pairs: Pairs, points: dict[str, Any], tmp_path: Path) -> None:
    """Its gradient is averaged like the network's, though no forward pass of the network reads it."""
    assert pairs.ended["learned"]["codes"] == [0, 0], pairs.ended["learned"]["texts"]
    only_table = ("network.widths", "schedule.steps", "times.steps", "time_input.steps")
    settings = {key: value for key, value in points.items() if key not in only_table} | LEARNED
    alone = sfumato.train("swiss-roll", settings, runs=tmp_path).folder
    one, two = (
        CheckpointStore(folder).load(CheckpointStore(folder).find()).model["noise_schedule.logits"]
        for folder in (alone, pairs.folder / "learned" / "swiss-roll-1")
    )
    assert float(one.abs().max()) > 1e-3
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)


def test_a_dead_process_stops_the_other(pairs: Pairs) -> None:
    """F4: no process waits for one that will not come; what was saved is there."""
    ended = pairs.ended["one dies"]
    assert ended["codes"] == [6, -signal.SIGKILL], ended["texts"]
    assert ended["seconds_apart"] < 60
    assert "process 0 of 2 lost the others" in ended["texts"][0]
    assert "sfumato resume" in ended["texts"][0]
    assert ended["steps"] == {"swiss-roll-1": [0, 4]}


def test_two_processes_resume_to_the_last_bit(
    pairs: Pairs, pair: Path, same_remains: Callable[[Path, Path], None]
) -> None:
    assert pairs.ended["resumed"]["codes"] == [0, 0], pairs.ended["resumed"]["texts"]
    same_remains(pairs.folder / "broken" / "swiss-roll-1", pair)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("other settings", "process 1 of 2 has another configuration than process 0"),
        ("other data", "process 1 of 2 has another data than process 0"),
        ("an odd batch", "training.batch_size is 9 for 2 processes"),
    ],
)
def test_what_all_processes_refuse_at_the_start(name: str, what: str, pairs: Pairs) -> None:
    """F5: with exit code 2, in all of them, before step 1; no folder is left."""
    ended = pairs.ended[name]
    assert ended["codes"] == [2, 2], ended["texts"]
    assert all(what in text for text in ended["texts"])
    assert list((pairs.folder / {"other settings": "settings", "other data": "data"}.get(name, "odd")).iterdir()) == []


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
    mine, other = (sfumato.load(folder).sample(5).values for folder in (tmp_path / "swiss-roll-1", one_finished))
    np.testing.assert_allclose(mine, other, rtol=0, atol=1e-3)  # weights within 1e-5, ten steps apart
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(points))
    dying = [*torchrun, TOGETHER, "train", str(tmp_path), str(settings)]
    began = time.monotonic()
    died = subprocess.run(dying, env={**os.environ, "DIE_AT": "6"}, capture_output=True, timeout=100, check=False)
    assert died.returncode != 0
    assert time.monotonic() - began < 90
    assert sfumato.resume(tmp_path / "swiss-roll-2").steps == 10
