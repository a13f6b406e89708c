"""What a run computes with: device, precision, threads and processes, decided once.

`auto` settings are resolved at step 0 by `resolve` and written into the run; a resumed run takes what is written.
Autocast, device placement and data-parallel gradients are Accelerate's; its loaders are not used, because batches here
are a function of the step.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from torch import Tensor, nn

from sfumato.errors import ConfigError, PlatformError, ResourceError, SfumatoError
from sfumato.training.settings import TrainingConfig

__all__ = [
    "Engine",
    "check_device",
    "choose_device",
    "launch_line",
    "launched_processes",
    "multiplies_bfloat16",
    "resolve",
    "start_engine",
]


def available_devices() -> list[str]:
    """The devices PyTorch can use here, best first."""
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]


def check_device(name: str) -> torch.device:
    """The named device. Raises PlatformError, listing what is here, for one that is not."""
    devices = available_devices()
    known = {*devices, *(device.split(":")[0] for device in devices), "cpu"}
    if name not in known:
        raise PlatformError(
            f"training.device is {name!r}, which this machine does not have",
            expected=f"one of auto, {', '.join(sorted(known))}",
            fix=f"--device {devices[0]}, or leave the device to auto",
        )
    return torch.device(name)


def choose_device(name: str) -> torch.device:
    """The named device, or the best one for `auto`."""
    if name == "auto":
        best = available_devices()[0]
        return torch.device(best.split(":")[0] if launched_processes() > 1 else best)
    return check_device(name)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16: AMX or AVX512-BF16 on CPUs, compute capability 8.0 on CUDA."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return False


def launched_processes() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launch_line(command: str) -> str:
    """`command` as it was started: by torchrun with as many processes (and machines), or as it is."""
    if "RANK" not in os.environ:
        return command
    here = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", launched_processes())))
    machines = launched_processes() // here
    return "torchrun " + (f"--nnodes {machines} " if machines > 1 else "") + f"--nproc_per_node {here} -m {command}"


def resolve(settings: TrainingConfig, *, is_image: bool, compilable: bool = True) -> TrainingConfig:
    """The same settings without `auto`; `compilable`: whether the loss can be, that is, needs no second derivatives.

    bfloat16 where the hardware multiplies it and the data are images (points need their digits and gain no speed);
    compile on CUDA for runs of at least 5,000 steps, never on CPUs, where 75 s of compilation repay themselves only
    after hours.
    """
    device = choose_device(settings.device)
    precision, compiled = settings.precision, settings.compile
    if precision == "auto":
        precision = "bfloat16" if is_image and multiplies_bfloat16(device) else "float32"
    if compiled == "auto":
        compiled = "on" if device.type == "cuda" and settings.steps >= 5000 and compilable else "off"
    threads = torch.get_num_threads() if settings.threads is None else settings.threads
    return replace(settings, device=str(device), precision=precision, compile=compiled, threads=threads)


@dataclass(frozen=True, slots=True)
class Engine:
    """A started Accelerator and this process's place among the others."""

    accelerator: Accelerator

    @property
    def device(self) -> torch.device:
        """Where states and batches live."""
        return self.accelerator.device

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return int(self.accelerator.num_processes)

    @property
    def rank(self) -> int:
        """This process's number, 0 for the one that writes."""
        return int(self.accelerator.process_index)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def prepare(self, network: nn.Module, *, compiled: bool) -> nn.Module:
        """The network on the device, channels-last, under autocast, compiled if asked, data parallel over processes.

        On several GPUs batch norm is synchronised; on several CPU processes PyTorch has no synchronised batch norm, and
        each process normalises by its own part of the batch.
        """
        network = network.to(self.device)
        if any(parameter.ndim == 4 for parameter in network.parameters()):
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.processes > 1 and self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        if compiled:
            graphs = self.device.type == "cuda" and self.processes == 1  # a small network's step is bound by launches
            network.compile(mode="reduce-overhead" if graphs else "default")
        prepared: nn.Module = self.accelerator.prepare_model(network)
        return prepared

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a scalar over the processes."""
        if self.processes == 1:
            return value
        reduced: Tensor = self.accelerator.reduce(value, reduction="mean")
        return reduced

    def gather(self, value: Tensor) -> list[float]:
        """A float32 scalar of every process, in their order; collective."""
        if self.processes == 1:
            return [float(value)]
        gathered: Tensor = self.accelerator.gather(value[None])
        return gathered.tolist()

    def gather_batch(self, values: Tensor) -> Tensor:
        """(N,) of every process, joined in their order: the whole batch where each has a slice of it; collective."""
        if self.processes == 1:
            return values
        gathered: Tensor = self.accelerator.gather(values)
        return gathered

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process; all processes get the same answer."""
        if self.processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.device), reduction="sum") > 0)

    def from_main(self, text: str) -> str:
        """The main process's text (at most 4,096 bytes of UTF-8), in every process."""
        if self.processes == 1:
            return text
        letters = torch.zeros(4096, dtype=torch.uint8)
        raw = text.encode()
        letters[: len(raw)] = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        shared: Tensor = broadcast(letters.to(self.device))
        return bytes(shared.tolist()).rstrip(b"\0").decode()

    @contextmanager
    def together(self, resume_command: str) -> Iterator[None]:
        """Training in here: that another process died shows as an error of communication, which is told as such."""
        try:
            yield
        except RuntimeError as error:  # PyTorch has classes of its own for NCCL, and none for gloo
            lost = isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()
            if self.processes == 1 or isinstance(error, SfumatoError) or not lost:
                raise
            raise ResourceError(
                f"process {self.rank} of {self.processes} lost the others: {str(error).splitlines()[0][:200]}",
                expected="all processes alive until the end of training; nothing saved is lost",
                fix=f"look at what the others said, then start all of them again: {resume_command}",
            ) from error

    def wait_for_all(self) -> None:
        """Until every process has come here."""
        self.accelerator.wait_for_everyone()

    def require_agreement(self, name: str, digest: str) -> None:
        """Refuse to train when the processes were given different configurations or data (compared by digest)."""
        if self.processes == 1:
            return
        mine = torch.frombuffer(bytearray.fromhex(digest), dtype=torch.uint8).to(self.device, torch.int64)
        everyone = self.accelerator.gather(mine[None])
        different = (everyone != everyone[0]).any(1).nonzero().flatten().tolist()
        if different:
            raise ConfigError(
                f"process {different[0]} of {self.processes} has another {name} than process 0",
                expected=f"the same {name} in every process",
                fix="start all processes with the same command, from the same files",
            )


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with `count` threads (None: as many as now) and put the number back, so that runs do not inherit it."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def start_engine(settings: TrainingConfig) -> Engine:
    """An engine for resolved settings. Sets this process's threads, and its seat at the table that torchrun laid."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = check_device(settings.device)
    AcceleratorState._reset_state(reset_partial_state=launched_processes() == 1)  # an earlier run of this process
    accelerator = Accelerator(
        cpu=device.type == "cpu", mixed_precision="bf16" if settings.precision == "bfloat16" else "no"
    )
    if launched_processes() == 1 and device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
        accelerator.state.device = device
    return Engine(accelerator)
