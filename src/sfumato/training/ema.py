"""Exponential moving average of the weights, kept beside them and never swapped in.

    shadow_n = d_n shadow_{n-1} + (1 - d_n) live,        d_n = min(decay, (1 + n) / (10 + n)),   n = 0, 1, 2, …

With constant weights w and a first shadow w_0 this is w + (prod_k d_k)(w_0 - w). The warm-up lets the average forget
the random start: without it the first 1/(1 - decay) updates are mostly noise.

Parameters **and** floating-point buffers (batch-norm statistics) are averaged with the same d_n: averaged weights with
the live network's statistics are a network that never existed. Integer buffers (counters) are copied. A tensor that the
network holds under two names is averaged once. Shadows are float32, whatever the live dtype (float64 stays float64): in
bfloat16 a step of 1 - decay = 0.001 is below half a unit in the last place and would be lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sfumato.errors import ConfigError
from sfumato.training.tensors import check_names

__all__ = ["Ema", "bare_state"]


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where a module keeps one of its tensors. Looked up afresh at each update: `module.to()` replaces buffers."""

    holder: Mapping[str, Tensor | None]
    key: str
    is_buffer: bool

    @property
    def tensor(self) -> Tensor:
        tensor = self.holder[self.key]
        assert tensor is not None
        return tensor


def _slots(module: nn.Module) -> dict[str, _Slot]:
    """Every tensor of `module.state_dict()`, under the name it has in the bare module.

    `torch.compile` puts `_orig_mod` and DistributedDataParallel puts `module` into the path; neither is part of the
    network, so neither is part of the name. Tied tensors appear under each of their names.
    """
    found: dict[str, _Slot] = {}

    def visit(node: nn.Module, prefix: str) -> None:
        for key, parameter in node._parameters.items():
            if parameter is not None:
                found[prefix + key] = _Slot(node._parameters, key, False)
        for key, buffer in node._buffers.items():
            if buffer is not None and key not in node._non_persistent_buffers_set:
                found[prefix + key] = _Slot(node._buffers, key, True)
        for key, child in node._modules.items():
            if child is not None:
                wrapper = key == "_orig_mod" or (key == "module" and isinstance(node, DistributedDataParallel))
                visit(child, prefix if wrapper else f"{prefix}{key}.")

    visit(module, "")
    return found


def bare_state(module: nn.Module) -> dict[str, Tensor]:
    """The live tensors of a module, detached, not copied, named as in the bare module (no compile or DDP prefixes)."""
    return {name: slot.tensor.detach() for name, slot in _slots(module).items()}


@final
class Ema:
    """Moving average of a module's parameters and buffers. `decay` in [0, 1); half-life ln 2 / (1 - decay) updates."""

    def __init__(self, module: nn.Module, *, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0.0 <= decay < 1.0:
            raise ConfigError(f"the EMA decay is {decay!r}", expected="0 <= decay < 1", fix="for example 0.999")
        self.decay = decay
        self.warmup = warmup
        self._calls = 0
        self._module = module
        self._slots = _slots(module)
        shadows: dict[int, Tensor] = {}  # by identity of the live tensor, so that a tied one is averaged once
        self._shadow: dict[str, Tensor] = {}
        for name, slot in self._slots.items():
            live = slot.tensor
            if id(live) not in shadows:
                shadows[id(live)] = live.detach().to(_shadow_dtype(live), copy=True)
            self._shadow[name] = shadows[id(live)]
        self._plan()

    def _plan(self) -> None:
        """One slot per distinct shadow, split into what is averaged and what is copied."""
        distinct = {id(shadow): name for name, shadow in self._shadow.items()}
        averaged = [name for name in distinct.values() if self._shadow[name].is_floating_point()]
        copied = [name for name in distinct.values() if not self._shadow[name].is_floating_point()]
        self._averages = [self._shadow[name] for name in averaged]
        self._average_slots = [self._slots[name] for name in averaged]
        self._copies = [self._shadow[name] for name in copied]
        self._copy_slots = [self._slots[name] for name in copied]

    @property
    def num_updates(self) -> int:
        """Calls of `update` so far, skipped ones included: counted on the host, so that no device is waited for."""
        return self._calls

    @property
    def next_decay(self) -> float:
        """d_n of the next update."""
        return min(self.decay, (1 + self._calls) / (10 + self._calls)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, module: nn.Module, skip: Tensor | None = None) -> None:
        """Average the module's present tensors in.

        `skip`: () bool on the module's device, never read by the host. Where it is true, every average keeps its bits.
        Live buffers may then hold anything; live parameters must be finite, which they are when the optimizer skipped
        the same step. The module may be the one given at the start or one of its like.
        """
        if module is not self._module:
            slots = _slots(module)
            check_names(_tensors(self._slots), _tensors(slots), "the module to average")
            self._module, self._slots = module, slots
            self._plan()
        weight = 1.0 - self.next_decay
        live = [slot.tensor.detach() for slot in self._average_slots]
        copied = [slot.tensor for slot in self._copy_slots]
        if skip is not None:
            copied = [torch.where(skip, old, new) for old, new in zip(self._copies, copied, strict=True)]
            live = [
                torch.where(skip, old, new) if slot.is_buffer else new
                for old, new, slot in zip(self._averages, live, self._average_slots, strict=True)
            ]
        live = [new.to(old.dtype) for old, new in zip(self._averages, live, strict=True)]
        if live and skip is None:
            torch._foreach_lerp_(self._averages, live, weight)
        elif live and skip is not None:
            # A few kernels instead of one `where` for each parameter: on a GPU 5 ms a step for the 3.6 M U-Net.
            gap = torch._foreach_sub(live, self._averages)
            torch._foreach_mul_(gap, weight * (~skip).to(torch.float32))
            torch._foreach_add_(self._averages, gap)
        if copied:
            torch._foreach_copy_(self._copies, copied)
        self._calls += 1

    def state_dict(self) -> dict[str, Tensor]:
        """The averages (not copied), under the names of the bare module. `num_updates` and `decay` are stored apart."""
        return dict(self._shadow)

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor], *, num_updates: int) -> None:
        """Take up stored averages. A `CheckpointError` names all missing, unexpected or misshapen and loads nothing."""
        check_names(self._shadow, tensors, "the stored moving average")
        for name, shadow in self._shadow.items():
            shadow.copy_(tensors[name])
        self._calls = num_updates

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Write the averages into another module of the same kind (a copy for evaluation), which may be wrapped."""
        slots = _slots(module)
        check_names(_tensors(slots), self._shadow, "the moving average")
        for name, slot in slots.items():
            slot.tensor.copy_(self._shadow[name])


def _tensors(slots: Mapping[str, _Slot]) -> dict[str, Tensor]:
    return {name: slot.tensor for name, slot in slots.items()}


def _shadow_dtype(live: Tensor) -> torch.dtype:
    return torch.promote_types(live.dtype, torch.float32) if live.is_floating_point() else live.dtype
