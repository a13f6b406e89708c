"""What a run computes with is decided once, and a device that is not there is refused with those that are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato
from sfumato.errors import ConfigError, PlatformError, ResourceError
from sfumato.experiment.session import Session
from sfumato.training import engine
from sfumato.training.engine import Engine, choose_device, launch_line, resolve, start_engine
from sfumato.training.settings import TrainingConfig

CPU = TrainingConfig(device="cpu")


@pytest.mark.parametrize(
    ("able", "is_image", "asked", "found"),
    [
        (True, True, "auto", "bfloat16"),
        (True, False, "auto", "float32"),
        (False, True, "auto", "float32"),
        (False, True, "bfloat16", "bfloat16"),
        (True, True, "float32", "float32"),
    ],
)
def test_precision_is_bfloat16_for_images_where_hardware_multiplies_it(
    able: bool, is_image: bool, asked: Any, found: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(engine, "multiplies_bfloat16", lambda device: able)
    resolved = resolve(TrainingConfig(device="cpu", precision=asked), is_image=is_image)
    assert resolved.precision == found
    assert resolved.compile == "off"  # never by itself on a CPU
    assert resolve(resolved, is_image=not is_image) == resolved  # decided once


@pytest.mark.parametrize(("steps", "found"), [(4999, "off"), (5000, "on")])
def test_long_runs_are_compiled_on_cuda(steps: int, found: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(engine, "available_devices", lambda: ["cuda:0", "cpu"])
    monkeypatch.setattr(engine, "multiplies_bfloat16", lambda device: True)
    resolved = resolve(TrainingConfig(steps=steps), is_image=True)
    assert (resolved.device, resolved.compile) == ("cuda:0", found)


def test_threads_are_written_down(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert resolve(CPU, is_image=True).threads == 7
    assert resolve(TrainingConfig(device="cpu", threads=3), is_image=True).threads == 3


def test_the_best_device_is_chosen(monkeypatch: Any) -> None:
    monkeypatch.setattr(engine, "available_devices", lambda: ["cuda:0", "cuda:1", "cpu"])
    assert choose_device("auto") == torch.device("cuda:0")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert choose_device("auto") == torch.device("cuda")  # each process has its own


@pytest.mark.parametrize("name", ["cuda:7", "mps", "gpu", "", "cuda:-1", "meta"])
def test_a_device_that_is_not_there(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    """F1: code 7, with a list of what is there, before anything is written."""
    monkeypatch.setattr(engine, "available_devices", lambda: ["cuda:0", "cpu"])
    with pytest.raises(PlatformError) as caught:
        sfumato.train("digits", {"training.device": name}, runs=tmp_path / "runs")
    assert repr(name) in caught.value.what
    assert caught.value.expected == "one of auto, cpu, cuda, cuda:0"
    assert caught.value.exit_code == 7
    assert not (tmp_path / "runs").exists()


def test_images_are_channels_last_and_averages_are_not_lost(session: Callable[..., Session]) -> None:
    network = session("digits").denoiser.network
    kernels = [p for p in network.parameters() if p.ndim == 4 and p.shape[2] > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_ends_at_the_border_of_the_network(precision: str, session: Callable[..., Session]) -> None:
    """The network multiplies in it; weights, output and loss are float32."""
    made = session("digits", {"training.precision": precision})
    seen: list[torch.dtype] = []
    made.denoiser.network.conv_in.register_forward_hook(lambda module, x, out: seen.append(out.dtype))
    [(batch, draw)] = made.step.parts(0)
    losses = made.experiment.objective(made.denoiser, batch.x0, draw).values
    assert seen == [getattr(torch, precision)]
    assert losses.dtype == torch.float32
    assert {p.dtype for p in made.denoiser.network.parameters()} == {torch.float32}


def alone() -> Engine:
    return start_engine(resolve(CPU, is_image=False))


def test_one_process_agrees_with_itself() -> None:
    found = alone()
    assert (found.processes, found.rank, found.is_main) == (1, 0, True)
    found.require_agreement("configuration", "00" * 32)
    assert found.from_main("runs/ünïcode-1") == "runs/ünïcode-1"
    assert (found.any(True), found.any(False)) == (True, False)
    assert found.gather(torch.tensor(0.1)) == [float(torch.tensor(0.1))]
    assert float(found.mean(torch.tensor(0.25))) == 0.25


@pytest.mark.parametrize(
    ("error", "processes", "seen"),
    [
        (RuntimeError("[../gloo/transport/tcp/pair.cc:1] Connection closed by peer"), 2, ResourceError),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:1] Connection closed by peer"), 1, RuntimeError),
        (torch.distributed.DistBackendError("NCCL communicator was aborted"), 2, ResourceError),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), 2, RuntimeError),
        (PlatformError("gloo", expected="x", fix="y"), 2, PlatformError),
        (ConfigError("gloo", expected="x", fix="y"), 2, ConfigError),
    ],
)
def test_lost_processes_are_told_from_bugs(
    error: Exception, processes: int, seen: type[Exception], monkeypatch: Any
) -> None:
    monkeypatch.setattr(Engine, "processes", processes)
    with pytest.raises(seen) as caught, alone().together("sfumato resume it"):
        raise error
    assert type(caught.value) is seen
    assert seen is not ResourceError or "sfumato resume it" in str(caught.value)


def test_an_environment_is_written_without_the_environment(tmp_path: Path, monkeypatch: Any) -> None:
    """Versions, threads and the command; no variable of the shell, which may hold secrets."""
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    settings = {"training.steps": 1, "data.count": 20, "training.preview_every": 0}
    folder = sfumato.train("swiss-roll", settings, runs=tmp_path).folder
    text = (folder / "environment.json").read_text()
    assert "hush" not in text
    found = json.loads(text)
    assert found["versions"]["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({}, "sfumato resume x"),
        ({"RANK": "0", "WORLD_SIZE": "1"}, "torchrun --nproc_per_node 1 -m sfumato resume x"),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}, "torchrun --nproc_per_node 4 -m sfumato resume x"),
        (
            {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"},
            "torchrun --nnodes 2 --nproc_per_node 2 -m sfumato resume x",
        ),
    ],
)
def test_the_line_that_starts_it_again(environment: dict[str, str], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun names its place to each process."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launch_line("sfumato resume x") == line
