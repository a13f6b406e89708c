"""Whether training can fit into memory at all: a lower bound, counted before anything is allocated.

    network   4 bytes · 6 · parameters     weights, gradient, two moments, the average and its copy for evaluation;
                                           one more for each of training.power_ema
    batch     4 bytes · B · values         the noise of the global batch, drawn whole by every process
    part      2 bytes · activations        what one part of the batch, B/(processes · accumulate), keeps for `backward`

Operating systems promise more memory than there is and kill whoever uses it, without a word. So what cannot fit is
refused first. The network is built and run on PyTorch's `meta` device, which computes shapes and holds no values. The
bound is low on purpose (bfloat16 everywhere, nothing for caches): what it refuses could never have run.
"""

import contextlib
import math
import os
from pathlib import Path

import torch

from sfumato.condition import NO_CONDITION, Condition, ConditionShape
from sfumato.errors import ResourceError
from sfumato.experiment.build import build_network
from sfumato.experiment.config import Experiment
from sfumato.training.engine import launched_processes
from sfumato.training.storage import human_bytes

__all__ = ["least_bytes", "require_memory", "total_memory"]

COPIES = 6  # float32 values that training holds for each parameter, without training.power_ema


def require_memory(experiment: Experiment, shape: tuple[int, ...], condition: ConditionShape = NO_CONDITION) -> None:
    """Raise ResourceError when training on examples of `shape` needs more memory than its device has in all."""
    needed, there = least_bytes(experiment, shape, condition), total_memory(torch.device(experiment.training.device))
    if there is None or needed <= there:
        return
    training = experiment.training
    raise ResourceError(
        f"training needs {human_bytes(needed)} of memory or more, with training.batch_size {training.batch_size}, "
        f"training.accumulate {training.accumulate}, examples of {' x '.join(map(str, shape))} and this network",
        expected=f"at most the {human_bytes(there)} of {training.device}",
        fix="choose a smaller training.batch_size, a larger training.accumulate, smaller network.widths or data.size",
    )


def least_bytes(experiment: Experiment, shape: tuple[int, ...], condition: ConditionShape = NO_CONDITION) -> int:
    """Bytes that training holds at the least in one process, by the module's sum."""
    training = experiment.training
    part = max(1, training.batch_size // (training.accumulate * launched_processes()))
    kept: dict[int, torch.UntypedStorage] = {}  # holding them keeps their identities apart

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.device("meta"):
        network = build_network(experiment, shape, condition)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            network(torch.empty((part, *shape)), torch.empty(part), empty_condition(condition, part, shape))
    own = {p.untyped_storage()._cdata for p in network.parameters()}
    activations = sum(storage.nbytes() for key, storage in kept.items() if key not in own)
    if training.compile == "on":  # a compiled step computes some of them again instead
        activations = 0
    parameters = sum(p.numel() for p in network.parameters())
    copies = COPIES + len(training.power_ema)
    return 4 * copies * parameters + 4 * training.batch_size * math.prod(shape) + activations // 2


def empty_condition(condition: ConditionShape, count: int, shape: tuple[int, ...]) -> Condition | None:
    """What a network is told of `count` examples, on the device that is in force; its values mean nothing."""
    if not condition:
        return None
    return Condition(
        labels=torch.empty(count, dtype=torch.int64) if condition.num_classes else None,
        values=torch.empty(count, condition.num_values) if condition.num_values else None,
        image=torch.empty(count, condition.image_channels, *shape[1:]) if condition.image_channels else None,
        dropped=torch.empty(count, dtype=torch.bool) if condition.droppable else None,
    )


def total_memory(device: torch.device) -> int | None:
    """All memory of a device, whoever uses it now: physical, or what the container may have; None if nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    limits = []
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(ValueError, OSError):  # `max` when there is no limit, no file where there are no cgroups
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min((limit for limit in limits if limit > 0), default=None)
