"""Processes that evaluate together, as torchrun starts them: each draws and measures its share, and all know the whole.

Shares are parts of fixed size, taken in turn, so that what is drawn does not depend on how many processes there are.
Tensors are put together by a sum to which a process adds 0 where others worked: exact, whatever the order.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

from sfumato.training.engine import launched_processes

__all__ = ["ALONE", "Team", "claim_device", "gathered_team"]

T = TypeVar("T")
PATIENCE = timedelta(hours=24)  # torchrun ends the others when one dies; a slow one is waited for


@dataclass(frozen=True, slots=True)
class Team:
    """This process's number among those that evaluate together, and by which group they talk; None: the usual one."""

    rank: int = 0
    processes: int = 1
    group: "distributed.ProcessGroup | None" = None

    def shares(self, parts: int) -> range:
        """Which of `parts` parts are this process's."""
        return range(self.rank, parts, self.processes)

    def joined(self, whole: Tensor) -> Tensor:
        """The sum over the processes of tensors that are 0 where another process worked; collective, in place."""
        if self.processes > 1:
            distributed.all_reduce(whole, group=self.group)
        return whole

    def first(self, make: Callable[[], T]) -> T:
        """What `make` gives, made by process 0 before the others make theirs: they find what it left in a cache."""
        if self.processes == 1:
            return make()
        if self.rank == 0:
            made = make()
            distributed.barrier(group=self.group)
            return made
        distributed.barrier(group=self.group)
        return make()


ALONE = Team()


def claim_device() -> None:
    """Give each process of torchrun a GPU of its own, where there are any."""
    if launched_processes() > 1 and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


@contextmanager
def gathered_team() -> Iterator[Team]:
    """The processes that torchrun started, able to talk to each other; this one alone without it."""
    if launched_processes() == 1:
        yield ALONE
        return
    started = not distributed.is_initialized()
    if started:
        distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        # whoever trains on GPUs talks by NCCL, which takes nothing from the CPU
        group = None if started else distributed.new_group(backend="gloo", timeout=PATIENCE)
        yield Team(distributed.get_rank(), distributed.get_world_size(), group)
    finally:
        if started:
            distributed.destroy_process_group()
