"""What this machine has for the arms of a sweep: cores and GPUs, and how they are shared out.

Threads of an arm decide the last bits of what it computes, so they are decided once, when the sweep is made, from the
machine and the number of arms, and never from the number of workers:

    threads = cores / min(arms, cores), at least 1;  on GPUs cores / min(arms, GPUs);  1 for points on a CPU

so that arms beside each other fill the machine. Points are too small for a second thread to help.
"""

import os
from contextlib import suppress
from pathlib import Path

import torch

from sfumato.data import declared_shape
from sfumato.experiment.config import Experiment

__all__ = ["cores", "gpus", "threads_for", "usual_workers"]

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "200000 100000": two cores' time for a container of a larger machine


def cores() -> int:
    """The cores that this process may use: of its affinity, and of its container's share."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        count = os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = _QUOTA.read_text().split()[:2]
        count = min(count, max(1, round(int(quota) / int(period))))
    return max(1, count)


def gpus(base: Experiment) -> list[str]:
    """The GPUs that arms may be shared out over, as CUDA_VISIBLE_DEVICES names them; none where the settings name one.

    Counting them starts nothing on them.
    """
    if base.training.device not in ("auto", "cuda"):
        return []
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    listed = [name.strip() for name in named.split(",") if name.strip()]
    return listed[:count] if listed else [str(index) for index in range(count)]


def threads_for(base: Experiment, arms: int) -> int:
    """CPU threads of every arm of a new sweep of so many arms."""
    here, devices = cores(), len(gpus(base))
    if devices or base.training.device.startswith("cuda"):
        return max(1, here // min(arms, max(1, devices)))
    shape = declared_shape(base.data)
    if shape is not None and len(shape) < 3:
        return 1
    return max(1, here // min(arms, here))


def usual_workers(base: Experiment) -> int:
    """How many arms are trained at a time when nobody says: one for each GPU, or as many as the cores hold."""
    devices = len(gpus(base))
    return devices if devices else max(1, cores() // (base.training.threads or 1))
